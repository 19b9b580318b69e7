"""The runs of a folder as a table that fits: the columns that are wanted least go first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from dlf.display.streams import page
from dlf.display.words import byte_size, duration, number, safe

if TYPE_CHECKING:
    from dlf.commands.runs import Listed, Listing, Removed

_LEFT = ("run", "status", "data", "monitor")
_DISPENSABLE = ("monitor", "time", "last", "data", "epochs", "age")  # in this order, where the terminal is narrow


def show_runs(listing: Listing, now: datetime | None = None) -> None:
    """A row for each run, and what is not shown; padded by hand, as ten thousand rows are too many for Rich."""
    moment = now or datetime.now().astimezone()
    columns = _columns(moment)
    monitors = {run.monitor for run in listing.runs if run.monitor}
    if len(monitors) == 1:  # said once, below
        del columns["monitor"]
    texts = {name: [name, *map(text, listing.runs)] for name, text in columns.items()}
    with page() as console:
        if listing.runs:
            widths = {name: max(map(len, texts[name])) for name in _fitting(texts, console.width)}
            console.print(Text(_line(texts, widths, 0), style="bold"), soft_wrap=True)
            rows = (_line(texts, widths, row) for row in range(1, len(listing.runs) + 1))
            console.file.write("".join(f"{row}\n" for row in rows) + "\n")
        console.print(Text(_about(listing, monitors)), soft_wrap=True)


def _columns(now: datetime) -> dict[str, Callable[[Listed], str]]:
    return {
        "run": lambda run: safe(run.id),
        "age": lambda run: age(run.started, now),
        "status": lambda run: safe(run.status or "?"),
        "data": lambda run: _short(safe(run.data or "?")),
        "monitor": lambda run: safe(run.monitor or ""),
        "best": lambda run: _value(run.monitored("best")),
        "last": lambda run: _value(run.monitored("last")),
        "epochs": _epochs,
        "time": lambda run: "" if run.seconds is None else duration(float(run.seconds)),
    }


def _value(value: float | None) -> str:
    return "" if value is None else number(float(value))


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:17]}..."


def _epochs(run: Listed) -> str:
    if run.epochs is None:
        return ""
    return str(run.epochs) if run.planned_epochs is None else f"{run.epochs}/{run.planned_epochs}"


def age(started: str | None, now: datetime) -> str:
    """How long ago: 42s, 5m, 3h, 12d, 8w; empty where it is not known."""
    try:
        seconds = (now - datetime.fromisoformat(started or "").astimezone()).total_seconds()
    except (ValueError, OverflowError, OSError):
        return ""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h"), (28 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{int(max(seconds, 0) // unit)}{name}"
    return f"{int(seconds // (7 * 86400))}w"


def _fitting(texts: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """The columns that fit beside each other."""
    for dropped in range(len(_DISPENSABLE) + 1):
        names = [name for name in texts if name not in _DISPENSABLE[:dropped]]
        if sum(max(map(len, texts[name])) + 2 for name in names) - 2 <= width:
            break
    return names


def _line(texts: Mapping[str, Sequence[str]], widths: Mapping[str, int], row: int) -> str:
    cells = (f"{texts[name][row]:{'<' if name in _LEFT else '>'}{width}}" for name, width in widths.items())
    return "  ".join(cells).rstrip()


def _about(listing: Listing, monitors: set[str]) -> str:
    """How many there are, what the numbers are, and what was passed over."""
    if not listing.total:
        lines = [f"no runs below {safe(listing.folder)}: `dlf train digits` makes one"]
    elif not listing.matching:
        lines = [f"none of {_counted(listing.total, 'run')} below {safe(listing.folder)} is like that"]
    else:
        shown, of = len(listing.runs), "" if listing.matching == listing.total else f" of {listing.total:,}"
        lines = [f"{_counted(listing.matching, 'run')}{of} below {safe(listing.folder)}"]
        if len(monitors) == 1:
            lines[0] += f"; best and last are {safe(*monitors)}"
        if shown < listing.matching:
            lines.append(f"{shown:,} of them are shown; --limit 0 shows all")
    if listing.skipped:
        entries = "entry is no run" if listing.skipped == 1 else "entries are no runs"
        lines.append(f"{listing.skipped:,} other {entries}: no run.json that can be read")
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def removal_text(runs: Sequence[Removed]) -> str:
    """Runs with their sizes, a line each."""
    return "".join(f"{safe(run.id)}  {byte_size(run.bytes)}\n" for run in runs)


def show_removed(runs: Sequence[Removed]) -> None:
    """What was removed, and how much room that made."""
    with page() as console:
        for run in runs:
            console.print(Text(f"removed {safe(run.id)}, {byte_size(run.bytes)}"), soft_wrap=True)
        if len(runs) > 1:
            console.print(Text(f"{_counted(len(runs), 'run')}, {byte_size(sum(run.bytes for run in runs))} in all"))
