"""`dlf compare`: what differs between runs, and whether one is better than another by more than noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from dlf import statistics
from dlf.commands import verdicts
from dlf.commands.evaluate import Measured, Split, measure, open_run
from dlf.commands.verdicts import Pair as Pair  # noqa: PLC0414 -- a part of the result
from dlf.config import load
from dlf.errors import UsageError
from dlf.metrics import Array
from dlf.run import Info, RunDirectory
from dlf.schedules import lower_is_better

SIGNIFICANT = 0.05
_NO_RECIPE = ("name", "seed", "checkpoint")  # of a configuration, what does not make it another one to train


@dataclass(frozen=True)
class Compared:
    """One run and what its result scores; `label` is its letter in this comparison."""

    label: str
    run: str
    path: str
    status: str
    data: str
    seed: int
    checkpoint: str
    epoch: int
    epochs: int
    seconds: float
    samples: int
    test_looks: int | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, and the spread of their headline metric: 95 % of the mean, by Student's t."""

    labels: list[str]
    seeds: list[int]
    scores: list[float]
    spread: statistics.Spread


@dataclass(frozen=True)
class GroupPair:
    """Two groups of seeds by Welch's t test; `p_holm` counts every pair of groups. None where nothing varies."""

    first: list[str]
    second: list[str]
    welch: statistics.Welch
    p_holm: float | None
    significant: bool
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """What a comparison found. `differences` has a row for each key that differs, with the runs that have it, by label.

    `pairs` holds the best run with each other one; it is empty where `refused` says why they cannot be tested.
    """

    split: Split
    headline: str
    runs: list[Compared]
    differences: dict[str, dict[str, Any]]
    refused: str | None
    pairs: list[Pair]
    groups: list[Group]
    group_pairs: list[GroupPair]
    caveat: str | None


def compare(runs: Sequence[RunDirectory], *, split: Split = "val", device: str | None = None) -> Comparison:
    """Measure the result of each run on `split` and compare them; on the test part that is a look at it, counted."""
    distinct = list({run.path.resolve(): run for run in runs}.values())
    if len(distinct) < 2:
        raise UsageError("a comparison needs two runs: name another one")
    infos = [run.read_info() for run in distinct]
    configs = [load(run.config).config.dump() for run in distinct]
    if len({info["task"] for info in infos}) > 1:
        raise UsageError("a regression and a classification have no metric in common: compare runs of one task")
    labels = [_label(place) for place in range(len(distinct))]
    opened = [_measured(*each, split, device) for each in zip(labels, distinct, infos, strict=True)]
    rows, seen = [row for row, _ in opened], [measured for _, measured in opened]
    headline = "mae" if infos[0]["task"] == "regression" else "accuracy"
    refused = _why_not_the_same(rows, infos, seen, split)
    scores = {row.label: row.metrics[headline] for row in rows}
    groups = [] if refused else _groups(rows, configs, scores)
    return Comparison(
        split=split,
        headline=headline,
        runs=rows,
        differences=differing(dict(zip(labels, configs, strict=True))),
        refused=refused,
        pairs=[] if refused else _pairs(dict(zip(labels, seen, strict=True)), headline, scores),
        groups=groups,
        group_pairs=_group_pairs(groups, headline),
        caveat=None if refused else verdicts.caveat([len(group.labels) for group in groups]),
    )


def _label(place: int) -> str:
    """A to Z, then A1 to Z1."""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def _measured(label: str, run: RunDirectory, info: Info, split: Split, device: str | None) -> tuple[Compared, Measured]:
    opened = open_run(run, which=None, device=device)
    seen = measure(opened, split, command="compare")
    history = run.read_metrics()
    row = Compared(
        label=label,
        run=run.id,
        path=str(run.path),
        status=info["status"],
        data=info["data"],
        seed=info["seed"],
        checkpoint=opened.checkpoint,
        epoch=opened.epoch,
        epochs=len(history),
        seconds=round(sum(record["seconds"] for record in history), 3),
        samples=len(seen.predictions.target),
        test_looks=seen.test_looks,
        metrics={name: value for name, value in seen.found.items() if isinstance(value, int | float)},
    )
    return row, seen


def _why_not_the_same(
    rows: Sequence[Compared], infos: Sequence[Info], seen: Sequence[Measured], split: Split
) -> str | None:
    """What forbids to compare sample by sample; None where nothing does."""
    for row, measured in zip(rows, seen, strict=True):
        output = measured.predictions.output
        if output is not None and not np.isfinite(output).all():
            return f"what {row.label} says of some samples is no finite number"
    for row, info, measured in zip(rows[1:], infos[1:], seen[1:], strict=True):
        pair = f"{rows[0].label} and {row.label}"
        if info["data_sha256"] != infos[0]["data_sha256"]:
            return f"{pair} were trained on other data: their {split} parts hold other samples"
        if info["split_sha256"] != infos[0]["split_sha256"]:
            return f"{pair} split the data in other ways: their {split} parts hold other samples"
        assert np.array_equal(measured.predictions.target, seen[0].predictions.target), "equal hashes, other targets"
    return None


