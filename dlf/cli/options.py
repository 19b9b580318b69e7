"""Arguments and options that mean the same in every command, and how they are checked."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dlf.errors import UsageError


class Split(StrEnum):
    """The parts of a data set."""

    train = "train"
    val = "val"
    test = "test"


Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, a path, or `latest`.")]
Which = Annotated[str | None, typer.Option(metavar="NAME", help="best, last or step-N; default: the run's result.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the run directories.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes CUDA when there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors and the result only.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings laid over the file: optimizer.lr=0.01"),
]


def checked_name(name: str) -> str:
    """--name, if a run can be called so."""
    from dlf.run import check_name

    try:
        return check_name(name)
    except ValueError as error:
        raise UsageError(f"--name: {error}") from None


def checked_device(name: str | None) -> str | None:
    """--device, if a device can be called so."""
    if name is None:
        return None
    from dlf.config import check_device

    try:
        return check_device(name)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None


def show_json(value: Any) -> None:
    """One JSON document in ASCII, which every terminal and every locale takes."""
    import json

    from dlf.display import show_text
    from dlf.run import to_json

    show_text(json.dumps(json.loads(to_json(value)), indent=2) + "\n")
