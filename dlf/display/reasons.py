"""What `dlf why` found: the settings beside each other, the intervals of their differences, and what it means."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlf.display.streams import page
from dlf.display.tables import table_of, warn_of_fallback
from dlf.display.words import safe

if TYPE_CHECKING:
    from dlf.questions.results import Arm, Difference, Figure, Study, Why
    from dlf.questions.topics import Topic
    from dlf.statistics import Spread

_LINE = 80  # columns of a paragraph: longer lines are hard to read
_WIDEST, _NARROWEST = 24, 8  # columns of a chart


def show_topics(topics: Sequence[Topic]) -> None:
    """Every topic with its question."""
    with page() as console:
        table = table_of("", "", left=("",))
        for topic in topics:
            table.add_row(topic.name, topic.question)
        console.print(table)


def show_why(result: Why) -> None:
    """A table for each configuration, the differences, and two paragraphs."""
    with page() as console:
        console.print(Text(f"{result.topic}: {result.question}", style="bold"), soft_wrap=True)
        for study in result.studies:
            console.print()
            _print_study(console, study, len(result.seeds))
        for title, paragraph in (("What happened", result.happened), ("Why", result.because)):
            console.print(Text(f"\n{title}", style="bold"))
            console.print(Text(_wrapped(paragraph, console)), soft_wrap=True)


def _wrapped(text: str, console: Console) -> str:
    return textwrap.fill(safe(text), max(20, min(_LINE, console.width)), break_on_hyphens=False)


def _print_study(console: Console, study: Study, seeds: int) -> None:
    trained, validated = study.samples
    what = study.config if study.config == study.data else f"{study.config}: {study.data}"
    about = f"{what}, {trained:,} samples to learn from, {validated:,} to validate on, {seeds} seeds"
    console.print(Text(_wrapped(about, console), style="bold"), soft_wrap=True)
    warn_of_fallback(console, study.requested_data, study.data)
    console.print(_arms(study, console))
    for figure in study.figures:
        differences = [difference for difference in study.differences if difference.figure == figure.name]
        if differences:
            console.print()
            console.print(_differences(differences, figure))


def _arms(study: Study, console: Console) -> Table:
    """A row for each setting, with a chart of means and intervals in what is left of the line."""
    first, *others = study.figures
    rows = [
        [
            safe(arm.label),
            first.shown(_mean(arm, first)),
            _interval(arm, first),
            *(other.shown(_mean(arm, other)) for other in others),
        ]
        for arm in study.arms
    ]
    titles = ["", first.title, "95 % of the mean", *(other.title for other in others)]
    folded = ["\n".join(textwrap.wrap(title, 11)) for title in titles]
    width = sum(max(map(len, [*title.split("\n"), *column])) + 2 for title, *column in zip(folded, *rows, strict=True))
    ends = _ends(study.arms, first)
    left, right = map(first.shown, ends)
    room = min(_WIDEST, min(console.width, _LINE) - width)
    if room < max(_NARROWEST, len(left) + len(right) + 1):
        return _filled(table_of(*folded), rows)
    charts = [_whisker(arm.spreads.get(first.name), ends, room, console) for arm in study.arms]
    table = table_of(*folded, f"{left}{right:>{room - len(left)}}")
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = True
    return _filled(table, [[*row, chart] for row, chart in zip(rows, charts, strict=True)])


def _filled(table: Table, rows: Sequence[Sequence[str]]) -> Table:
    for column in table.columns:
        column.vertical = "bottom"
    for row in rows:
        table.add_row(*row)
    return table


def _mean(arm: Arm, figure: Figure) -> float | None:
    spread = arm.spreads.get(figure.name)
    return None if spread is None else spread.mean


def _interval(arm: Arm, figure: Figure) -> str:
    """The interval of the mean, or how many trainings have no figure."""
    if arm.diverged:
        return f"{arm.diverged} of {len(arm.trainings)} diverged"
    spread = arm.spreads.get(figure.name)
    if spread is None or spread.low is None or spread.high is None:
        return ""
    low, high = figure.within((spread.low, spread.high))
    return f"{figure.shown(low)} to {figure.shown(high)}"


def _ends(arms: Sequence[Arm], figure: Figure) -> tuple[float, float]:
    """The least and the greatest of what is drawn: means and the ends of their intervals."""
    known = [arm.spreads[figure.name] for arm in arms if figure.name in arm.spreads]
    values = [value for spread in known for value in (spread.mean, spread.low, spread.high) if value is not None]
    low, high = figure.within((min(values), max(values))) if values else (0.0, 1.0)
    return low, high


def _whisker(spread: Spread | None, ends: tuple[float, float], width: int, console: Console) -> str:
    """The mean as a dot and its interval as a line through it, between the ends of the axis."""
    if spread is None:
        return ""
    low, high = ends

    def column(value: float) -> int:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(min(max(share, 0.0), 1.0) * (width - 1))

    dot, dash = ("o", "-") if console.options.ascii_only else ("●", "─")
    left, right = (column(spread.mean if end is None else end) for end in (spread.low, spread.high))
    middle = column(spread.mean)
    return " " * left + dash * (middle - left) + dot + dash * (right - middle)


def _differences(differences: Sequence[Difference], figure: Figure) -> Table:
    """The paired differences in a figure, the first setting less the second."""
    unit = ", points" if figure.share else ""
    table = table_of(f"{figure.title}{unit}", "difference", "95 % interval", "effect", left=("effect",))
    for one in differences:
        mean, low, high = (
            "-" if value is None else figure.shown_difference(value) for value in (one.mean, one.low, one.high)
        )
        interval = f"{low} to {high}" if one.low is not None else "-"
        table.add_row(safe(f"{one.first} - {one.second}"), mean, interval, one.verdict)
    return table
