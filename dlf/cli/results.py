"""What a run came to: `dlf evaluate`, `predict`, `records`, `compare`, `report`."""

from pathlib import Path
from typing import Annotated

import typer

from dlf.cli.app import app
from dlf.cli.options import AsJson, Device, Run, RunsDir, Split, Which, checked_device, show_json
from dlf.errors import DataError, MachineError, UsageError


@app.command()
def evaluate(
    run: Run,
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.test,
    checkpoint: Which = None,
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
    device = checked_device(device)
    found = RunDirectory.find(run, runs_dir)
    result = evaluate_run(
        found, split=split.value, which=checkpoint, device=device, predictions_to=predictions, force=force
    )
    show_json(result) if as_json else display.show_evaluation(result)


@app.command()
def predict(
    run: Run,
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
    checkpoint: Which = None,
    device: Device = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Say what the network makes of pictures, rows or arrays of your own; exit code 3 where a file cannot be read."""
    from dlf import display
    from dlf.commands.predict import predict as command
    from dlf.run import RunDirectory
    from dlf.sheet import check_sheet, draw_sheet

    device = checked_device(device)
    if picture is not None:
        check_sheet(picture)
    found = RunDirectory.find(run, runs_dir)
    predicted = command(found, files, which=checkpoint, device=device, as_is=as_is)
    if picture is not None:
        sources = [sample.picture and sample.picture.source for sample in predicted.samples]
        draw_sheet(picture, predicted.result["predictions"], sources, predicted.x)
    show_json(predicted.result) if as_json else display.show_predictions(predicted.result)
    if predicted.failures:
        done = len(files) - len(predicted.failures)
        what = f"{done} of {len(files)} files were read. Of the others:" if done else "nothing could be read:"
        raise DataError("\n".join([what, *predicted.failures]))


@app.command()
def records(
    run: Run,
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
        show_json(epochs)
    else:
        display.show_records(epochs, best_of(epochs, found.read_info()["monitor"]))


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

    device = checked_device(device)
    found = [RunDirectory.find(run, runs_dir) for run in runs]
    if plot is not None:
        from dlf.figure_files import check_suffix

        check_suffix(plot)  # before anything is computed
    result = command(found, split=split.value, device=device)
    if plot is not None:
        from dlf.curves import draw_curves

        records = {f"{run.label}  {run.run}": RunDirectory(Path(run.path)).read_metrics() for run in result.runs}
        draw_curves(records, result.headline, plot)
    show_json(asdict(result)) if as_json else display.show_comparison(result)


@app.command()
def report(
    run: Run,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where; default: report.html in the run.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Part whose answers are judged; looks at test are counted.")] = Split.val,
    checkpoint: Which = None,
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

    device = checked_device(device)
    found = RunDirectory.find(run, runs_dir)
    result = command(found, output=output, split=split.value, which=checkpoint, device=device)
    show_json(asdict(result)) if as_json else display.show_text(f"{result.path}\n")
    if browse and not webbrowser.open(Path(result.path).absolute().as_uri()):
        raise MachineError(f"no browser could be started here. The report is written; open {result.path} yourself.")
