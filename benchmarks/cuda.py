"""dlf on a GPU beside PyTorch's bare loop and the GPU's floor: products and update alone, replayed as CUDA graphs.

Whether dlf captures its step as well is dlf's choice; what it chose is in its run.json.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import report, rounds
from benchmarks.compare import folder, options_of, settings_of, write
from benchmarks.figures import collect

TAKES_PART = ("floor", "dlf", "dlf-float32", "bare", "bare-medium")


def add_command(commands: Any) -> None:
    """The command line; the options of the whole are given before the command's name."""
    commands.add_parser("cuda", help="dlf on a GPU beside the GPU's floor").set_defaults(main=main)


def main(given: argparse.Namespace) -> None:
    """Measure, print, write; one line where torch sees no GPU."""
    import torch  # loaded into the starting process here: peaks of memory are not what this command is about

    if not torch.cuda.is_available():
        print("skipped: torch sees no CUDA device here")
        return
    with folder(given) as found:
        options = options_of(given, found, device="cuda", only=TAKES_PART)
        runs = rounds.measure(options)
    series = collect(runs)
    machine = {**rounds.machine(), "device": torch.cuda.get_device_name()}
    parts = [machine["device"]]
    for network in given.networks:
        parts += [f"### {network}", report.network_table(series, network), report.floor_line(series, network)]
    write(given, "\n\n".join(parts) + "\n", report.document(runs, machine, settings_of(given, options)))
