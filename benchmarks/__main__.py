"""python -m benchmarks: dlf, its peers and the floor; and parts, growth, mapped, saving, observing, cuda, show."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import compare, cuda, growth, mapped, observing, parts, rounds, saving, show
from benchmarks.task import NETWORKS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--repeats", type=_count, default=3, help="rounds, each with a process of everyone (3)")
    made.add_argument("--epochs", type=_count, default=3, help="epochs in each process (3); the first counts apart")
    made.add_argument("--samples", type=_count, default=60_000, help="training samples an epoch (60000)")
    made.add_argument("--threads", type=_count, help="cores that everyone may use (all)")
    made.add_argument("--only", type=_names(rounds.TAKES_PART), default=rounds.TAKES_PART, metavar="NAME,...")
    made.add_argument("--networks", type=_names(NETWORKS), default=tuple(NETWORKS), metavar="NAME,...")
    made.add_argument("--data", default="", metavar="FOLDER", help="has MNIST/raw ($DLF_DATA, else dlf's cache)")
    made.add_argument("--synthetic", action="store_true", help="made-up samples in place of MNIST")
    made.add_argument("--limit", type=float, default=900.0, help="seconds after which a process is given up (900)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the report to this file as well")
    commands = made.add_subparsers(metavar="parts|growth|mapped|saving|observing|cuda|show")
    parts.add_command(commands)
    growth.add_command(commands)
    mapped.add_command(commands)
    saving.add_command(commands)
    observing.add_command(commands)
    cuda.add_command(commands)
    show.add_command(commands)
    made.set_defaults(main=compare.main)
    return made


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def _names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}. Known: {', '.join(known)}")
        return names

    return parse


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = parser().parse_args(words)
    given.main(given)


if __name__ == "__main__":
    main()