def differing(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that are not equal everywhere, by dotted key: what each configuration that has it says."""
    flat = {label: dict(_flat(config)) for label, config in configs.items()}
    keys = {key: None for settings in flat.values() for key in settings}  # in the order of the file
    rows = {key: {label: settings[key] for label, settings in flat.items() if key in settings} for key in keys}
    written = {key: {json.dumps(value) for value in row.values()} for key, row in rows.items()}  # true is not 1
    return {key: row for key, row in rows.items() if len(row) < len(flat) or len(written[key]) > 1}


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """The leaves with their dotted keys, as overrides write them: model.layers.0.units. An empty mapping is a leaf."""
    if isinstance(value, Mapping | list) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return [leaf for key, item in items for leaf in _flat(item, f"{path}.{key}" if path else str(key))]
    return [(path, value)]


# --- pair by pair ---------------------------------------------------------------------------------------------------


def _best_first(labels: Sequence[str], scores: Mapping[str, float], headline: str) -> list[str]:
    return sorted(labels, key=lambda label: scores[label], reverse=not lower_is_better(headline))


def _pairs(seen: Mapping[str, Measured], headline: str, scores: Mapping[str, float]) -> list[Pair]:
    """The best run with each other one, corrected for all pairs: the best is not known before looking."""
    ordered = _best_first(list(seen), scores, headline)
    test: Callable[..., Pair] = _wilcoxon if headline == "mae" else _mcnemar
    values = {label: _errors(seen[label]) if headline == "mae" else _hits(seen[label]) for label in ordered}
    pairs = [test(first, second, values[first], values[second]) for first, second in combinations(ordered, 2)]
    corrected = statistics.holm([pair.p for pair in pairs])
    judged = [replace(pair, p_holm=p, significant=p < SIGNIFICANT) for pair, p in zip(pairs, corrected, strict=True)]
    return [replace(pair, verdict=verdicts.of_pair(pair, len(pairs))) for pair in judged if pair.first == ordered[0]]


def _hits(seen: Measured) -> Array:
    """Which samples (n,) are classified rightly."""
    return np.asarray(seen.predictions.label == seen.predictions.target)


def _errors(seen: Measured) -> Array:
    """The absolute error of each sample (n,), the mean over its targets."""
    return np.asarray(np.abs(seen.predictions.error).mean(1))


def _mcnemar(first: str, second: str, x: Array, y: Array) -> Pair:
    only_first, only_second, n = int((x & ~y).sum()), int((~x & y).sum()), len(x)
    cells = {
        "both": int((x & y).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "neither": int((~x & ~y).sum()),
    }
    p, p_mid = statistics.mcnemar(only_first, only_second)
    low, high = statistics.tango(only_first, only_second, n)
    return Pair(first, second, "mcnemar", cells, (only_first - only_second) / n, low, high, p, p_mid, None, p)


def _wilcoxon(first: str, second: str, x: Array, y: Array) -> Pair:
    found = statistics.paired(x, y)
    values = found.difference, found.low, found.high, found.p
    cells = {"first_closer": int((x < y).sum()), "second_closer": int((x > y).sum()), "alike": int((x == y).sum())}
    return Pair(first, second, "wilcoxon", cells, *values, None, found.effect, found.p)


# --- seeds ----------------------------------------------------------------------------------------------------------


def _groups(rows: Sequence[Compared], configs: Sequence[Mapping[str, Any]], scores: Mapping[str, float]) -> list[Group]:
    """The runs by what they would train with the same seed, in their order; none where every group has one run."""
    groups: list[tuple[dict[str, Any], list[Compared]]] = []
    for row, config in zip(rows, configs, strict=True):
        recipe = {key: value for key, value in config.items() if key not in _NO_RECIPE}
        members = next((members for known, members in groups if known == recipe), None)
        if members is None:
            groups.append((recipe, [row]))
        elif row.seed not in [member.seed for member in members]:  # the same seed again is the same training
            members.append(row)
    if all(len(members) == 1 for _, members in groups):
        return []
    found = []
    for _, members in groups:
        values = [scores[row.label] for row in members]
        labels, seeds = [row.label for row in members], [row.seed for row in members]
        found.append(Group(labels, seeds, values, statistics.spread_of(values)))
    return found


def _group_pairs(groups: Sequence[Group], headline: str) -> list[GroupPair]:
    """The best group of seeds with each other one, of those with two seeds or more, corrected for all pairs."""
    several = {",".join(group.labels): group for group in groups if len(group.labels) > 1}
    ordered = _best_first(list(several), {name: group.spread.mean for name, group in several.items()}, headline)
    pairs = list(combinations(ordered, 2))
    tests = [statistics.welch(several[one].scores, several[other].scores) for one, other in pairs]
    known = [index for index, test in enumerate(tests) if test.p is not None]
    corrected = dict(zip(known, statistics.holm([tests[index].p or 0.0 for index in known]), strict=True))
    found = []
    for index, (one, other) in enumerate(pairs):
        if one == ordered[0]:
            first, second, p = several[one].labels, several[other].labels, corrected.get(index)
            significant = p is not None and p < SIGNIFICANT
            verdict = verdicts.of_groups(first, second, tests[index], p, len(pairs), headline)
            found.append(GroupPair(first, second, tests[index], p, significant, verdict))
    return found
