"""Depth at equal size: a few layers say more than one, and each further one stands between the loss and the first."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from dlf.engine import Experiment, TrainState
from dlf.questions.design import Claim, Design, Measured, Subject, Variant
from dlf.questions.results import Course, Figure, Study, digits
from dlf.questions.signals import signals
from dlf.questions.topics import Shipped, topic

_DEPTHS = (1, 2, 4, 8, 16)


@topic(
    "What does depth give, and what does it cost?",
    Shipped("spiral", ("name=relu", "model.activation=relu", "train.epochs=30")),
    Shipped("spiral", ("name=sigmoid", "model.activation=sigmoid", "train.epochs=30")),
)
def depth(subject: Subject) -> Design:
    """Plain networks of 1, 2, 4, 8 and 16 hidden layers, each with about the parameters of the given one."""
    features, outputs = math.prod(subject.data.spec.shape), subject.blueprint.rows[-1].output[0]
    wanted = sum(weight.numel() for weight in subject.blueprint.layers.parameters())
    units = [_width(features, layers, outputs, wanted) for layers in _DEPTHS]
    labels = [f"{layers} x {width}" for layers, width in zip(_DEPTHS, units, strict=True)]
    hidden = [[{"type": "linear", "units": width}] * layers for layers, width in zip(_DEPTHS, units, strict=True)]
    one, _, some, _, most = labels
    return Design(
        variants=[
            Variant(label, {"model.layers": layers, "model.output": "auto"})
            for label, layers in zip(labels, hidden, strict=True)
        ],
        claims=[Claim(some, "better", one), Claim(most, "worse", some), Claim(most, "less", one, "kept")],
        figures=[subject.headline, Figure("train_loss", "training loss"), Figure("kept", "gradient kept")],
        charts=[subject.course, Course("gradient", "gradient before training", x="layer", log=True)],
        explain=_explain,
        before=_measured,
    )


def _width(features: int, layers: int, outputs: int, wanted: int) -> int:
    """The units of each hidden layer with which the parameters come nearest to those wanted."""
    sizes = range(1, wanted + 1)
    place = bisect_left(sizes, wanted, key=lambda units: _parameters(features, layers, units, outputs))
    near = sizes[max(0, place - 1) : place + 1]
    return min(near, key=lambda units: abs(_parameters(features, layers, units, outputs) - wanted))


def _parameters(features: int, layers: int, units: int, outputs: int) -> int:
    """Weights and biases of so many hidden layers of equal width and the output layer."""
    return (features + 1) * units + (layers - 1) * (units + 1) * units + (units + 1) * outputs


def _measured(experiment: Experiment, state: TrainState) -> Measured:
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    return {"parameters": parameters, **signals(experiment, state)}


def _explain(studies: Sequence[Study]) -> tuple[str, str]:
    study = studies[0]
    counts = [arm.spreads["parameters"].mean for arm in study.arms]
    happened = (
        f"Networks of 1, 2, 4, 8 and 16 hidden layers (layers x units) were trained, of {min(counts):,.0f} to "
        f"{max(counts):,.0f} parameters each. {' '.join(map(_happened, studies))}"
    )
    because = (
        "A layer computes with what the layer before it made, so layers behind each other fold the inputs again and "
        "again, where units beside each other only add folds. The price is the gradient's way: by the chain rule what "
        "reaches the first layer is a product over all layers behind it, each with the slope of its activation. "
        f"{' '.join(map(_because, studies))} At equal size the deepest network is also the narrowest "
        f"({study.arms[-1].label} beside {study.arms[0].label}), and what a narrow layer loses no later one has: this "
        "experiment does not part the two."
    )
    return happened, because


def _happened(study: Study) -> str:
    gain, cost, _ = study.differences
    gained = gain.choose(
        appears="several layers learn what one of this size does not",
        absent="no gain is to be seen beyond what the seeds do",
        opposite="one layer is better here",
    )
    lost = cost.choose(
        appears="so deep a network of this size comes less far in the same time",
        absent="so deep a network loses nothing that these seeds could show",
        opposite="the deepest is better still",
    )
    return (
        f"{study.config}: the {study.figures[0].title} is {study.listed(study.figures[0].name)}. {gain.first} beside "
        f"{gain.second}: {gain.measured}; {gained}. {cost.first} beside {cost.second}: {cost.measured}; {lost}."
    )


def _because(study: Study) -> str:
    """What is left of the signal and of the gradient on their ways through the deepest network, before training."""
    kept = study.differences[-1]
    deepest = study.arm(kept.first)
    apart, gradient = (
        [spread.mean for spread in deepest.course(series) if spread is not None] for series in ("apart", "gradient")
    )
    if len(gradient) < 2 or gradient[-1] == 0:
        return f"{study.config}: no gradient reaches the last layer of {kept.first}."
    factor = (gradient[0] / gradient[-1]) ** (1 / (len(gradient) - 1))
    lost = kept.choose(
        appears=f"{digits(factor)} times a layer: the deeper the network, the less its first layers hear of the loss",
        absent="which explains nothing that these seeds could show",
        opposite="more than it began with, so it is not what the deep network lacks",
    )
    return (
        f"{study.config}, in {kept.first}: from layer {len(gradient)} back to layer 1 the gradient goes from "
        f"{digits(gradient[-1])} to {digits(gradient[0])} ({kept.said}), {lost}; the other way, what tells the samples "
        f"apart, the standard deviation of a unit over them, goes from {digits(apart[0])} to {digits(apart[-1])}."
    )
