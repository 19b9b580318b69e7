"""What a comparison came to, in sentences: noise is called noise, and no more is said than was tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dlf.statistics import Welch

_TOO_FEW = 6  # samples on which just one is right, below which even all for one side is no more than 6 % unlikely


@dataclass(frozen=True)
class Pair:
    """Two runs on the same samples. `difference` is that of accuracy or mean absolute error, `first` less `second`.

    Its interval is 95 %: Tango's, or Student's. `cells` counts on how many samples which of the two is right, or
    closer; `effect` is the rank-biserial correlation of absolute errors, negative where the first is closer. `p_holm`
    is for all pairs of the compared runs, as the same samples chose the best one; below 0.05 it is `significant`.
    """

    first: str
    second: str
    test: Literal["mcnemar", "wilcoxon"]
    cells: dict[str, int]
    difference: float
    low: float | None
    high: float | None
    p: float
    p_mid: float | None
    effect: float | None
    p_holm: float
    significant: bool = False
    verdict: str = ""


def of_pair(pair: Pair, tests: int) -> str:
    """What is to be said of two runs, of `tests` pairs that were tested."""
    if _alike(pair):
        same = "are right on the same samples" if pair.test == "mcnemar" else "err by as much on every sample"
        return f"{pair.first} and {pair.second} {same}: no difference."
    chance = f"{_counts(pair)}. A difference this large happens in {percent(pair.p)} of cases by chance"
    together = f"{percent(pair.p_holm)} for the {tests} pairs together"
    if pair.significant:
        return f"{chance}{f' ({together})' if tests > 1 else ''}: more than noise. {_size(pair)}"
    if pair.p < 0.05:
        return f"{chance}, but {together}: noise."
    if pair.test == "mcnemar" and pair.cells["only_first"] + pair.cells["only_second"] < _TOO_FEW:
        return f"{chance}: noise. So few samples could not show a difference."
    return f"{chance}: noise. {_size(pair)}"


def _alike(pair: Pair) -> bool:
    names = ("only_first", "only_second") if pair.test == "mcnemar" else ("first_closer", "second_closer")
    return not any(pair.cells[name] for name in names)


def _counts(pair: Pair) -> str:
    cells = pair.cells
    if pair.test == "mcnemar":
        one, other = cells["only_first"], cells["only_second"]
        return f"{pair.first} alone is right on {one:,} samples, {pair.second} alone on {other:,}"
    one, other = cells["first_closer"], cells["second_closer"]
    return f"{pair.first} is closer on {one:,} samples, {pair.second} on {other:,} (rank-biserial {pair.effect:+.2f})"


def _size(pair: Pair) -> str:
    """How large the difference may be on samples like these: noise may hide one, and what is real may be small."""
    classes = pair.test == "mcnemar"
    what, scale, unit = ("accuracy", 100, " points") if classes else ("mean absolute error", 1, "")
    direction = "higher" if pair.difference >= 0 else "lower"
    size = f"The {what} of {pair.first} is {scale * abs(pair.difference):.3g}{unit} {direction}"
    if pair.low is None or pair.high is None:
        return f"{size}."
    return f"{size} ({scale * pair.low:+.3g} to {scale * pair.high:+.3g}, 95 %)."


def of_groups(
    first: Sequence[str], second: Sequence[str], test: Welch, p_holm: float | None, tests: int, headline: str
) -> str:
    """What is to be said of two groups of seeds, of `tests` pairs of groups."""
    if test.p is None or p_holm is None or test.low is None or test.high is None:
        return "No seed changes anything within either, so there is no spread to compare with."
    direction = "higher" if test.difference >= 0 else "lower"
    size = f"The mean {headline} of {', '.join(first)} is {abs(test.difference):.3g} {direction}"
    between = f"({test.low:+.3g} to {test.high:+.3g}, 95 %)"
    together = f" ({percent(p_holm)} for the {tests} pairs together)" if tests > 1 else ""
    end = "more than noise" if p_holm < 0.05 else "noise"
    return f"{size} {between}. Seeds alone give a difference this large in {percent(test.p)} of cases{together}: {end}."


def caveat(group_sizes: Sequence[int]) -> str | None:
    """What the verdicts do not say; `group_sizes` is empty where no two runs differ only in the seed."""
    if not group_sizes:
        return (
            "This is about these networks, each trained once: another seed gives others. To compare the settings, "
            "train each with several seeds and compare all of those runs."
        )
    if len(group_sizes) == 1:
        return "These runs differ only in the seed: what separates them is luck, not a setting."
    if min(group_sizes) == 1:
        return "Where settings were trained with one seed only, a difference may be that seed's."
    return None


def percent(p: float) -> str:
    """A probability as words say it: 64 %, 3.1 %, less than 0.01 %."""
    if p < 1e-4:
        return "less than 0.01 %"
    return f"{100 * p:.2g} %" if p < 0.095 else f"{100 * p:.0f} %"
