"""Tests and intervals of differences against scipy, statsmodels, published examples and simulated data without any."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from statsmodels.stats import contingency_tables, multitest

from dlf.statistics import holm, mcnemar, paired, spread_of, tango, welch

CELLS = [(0, 0), (1, 0), (0, 5), (6, 0), (23, 19), (19, 23), (40, 12), (7, 7), (300, 250), (1000, 10)]


@pytest.mark.parametrize(("b", "c"), CELLS)
def test_mcnemar_is_that_of_statsmodels(b: int, c: int) -> None:
    p, mid = mcnemar(b, c)
    if b + c:
        assert p == pytest.approx(contingency_tables.mcnemar([[0, b], [c, 0]], exact=True).pvalue, abs=1e-12, rel=1e-9)
        at = scipy.stats.binom.pmf(b, b + c, 0.5)  # of both tails only half of the found count, not less than p allows
        assert mid == pytest.approx(min(1.0, scipy.stats.binomtest(b, b + c).pvalue - (at if b != c else 0)), abs=1e-12)
    else:
        assert (p, mid) == (1.0, 1.0)
    assert mid <= p <= 1


def test_mcnemar_by_hand() -> None:
    # 1 against 5: P(X <= 1) = (1 + 6) / 64; twice that is 14/64, and P(X = 1) = 6/64
    assert mcnemar(1, 5) == pytest.approx((14 / 64, 8 / 64))
    assert mcnemar(23, 19)[0] == pytest.approx(0.64, abs=0.005)


def likelihood_interval(b: int, c: int, n: int) -> tuple[float, float]:
    """Tango's interval from its definition: the likelihood is maximized by search, the borders are found by another."""

    def statistic(d: float) -> float:
        def loss(q: float) -> float:
            cells = ((b, q + d), (c, q), (n - b - c, 1 - 2 * q - d))
            return -float(sum(count * np.log(max(share, 1e-300)) for count, share in cells if count))

        bounds = (max(0.0, -d), (1 - d) / 2)
        q = float(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x)
        return float((b - c - n * d) / np.sqrt(n * (2 * q + d * (1 - d))))

    z, found = scipy.stats.norm.ppf(0.975), (b - c) / n
    low = scipy.optimize.brentq(lambda d: statistic(d) - z, -1 + 1e-6, found - 1e-9)
    high = scipy.optimize.brentq(lambda d: statistic(d) + z, found + 1e-9, 1 - 1e-6)
    return low, high


@pytest.mark.parametrize(("b", "c", "n"), [(23, 19, 144), (12, 2, 50), (1, 5, 20), (40, 12, 5000), (3, 30, 60)])
def test_tango_inverts_the_score_test(b: int, c: int, n: int) -> None:
    # the search over q is flat near its end: its square root of machine precision, 1e-8, is what 1e-6 leaves room for
    assert tango(b, c, n) == pytest.approx(likelihood_interval(b, c, n), abs=1e-6)
    low, high = tango(c, b, n)
    assert tango(b, c, n) == pytest.approx((-high, -low), abs=1e-12), "the other way round it is mirrored"


def test_tango_at_its_ends() -> None:
    # Without a discordant sample n d^2 = z^2 |d| (1 - |d|) at the borders, so that |d| = z^2 / (n + z^2).
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert tango(0, 0, 50) == pytest.approx((-z2 / (50 + z2), z2 / (50 + z2)), abs=1e-12)
    low, high = tango(10, 0, 10)
    assert high == 1.0
    assert 0 < low < 1
    assert tango(0, 10, 10) == pytest.approx((-1.0, -low))
    # Tango's own example: of 44 pairs one is right with the second only
    assert tango(0, 1, 44) == pytest.approx((-0.118, 0.060), abs=1e-3)


