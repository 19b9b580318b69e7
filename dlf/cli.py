"""The command line: parse, call a command, show its result, end with the right exit code.

Nothing heavy is imported at the top: `dlf --help`, `--version` and shell completion never import torch.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dlf import __version__
from dlf.errors import DataError, DlfError, MachineError, UsageError, is_out_of_memory

# what Typer raises for words that do not fit is click's, which newer Typers carry inside of themselves
_BadWords: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="dlf",
    help="Deep learning fundamentals: one YAML file in, a trained, evaluated and explained neural network out.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would double the time of `dlf --help`
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the run directories.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes CUDA when there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
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
    from dlf.commands import train as command
    from dlf.config import load
    from dlf.run import RunDirectory

    given = list(overrides or ())
    device = _checked_device(device)
    screen = display.training(quiet=quiet)
    if resume is not None:
        if name is not None:
            raise UsageError("--name and --resume exclude each other: a run keeps its name")
        run = RunDirectory.find(resume, runs_dir)
        words = [*([config] if config else []), *given]
        result = command.resume(run, words, start=start, device=device, display=screen)
    elif start is not None:
        raise UsageError("--from names a checkpoint of a run: it needs --resume RUN")
    elif config is None:
        raise UsageError("which experiment? Give a file or one of: " + ", ".join(shipped.names()))
    else:
        given += [f"name={_checked_name(name)}"] if name is not None else []
        given += [f"train.device={device}"] if device is not None else []
        loaded = load(shipped.find(config), given)
        result = command.train(loaded, runs=runs_dir, display=screen)
    _show_json(asdict(result)) if as_json else display.show_training(result)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, a path, or `latest`.")],
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.test,
    checkpoint: Annotated[Checkpoint | None, typer.Option(help="Which weights; default: the run's result.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every prediction there: .csv or .npz.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --predictions replace a file that is there.")] = False,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Measure a run's checkpoint on the test (or validation) part."""
    from dlf import display
    from dlf.commands.evaluate import evaluate_run
    from dlf.run import RunDirectory

    if force and predictions is None:
        raise UsageError("--force replaces the file of --predictions: name one")
    device = _checked_device(device)
    found, which = RunDirectory.find(run, runs_dir), checkpoint and checkpoint.value
    result = evaluate_run(found, split=split.value, which=which, device=device, predictions_to=predictions, force=force)
    _show_json(result) if as_json else display.show_evaluation(result)


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, a path, or `latest`.")],
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Pictures, CSV, .npy or .npz; - is a picture or CSV on stdin."),
    ],
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Only resize pictures; do not find, centre and scale what they show.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw what the network saw beside each picture: a .png.")
    ] = None,
    checkpoint: Annotated[Checkpoint | None, typer.Option(help="Which weights; default: the run's result.")] = None,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Say what the network makes of pictures, rows or arrays of your own; exit code 3 where a file cannot be read."""
    from dlf import display
    from dlf.commands.predict import predict as command
    from dlf.run import RunDirectory
    from dlf.sheet import check_sheet, draw_sheet

    device = _checked_device(device)
    if picture is not None:
        check_sheet(picture)
    found = RunDirectory.find(run, runs_dir)
    predicted = command(found, files, which=checkpoint and checkpoint.value, device=device, as_is=as_is)
    if picture is not None:
        sources = [sample.picture and sample.picture.source for sample in predicted.samples]
        draw_sheet(picture, predicted.result["predictions"], sources, predicted.x)
    _show_json(predicted.result) if as_json else display.show_predictions(predicted.result)
    if predicted.failures:
        done = len(files) - len(predicted.failures)
        what = f"{done} of {len(files)} files were read. Of the others:" if done else "nothing could be read:"
        raise DataError("\n".join([what, *predicted.failures]))


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, a path, or `latest`.")],
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

    device = _checked_device(device)
    found = RunDirectory.find(run, runs_dir)
    screen = display.training(quiet=quiet)
    result = command(found, device=device, keep=keep, display=screen)
    _show_json(asdict(result)) if as_json else display.show_reproduction(result)
    raise typer.Exit(0 if result.identical else 1)


@app.command()
def records(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, a path, or `latest`.")],
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all columns as CSV instead; - is stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --csv replace a file that is there.")] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show the epochs of a run, as a table, CSV or JSON."""
    from dlf import display
    from dlf.commands.records import best_of, to_csv, write_csv
    from dlf.run import RunDirectory

    if csv is not None and as_json:
        raise UsageError("--csv and --json exclude each other: one document at a time")
    if force and (csv is None or csv == Path("-")):
        raise UsageError("--force replaces the file of --csv: name one")
    found = RunDirectory.find(run, runs_dir)
    epochs = found.read_metrics()
    if csv == Path("-"):
        display.show_text(to_csv(epochs))
    elif csv is not None:
        write_csv(epochs, csv, force=force)
        display.show_text(f"{csv}\n")
    elif as_json:
        _show_json(epochs)
    else:
        display.show_records(epochs, best_of(epochs, found.read_info()["monitor"]))


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
    _show_json(asdict(summary)) if as_json else display.show_summary(summary)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two runs or more.")],
    split: Annotated[Split, typer.Option(help="What they are compared on; each look at test is counted.")] = Split.val,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw their curves: .png, .svg or .pdf.")] = None,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What differs between runs, and whether one is better by more than noise."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.compare import compare as command
    from dlf.run import RunDirectory

    device = _checked_device(device)
    found = [RunDirectory.find(run, runs_dir) for run in runs]
    if plot is not None:
        from dlf.figure_files import check_suffix

        check_suffix(plot)  # before anything is computed
    result = command(found, split=split.value, device=device)
    if plot is not None:
        from dlf.curves import draw_curves

        records = {f"{run.label}  {run.run}": RunDirectory(Path(run.path)).read_metrics() for run in result.runs}
        draw_curves(records, result.headline, plot)
    _show_json(asdict(result)) if as_json else display.show_comparison(result)


