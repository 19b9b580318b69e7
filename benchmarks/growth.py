"""How time and memory grow with the work: width, depth, batch and samples, one at a time from a middle.

Every cell is a process of its own that trains for a bounded time with dlf's engine on made-up images and measures, just
after, the matrix products of its step alone. A long epoch is not waited for: its seconds are those of the steps that
were made, times the steps that it has; a `~` in the table says so.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.compare import write
from benchmarks.processes import run
from benchmarks.rounds import Options, confine, environment, machine, why
from benchmarks.steps import assembled, ends_of_steps
from benchmarks.task import Network, peak_bytes


@dataclass(frozen=True)
class Cell:
    """One amount of work, the axis along which it differs from the middle, and the seconds that it may be trained."""

    axis: str = "middle"
    width: int = 1024
    depth: int = 2
    batch: int = 128
    samples: int = 60_000
    seconds: float = 6.0

    @property
    def network(self) -> Network:
        """Images of 784 bytes in, `depth` hidden layers, ten classes out."""
        return Network((784, *[self.width] * self.depth, 10), self.batch)


AXES = {
    "width": (256, 512, 1024, 2048, 4096, 8192),
    "depth": (2, 4, 8, 16),
    "batch": (32, 128, 512, 2048, 8192),
    "samples": (10_000, 100_000, 1_000_000),
}


def add_command(commands: Any) -> None:
    """The command line; the options of the whole are given before the command's name."""
    made = commands.add_parser("growth", help="how time and memory grow with the work")
    made.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="what grows (all)")
    made.add_argument("--largest", type=int, default=1_000_000, help="leave larger values of an axis out")
    made.add_argument("--seconds", type=float, default=6.0, help="of training in each cell (6)")
    made.set_defaults(main=main)


def main(given: argparse.Namespace) -> None:
    """Measure cell by cell, print the table, write the files."""
    confine(given.threads)
    measurements = [(cell, measured(cell, given)) for cell in cells(given)]
    found = [(cell, result) for cell, result in measurements if result is not None]
    rows = [{**asdict(cell), **result} for cell, result in found]
    write(given, markdown(found, given.seconds), {"machine": dict(machine()), "cells": rows})


def cells(given: argparse.Namespace) -> list[Cell]:
    """The cells of all axes; the middle comes once with each axis that holds it, which shows how far cells repeat."""
    middle = Cell(seconds=given.seconds)
    return [
        replace(middle, axis=axis, **{axis: value})
        for axis in given.axes
        for value in AXES[axis]
        if value <= given.largest
    ]


def measured(cell: Cell, given: argparse.Namespace) -> dict[str, Any] | None:
    """One cell, in its own process; None, with a line, where it fails."""
    name = f"{cell.axis} {getattr(cell, cell.axis):,}"
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(Path(scratch), threads=given.threads)
        command = [sys.executable, "-m", "benchmarks.growth", json.dumps(asdict(cell))]
        ended = run(command, environment(scratch, options), limit_seconds=given.limit)
    if ended.code:
        options.tell(f"{name}: failed, and is left out: {why(ended)}")
        return None
    result: dict[str, Any] = json.loads(ended.stdout)
    options.tell(f"{name}: {result['steps']} steps in {result['seconds']:.2f} s")
    return result


def markdown(found: list[tuple[Cell, dict[str, Any]]], seconds: float) -> str:
    """The table of growth."""
    rows = []
    for cell, result in found:
        step = result["seconds"] / result["steps"]
        products = min(result["products"].values())
        rough = "~" if result["steps"] + 3 < result["steps_per_epoch"] else ""
        rows.append(
            (
                f"{cell.axis} {getattr(cell, cell.axis):,}",
                f"{result['parameters']:,}",
                result["precision"],
                f"{rough}{report.number(step * result['steps_per_epoch'])}",
                report.number(step * 1000),
                f"{cell.batch / step:,.0f}",
                f"{result['operations'] / step / 1e9:,.0f}",
                f"{products / step:.0%}",
                f"{result['peak_bytes'] / 2**20:,.0f}",
            )
        )
    middle = Cell()
    heading = (
        "",
        "parameters",
        "precision",
        "s an epoch",
        "ms a step",
        "samples/s",
        "GFLOP/s",
        "of the products' peak",
        "peak MiB",
    )
    what = (
        f"784, {middle.depth} x {middle.width}, 10 units, Adam, batch {middle.batch}, {middle.samples:,} samples, one "
        f"of these changed in each row; at most {seconds:g} s of training a row: ~ where the epoch was not waited for."
    )
    return f"{what}\n\n{report.table(heading, rows)}\n"


# --- the process of one cell ----------------------------------------------------------------------------------------


def train(cell: Cell) -> dict[str, Any]:
    """Train for a while with dlf's engine; seconds and steps, without the first steps, which warm up."""
    from benchmarks.peers.floor import PRECISIONS, products
    from benchmarks.peers.floor import seconds as timed

    began = time.perf_counter()
    experiment, state = assembled(cell.network, cell.samples)
    prepared = time.perf_counter() - began
    marks = ends_of_steps(experiment, state, cell.seconds)
    warm = min(2, len(marks) - 2)
    peak = peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
    repeats = max(1, min(50, int(cell.seconds / 4 * len(marks) / (marks[-1] - marks[0]))))
    layers = [inputs * outputs for inputs, outputs in cell.network.layers]
    return {
        "prepare_seconds": prepared,
        "steps": len(marks) - 1 - warm,
        "seconds": marks[-1] - marks[warm],
        "steps_per_epoch": experiment.steps_per_epoch,
        "peak_bytes": peak,  # before the products are measured
        "parameters": sum(parameter.numel() for parameter in state.network.parameters()),
        "operations": 2 * cell.batch * (3 * sum(layers) - layers[0]),  # no gradient of the images is needed
        "products": {
            name: timed(products(cell.network, dtype), repeats) / repeats for name, dtype in PRECISIONS.items()
        },
        "precision": experiment.precision,
    }


if __name__ == "__main__":
    print(json.dumps(train(Cell(**json.loads(sys.argv[1])))))
