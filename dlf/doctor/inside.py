"""Verdicts on what was seen inside of the network: units, the signal, gradients and updates, layer by layer.

What has lasted to the last observation counts, and since when; what was overcome on the way does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from dlf.doctor.case import SHORT, Case, Record, Seen, above, below, finding, number, percent
from dlf.findings import Finding, Verdict

DEAD = 0.5, 0.95  # share of a layer's units: half of the layer that was asked for is gone, or next to all of it
SATURATED = 0.8, 0.98  # share of a layer's outputs where the slope is below 4 % of its greatest
FLAT = 1e-2, 1e-3  # spread between samples by size of the outputs: what tells samples apart is lost beside a constant
VANISHED = 1e-3, 1e-5  # gradient of a layer by that of the last one
EXPLODED = 1e3, 1e5  # the same, the other way
FAST = 0.1, 0.5  # of a layer's weights changed by one step; 0.001 is usual, from 0.1 on ten steps replace the weights
SLOW = 1e-6, 0.0  # float32 keeps 6e-8 of a weight: so small a change needs a million steps to matter
SAME = 0.02, 0.002  # spread of the answers of a regression, whose targets have a spread of 1
EVERY_SAMPLE = 0.98  # share of the most frequent class from which on one answer for all may be the best there is

BOUNDED = ("sigmoid", "hard_sigmoid", "tanh", "softsign", "hard_tanh")  # relu6 too, but its lower end is relu's

Courses = Mapping[str, Sequence[Seen]]


@dataclass(frozen=True)
class Worst:
    """The layer that is worst off: its verdict, since which observation, and the other layers with a verdict."""

    layer: str
    seen: Seen
    verdict: Verdict
    since: Record
    others: Sequence[str]

    @property
    def also(self) -> str:
        """The others, as the end of a sentence."""
        return f" (so {'are' if len(self.others) > 1 else 'is'} {', '.join(self.others[:6])})" if self.others else ""


def _worst(courses: Courses, judge: Callable[[float], Verdict], *, largest: bool) -> Worst | None:
    """Of the last observation the worst value, and since when it has been one that does not pass."""
    if not courses:
        return None
    last = {layer: course[-1].value for layer, course in courses.items()}
    layer = (max if largest else min)(last, key=lambda layer: last[layer])
    course, since = courses[layer], courses[layer][-1].at
    for seen in reversed(course):
        if judge(seen.value) == "pass":
            break
        since = seen.at
    others = [other for other in last if other != layer and judge(last[other]) != "pass"]
    return Worst(layer, course[-1], judge(last[layer]), since, others)


def dead_units(case: Case) -> Iterator[Finding]:
    """Units whose output is 0 for every sample: no gradient reaches their weights, and with relu none ever will."""
    worst = _worst(_courses(case, "dead"), lambda share: above(share, DEAD), largest=True)
    if worst is None:
        return
    share, activation = worst.seen.value, worst.seen.row.get("activation")
    said = f"layer {worst.layer}: {percent(share)} of its units are dead"
    if worst.verdict != "pass":
        said += f" since {case.when(worst.since)}{worst.also}"
    other = "another initialization" if activation != "relu" else "leaky_relu"
    remedy = f"Lower {case.rate} or use {other}."
    yield finding("dead_units", worst.verdict, said, share, DEAD[0], remedy=remedy, more="dlf why activations",
                  layer=worst.layer)  # fmt: skip


def _all_dead(case: Case) -> bool:
    """Whether a whole layer is dead: nothing passes it, forward or back, and that is the one thing to say."""
    return any(course[-1].value >= DEAD[1] for course in _courses(case, "dead").values())


def saturated_units(case: Case) -> Iterator[Finding]:
    """Outputs at the ends of a bounded activation's range, where it is flat and lets no gradient through."""
    courses = _courses(case, "saturated", hidden=True)
    bounded = {layer: course for layer, course in courses.items() if course[-1].row.get("activation") in BOUNDED}
    worst = _worst(bounded, lambda share: above(share, SATURATED), largest=True)
    if worst is None:
        return
    said = f"layer {worst.layer}: {percent(worst.seen.value)} of its outputs are saturated"
    if worst.verdict != "pass":
        said += f" since {case.when(worst.since)}{worst.also}"
    remedy = f"Lower {case.rate}, scale the inputs, or use relu."
    yield finding("saturated_units", worst.verdict, said, worst.seen.value, SATURATED[0], remedy=remedy,
                  more="dlf why activations", layer=worst.layer)  # fmt: skip


