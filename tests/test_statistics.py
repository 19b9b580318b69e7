"""Intervals and tests against independent implementations: statsmodels and scipy."""

from __future__ import annotations

from math import sqrt

import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from dlf.statistics import wilson

SHARES = [(0, 1), (1, 1), (0, 30), (30, 30), (1, 30), (17, 30), (9789, 10_000), (9999, 10_000), (499_999, 1_000_000)]


def agree(one: tuple[float, float], other: tuple[float, float]) -> bool:
    # some ten roundings of numbers of size 1, and quantiles that agree to 1e-12 or better
    return all(abs(a - b) < 1e-11 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("successes", "n"), SHARES)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_wilson(successes: int, n: int, confidence: float) -> None:
    low, high = wilson(successes, n, confidence=confidence)
    assert 0 <= low <= successes / n <= high <= 1
    assert agree((low, high), proportion_confint(successes, n, alpha=1 - confidence, method="wilson"))
    scipys = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert agree((low, high), (scipys.low, scipys.high))


def test_wilson_by_hand() -> None:
    # z = 1.959964, z^2 = 3.841459; 8 of 10: (0.8 + 0.192073) / 1.384146 -+ 1.959964 sqrt(0.016 + 0.00960365) / 1.384146
    assert wilson(8, 10) == pytest.approx((0.716740 - 0.226578, 0.716740 + 0.226578), abs=2e-6)


@pytest.mark.parametrize("method", ["normal", "agresti_coull", "beta", "jeffreys"])
def test_other_intervals_are_told_apart(method: str) -> None:
    assert not agree(wilson(17, 30), proportion_confint(17, 30, method=method))


def test_the_ends_solve_the_equation_that_defines_them() -> None:
    for successes, n in SHARES[3:]:
        for end in wilson(successes, n):
            if 0 < end < 1:
                assert abs(successes / n - end) / sqrt(end * (1 - end) / n) == pytest.approx(1.959964, abs=1e-6)
