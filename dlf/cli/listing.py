"""The runs of a folder: `dlf runs`, `dlf runs rm`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dlf.cli.app import app
from dlf.cli.options import AsJson, RunsDir, show_json
from dlf.errors import UsageError

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
    show_json(asdict(listing)) if as_json else display.show_runs(listing)


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
    show_json({"removed": [asdict(run) for run in removed]}) if as_json else display.show_removed(removed)


def _agreed(what: str, count: int) -> bool:
    """Whether the person at the terminal agrees to remove this; UsageError where there is nobody to ask."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("nothing was removed: there is no terminal to ask at. Give --yes to remove without asking.")
    typer.echo(what, nl=False, err=True)
    agreed = typer.confirm(f"Remove {'this run' if count == 1 else f'these {count} runs'} for good?", err=True)
    if not agreed:
        typer.echo("nothing was removed", err=True)
    return agreed
