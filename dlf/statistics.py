"""How sure a measured share is, and whether a difference is more than noise. Pure functions of counts."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


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