def lost_signal(case: Case) -> Iterator[Finding]:
    """Whether a hidden layer still tells samples apart: the spread of its outputs between them, by their size."""
    if _all_dead(case):
        return
    courses: dict[str, list[Seen]] = {}
    for observed in case.rows("sample_std", "mean", "std"):
        for at, row in observed[:-1]:
            size = math.hypot(row["mean"], row["std"])
            share = row["sample_std"] / size if size else 0.0
            courses.setdefault(str(row.get("layer")), []).append(Seen(at, row, share))
    worst = _worst(courses, lambda share: below(share, FLAT), largest=False)
    if worst is None:
        return
    said = f"layer {worst.layer}: what differs between samples is {worst.seen.value:.2g} of the size of its outputs"
    if worst.verdict != "pass":
        said += f", since {case.when(worst.since)}{worst.also}"
    remedy = "Use fewer layers, relu, another initialization, batch_norm or residual blocks."
    yield finding("lost_signal", worst.verdict, said, worst.seen.value, FLAT[0], remedy=remedy, more="dlf why depth",
                  layer=worst.layer)  # fmt: skip


def gradients(case: Case) -> Iterator[Finding]:
    """How large each layer's gradient is beside that of the last one."""
    if _all_dead(case):
        return
    courses: dict[str, list[Seen]] = {}
    cut = _frozen(case)  # said there
    for observed in case.rows("gradient_norm"):
        rows = [(at, row) for at, row in observed if row.get("activation") is not None]
        rows = [*(seen for seen in rows[:-1] if str(seen[1].get("layer")) not in cut), *rows[-1:]]
        if not rows or not (last := rows[-1][1]["gradient_norm"]) > 0:
            continue
        for at, row in rows[:-1]:
            courses.setdefault(str(row.get("layer")), []).append(Seen(at, row, row["gradient_norm"] / last))
    least = _worst(courses, lambda ratio: below(ratio, VANISHED), largest=False)
    most = _worst(courses, lambda ratio: above(ratio, EXPLODED), largest=True)
    if least is None or most is None:
        return
    ends = (
        ("vanishing_gradient", least, VANISHED, "Use relu, fewer layers, batch_norm or residual blocks."),
        ("exploding_gradient", most, EXPLODED, f"Clip gradients (clip_norm), lower {case.rate}, or use batch_norm."),
    )
    for name, worst, limits, remedy in ends:
        said = f"layer {worst.layer}: its gradient is {worst.seen.value:.2g} of that of the last layer"
        if worst.verdict != "pass":
            said += f", since {case.when(worst.since)}{worst.also}"
        yield finding(name, worst.verdict, said, worst.seen.value, limits[0], remedy=remedy, more="dlf why depth",
                      layer=worst.layer)  # fmt: skip


