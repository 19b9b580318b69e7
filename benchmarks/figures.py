"""Medians, ratios and targets: from what each process printed to what is said about it. Pure functions.

A series holds one number a round, under a key "network/name/figure": small/jax/epoch. A process counts once, whatever
the number of its epochs, so that the spread is that between processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.peers import PEERS

Rounds = Mapping[int, float]
Series = Mapping[str, Rounds]


class Run(NamedTuple):
    """What one process came to: its place in the rounds, and the line that it printed with its own costs beside."""

    network: str
    name: str
    round: int
    result: Mapping[str, Any]


class Spread(NamedTuple):
    """The middle of some numbers, and how far they go."""

    median: float
    low: float
    high: float


class Target(NamedTuple):
    """A ratio that is wanted to be at most `limit`, better `aim`.

    `over` is a key of the series; of the keys in `under` the one with the least median counts. `floor` are keys whose
    sum takes the place of `over` in a bound: no program on these libraries has a lesser ratio.
    """

    what: str
    over: str
    under: tuple[str, ...]
    limit: float
    aim: float | None = None
    floor: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """A target and what was measured; `ratio` and `bound` are None, and `under` empty, where something was not."""

    target: Target
    ratio: Spread | None
    under: str
    bound: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio of the medians is within the limit; None where it is not known."""
        return None if self.ratio is None else self.ratio.median <= self.target.limit


def steady(seconds: Sequence[float]) -> float:
    """The median epoch without the first, which compiles and warms up, unless it is the only one."""
    return median(seconds[1:] or seconds)


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most."""
    return Spread(median(values), min(values), max(values))


def ratio(over: Rounds, under: Rounds) -> Spread:
    """The ratio of the medians; the spread is that of the ratios within the rounds that have both."""
    both = [over[each] / under[each] for each in over.keys() & under.keys()]
    middle = median(over.values()) / median(under.values())
    return Spread(middle, min(both, default=middle), max(both, default=middle))


def least(series: Series, keys: Sequence[str]) -> str | None:
    """The key with the least median; None where none was measured."""
    measured = [key for key in keys if series.get(key)]
    return min(measured, key=lambda key: median(series[key].values()), default=None)


def judge(target: Target, series: Series) -> Verdict:
    """What the rounds say of a target."""
    under = least(series, target.under)
    if under is None or not series.get(target.over):
        return Verdict(target, None, "")
    parts = [median(series[key].values()) for key in target.floor if series.get(key)]
    bound = sum(parts) / median(series[under].values()) if parts and len(parts) == len(target.floor) else None
    return Verdict(target, ratio(series[target.over], series[under]), under, bound)


def collect(runs: Sequence[Run]) -> dict[str, dict[int, float]]:
    """The series of all runs; what a run does not know, None, is left out."""
    series: dict[str, dict[int, float]] = {}
    for run in runs:
        for figure, value in figures_of(run.result).items():
            if value is not None:
                series.setdefault(f"{run.network}/{run.name}/{figure}", {})[run.round] = value
    return series


def figures_of(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of one process by their names in the series."""
    found = {name: result.get(name) for name in ("seconds", "peak_bytes", "first_step", "to_97", "with_data")}
    if result.get("epochs"):
        found |= {"first_epoch": result["epochs"][0], "epoch": steady(result["epochs"])}
    if result.get("accuracies"):
        found["accuracy"] = result["accuracies"][-1]
    if result.get("whole_epochs"):
        found["whole_epoch"] = steady(result["whole_epochs"])
        found["whole_sample"] = found["whole_epoch"] / result["trained_samples"]
    if result.get("samples") and "epoch" in found:
        found["sample"] = found["epoch"] / result["samples"]
    if parts := result.get("parts"):
        medians = {name: median(seconds) for name, seconds in parts.items()}
        update = medians.pop("update")
        found |= medians | {"update": update, "floor": min(medians.values()) + update}
        found |= {f"floor_{name}": seconds + update for name, seconds in medians.items()}
    return found


def targets() -> list[Target]:
    """What is wanted, of the default precision unless it says float32."""

    def peers(network: str, figure: str) -> tuple[str, ...]:
        return tuple(f"{network}/{peer.name}/{figure}" for peer in PEERS if peer.kind == "peer")

    small, wide = peers("small", "epoch"), peers("wide", "epoch")
    torch, dlf, floor = "commands/import torch", "small/dlf/epoch", ("small/floor/floor",)
    return [
        Target("small: an epoch, dlf / best peer", dlf, small, 0.85, 0.7, floor),
        Target(
            "small: an epoch, dlf float32 / best peer",
            "small/dlf-float32/epoch",
            small,
            1.05,
            0.9,
            ("small/floor/floor_float32",),
        ),
        Target("wide: an epoch, dlf / best peer", "wide/dlf/epoch", wide, 0.4, None, ("wide/floor/floor",)),
        Target("small: an epoch, dlf / Lightning", dlf, ("small/lightning/epoch",), 0.45, None, floor),
        Target("small: an epoch, dlf / Keras on torch", dlf, ("small/keras-torch/epoch",), 0.35, None, floor),
        Target("small: an epoch, dlf / DataLoader, transforms", dlf, ("small/torch-loader/epoch",), 0.15, None, floor),
        Target("small: an epoch, dlf / floor", dlf, floor, 1.6, 1.3),
        Target("wide: an epoch, dlf / floor", "wide/dlf/epoch", ("wide/floor/floor",), 1.6, 1.3),
        Target(
            "small: from command to 97 %, dlf / best peer",
            "small/dlf/to_97",
            peers("small", "to_97"),
            0.45,
            None,
            (f"{torch}/seconds", *floor, *floor),  # two epochs: after one, this network is not there
        ),
        Target(
            "small: float32, dlf with everything around / bare loop",
            "small/dlf-everything/whole_sample",
            ("small/bare/sample",),
            1.05,
        ),
        Target("`dlf --help` / `import typer`", "commands/dlf --help/seconds", ("commands/import typer/seconds",), 1.3),
        Target("from command to first step / `import torch`", "small/dlf/first_step", (f"{torch}/seconds",), 1.4),
        Target(
            "memory of `dlf train mnist` / `import torch` and the data",
            "commands/dlf train mnist/peak_bytes",
            (f"{torch}/with_data",),
            1.5,
        ),
    ]
