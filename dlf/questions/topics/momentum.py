"""Momentum: steps that remember the ones before them, longer where these agree and shorter where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch

from dlf.engine import Experiment, TrainState
from dlf.errors import UsageError
from dlf.questions.design import Claim, Design, Measured, Subject, Variant
from dlf.questions.results import Arm, Difference, Figure, Study, Sweep
from dlf.questions.topics import Shipped, topic

_USUAL = 0.9
_LEVEL = 10  # the first loss divided by so much is "learned"
_WINDOW = 50  # steps: the loss of one batch is too noisy
_STEEP = 100  # how much steeper the valley of the example is across than along
_NEAR = 1e-3
_PATIENCE = 100_000  # steps in the valley: enough for a momentum of 0.999


@topic(
    "Why should a step remember the steps before it?",
    Shipped(
        "digits",
        (
            "model.layers=[{type: linear, units: 32}, {type: linear, units: 32}]",
            "optimizer={type: sgd, lr: 0.01}",
            "schedule=constant",
            "data.test=0",
            "data.validation=0.2",
            "train={epochs: 20}",
        ),
    ),
)
def momentum(subject: Subject) -> Design:
    """With and without momentum, at the same rate and at the same rate in the long run, lr / (1 - momentum)."""
    given = subject.config.optimizer
    if given.type != "sgd":
        raise UsageError(
            f"{given.type} is no plain gradient descent, with and without momentum: ask with "
            "'optimizer={type: sgd, lr: 0.01}' or leave the configuration out"
        )
    share = given.parameters["momentum"] or _USUAL
    lr, longer = given.parameters["lr"], 1 / (1 - share)
    plain = [_variant(lr * longer**power, 0.0, given.parameters) for power in range(3)]
    moved = [_variant(lr * longer**power, share, given.parameters) for power in range(2)]
    at = {variant.label: variant.settings["optimizer"]["lr"] for variant in plain}
    at |= {one.label: at[alike.label] for one, alike in zip(moved, plain[1:], strict=True)}
    line = {variant.label: "without momentum" for variant in plain}
    line |= {variant.label: f"momentum {share:g}" for variant in moved}
    return Design(
        variants=[*plain, *moved],
        claims=[
            Claim(moved[0].label, "better", plain[0].label),
            Claim(moved[0].label, "better", plain[1].label),
            Claim(moved[1].label, "better", plain[2].label),
        ],
        figures=[
            Figure("train_loss", "training loss"),
            Figure("steps_to_loss", f"steps to loss / {_LEVEL}"),
            subject.headline,
        ],
        charts=[
            Sweep("train_loss", "training loss", "rate in the long run, lr / (1 - momentum)", at, log=True, lines=line),
            subject.course,
        ],
        explain=lambda studies: _explain(studies[0], share),
        after=_steps,
    )


def _variant(lr: float, share: float, given: Mapping[str, Any]) -> Variant:
    rate = float(f"{lr:.6g}")
    label = f"lr {rate:g}" + (f" + momentum {share:g}" if share else "")
    nesterov = bool(given["nesterov"]) and share > 0
    return Variant(label, {"optimizer": {**given, "type": "sgd", "lr": rate, "momentum": share, "nesterov": nesterov}})


def _steps(experiment: Experiment, state: TrainState) -> Measured:
    """The first step at which the mean loss of the last 50 steps is a tenth of the first step's loss; None if never."""
    losses = state.losses[: state.step].double()
    if len(losses) < _WINDOW:
        return {"steps_to_loss": None}
    means = losses.unfold(0, _WINDOW, 1).mean(1)
    reached = torch.nonzero(means <= losses[0] / _LEVEL)
    return {"steps_to_loss": int(reached[0]) + _WINDOW if len(reached) else None, "first_loss": losses[0].item()}


