"""How sure a measured share is, and whether a difference is more than noise. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of shares p for which |successes / n - p| <= z sqrt(p (1 - p) / n): within 0 .. 1, also for 0 and n.

    z is the normal quantile of (1 + confidence) / 2. It covers the true share of n >= 1 independent trials with about
    that probability, and keeps to it near 0 and 1, where the usual share +- z sqrt(share (1 - share) / n), Wald's, has
    no width. Wilson, 1927.
    """
    assert 0 <= successes <= n, (successes, n)
    assert n > 0, "an interval of no trials"
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


# --- two networks on the same samples -------------------------------------------------------------------------------


def mcnemar(only_first: int, only_second: int) -> tuple[float, float]:
    """McNemar's exact p and his mid-p, two-sided, from the samples on which just one of two networks is right.

    Were both equally good, each of these n samples would be a toss of a coin. With k the smaller count and
    X ~ Binomial(n, 1/2): p = min(1, 2 P(X <= k)), mid-p = 2 P(X <= k) - P(X = k), at most 1. The exact one errs in no
    more than 5 % of cases at p < 0.05; the mid-p comes nearer to 5 %. McNemar, 1947; Fagerland et al., 2013.
    """
    from scipy.stats import binom

    n, k = only_first + only_second, min(only_first, only_second)
    tail, at = float(binom.cdf(k, n, 0.5)), float(binom.pmf(k, n, 0.5))
    return min(1.0, 2 * tail), min(1.0, 2 * tail - at)


def tango(only_first: int, only_second: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the difference of two shares, measured on the same n >= 1 samples: first less second.

    It holds the differences d that the score test does not refuse: |b - c - n d| <= z sqrt(n (2 q + d (1 - d))), where
    only the first is right on b samples, only the second on c, and q is the likeliest share of the latter if the
    difference is d. Where it holds 0, McNemar's test without correction is not significant. Tango, 1998.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    b, c, found = only_first, only_second, (only_first - only_second) / n

    def refused(d: float) -> bool:
        linear = -b - c + (2 * n - b + c) * d
        q = (sqrt(max(0.0, linear**2 + 8 * n * c * d * (1 - d))) - linear) / (4 * n)
        return (b - c - n * d) ** 2 > z * z * n * (2 * q + d * (1 - d))

    return _border(refused, -1.0, found), _border(refused, 1.0, found)


def _border(refused: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where the refused numbers begin between one that may be refused and one that is not: by bisection."""
    if not refused(outside):
        return outside
    for _ in range(60):  # 2 / 2^60 is less than the spacing of floats near 1
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if refused(middle) else (outside, middle)
    return inside


@dataclass(frozen=True)
class Paired:
    """Paired numbers x and y: the mean of x - y with its interval, and whether the signs of x - y are balanced.

    `p` is Wilcoxon's signed-rank test, two-sided (Wilcoxon, 1945). `effect` is the matched-pairs rank-biserial
    correlation, from -1, where y is always the larger, to 1: the share of the ranks with x > y less that with x < y
    (Kerby, 2014). The interval is Student's t: None with one pair.
    """

    difference: float
    low: float | None
    high: float | None
    p: float
    effect: float


def paired(x: Array, y: Array, *, confidence: float = 0.95) -> Paired:
    """Compare two rows (n,) of finite numbers that belong together pair by pair."""
    from scipy.stats import rankdata, wilcoxon

    differences = x - y
    spread = spread_of(differences.tolist(), confidence=confidence)
    moved = differences[differences != 0]
    if not len(moved):
        return Paired(0.0, spread.low, spread.high, 1.0, 0.0)
    ranks = rankdata(np.abs(moved))
    effect = float(ranks @ np.sign(moved) / ranks.sum())
    return Paired(spread.mean, spread.low, spread.high, float(wilcoxon(moved).pvalue), effect)


# --- several trainings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """n numbers: their mean, their standard deviation (n - 1), and Student's interval of the mean; None for one."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def spread_of(values: Sequence[float], *, confidence: float = 0.95) -> Spread:
    """mean +- t std / sqrt(n), t being Student's quantile with n - 1 degrees of freedom; n >= 1."""
    from scipy.stats import t

    n = len(values)
    if n == 1:
        return Spread(1, float(values[0]), None, None, None)
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * std / sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half)


@dataclass(frozen=True)
class Welch:
    """The difference of two means, its interval, and p of "they are equal"; None where neither group varies."""

    difference: float
    low: float | None
    high: float | None
    p: float | None


def welch(x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95) -> Welch:
    """Welch's t test of mean(x) - mean(y), two-sided: groups of at least 2 each, whose spreads may differ. Welch, 1947.

    With u = var(x) / n and v = var(y) / m: t = difference / sqrt(u + v), on
    (u + v)^2 / (u^2 / (n - 1) + v^2 / (m - 1)) degrees of freedom.
    """
    from scipy.stats import t

    a, b = spread_of(x), spread_of(y)
    assert a.std is not None, "a group of one"
    assert b.std is not None, "a group of one"
    u, v, difference = a.std**2 / a.n, b.std**2 / b.n, a.mean - b.mean
    if u + v == 0:
        return Welch(difference, None, None, None)
    freedom = (u + v) ** 2 / (u**2 / (a.n - 1) + v**2 / (b.n - 1))
    error = sqrt(u + v)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    p = 2 * float(t.sf(abs(difference) / error, freedom))
    return Welch(difference, difference - half, difference + half, p)


def holm(p: Sequence[float]) -> list[float]:
    """Each p as it counts among all of them: the k-th smallest of m times m - k + 1, never less than one before it.

    Whoever calls those below 0.05 real errs at all in at most 5 % of cases, however the tests depend on each other.
    Holm, 1979.
    """
    order = sorted(range(len(p)), key=lambda index: p[index])
    adjusted, least = [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = least
    return adjusted
