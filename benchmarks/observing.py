"""What the doctor costs: `dlf.train` on a shipped experiment, with its seconds of looking and of verdicts.

Seconds within one run are compared, so a machine that is slower today is slower in both. Looking is all of the Observer
and of the answer that is always the same; the verdicts are read from the run directory once, at the end.
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
    made = commands.add_parser("observing", help="what the doctor costs")
    made.add_argument("--config", default="mnist", help="a file or the name of a shipped experiment (mnist)")
    made.add_argument("settings", nargs="*", metavar="KEY.PATH=VALUE", help="settings laid over it")
    made.set_defaults(main=main)


def main(given: argparse.Namespace) -> None:
    """Train, print the table, write the files."""
    settings = [*given.settings, *([f"train.threads={given.threads}"] if given.threads else [])]
    rows = [measured(given.config, settings) for _ in range(given.repeats)]
    write(given, markdown(given.config, rows), {"machine": dict(machine()), "runs": rows})


def measured(config: str, settings: list[str]) -> dict[str, Any]:
    """One `dlf.train` as a whole: its seconds, those of looking and of the verdicts among them, and how many looks."""
    import dlf
    from dlf.commands import train
    from dlf.observe import Observer

    found: dict[str, Any] = {"looking_seconds": 0.0, "verdict_seconds": 0.0, "looks": 0}

    def timed(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = real(*arguments, **options)
            found[f"{what}_seconds"] += time.perf_counter() - began
            return result

        return call

    def layers(observer: Observer) -> dict[str, Any]:
        found["looks"] += 1
        return real_layers(observer)

    real_layers, looking = Observer.layers, [(Observer, name) for name in ("__init__", "step", "note")]
    with ExitStack() as stack:
        for owner, name in [*looking, (train, "constant_answer")]:
            stack.enter_context(mock.patch.object(owner, name, timed("looking", getattr(owner, name))))
        for name in ("diagnose", "in_words"):
            stack.enter_context(mock.patch.object(train, name, timed("verdict", getattr(train, name))))
        stack.enter_context(mock.patch.object(Observer, "layers", layers))
        runs = stack.enter_context(tempfile.TemporaryDirectory())
        began = time.perf_counter()
        dlf.train(config, *settings, runs=runs)
        found["whole_seconds"] = time.perf_counter() - began
    return found


def markdown(config: str, rows: list[dict[str, Any]]) -> str:
    """The table of runs."""
    heading = ("s of dlf.train", "looks", "ms a look", "ms of verdicts", "the doctor adds")
    cells = []
    for row in rows:
        own = row["looking_seconds"] + row["verdict_seconds"]
        cells.append(
            (
                report.number(row["whole_seconds"]),
                f"{row['looks']}",
                report.number(1000 * row["looking_seconds"] / max(row["looks"], 1)),
                report.number(1000 * row["verdict_seconds"]),
                f"{own / (row['whole_seconds'] - own):.1%}",
            )
        )
    return f"{config}: what the doctor costs. A row is a run.\n\n{report.table(heading, cells)}\n"
