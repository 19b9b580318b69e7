"""Where the time of a step goes: the products, the update, the rest of what torch computes, and what is between them.

Each row is a process that trains for some seconds with dlf's engine on MNIST (or made-up images, with --synthetic), and
then for as many again under torch's profiler, which tells how long each operation, torch's and dlf's own, took by
itself. What is left of a step is Python, and threads that wait for each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import report
from benchmarks.compare import folder, write
from benchmarks.processes import run
from benchmarks.rounds import Options, confine, environment, machine, why
from benchmarks.steps import assembled, ends_of_steps
from benchmarks.task import NETWORKS

PRECISIONS = ("auto", "float32")
_PRODUCTS = ("aten::linear", "aten::mm", "aten::addmm", "mkldnn::_linear_pointwise", "native::product")
_UPDATES = ("aten::_fused_adam_", "aten::_fused_adamw_", "native::adam")
_SHOWN = 5  # of the other operations, the longest


def add_command(commands: Any) -> None:
    """The command line; the options of the whole are given before the command's name."""
    made = commands.add_parser("parts", help="where the time of a step goes")
    made.add_argument("--seconds", type=float, default=2.0, help="of training in each row, twice (2)")
    made.set_defaults(main=main)


def main(given: argparse.Namespace) -> None:
    """Measure network by network, print the table, write the files."""
    confine(given.threads)
    with folder(given) as place:
        rows = [_measured(name, kind, str(place), given) for name in given.networks for kind in PRECISIONS]
    found = [row for row in rows if row]
    write(given, markdown(found), {"machine": dict(machine()), "rows": found})


def _measured(network: str, precision: str, data: str, given: argparse.Namespace) -> dict[str, Any] | None:
    """One row, in its own process; None, with a line, where it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(Path(scratch), threads=given.threads)
        command = [sys.executable, "-m", "benchmarks.parts", network, precision, str(given.seconds), data]
        ended = run(command, environment(scratch, options), limit_seconds=given.limit)
    if ended.code:
        options.tell(f"{network} {precision}: failed, and is left out: {why(ended)}")
        return None
    result: dict[str, Any] = json.loads(ended.stdout)
    options.tell(f"{network} {precision}: {1000 * result['step']:.2f} ms a step")
    return result


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, in milliseconds a step."""
    heading = ("", "ms a step", "products", "update", "other operations", "between them", "the longest of the others")
    lines = []
    for row in rows:
        products, update, others = parts(row["operations"])
        rest = sum(others.values())
        longest = [f"{name.removeprefix('aten::')} {1000 * others[name]:.2f}" for name in list(others)[:_SHOWN]]
        shown = (row["step"], products, update, rest, row["step"] - products - update - rest)
        name = f"{row['network']}, {row['precision']}"
        lines.append((name, *(f"{1000 * seconds:.2f}" for seconds in shown), ", ".join(longest)))
    return report.table(heading, lines) + "\n"


def parts(operations: Mapping[str, float]) -> tuple[float, float, dict[str, float]]:
    """Seconds of the products, of the update, and of each other operation, the longest first."""
    products = sum(seconds for name, seconds in operations.items() if name in _PRODUCTS)
    update = sum(seconds for name, seconds in operations.items() if name in _UPDATES)
    others = {name: s for name, s in operations.items() if name not in _PRODUCTS and name not in _UPDATES}
    return products, update, dict(sorted(others.items(), key=lambda item: -item[1]))


@contextmanager
def shown_to_the_profiler() -> Iterator[None]:
    """dlf's compiled kernels as operations beside torch's; what they cost in Python counts as theirs."""
    from torch.profiler import record_function

    from dlf import native

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any, **options: Any) -> Any:
            with record_function(f"native::{name}"):
                return function(*arguments, **options)

        return recorded

    with ExitStack() as patches:
        for owner, attribute, name in (
            (native.Product, "__call__", "product"),
            (native.Adam, "__call__", "adam"),
            (native, "normalized", "normalize"),
            (native, "cross_entropy", "cross_entropy"),
        ):
            patches.enter_context(patch.object(owner, attribute, named(name, getattr(owner, attribute))))
        yield


def train(network: str, precision: str, seconds: float, data: str = "") -> dict[str, Any]:
    """Seconds of a step without the profiler, and of each operation in it with the profiler."""
    from torch.profiler import ProfilerActivity, profile

    experiment, state = assembled(NETWORKS[network], 60_000, precision, data)
    marks = ends_of_steps(experiment, state, seconds)
    warm = min(2, len(marks) - 2)
    experiment, state = assembled(NETWORKS[network], 60_000, precision, data)  # a new epoch: that one may be over
    with shown_to_the_profiler(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        profiled = len(ends_of_steps(experiment, state, seconds))
    times = {event.key: event.self_cpu_time_total / 1e6 / profiled for event in profiler.key_averages()}
    return {
        "network": network,
        "precision": experiment.precision,
        "step": (marks[-1] - marks[warm]) / (len(marks) - 1 - warm),
        "operations": times,
    }


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])))
