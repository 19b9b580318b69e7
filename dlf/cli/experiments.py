"""Experiment files: `dlf summarize`, `schema`, `init`."""

from pathlib import Path
from typing import Annotated

import typer

from dlf.cli.app import app
from dlf.cli.options import AsJson, Overrides, RunsDir, show_json


@app.command()
def summarize(
    what: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN", help="An experiment file, a shipped one's name, or a run.")
    ],
    overrides: Overrides = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show layers, shapes, parameters, multiply-adds, bytes."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.summarize import find_experiment, summarize_experiment

    summary = summarize_experiment(find_experiment(what, runs_dir, overrides or ()))
    if plot is not None:
        from dlf.drawing import draw_architecture

        draw_architecture(summary, plot)
    show_json(asdict(summary)) if as_json else display.show_summary(summary)


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files."""
    from dlf.config import json_schema

    show_json(json_schema())


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="A shipped experiment, such as mnist.")],
    file: Annotated[Path | None, typer.Argument(help="Where to write it; default: NAME.yaml.")] = None,
) -> None:
    """Write a shipped experiment file to start from."""
    from dlf import display
    from dlf.commands.init import init as command

    display.show_text("".join(f"{path}\n" for path in command(name, file)))