@pytest.mark.parametrize(("b", "c"), [(61, 40), (60, 40), (59, 40), (30, 30)])
def test_tango_holds_zero_where_the_uncorrected_test_is_not_significant(b: int, c: int) -> None:
    low, high = tango(b, c, 1000)
    significant = contingency_tables.mcnemar([[0, b], [c, 0]], exact=False, correction=False).pvalue < 0.05
    assert (low > 0 or high < 0) == significant
    assert significant == (b > 59), "60 - 40 squared is 400, 4 times 100: more than 3.84; 19 squared over 99 is not"


def test_tango_covers() -> None:
    """Of 2,000 simulated pairs of networks that differ by 2 points, about 95 % of the intervals hold the 2 points."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(500, [0.06, 0.04, 0.90], size=2000)
    intervals = [tango(int(b), int(c), 500) for b, c, _ in counts]
    covered = sum(low <= 0.02 <= high for low, high in intervals)
    # 4 standard deviations of Binomial(2000, 0.95) are 39; the score interval itself is right to about 0.5 %, 10 more
    assert abs(covered - 1900) < 50


def test_under_the_null_five_per_cent_are_called_significant() -> None:
    rng = np.random.default_rng(1)
    counts = rng.multinomial(1000, [0.05, 0.05, 0.90], size=4000)
    ps = np.array([mcnemar(int(b), int(c)) for b, c, _ in counts])
    exact, mid = (ps < 0.05).sum(0)
    # Binomial(4000, 0.05): mean 200, standard deviation 13.8; four of them are 55
    assert exact < 200 + 55
    assert abs(mid - 200) < 55
    assert exact < mid, "the exact test is the careful one"


def test_wilcoxon_under_the_null() -> None:
    rng = np.random.default_rng(2)
    ps = [paired(x, y).p for x, y in (np.abs(rng.normal(size=(2, 60))) for _ in range(1000))]
    # Binomial(1000, 0.05): mean 50, standard deviation 6.9
    assert abs(np.sum(np.array(ps) < 0.05) - 50) < 28


@pytest.mark.parametrize("n", [2, 8, 60, 500])
def test_paired_is_that_of_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    found = paired(x, y)
    assert found.p == pytest.approx(scipy.stats.wilcoxon(x, y).pvalue, abs=1e-12)
    reference = scipy.stats.ttest_rel(x, y).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert found.difference == pytest.approx(np.mean(x - y))


def test_the_effect_by_hand() -> None:
    # differences 1, -2, 3 (and a 0, which has no rank): ranks 1 and 3 for x, rank 2 for y: (4 - 2) / 6
    found = paired(np.array([1.0, 0, 3, 5]), np.array([0.0, 2, 0, 5]))
    assert found.effect == pytest.approx(1 / 3)
    assert paired(np.array([1.0, 2]), np.array([0.0, 0])).effect == 1.0
    same = paired(np.ones(4), np.ones(4))
    assert (same.difference, same.low, same.high, same.p, same.effect) == (0.0, 0.0, 0.0, 1.0, 0.0)


def test_spread() -> None:
    values = [0.97, 0.96, 0.98, 0.975]
    found = spread_of(values)
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert found.n == 4
    assert (found.mean, found.std) == pytest.approx((0.97125, np.std(values, ddof=1)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    alone = spread_of([0.5])
    assert (alone.n, alone.mean, alone.std, alone.low, alone.high) == (1, 0.5, None, None, None)


def test_welch_is_that_of_scipy() -> None:
    x, y = [0.97, 0.96, 0.98, 0.975], [0.90, 0.99, 0.95]
    found, reference = welch(x, y), scipy.stats.ttest_ind(x, y, equal_var=False)
    assert found.p == pytest.approx(reference.pvalue, abs=1e-12)
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.p != pytest.approx(scipy.stats.ttest_ind(x, y).pvalue, abs=1e-3), "Student's would be another one"
    still = welch([0.5, 0.5], [0.5, 0.5])
    assert (still.difference, still.p, still.low) == (0.0, None, None)


def test_holm_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for p in ([0.04], [0.01, 0.04, 0.03], [0.5, 0.5, 0.001, 0.02], rng.random(30).tolist()):
        assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist(), abs=1e-12)
    assert holm([]) == []
