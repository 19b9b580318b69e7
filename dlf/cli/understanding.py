"""What goes on inside: `dlf check`, `dlf explain`, `dlf why`."""

from pathlib import Path
from typing import Annotated

import typer

from dlf.cli.app import app
from dlf.cli.options import AsJson, Overrides, Quiet, RunsDir, Which, show_json


@app.command()
def check(
    what: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN", help="An experiment file, a shipped one's name, or a run.")
    ],
    overrides: Overrides = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look for faults of an experiment before it is trained, or of a run; exit code 1 where a check fails."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.check import check_what

    result = check_what(what, overrides or (), runs_dir, tell=display.training(quiet=quiet).message)
    show_json(asdict(result)) if as_json else display.show_check(result)
    raise typer.Exit(1 if result.failed else 0)


@app.command()
def explain(
    what: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN", help="An experiment file, a shipped one's name, or a run.")
    ],
    overrides: Overrides = None,
    sample: Annotated[int, typer.Option(metavar="N", help="Which sample of the training part, from 0.")] = 0,
    unit: Annotated[
        str | None, typer.Option(metavar="LAYER:INDEX", help="One neuron: 0:3, or 2:5,0,7 for a pixel of channel 5.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page to walk through.")] = None,
    checkpoint: Which = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Take one sample forward, back and through the update, in numbers; exit code 1 where a gradient is not right."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.explain import explain_what

    tell = display.training(quiet=False).message
    result = explain_what(what, overrides or (), runs_dir, sample=sample, unit=unit, which=checkpoint, tell=tell)
    if html is not None:
        from dlf.html.walk import write_walk

        write_walk(result, html)
    show_json(asdict(result)) if as_json else display.show_explanation(result)
    raise typer.Exit(0 if all(comparison.holds for comparison in result.comparisons) else 1)


@app.command()
def why(
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="What to ask; without it, the topics.")] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG|RUN] [KEY.PATH=VALUE]...", help="Of which experiment; default: a small one that suits."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How often each setting is trained.")] = 5,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Answer a question about deep learning by a paired experiment."""
    from dataclasses import asdict

    from dlf import display
    from dlf.commands.why import experiments
    from dlf.commands.why import why as command
    from dlf.figure_files import check_suffix
    from dlf.questions.topics import topics

    if topic is None:
        known = topics()
        names = {each.name: each.question for each in known}
        show_json(names) if as_json else display.show_topics(known)
        return
    if plot is not None:
        check_suffix(plot)  # before anything is computed
    asked_of = experiments(topic, words or (), runs_dir)
    result = command(topic, asked_of, seeds=seeds, listener=display.trials(quiet=quiet))
    if plot is not None:
        from dlf.questions.picture import draw_why

        draw_why(result, plot)
    show_json(asdict(result)) if as_json else display.show_why(result)
