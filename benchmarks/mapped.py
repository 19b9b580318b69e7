"""Data larger than memory: how much memory a training takes whose samples stay in their file, and at what rate.

A file of images is made up in a scratch folder. Processes of their own then train dlf's small network on it for some
seconds: from the file while the system's cache holds it, from the disk, where the cache was emptied before, and from
memory, with as many samples as --loaded says. Each evaluates its validation part at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.compare import write
from benchmarks.processes import run
from benchmarks.rounds import Options, confine, environment, machine, why
from benchmarks.steps import ends_of_steps
from benchmarks.task import NETWORKS, Network, peak_bytes

BLOCK = 2**17  # samples that are made up at a time


@dataclass(frozen=True)
class Row:
    """A training on the files in a folder: samples loaded, or read by batch; `cold`: from the disk, the cache empty."""

    folder: str
    memory: str
    cold: bool = False
    seconds: float = 30.0
    precision: str = "auto"

    @property
    def network(self) -> Network:
        """That of the comparison with others."""
        return NETWORKS["small"]


def add_command(commands: Any) -> None:
    """The command line; the options of the whole are given before the command's name."""
    made = commands.add_parser("mapped", help="data larger than memory: memory and rate")
    made.add_argument("--gigabytes", type=float, default=10.0, help="size of the file that is read by batch (10)")
    made.add_argument("--loaded", type=float, default=1.0, help="size of the file that is loaded (1)")
    made.add_argument("--folder", type=Path, help="where the files are made; they are removed at the end (temporary)")
    made.add_argument("--seconds", type=float, default=30.0, help="of training in each row (30)")
    made.set_defaults(main=main)


def main(given: argparse.Namespace) -> None:
    """Make the files, measure, print the table, write the files that were asked for."""
    confine(given.threads)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        free, needed = shutil.disk_usage(scratch).free, (given.gigabytes + given.loaded) * 1.1e9
        if free < needed:
            sys.exit(f"error: the files need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; --folder DIR")
        options = Options(Path(scratch), threads=given.threads)
        large, small = (made(Path(scratch, name), size) for name, size in sizes(given).items())
        rows = [
            Row(small, "load", seconds=given.seconds),
            Row(large, "map", seconds=given.seconds),
            Row(large, "map", cold=True, seconds=given.seconds),
        ]
        measured = [(row, result) for row in rows if (result := measure(row, given, options)) is not None]
    found = [{**asdict(row), "folder": Path(row.folder).name, **result} for row, result in measured]
    write(given, markdown(measured), {"machine": dict(machine()), "rows": found})


def sizes(given: argparse.Namespace) -> dict[str, int]:
    """The samples of each of the two files."""
    return {"large": int(given.gigabytes * 1e9) // 784, "small": int(given.loaded * 1e9) // 784}


def made(folder: Path, samples: int) -> str:
    """The folder, with x.npy and y.npy of so many images of 28 x 28 bytes in ten classes, patterns with noise."""
    import numpy as np

    folder.mkdir()
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 192, (10, 28, 28), np.uint8)
    noise = generator.integers(0, 64, (BLOCK + 10_000, 28, 28), np.uint8)
    y = generator.integers(0, 10, samples)
    np.save(folder / "y.npy", y)
    with (folder / "x.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (samples, 28, 28)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, samples, BLOCK):
            labels, shift = y[start : start + BLOCK], int(generator.integers(10_000))
            file.write((patterns[labels] + noise[shift : shift + len(labels)]).data)
    os.sync()
    return str(folder)


def measure(row: Row, given: argparse.Namespace, options: Options) -> dict[str, Any] | None:
    """One row, in its own process; None, with a line, where it fails."""
    command = [sys.executable, "-m", "benchmarks.mapped", json.dumps(asdict(row))]
    ended = run(command, environment(str(options.data), options), limit_seconds=given.limit)
    if ended.code:
        options.tell(f"{title(row)}: failed, and is left out: {why(ended)}")
        return None
    result: dict[str, Any] = json.loads(ended.stdout)
    options.tell(f"{title(row)}: {result['samples'] / result['seconds']:,.0f} samples/s")
    return result


def title(row: Row) -> str:
    """What a row is called."""
    if row.memory == "load":
        return "in memory"
    return "read from the disk" if row.cold else "read from the cache of files"


def markdown(measured: list[tuple[Row, dict[str, Any]]]) -> str:
    """The table."""
    rows = [
        (
            title(row),
            f"{result['bytes'] / 1e9:.2f}",
            report.number(result["prepare_seconds"]),
            f"{result['samples'] / result['seconds']:,.0f}",
            f"{result['imported_bytes'] / 2**20:,.0f}",
            f"{result['peak_bytes'] / 2**20:,.0f}",
        )
        for row, result in measured
    ]
    heading = ("samples", "GB", "s to prepare", "samples/s", "MiB after imports", "peak MiB")
    row, result = measured[0]
    widths = "-".join(map(str, row.network.widths))
    what = f"{widths}, Adam, batch {row.network.batch}, {result['precision']}; {row.seconds:g} s of training a row."
    return f"{what}\n\n{report.table(heading, rows)}\n"


# --- the process of one row -----------------------------------------------------------------------------------------


def train(row: Row) -> dict[str, Any]:
    """Load, train for a while, evaluate the validation part; the rate without the first steps, which warm up."""
    import torch

    from dlf import yaml12
    from dlf.config import loads
    from dlf.data import load
    from dlf.engine import evaluate
    from dlf.experiment import assemble

    imported, began = peak(), time.perf_counter()
    x, y, network = Path(row.folder, "x.npy"), Path(row.folder, "y.npy"), row.network
    layers = [{"type": "linear", "units": units} for units in network.widths[1:-1]]
    data = {"type": "npy", "x": str(x), "y": str(y), "memory": row.memory, "validation": 0.01, "test": 0}
    given = {
        "data": {**data, "batch_size": network.batch},
        "model": {"layers": layers},
        "optimizer": "adam",
        "train": {"precision": row.precision},
    }
    config = loads(yaml12.dump(given), "the row", []).config
    device = torch.device("cpu")
    loaded, _ = load(config.data_section, device, lambda message: None)
    experiment, state, _ = assemble(config, loaded, device)
    prepared = time.perf_counter() - began
    if row.cold:
        with x.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    marks = ends_of_steps(experiment, state, row.seconds)
    evaluate(state.network, experiment, loaded.validation)
    warm = min(20, len(marks) - 2)
    return {
        "bytes": x.stat().st_size,
        "prepare_seconds": prepared,
        "samples": (len(marks) - 1 - warm) * network.batch,
        "seconds": marks[-1] - marks[warm],
        "imported_bytes": imported,
        "peak_bytes": peak(),
        "precision": experiment.precision,
    }


def peak() -> int:
    """The largest resident memory of this process so far."""
    return peak_bytes(resource.getrusage(resource.RUSAGE_SELF))


if __name__ == "__main__":
    print(json.dumps(train(Row(**json.loads(sys.argv[1])))))
