"""The command line: parse, call a command, show its result, end with the right exit code.

Nothing heavy is imported at the top: `dlf --help`, `--version` and shell completion never import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dlf import __version__
from dlf.errors import DlfError, UsageError

app = typer.Typer(
    name="dlf",
    help="Deep learning fundamentals: one YAML file in, a trained, evaluated and explained neural network out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the run directories.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes CUDA when there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors and the result only.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings laid over the file: optimizer.lr=0.01"),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dlf {__version__}")
        raise typer.Exit


class Split(StrEnum):
    """The parts of a data set."""

    train = "train"
    val = "val"
    test = "test"


class Checkpoint(StrEnum):
    """The checkpoints of a run."""

    best = "best"
    last = "last"


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="An experiment file, or the name of a shipped one.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on where this run stopped.")] = None,
    name: Annotated[str | None, typer.Option(help="Beginning of the run's id.")] = None,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the experiment of CONFIG and write a run directory."""
    from dlf import display, shipped
    from dlf.commands import train as command
    from dlf.config import load
    from dlf.run import RunDirectory

    given = list(overrides or ())
    screen = display.training(quiet=quiet)
    if resume is not None:
        if name is not None:
            raise UsageError("--name and --resume exclude each other: a run keeps its name")
        run = RunDirectory.find(resume, runs_dir)
        result = command.resume(run, [*([config] if config else []), *given], device=device, display=screen)
    elif config is None:
        raise UsageError("which experiment? Give a file or one of: " + ", ".join(shipped.names()))
    else:
        given += [f"name={name}"] if name is not None else []
        given += [f"train.device={device}"] if device is not None else []
        loaded = load(shipped.find(config), given)
        result = command.train(loaded, runs=runs_dir, display=screen)
    _print_json(result.__dict__) if json else display.show_training(result)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, a path, or `latest`.")],
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.test,
    checkpoint: Annotated[Checkpoint | None, typer.Option(help="Which weights; default: the run's result.")] = None,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Measure a run's checkpoint on the test (or validation) part."""
    from dlf import display
    from dlf.commands.evaluate import evaluate_run
    from dlf.run import RunDirectory

    result = evaluate_run(
        RunDirectory.find(run, runs_dir), split=split.value, which=checkpoint and checkpoint.value, device=device
    )
    _print_json(result) if json else display.show_evaluation(result)


@app.command()
def summarize(
    what: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN", help="An experiment file, a shipped one's name, or a run.")
    ],
    overrides: Overrides = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")] = None,
    runs_dir: RunsDir = Path("runs"),
    json: Json = False,
) -> None:
    """Show the architecture: layers, shapes, parameters, multiply-adds, bytes."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.summarize import find_experiment, summarize_experiment

    summary = summarize_experiment(find_experiment(what, runs_dir, overrides or ()))
    if plot is not None:
        from dlf.drawing import draw_architecture

        draw_architecture(summary, plot)
    _print_json(asdict(summary)) if json else display.show_summary(summary)


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files, for completion in editors."""
    from dlf.config import json_schema

    _print_json(json_schema())


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="A shipped experiment, such as mnist.")],
    file: Annotated[Path | None, typer.Argument(help="Where to write it; default: NAME.yaml.")] = None,
) -> None:
    """Write a shipped experiment file, with its comments, to start from."""
    from dlf.commands.init import init as command

    print(command(name, file))


def _print_json(value: Any) -> None:
    from dlf.run import to_json

    sys.stdout.write(to_json(value, indent=2).decode())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, or the exit code of the failure (dlf/errors.py)."""
    try:
        app(args=arguments, prog_name="dlf")
    except DlfError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
