"""What paired trainings came to: figures, the intervals of their differences, and whether an effect appears.

Plain data and pure functions: `asdict` of Why is what `dlf why --json` prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

from dlf.schedules import lower_is_better
from dlf.statistics import Spread, spread_of

Expected = Literal["better", "worse", "more", "less"]
Verdict = Literal["appears", "absent", "opposite"]


@dataclass(frozen=True)
class Figure:
    """A number that every training has: `name` is its key, `title` its words; a share is shown in percent."""

    name: str
    title: str
    share: bool = False

    def shown(self, value: float | None) -> str:
        """The value in three digits or percent; "-" where there is no number."""
        if value is None:
            return "-"
        return f"{100 * value:.1f} %" if self.share else digits(value)

    def within(self, values: Sequence[float]) -> list[float]:
        """The values, those of a share cut to 0 .. 1: of these limits Student's interval knows nothing."""
        return [min(max(value, 0.0), 1.0) for value in values] if self.share else list(values)

    def shown_difference(self, value: float) -> str:
        """A signed difference of two values; of shares in points of percent."""
        return f"{100 * value:+.1f}" if self.share else digits(value, "+")


def digits(value: float, sign: str = "") -> str:
    """Three digits: 0.0123, 45.6, 12,300, 1.2e-5; `sign` "+" also signs positive ones."""
    if value == 0 or not math.isfinite(value):
        return f"{value:{sign}g}"
    value = float(f"{value:.3g}")
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:{sign},.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    mantissa, exponent = f"{value:{sign}.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


@dataclass(frozen=True)
class Training:
    """One network, trained. A number that was not finite is None.

    `figures` are single numbers: those of the epoch that is its result (the last one; the best one with early stopping
    that restores it) and what the topic measured. Where it diverged there are only those from before the training.
    `series` are lists of numbers: the columns of metrics.jsonl, an epoch each, and what the topic measured, often a
    layer each. `diverged` says what was not finite.
    """

    seed: int
    epochs: int
    diverged: str | None
    figures: Mapping[str, float | None]
    series: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Arm:
    """One setting, trained with every seed. `spreads` are of the figures over the trainings that have them."""

    label: str
    settings: Mapping[str, object]
    trainings: tuple[Training, ...]
    spreads: Mapping[str, Spread]

    @property
    def diverged(self) -> int:
        """How many of the trainings diverged."""
        return sum(training.diverged is not None for training in self.trainings)

    def course(self, series: str) -> list[Spread | None]:
        """Of each entry of a series the spread over the trainings that have it, None where none has."""
        rows = zip_longest(*(training.series.get(series, ()) for training in self.trainings))
        known = [[value for value in row if value is not None] for row in rows]
        return [spread_of(values) if values else None for values in known]


@dataclass(frozen=True)
class Difference:
    """A figure under `first` less the figure under `second`, seed by seed, and whether it is what was expected.

    `low` and `high` are Student's 95 % interval of the mean of the paired differences. `expected` says what the lesson
    claims of `first`. The effect appears where the interval is on that side of 0, the opposite appears where it is on
    the other, and where it holds 0 the effect is absent. Seeds of which just one of the two diverged have no
    difference; where these are half of all or more, they decide: who diverges is worse. `measured` says the difference
    in words, `said` the means too.
    """

    first: str
    second: str
    figure: str
    expected: Expected
    values: tuple[float, ...]
    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    measured: str
    said: str

    def choose(self, *, appears: str, absent: str, opposite: str) -> str:
        """What to say, by the verdict."""
        return {"appears": appears, "absent": absent, "opposite": opposite}[self.verdict]


@dataclass(frozen=True)
class Course:
    """A chart: a series of every training against its index, one line a setting; x counts from `first`."""

    series: str
    title: str
    x: str = "epoch"
    first: int = 1
    log: bool = False


