"""The command without a name: everyone in turn, the report on stdout and in files."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import data, report, rounds


def main(given: argparse.Namespace) -> None:
    """Measure, print, write."""
    with folder(given) as found:
        options = options_of(given, found)
        runs = rounds.measure(options)
    settings = settings_of(given, options)
    text = report.markdown(runs, rounds.machine(), settings)
    write(given, text, report.document(runs, rounds.machine(), settings))


@contextmanager
def folder(given: argparse.Namespace) -> Iterator[Path]:
    """The folder with the data that everyone reads; made-up data is gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        found = data.made_up(Path(scratch), given.samples) if given.synthetic else data.find(given.data)
        if found is None:
            sys.exit("error: MNIST cannot be had: --data FOLDER names one that has MNIST/raw, --synthetic needs none")
        yield found


def options_of(given: argparse.Namespace, found: Path, **others: Any) -> rounds.Options:
    """What was asked for on the command line."""
    asked: dict[str, Any] = {
        "repeats": given.repeats,
        "epochs": given.epochs,
        "samples": given.samples,
        "threads": given.threads,
        "only": given.only,
        "networks": given.networks,
        "limit_seconds": given.limit,
    }
    return rounds.Options(found, **(asked | others))


def settings_of(given: argparse.Namespace, options: rounds.Options) -> dict[str, Any]:
    """What a reader must know of how it was measured; no path of this machine."""
    kept = {key: value for key, value in asdict(options).items() if key not in ("data", "tell")}
    return {**kept, "synthetic": given.synthetic}


def write(given: argparse.Namespace, text: str, found: dict[str, Any]) -> None:
    """The report on stdout, and in the files that were asked for."""
    print(text, end="")
    if given.markdown:
        given.markdown.write_text(text, encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
