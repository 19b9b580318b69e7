"""What paired trainings came to: intervals beside scipy's, what counts as an effect, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from dlf.questions.results import (
    Arm,
    Difference,
    Expected,
    Figure,
    Study,
    Training,
    Verdict,
    difference,
    digits,
    spreads,
)

ACCURACY = Figure("val_accuracy", "validation accuracy", share=True)
ERROR = Figure("val_mae", "validation error")
GRADIENT = Figure("gradient", "gradient")

HIGH = (0.91, 0.93, 0.90, 0.94, 0.92)
LOW = (0.52, 0.61, 0.50, 0.49, 0.58)


def arm(label: str, values: Sequence[float | None], figure: Figure = ACCURACY) -> Arm:
    """A setting whose trainings came to these figures; None diverged."""
    trainings = tuple(
        Training(seed, 1, "the loss" if value is None else None, {} if value is None else {figure.name: value}, {})
        for seed, value in enumerate(values)
    )
    return Arm(label, {}, trainings, spreads(trainings))


def compared(
    first: Sequence[float | None], second: Sequence[float | None], expected: Expected, figure: Figure = ACCURACY
) -> Difference:
    return difference(arm("one", first, figure), arm("other", second, figure), figure, expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_that_of_the_paired_t_test(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.normal(0.9, 0.05, 6), generator.normal(0.8, 0.1, 6)
    found = compared(first.tolist(), second.tolist(), "more")
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.low == pytest.approx(expected.low, rel=1e-12)
    assert found.high == pytest.approx(expected.high, rel=1e-12)
    # unpaired, the interval is another one: that the pairs count is what this test would miss otherwise
    unpaired = stats.ttest_ind(first, second).confidence_interval(0.95)
    assert not np.allclose(expected, unpaired)


@pytest.mark.parametrize(
    ("figure", "expected", "verdict"),
    [
        (ACCURACY, "better", "appears"),
        (ACCURACY, "worse", "opposite"),
        (ACCURACY, "more", "appears"),
        (ACCURACY, "less", "opposite"),
        (ERROR, "better", "opposite"),
        (ERROR, "worse", "appears"),
        (ERROR, "more", "appears"),
        (GRADIENT, "less", "opposite"),
    ],
)
def test_an_effect_appears_on_the_side_that_is_expected(figure: Figure, expected: Expected, verdict: Verdict) -> None:
    other = {"better": "worse", "worse": "better", "more": "less", "less": "more"}
    assert compared(HIGH, LOW, expected, figure).verdict == verdict
    assert compared(LOW, HIGH, other[expected], figure).verdict == verdict  # type: ignore[arg-type]


@pytest.mark.parametrize("expected", ["better", "worse", "more", "less"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (HIGH, HIGH),  # no difference at all
        ((0.9, 0.5, 0.9, 0.5), (0.5, 0.9, 0.5, 0.8)),  # the seeds decide
        ((0.9, 0.8), (0.7, 0.75)),  # two pairs: Student's factor is 12.7
    ],
)
def test_an_interval_that_holds_0_is_no_effect(
    first: Sequence[float], second: Sequence[float], expected: Expected
) -> None:
    found = compared(first, second, expected)
    assert found.verdict == "absent"
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0 <= found.high


def test_the_same_difference_for_every_seed_needs_no_spread() -> None:
    assert compared((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), "better").verdict == "appears"


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((None, None, None), (0.9, 0.8, 0.9), "appears"),  # all are lost
        ((None, None, 0.9, 0.9), (0.9, 0.8, 0.9, 0.8), "appears"),  # half of them
        ((0.9, 0.8, 0.9), (None, None, None), "opposite"),
        ((None, 0.9, 0.9), (0.9, 0.9, 0.91), "absent"),  # one of three: the two that are left decide
        ((None, None, None), (None, None, None), "absent"),
    ],
)
def test_who_diverges_is_worse(first: Sequence[float | None], second: Sequence[float | None], verdict: Verdict) -> None:
    found = compared(first, second, "worse")
    assert found.verdict == verdict
    lost = sum(value is None for value in first)
    if lost:
        assert f"one diverged in {lost} of {len(first)} trainings" in found.measured


def test_who_diverges_has_not_less_of_something() -> None:
    """That nothing was measured says nothing of a figure that is neither good nor bad."""
    assert compared((None, None, None), (0.9, 0.8, 0.9), "less", GRADIENT).verdict == "absent"


def test_a_difference_is_said_with_its_numbers() -> None:
    found = compared((0.512, 0.530, 0.521), (0.981, 0.990, 0.985), "worse")
    # the differences are -0.469, -0.460, -0.464
    assert found.mean == pytest.approx(-0.46433, abs=1e-5)
    half = stats.t.ppf(0.975, 2) * np.std([0.469, 0.460, 0.464], ddof=1) / math.sqrt(3)
    low, high = -0.464333 - half, -0.464333 + half
    assert found.measured == f"difference -46.4 points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    assert found.said.startswith("validation accuracy: one 52.1 %, other 98.5 %; difference -46.4")


def test_what_to_say_is_chosen_by_the_verdict() -> None:
    words = {"appears": "yes", "absent": "no", "opposite": "the other way"}
    assert compared(HIGH, LOW, "better").choose(**words) == "yes"
    assert compared(HIGH, HIGH, "better").choose(**words) == "no"
    assert compared(LOW, HIGH, "better").choose(**words) == "the other way"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (0.0009994, "1.0e-3"),
        (0.000999999, "0.00100"),
        (1.0, "1.00"),
        (9.999, "10.0"),
        (45.64, "45.6"),
        (999.7, "1,000"),
        (12345.0, "12,300"),
        (-2.5, "-2.50"),
        (1.234e-7, "1.2e-7"),
        (3.456e9, "3.5e9"),
        (math.inf, "inf"),
    ],
)
def test_digits(value: float, said: str) -> None:
    assert digits(value) == said


def test_signs_and_shares() -> None:
    assert digits(2.5, "+") == "+2.50"
    assert ACCURACY.shown(0.98765) == "98.8 %"
    assert ACCURACY.shown(None) == "-"
    assert ACCURACY.shown_difference(-0.0123) == "-1.2"
    assert ERROR.shown_difference(0.0123) == "+0.0123"
    assert ACCURACY.within([-0.2, 1.3]) == [0.0, 1.0]
    assert ERROR.within([-0.2, 1.3]) == [-0.2, 1.3]


def test_a_course_is_over_the_trainings_that_got_so_far() -> None:
    series: list[tuple[float | None, ...]] = [(1.0, 2.0, 3.0), (3.0,), (5.0, None, 7.0)]
    trainings = tuple(Training(n, len(s), None, {}, {"loss": s}) for n, s in enumerate(series))
    course = Arm("a", {}, trainings, {}).course("loss")
    assert [(spread.n, spread.mean) for spread in course if spread is not None] == [(3, 3.0), (1, 2.0), (2, 5.0)]
    assert Arm("a", {}, trainings, {}).course("other") == []


def test_a_study_finds_its_numbers() -> None:
    good, bad, lost = arm("good", HIGH), arm("bad", (None, *LOW[1:])), arm("lost", [None] * 5)
    differences = (difference(bad, good, ACCURACY, "worse"),)
    study = Study("c", "d", "d", (1, 1), (ACCURACY,), (good, bad, lost), differences, ())
    assert study.mean("good", "val_accuracy") == pytest.approx(0.92)
    assert study.mean("lost", "val_accuracy") is None
    assert study.shown("good", "val_accuracy") == "92.0 %"
    assert study.shown("lost", "val_accuracy") == "nothing"
    said = "good 92.0 %, bad 54.5 % (1 of 5 diverged), lost nothing (5 of 5 diverged)"
    assert study.listed("val_accuracy") == said
    assert study.listed("val_accuracy", ["bad"]) == "bad 54.5 % (1 of 5 diverged)"
    assert study.difference("bad", "good") is differences[0]