@dataclass(frozen=True)
class Sweep:
    """A chart: a figure against what was set; `at` places each setting, by its label, on x.

    `lines` names the line that a setting is on, where there are several.
    """

    figure: str
    title: str
    x: str
    at: Mapping[str, float]
    log: bool = False
    log_x: bool = True
    lines: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One configuration under several settings, each trained with the same seeds.

    `figures` are what the topic looks at, the first one first; `samples` counts those that were trained on and those
    that the figures of the validation part are of.
    """

    config: str
    data: str
    requested_data: str
    samples: tuple[int, int]
    figures: tuple[Figure, ...]
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    charts: tuple[Course | Sweep, ...]

    def arm(self, label: str) -> Arm:
        """The setting of that label."""
        return next(arm for arm in self.arms if arm.label == label)

    def figure(self, name: str) -> Figure:
        """The figure of that name; one that is only measured, not shown, goes by its name."""
        return next((figure for figure in self.figures if figure.name == name), Figure(name, name))

    def mean(self, label: str, figure: str) -> float | None:
        """The mean of a figure over the seeds; None where no training has it."""
        spread = self.arm(label).spreads.get(figure)
        return None if spread is None else spread.mean

    def shown(self, label: str, figure: str) -> str:
        """That mean as words; "nothing" where every training diverged."""
        arm, mean = self.arm(label), self.mean(label, figure)
        return "nothing" if mean is None and arm.diverged else self.figure(figure).shown(mean)

    def listed(self, figure: str, labels: Sequence[str] | None = None) -> str:
        """That figure of these settings, by default of all: "a 12.0 %, b 98.0 % (1 of 5 diverged)"."""
        said = []
        for arm in self.arms if labels is None else map(self.arm, labels):
            diverged = f" ({arm.diverged} of {len(arm.trainings)} diverged)" if arm.diverged else ""
            said.append(f"{arm.label} {self.shown(arm.label, figure)}{diverged}")
        return ", ".join(said)

    def difference(self, first: str, second: str, figure: str | None = None) -> Difference:
        """The difference of two settings in a figure, by default the first one of the claims about them."""
        return next(
            difference
            for difference in self.differences
            if (difference.first, difference.second) == (first, second) and figure in (None, difference.figure)
        )


@dataclass(frozen=True)
class Why:
    """The answer to a topic's question: what was measured, and two paragraphs, what happened and why."""

    topic: str
    question: str
    seeds: tuple[int, ...]
    studies: tuple[Study, ...]
    happened: str
    because: str


def spreads(trainings: Sequence[Training]) -> dict[str, Spread]:
    """Mean and interval of every figure over the trainings that have a number for it."""
    names = dict.fromkeys(name for training in trainings for name in training.figures)
    known = {name: [value for t in trainings if (value := t.figures.get(name)) is not None] for name in names}
    return {name: spread_of(values) for name, values in known.items() if values}


def difference(first: Arm, second: Arm, figure: Figure, expected: Expected) -> Difference:
    """Compare two settings pair by pair."""
    pairs = [
        (a.figures.get(figure.name), b.figures.get(figure.name))
        for a, b in zip(first.trainings, second.trainings, strict=True)
    ]
    values = tuple(x - y for x, y in pairs if x is not None and y is not None)
    lost = sum(x is None and y is not None for x, y in pairs)
    won = sum(x is not None and y is None for x, y in pairs)
    spread = spread_of(values) if values else Spread(0, math.nan, None, None, None)
    side = _side(spread)
    better = -1 if lower_is_better(figure.name) else 1
    up = {"more": 1, "less": -1, "better": better, "worse": -better}[expected]
    if expected in ("better", "worse") and lost != won and 2 * max(lost, won) >= len(pairs):
        side = -better if lost > won else better
    verdict: Verdict = "absent" if side == 0 else "appears" if side == up else "opposite"
    return Difference(
        first=first.label,
        second=second.label,
        figure=figure.name,
        expected=expected,
        values=values,
        mean=spread.mean if values else None,
        low=spread.low,
        high=spread.high,
        verdict=verdict,
        measured=(measured := _measured(first, second, figure, spread)),
        said=f"{figure.title}: {_named(first, figure)}, {_named(second, figure)}; {measured}",
    )


def _side(spread: Spread) -> int:
    """1 where the interval is above 0, -1 where it is below, else 0."""
    if spread.low is None or spread.high is None:
        return 0
    return 1 if spread.low > 0 else -1 if spread.high < 0 else 0


def _measured(first: Arm, second: Arm, figure: Figure, spread: Spread) -> str:
    """The difference with its interval, and what diverged."""
    parts = [
        f"{arm.label} diverged in {arm.diverged} of {len(arm.trainings)} trainings"
        for arm in (first, second)
        if arm.diverged
    ]
    if spread.low is not None and spread.high is not None:
        size, low, high = map(figure.shown_difference, (spread.mean, spread.low, spread.high))
        unit = " points" if figure.share else ""
        parts.insert(0, f"difference {size}{unit}, 95 % interval {low} to {high}")
    return "; ".join(parts) or "too few pairs for an interval"


def _named(arm: Arm, figure: Figure) -> str:
    spread = arm.spreads.get(figure.name)
    return f"{arm.label} {figure.shown(None if spread is None else spread.mean)}"