runs_app = typer.Typer(invoke_without_command=True)
app.add_typer(runs_app, name="runs")


@runs_app.callback()
def runs(
    context: typer.Context,
    sort: Annotated[
        str, typer.Option(help="started, id, status, data, best, last, epochs or seconds; best or most first.")
    ] = "started",
    status: Annotated[str | None, typer.Option(help="Only those that are completed, stopped, diverged, ...")] = None,
    data: Annotated[str | None, typer.Option(help="Only those trained on this data set.")] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Only younger ones: 12h, 7d, 2026-11-23.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="How many; default: 20, with --json all; 0: all.")] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs, the last one first; `dlf runs rm` removes some."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands import runs as command

    if context.invoked_subcommand is not None:
        sources = [context.get_parameter_source(name) for name in context.params]
        if any(getattr(source, "name", "DEFAULT") != "DEFAULT" for source in sources):
            raise UsageError(f"options of the list stand before {context.invoked_subcommand!r}: write them behind it")
        return
    most = (None if as_json else 20) if limit is None else limit or None
    listing = command.list_runs(runs_dir, sort=sort, status=status, data=data, since=since, limit=most)
    _show_json(asdict(listing)) if as_json else display.show_runs(listing)


@runs_app.command("rm")
def remove_runs(
    words: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids, unique prefixes, or paths of runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Remove runs with all their files, after asking."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands import runs as command

    found = command.removable(words, runs_dir)
    if not yes and not _agreed(display.removal_text(command.sizes(found)), len(found)):
        return
    removed = command.remove(found, runs_dir)
    _show_json({"removed": [asdict(run) for run in removed]}) if as_json else display.show_removed(removed)


def _agreed(what: str, count: int) -> bool:
    """Whether the person at the terminal agrees to remove this; UsageError where there is nobody to ask."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("nothing was removed: there is no terminal to ask at. Give --yes to remove without asking.")
    typer.echo(what, nl=False, err=True)
    agreed = typer.confirm(f"Remove {'this run' if count == 1 else f'these {count} runs'} for good?", err=True)
    if not agreed:
        typer.echo("nothing was removed", err=True)
    return agreed


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, a path, or `latest`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where; default: report.html in the run.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Part whose answers are judged; looks at test are counted.")] = Split.val,
    checkpoint: Annotated[Checkpoint | None, typer.Option(help="Which weights; default: the run's result.")] = None,
    device: Device = None,
    browse: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write one HTML file with all that a run shows."""
    import webbrowser
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.report import report as command
    from dlf.run import RunDirectory

    device = _checked_device(device)
    found = RunDirectory.find(run, runs_dir)
    which = checkpoint and checkpoint.value
    result = command(found, output=output, split=split.value, which=which, device=device)
    _show_json(asdict(result)) if as_json else display.show_text(f"{result.path}\n")
    if browse and not webbrowser.open(Path(result.path).absolute().as_uri()):
        raise MachineError(f"no browser could be started here. The report is written; open {result.path} yourself.")


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files."""
    from dlf.config import json_schema

    _show_json(json_schema())


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="A shipped experiment, such as mnist.")],
    file: Annotated[Path | None, typer.Argument(help="Where to write it; default: NAME.yaml.")] = None,
) -> None:
    """Write a shipped experiment file to start from."""
    from dlf import display
    from dlf.commands.init import init as command

    display.show_text("".join(f"{path}\n" for path in command(name, file)))


def _checked_name(name: str) -> str:
    from dlf.run import check_name

    try:
        return check_name(name)
    except ValueError as error:
        raise UsageError(f"--name: {error}") from None


def _checked_device(name: str | None) -> str | None:
    if name is None:
        return None
    from dlf.config import check_device

    try:
        return check_device(name)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None


def _show_json(value: Any) -> None:
    """One JSON document in ASCII, which every terminal and every locale takes."""
    from dlf.display import show_text
    from dlf.run import to_json

    show_text(json.dumps(json.loads(to_json(value)), indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, or the exit code of the failure (dlf/errors.py)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=words or ["--help"], prog_name="dlf", standalone_mode=False)
    except DlfError as error:
        _fail(error)
    except _BadWords as error:
        _fail(UsageError(_in_words(error)))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except OSError as error:
        _fail(MachineError(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(MachineError(f"out of memory. Use a smaller data.batch_size or network. {error}".rstrip()))
    sys.exit(code or 0)


# control characters, and those that turn the direction of text: what is quoted from a file must not steer a terminal
_STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _fail(error: DlfError) -> NoReturn:
    text = _STEERS.sub(lambda char: ascii(char[0])[1:-1], str(error))
    if sys.stderr is not None:
        with suppress(OSError):  # nobody reads it: the exit code still says it
            print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def _in_words(error: Any) -> str:
    """What Typer says of the words of a command, and where the right ones are written."""
    command = error.ctx.command_path if error.ctx else "dlf"
    return f"{error.format_message()}\nSee {command} --help"
