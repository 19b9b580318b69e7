"""Runs side by side: what differs, what each scores, and in words whether that is more than noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlf.display.streams import page
from dlf.display.words import duration, number, safe

if TYPE_CHECKING:
    from dlf.commands.compare import Compared, Comparison, Group

_ABSENT = "-"  # a setting that a run does not have


def show_comparison(result: Comparison) -> None:
    """The runs by their letters, the settings that differ, the metrics, and the verdicts."""
    with page() as console:
        labels = [run.label for run in result.runs]
        for run in result.runs:
            console.print(Text(f"{run.label}  {_described(run)}"), soft_wrap=True)
        looks = {run.test_looks for run in result.runs if run.test_looks}
        if looks:
            console.print(Text(f"test looked at {_times(min(looks))}{_to(looks)}", style="yellow"))
        _heading(console, "settings that differ" if result.differences else "all settings are equal")
        for part in _parts(labels, console.width):
            if result.differences:
                console.print(_settings(result.differences, part))
        _heading(console, f"on the {result.split} part, {_samples(result.runs)}")
        for part in _parts(labels, console.width):
            console.print(_metrics(result, part))
        if result.groups:
            _heading(console, f"{result.headline} over seeds")
            console.print(_seeds(result.groups))
        _heading(console, "more than noise?")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for who, verdict in _verdicts(result):
            table.add_row(who, Text(verdict))
        console.print(table)
        if result.caveat:
            console.print(Text(f"\n{result.caveat}"))


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _described(run: Compared) -> str:
    done = f"{run.epochs} epochs in {duration(float(run.seconds))}"
    return f"{safe(run.run)}: {safe(run.status)}, {done}, {run.checkpoint} checkpoint (epoch {run.epoch})"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _to(looks: set[int]) -> str:
    return "" if len(looks) == 1 else f" to {_times(max(looks))}"


def _samples(runs: Sequence[Compared]) -> str:
    counts = sorted({run.samples for run in runs})
    return " or ".join(f"{count:,}" for count in counts) + " samples"


def _parts(labels: Sequence[str], width: int) -> list[Sequence[str]]:
    """The runs in portions whose columns fit beside each other."""
    most = max(1, (width - 30) // 10)
    return [labels[start : start + most] for start in range(0, len(labels), most)]


def _table(first: str, labels: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for label in labels:
        table.add_column(label, justify="right", overflow="fold")
    return table


def _settings(differences: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> Table:
    table = _table("", labels)
    for key, values in differences.items():
        table.add_row(safe(key), *(_value(values[label]) if label in values else _ABSENT for label in labels))
    return table


def _value(value: Any) -> str:
    return safe(value if isinstance(value, str) else json.dumps(value))


def _metrics(result: Comparison, labels: Sequence[str]) -> Table:
    """The headline metric first, in bold."""
    runs = [run for run in result.runs if run.label in labels]
    names = list(dict.fromkeys([result.headline, *(name for run in runs for name in run.metrics)]))
    table = _table("", labels)
    for name in names:
        values = [number(run.metrics[name]) if name in run.metrics else _ABSENT for run in runs]
        table.add_row(safe(name), *values, style="bold" if name == result.headline else None)
    return table


def _seeds(groups: Sequence[Group]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("runs", "seeds"):
        table.add_column(title, overflow="fold")
    for title in ("n", "mean", "std", "95 % of the mean"):
        table.add_column(title, justify="right")
    for group in groups:
        spread = group.spread
        known = spread.std is not None and spread.low is not None and spread.high is not None
        interval = f"{number(spread.low)} to {number(spread.high)}" if known else ""
        std = number(spread.std) if known else ""
        cells = [", ".join(group.labels), ", ".join(map(str, group.seeds)), str(spread.n), number(spread.mean), std]
        table.add_row(*cells, interval)
    return table


def _verdicts(result: Comparison) -> list[tuple[str, str]]:
    """Who was compared, and what came of it: the seeds first, as they say more."""
    if result.refused:
        return [("not tested", result.refused)]
    groups = [(f"{', '.join(pair.first)} : {', '.join(pair.second)}", pair.verdict) for pair in result.group_pairs]
    return groups + [(f"{pair.first} : {pair.second}", pair.verdict) for pair in result.pairs]
