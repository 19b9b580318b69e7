"""Reports of earlier measurements, made anew from their JSON: the whole one, or a short table for README.

Several files are rounds of one measurement, made at different times: on a machine that cannot be idle for half an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.figures import Run

_SAME = ("samples", "threads", "device", "synthetic")  # the networks may have had other numbers of epochs


def add_command(commands: Any) -> None:
    """The command line; the options of the whole are given before the command's name."""
    made = commands.add_parser("show", help="the report of what --json wrote, of several rounds together")
    made.add_argument("files", type=Path, nargs="+", help="what --json wrote, a round or more each")
    made.add_argument("--readme", action="store_true", help="only a short table, in multiples of dlf's time")
    made.set_defaults(main=main)


def main(given: argparse.Namespace) -> None:
    """Read, put together, print; with --json, write what was put together."""
    found = together([json.loads(path.read_text(encoding="utf-8")) for path in given.files])
    print(report.for_readme(found) if given.readme else report.from_document(found), end="")
    if given.json:
        given.json.write_text(json.dumps(found) + "\n", encoding="utf-8")


def together(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One document of all rounds; they must have measured the same work on the same machine."""
    first = documents[0]
    runs: list[Run] = []
    for document in documents:
        same = [document["settings"][name] == first["settings"][name] for name in _SAME]
        if document["machine"] != first["machine"] or not all(same):
            sys.exit("error: these files are of different machines, or of different work")
        before = 1 + max((run.round for run in runs), default=-1)
        runs += [Run(**run)._replace(round=run["round"] + before) for run in document["runs"]]
    networks = dict.fromkeys(name for document in documents for name in document["settings"]["networks"])
    repeats = {name: len({run.round for run in runs if run.network == name}) for name in networks}
    epochs = max(document["settings"]["epochs"] for document in documents)
    settings = {**first["settings"], "epochs": epochs, "repeats": max(repeats.values()), "networks": list(networks)}
    return report.document(runs, first["machine"], settings)