def updates(case: Case) -> Iterator[Finding]:
    """How much of its weights a step changes in each layer: nothing in a frozen one."""
    courses = _courses(case, "update_ratio")
    if not courses or case.steps < 1:
        return
    greatest = {layer: max(seen.value for seen in course) for layer, course in courses.items()}
    usual = {layer: median(seen.value for seen in course) for layer, course in courses.items()}
    frozen = _frozen(case)
    if frozen:
        which, whose = (f"layers {', '.join(frozen)}", "their") if len(frozen) > 1 else (f"layer {frozen[0]}", "its")
        said, remedy = (
            f"{which}: no step changed {whose} weights",
            "Is it frozen (requires_grad), or not in the optimizer?",
        )
        if all(seen.row.get("gradient_norm") == 0 for seen in courses[frozen[0]]):
            said, remedy = f"{said}: no gradient reaches it", "Look for saturated units, or a module that detaches."
        yield finding("frozen_layer", "fail", said, 0.0, 0.0, remedy=remedy, more="docs/lesson.md#gradient-descent",
                      layer=frozen[0])  # fmt: skip
    elif any(greatest.values()):
        yield finding("frozen_layer", "pass", "every layer's weights are changed", 0.0, 0.0, remedy="", more="")
    moving = [] if _all_dead(case) else [layer for layer in greatest if layer not in frozen]
    for slow in sorted(moving, key=lambda layer: greatest[layer])[:1]:
        said = f"layer {slow}: a step changes its weights by at most {greatest[slow]:.2g} of their size"
        yield finding("slow_updates", below(greatest[slow], SLOW), said, greatest[slow], SLOW[0],
                      remedy=f"Raise {case.rate}.", more="dlf why learning_rate", layer=slow)  # fmt: skip
    fast = max(usual, key=lambda layer: usual[layer])
    said = f"layer {fast}: a step changes its weights by {usual[fast]:.2g} of their size, 0.001 is usual"
    remedy = f"Lower {case.rate}."
    yield finding("fast_updates", above(usual[fast], FAST), said, usual[fast], FAST[0], remedy=remedy,
                  more="dlf why learning_rate", layer=fast)  # fmt: skip


def _frozen(case: Case) -> list[str]:
    """The layers that no step changed, where others were; behind or before a dead layer that is no fault of theirs."""
    courses = _courses(case, "update_ratio")
    still = [layer for layer, course in courses.items() if not any(seen.value for seen in course)]
    return [] if len(still) == len(courses) or _all_dead(case) else still


def constant_output(case: Case) -> Iterator[Finding]:
    """Whether the network says the same of every sample."""
    if not case.observations or case.steps < SHORT:
        return
    remedy = f"Lower {case.rate}; check the initialization, the balance of the classes and the labels (dlf check)."
    if case.headline == "mae":
        ends = [observed[-1] for observed in case.rows("sample_std") if observed]
        spreads = [Seen(at, row, row["sample_std"]) for at, row in ends]
        worst = _worst({"": spreads} if spreads else {}, lambda spread: below(spread, SAME), largest=False)
        said = "the spread of the answers between samples is {:.2g} of that of the targets"
        limit = SAME[0]
    else:
        most = [Seen(at, {}, share) for at in case.observations if (share := number(at.get("most_said"))) is not None]
        frequent = case.baseline("train_accuracy")
        if frequent is None or frequent >= EVERY_SAMPLE:
            return
        worst = _worst({"": most} if most else {}, lambda share: above(share, (1.0, 1.0)), largest=True)
        said = "the most frequent answer is given to {:.0%} of the samples; "
        said += f"the most frequent class has {frequent:.0%}"
        limit = 1.0
    if worst is None:
        return
    said = said.format(worst.seen.value).replace("%", " %")
    if worst.verdict != "pass":
        said = f"the network says the same of every sample since {case.when(worst.since)}: {said}"
    yield finding("constant_output", worst.verdict, said, worst.seen.value, limit, remedy=remedy,
                  more="dlf why learning_rate")  # fmt: skip


def _courses(case: Case, name: str, *, hidden: bool = False) -> dict[str, list[Seen]]:
    """For each layer with an activation of its own the values of this number; `hidden` leaves the last layer out."""
    found: dict[str, list[Seen]] = {}
    for at in case.observations:
        layers = at.get("layers")
        rows = [row for row in layers if isinstance(row, dict)] if isinstance(layers, list) else []
        for row in rows[:-1] if hidden else rows:
            value = number(row.get(name))
            if value is not None and row.get("activation") is not None:
                found.setdefault(str(row.get("layer")), []).append(Seen(at, row, value))
    return found