def valley_steps(share: float) -> int:
    """Steps of heavy-ball descent on (x^2 + 100 y^2) / 2 from (1, 1) until both coordinates stay below 1/1000.

    The rate is 2 / 101, the best one without momentum: x and y then shrink by 99/101 a step. Polyak, 1964.
    """
    lr, places, moves, last = 2 / (1 + _STEEP), [1.0, 1.0], [0.0, 0.0], 0
    for step in range(1, _PATIENCE + 1):
        for axis, slope in enumerate((1.0, float(_STEEP))):
            moves[axis] = share * moves[axis] + slope * places[axis]
            places[axis] -= lr * moves[axis]
        if max(map(abs, places)) >= _NEAR:
            last = step
    return last + 1


def _explain(study: Study, share: float) -> tuple[str, str]:
    same, longer, largest = study.differences
    slow, plain, wild, moved, far = (arm.label for arm in study.arms)
    ends = {arm.label: _end(study, arm) for arm in study.arms}
    happened = (
        f"The training loss of {study.config}: {moved} {ends[moved]} and {slow}, the same rate without, {ends[slow]} "
        f"({same.measured}): {_verdict(same)}. {_reached(study, slow)}, {_reached(study, moved)}. A gradient that "
        f"stays the same is added up to 1 / (1 - {share:g}) = {1 / (1 - share):.3g} times its size, so the fair "
        f"opponent without momentum is {plain}. It {ends[plain]} ({longer.measured}): {_verdict(longer)}. At rates as "
        f"much larger again, {far} {ends[far]} and {wild} {ends[wild]} ({largest.measured}): {_verdict(largest)}."
    )
    return happened, _because(longer, largest, share)


def _end(study: Study, arm: Arm) -> str:
    """The training loss of a setting's last epoch."""
    if arm.diverged == len(arm.trainings):
        return "diverges"
    return f"ends at {study.shown(arm.label, 'train_loss')}"


def _because(longer: Difference, largest: Difference, share: float) -> str:
    gain = longer.choose(
        appears="Momentum gave more here than the longer step that it amounts to.",
        absent="At the smaller rates these seeds do not tell momentum from the longer step that it amounts to.",
        opposite="Here the longer step alone gave more than momentum.",
    )
    limit = largest.choose(
        appears=f"That shows: of two rates that are one in the long run, {largest.first} does better than "
        f"{largest.second}.",
        absent=f"Of {largest.first} and {largest.second} these seeds show no difference, so neither limit shows there.",
        opposite=f"That does not show: {largest.first} did worse than {largest.second}.",
    )
    plain_steps, moved_steps = valley_steps(0.0), valley_steps(share)
    return (
        "With momentum m, the step is lr times the sum of all gradients so far, each weighted by m once for every "
        "step since. Where gradients agree the steps add up to lr / (1 - m); where they change sign, across a valley, "
        f"they cancel. {gain} Along a direction of curvature c plain descent overshoots for good beyond lr = 2 / c, "
        f"momentum beyond 2 (1 + m) / c: with m = {share:g} its rate in the long run may be (1 + m) / (1 - m) = "
        f"{(1 + share) / (1 - share):.3g} times as large. {limit} The smallest example: in the valley (x^2 + "
        f"{_STEEP} y^2) / 2, at plain descent's best rate 2/{1 + _STEEP}, it takes {plain_steps:,} steps to come a "
        f"thousand times nearer, and {moved_steps:,} with m = {share:g}."
    )


def _verdict(difference: Difference) -> str:
    return difference.choose(
        appears="momentum is better", absent="these seeds show no difference", opposite="momentum is worse"
    )


def _reached(study: Study, label: str) -> str:
    """How many steps it took to a tenth of the first loss, and in how many trainings it came there."""
    arm = study.arm(label)
    known = [steps for training in arm.trainings if (steps := training.figures.get("steps_to_loss")) is not None]
    if not known:
        return f"{label} does not come to a tenth of the first loss"
    where = "" if len(known) == len(arm.trainings) else f" ({len(known)} of {len(arm.trainings)} trainings)"
    return f"{label} comes to a tenth of the first loss in {fmean(known):,.0f} steps{where}"
