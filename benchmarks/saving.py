"""What saving costs: `dlf.train` on a shipped experiment, with the seconds that it spends on packing and writing.

Seconds within one run are compared, so a machine that is slower today is slower in both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from benchmarks import report
from benchmarks.compare import write
from benchmarks.rounds import machine


def add_command(commands: Any) -> None:
    """The command line; the options of the whole are given before the command's name."""
    made = commands.add_parser("saving", help="what saving after every epoch costs")
    made.add_argument("--config", default="mnist", help="a file or the name of a shipped experiment (mnist)")
    made.add_argument("settings", nargs="*", metavar="KEY.PATH=VALUE", help="settings laid over it")
    made.set_defaults(main=main)


def main(given: argparse.Namespace) -> None:
    """Train, print the table, write the files."""
    settings = [*given.settings, *([f"train.threads={given.threads}"] if given.threads else [])]
    rows = [measured(given.config, settings) for _ in range(given.repeats)]
    write(given, markdown(given.config, rows), {"machine": dict(machine()), "runs": rows})


def measured(config: str, settings: list[str]) -> dict[str, Any]:
    """One training: seconds of the loop without saving, of packing, of writing; how many saves, and their bytes."""
    import dlf
    from dlf import checkpoint
    from dlf.api import Silent

    found: dict[str, Any] = {"pack_seconds": 0.0, "write_seconds": 0.0, "saves": 0, "bytes": 0}

    def timed(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = real(*arguments, **options)
            found[f"{what}_seconds"] += time.perf_counter() - began
            if what == "write":
                found["saves"] += 1
                found["bytes"] += sum(map(len, arguments[1].values()))
            return result

        return call

    class Clock(Silent):
        def start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def end(self) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    with ExitStack() as stack:
        for what in ("pack", "write"):
            stack.enter_context(mock.patch.object(checkpoint, what, timed(what, getattr(checkpoint, what))))
        dlf.train(config, *settings, runs=stack.enter_context(tempfile.TemporaryDirectory()), display=clock)
    found["other_seconds"] = clock.ended - clock.began - found["pack_seconds"] - found["write_seconds"]
    return found


def markdown(config: str, rows: list[dict[str, Any]]) -> str:
    """The table of runs."""
    heading = ("s of the loop without saving", "s packing", "s writing", "saves", "MiB a save", "saving adds")
    cells = [
        (
            report.number(row["other_seconds"]),
            report.number(row["pack_seconds"]),
            report.number(row["write_seconds"]),
            f"{row['saves']}",
            f"{row['bytes'] / row['saves'] / 2**20:.1f}",
            f"{(row['pack_seconds'] + row['write_seconds']) / row['other_seconds']:.1%}",
        )
        for row in rows
    ]
    return f"{config}: what saving costs. A row is a run.\n\n{report.table(heading, cells)}\n"
