"""What `dlf why` found: the settings beside each other, the intervals of their differences, and what it means."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from dlf.display.streams import page
from dlf.display.tables import table_of, warn_of_fallback
from dlf.display.words import safe

if TYPE_CHECKING:
    from dlf.statistics import Spread
    from dlf.questions.results import Arm, Figure, Study, Why
    from dlf.questions.topics import Topic

_LINE = 80  # columns of a paragraph: longer lines are hard to read
_CHART = 24  # columns


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


def _wrapped(text: str, console: Console, indent: str = "") -> str:
    width = min(_LINE, console.width)
    return "\n".join(
        textwrap.fill(safe(part), max(20, width), subsequent_indent=indent, break_on_hyphens=False)
        for part in text.split("\n")
    )


def _print_study(console: Console, study: Study, seeds: int) -> None:
    trained, validated = study.samples
    about = f"{safe(study.config)}: {safe(study.data)}, {trained:,} samples to learn from, {validated:,} to validate on"
    console.print(Text(f"{about}, {seeds} seeds", style="bold"), soft_wrap=True)
    warn_of_fallback(console, study.requested_data, study.data)
    first, *others = study.figures
    ends = _ends(study.arms, first)
    axis = f"{first.shown(ends[0])}{first.shown(ends[1]):>{_CHART - len(first.shown(ends[0]))}}"
    table = table_of("", first.title, "95 % of the mean", *(f.title for f in others), axis)
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = True
    for arm in study.arms:
        cells = [first.shown(_mean(arm, first)), _interval(arm, first)]
        cells += [other.shown(_mean(arm, other)) for other in others]
        table.add_row(safe(arm.label), *cells, _whisker(arm.spreads.get(first.name), ends, console))
    console.print(table)
    console.print()
    for line in _differences(study):
        console.print(Text(_wrapped(line, console, "  ")), soft_wrap=True)


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
    low, high = _within((spread.low, spread.high), figure)
    return f"{figure.shown(low)} to {figure.shown(high)}"


def _ends(arms: Sequence[Arm], figure: Figure) -> tuple[float, float]:
    """The least and the greatest of what is drawn: means and the ends of their intervals."""
    known = [arm.spreads[figure.name] for arm in arms if figure.name in arm.spreads]
    values = [value for spread in known for value in (spread.mean, spread.low, spread.high) if value is not None]
    return _within((min(values), max(values)), figure) if values else (0.0, 1.0)


def _within(ends: tuple[float, float], figure: Figure) -> tuple[float, float]:
    """A share's interval without what no share can be, which Student's knows nothing of."""
    return (max(0.0, ends[0]), min(1.0, ends[1])) if figure.share else ends


def _whisker(spread: Spread | None, ends: tuple[float, float], console: Console) -> str:
    """The mean as a dot and its interval as a line through it, between the ends of the axis."""
    if spread is None:
        return ""
    low, high = ends

    def column(value: float) -> int:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(min(max(share, 0.0), 1.0) * (_CHART - 1))

    dot, dash = ("o", "-") if console.options.ascii_only else ("●", "─")
    left, right = (column(spread.mean if end is None else end) for end in (spread.low, spread.high))
    middle = column(spread.mean)
    return " " * left + dash * (middle - left) + dot + dash * (right - middle)


def _differences(study: Study) -> Iterator[str]:
    words = {"appears": "as expected", "absent": "no effect beyond the seeds'", "opposite": "the opposite"}
    for difference in study.differences:
        yield f"{difference.first} : {difference.second}  {difference.said}: {words[difference.verdict]}"
