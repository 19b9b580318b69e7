"""`dlf train`, `dlf reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from dlf.cli.app import app
from dlf.cli.options import AsJson, Device, Overrides, Quiet, Run, RunsDir, checked_device, checked_name, show_json
from dlf.errors import UsageError


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="An experiment file, or the name of a shipped one.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on where this run stopped.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="With --resume: go back to best, last or step-N.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Beginning of the run's id.")] = None,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train the experiment of CONFIG and write a run directory."""
    from dataclasses import asdict

    from dlf import display, shipped
    from dlf.commands.resume import resume as resume_run
    from dlf.commands.train import train as command
    from dlf.config import load
    from dlf.run import RunDirectory

    given = list(overrides or ())
    device = checked_device(device)
    screen = display.training(quiet=quiet)
    if resume is not None:
        if name is not None:
            raise UsageError("--name and --resume exclude each other: a run keeps its name")
        run = RunDirectory.find(resume, runs_dir)
        words = [*([config] if config else []), *given]
        result = resume_run(run, words, start=start, device=device, display=screen)
    elif start is not None:
        raise UsageError("--from names a checkpoint of a run: it needs --resume RUN")
    elif config is None:
        raise UsageError("which experiment? Give a file or one of: " + ", ".join(shipped.names()))
    else:
        given += [f"name={checked_name(name)}"] if name is not None else []
        given += [f"train.device={device}"] if device is not None else []
        loaded = load(shipped.find(config), given)
        result = command(loaded, runs=runs_dir, display=screen)
    show_json(asdict(result)) if as_json else display.show_training(result)


@app.command()
def reproduce(
    run: Run,
    device: Annotated[str | None, typer.Option(help="Another device than the run was trained on.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the repeated run, beside the run.")] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a run again and compare every bit; exit code 1 where one differs."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.reproduce import reproduce as command
    from dlf.run import RunDirectory

    device = checked_device(device)
    found = RunDirectory.find(run, runs_dir)
    screen = display.training(quiet=quiet)
    result = command(found, device=device, keep=keep, display=screen)
    show_json(asdict(result)) if as_json else display.show_reproduction(result)
    raise typer.Exit(0 if result.identical else 1)
