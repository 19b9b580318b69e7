"""Batch normalization: sums of one size in every layer, so that long steps do not break a deep network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from dlf.engine import Experiment, TrainState
from dlf.errors import UsageError
from dlf.questions.design import Claim, Design, Measured, Subject, Variant
from dlf.questions.results import Difference, Figure, Study, Sweep, digits
from dlf.questions.surgery import filled, has, hidden, with_batch_norm, without_batch_norm
from dlf.questions.topics import Shipped, topic
from dlf.schedules import lower_is_better

_HOW = ("", " + batch_norm")
_SAMPLES = 256
_DECADES = (-1, 0, 1, 2)  # of the configured rate
_DEEP = "model.layers=[" + ", ".join(["{type: linear, units: 64}"] * 8) + "]"


@topic(
    "What does it help to normalize within the network?",
    Shipped(
        "digits",
        (
            _DEEP,
            "optimizer={type: sgd, lr: 0.1}",
            "schedule=constant",
            "data.test=0",
            "data.validation=0.2",
            "data.batch_size=64",
            "train={epochs: 12}",
        ),
    ),
)
def batch_norm(subject: Subject) -> Design:
    """The network without and with batch_norm behind every hidden sum, at a tenth to a hundred times the rate."""
    optimizer = subject.config.optimizer
    own = optimizer.parameters.get("lr")
    if own is None:
        raise UsageError(f"{optimizer.type} has no learning rate to vary: set optimizer.type to sgd or adam")
    plain = hidden(subject, without_batch_norm)
    normed = filled(subject) if has(subject.layers(), "batch_norm") else hidden(subject, with_batch_norm)
    rates = [float(f"{own * 10.0**decade:.6g}") for decade in _DECADES]
    claimed = [rates[2], *rates[:2], *rates[3:]]
    headline = subject.headline
    variants = {
        how: [Variant(_label(rate, how), {"optimizer.lr": rate, "model.layers": layers}) for rate in rates]
        for how, layers in zip(_HOW, (plain, normed), strict=True)
    }
    line = {variant.label: how.removeprefix(" + ") or "without" for how, own in variants.items() for variant in own}
    at = {variant.label: rate for line in variants.values() for variant, rate in zip(line, rates, strict=True)}
    return Design(
        variants=[*variants[_HOW[0]], *variants[_HOW[1]]],
        claims=[Claim(_label(rate, _HOW[1]), "better", _label(rate, _HOW[0])) for rate in claimed],
        figures=[headline, Figure("stepped_loss", "loss after a step"), Figure("train_loss", "training loss")],
        charts=[
            Sweep(headline.name, headline.title, "learning rate", at, lines=line),
            Sweep("stepped_loss", "loss after the first step", "learning rate", at, log=True, lines=line),
        ],
        explain=lambda studies: _explain(studies[0], rates),
        before=_one_step,
    )


def _label(rate: float, how: str) -> str:
    return f"lr {rate:g}{how}"


def _one_step(experiment: Experiment, state: TrainState) -> Measured:
    """The loss of the first 256 training samples before and after one step on them, of a copy of the network.

    In training mode, as the step sees it: by the batch's own mean and variance where there is batch_norm.
    """
    part = experiment.data.train
    network, optimizer = copy.deepcopy((state.network, state.optimizer))
    x, y = part.x[:_SAMPLES], network.scaled(part.y[:_SAMPLES])
    with torch.random.fork_rng([y.device] if y.device.type == "cuda" else []):
        with torch.enable_grad():
            first = experiment.loss(network(x), y)
            torch.autograd.backward(first)
        optimizer.step()
        with torch.no_grad():
            stepped = experiment.loss(network(x), y)
    return {"first_loss": first.item(), "stepped_loss": stepped.item()}


def _explain(study: Study, rates: Sequence[float]) -> tuple[str, str]:
    pairs = {rate: study.difference(_label(rate, _HOW[1]), _label(rate, _HOW[0])) for rate in rates}
    happened = (
        f"The {study.figures[0].title} of {study.config}, without and with batch_norm, at {len(rates)} learning rates. "
        f"{' '.join(_at(study, rate, difference) for rate, difference in pairs.items())} {_best(study, rates)}"
    )
    return happened.strip(), _because(study, rates, pairs[rates[0]])


def _at(study: Study, rate: float, difference: Difference) -> str:
    """What one rate came to."""
    plain, normed = (_came(study, label, difference.figure) for label in (difference.second, difference.first))
    verdict = difference.choose(
        appears="batch_norm is better", absent="these seeds show no difference", opposite="batch_norm is worse"
    )
    if difference.mean is None:
        verdict = difference.choose(
            appears="batch_norm keeps it from diverging",
            absent="there is nothing to compare",
            opposite="batch_norm makes it diverge",
        )
    return f"At lr {rate:g}, {plain} without and {normed} with it: {verdict} ({difference.measured})."


def _came(study: Study, label: str, figure: str) -> str:
    arm = study.arm(label)
    if arm.diverged == len(arm.trainings):
        return "divergence"
    return study.shown(label, figure)


def _best(study: Study, rates: Sequence[float]) -> str:
    """The best rate of either, and how soon the best one with batch_norm is as good as the other."""
    headline = study.figures[0]
    means = {arm.label: mean for arm in study.arms if (mean := study.mean(arm.label, headline.name)) is not None}
    lines = [[label for rate in rates if (label := _label(rate, how)) in means] for how in _HOW]
    if not all(lines):
        return ""
    low = lower_is_better(headline.name)
    plain, normed = ((min if low else max)(line, key=lambda label: means[label]) for line in lines)
    course = study.arm(normed).course(headline.name)
    level = means[plain]
    passed = [
        epoch
        for epoch, spread in enumerate(course, start=1)
        if spread is not None and (spread.mean <= level if low else spread.mean >= level)
    ]
    when = f"comes to {headline.shown(level)} after epoch {passed[0]}" if passed else "never gets there"
    return (
        f"The best means are {headline.shown(level)} with {plain} and {headline.shown(means[normed])} with {normed}, "
        f"which {when}."
    )


def _because(study: Study, rates: Sequence[float], least: Difference) -> str:
    ways, longest = [], []
    for how, said in zip(_HOW, ("without batch_norm", "with it"), strict=True):
        losses = {rate: study.mean(_label(rate, how), "stepped_loss") for rate in rates}
        first = study.mean(_label(rates[0], how), "first_loss")
        listed = ", ".join(f"{_shown(loss)} (lr {rate:g})" for rate, loss in losses.items())
        ways.append(f"{said} from {_shown(first)} to {listed}")
        falls = [rate for rate, loss in losses.items() if loss is not None and first is not None and loss < first]
        longest.append(f"lr {falls[-1]:g}" if falls else "none of these")
    reach = (
        f"The longest step that still lowers it is {longest[0]} without and {longest[1]} with it."
        if longest[0] != longest[1]
        else f"The longest step that still lowers it is {longest[0]} in either case."
    )
    short = least.choose(
        appears=f"Even at lr {rates[0]:g}, the shortest step tried, the network is better with it.",
        absent=f"At lr {rates[0]:g}, where steps are short anyway, these seeds show no use of it.",
        opposite=f"At lr {rates[0]:g}, where steps are short anyway, it is a loss.",
    )
    return (
        "batch_norm takes from every sum its mean over the batch and divides by its standard deviation, so a layer "
        "hands on signals of one size, whatever a step did to the layers before it. Without it, what a long step "
        "changes in one layer is multiplied by what it changed in the next. A single step on "
        f"{_SAMPLES} samples moves their loss {'; '.join(ways)}. {reach} {short}"
    )


def _shown(loss: float | None) -> str:
    return digits(loss) if loss is not None else "no number"
