"""The first weights: equal ones stay equal, small ones lose the signal on its way, large ones drown it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlf.errors import UsageError
from dlf.inits import chosen
from dlf.modules import AUTO, Weighted
from dlf.questions.design import Claim, Design, Subject, Variant
from dlf.questions.results import Course, Difference, Figure, Study, digits
from dlf.questions.signals import signals
from dlf.questions.topics import Shipped, topic

_SMALL, _LARGE = 0.01, 1.0  # standard deviations, whatever the size of the layer
_HIDDEN = "{type: linear, units: 64}"
_DEEP = f"model.layers=[{', '.join([_HIDDEN] * 8)}]"


@topic(
    "What must the first weights be?",
    Shipped("digits", (_DEEP, "optimizer={type: adam, lr: 0.001}", "schedule=constant", "train.epochs=10")),
)
def initialization(subject: Subject) -> Design:
    """He's and Xavier's weights, the one first that suits the activation; zeros; too small; too large."""
    suits = chosen(AUTO, subject.config.model.activation).type
    other = "xavier_uniform" if suits != "xavier_uniform" else "he_normal"
    small, large = f"std {_SMALL:g}", f"std {_LARGE:g}"
    inits = {
        suits: suits,
        other: other,
        "zeros": "zeros",
        small: {"type": "normal", "std": _SMALL},
        large: {"type": "normal", "std": _LARGE},
    }
    layers = subject.layers(init=None)
    fans = [module.weight[0].numel() for module in subject.blueprint.layers.modules() if isinstance(module, Weighted)]
    if len(fans) < 2:
        raise UsageError(f"{subject.config.name} has no hidden layer: add one to model.layers, {_HIDDEN}")
    relu = subject.config.model.activation.type == "relu"
    return Design(
        variants=[Variant(label, {"model.init": init, "model.layers": layers}) for label, init in inits.items()],
        claims=[Claim(label, "worse", suits) for label in ("zeros", small, large)],
        figures=[subject.headline, Figure("first_loss", "first loss"), Figure("first_gradient", "first gradient")],
        charts=[subject.course, Course("signal", "signal before training", x="layer", log=True)],
        explain=lambda studies: _explain(studies[0], fans[1:-1] if relu else []),
        before=signals,
    )


def _explain(study: Study, fans: Sequence[int]) -> tuple[str, str]:
    """`fans` count the products that each hidden layer but the first sums, where their activation is relu."""
    zeros, small, large = study.differences
    suits, title = zeros.second, study.figures[0].title
    happened = (
        f"{study.config} was trained from five kinds of first weights. The {title}: "
        f"{study.listed(study.figures[0].name)}. Beside {suits}: " + "; ".join(map(_judged, study.differences)) + "."
    )
    gradient = study.mean("zeros", "first_gradient")
    because = "Units of a layer with equal weights give the same, get the same gradient and stay equal; from zeros " + (
        "the first layer's gradient is 0, and it does not move at all. "
        if gradient == 0
        else f"the first layer's gradient is {study.shown('zeros', 'first_gradient')}. "
    )
    three = (suits, small.first, large.first)
    gradients, losses = (
        ", ".join(study.shown(label, name) for label in three) for name in ("first_gradient", "first_loss")
    )
    because += (
        "A unit sums as many products as it has inputs, so a layer multiplies the signal by a factor, and the layers "
        f"together by its power: {'; '.join(_factor(study, label, fans) for label in three)}. The gradient takes the "
        f"same way back: at the first layer it is {gradients} (root mean square), and the first loss is {losses}."
    )
    because += " " + small.choose(
        appears=f"From {small.first} there is too little of either to learn from.",
        absent=f"What is left of them with {small.first} is enough for this optimizer, as far as these seeds show.",
        opposite=f"Small as they are with {small.first}, they are the better start here.",
    )
    because += " " + large.choose(
        appears=f"From {large.first} training has first to undo answers that are sure and wrong.",
        absent=f"Large as they are with {large.first}, no harm is to be seen beyond what the seeds do.",
        opposite=f"Large as they are with {large.first}, they are the better start here.",
    )
    if fans:
        because += f" He's standard deviation is sqrt(2 / {_mean_fan(fans):.3g}): it makes the factor of relu 1."
    return happened, because


def _judged(difference: Difference) -> str:
    verdict = difference.choose(
        appears="worse, as expected",
        absent="no harm that these seeds could show",
        opposite="better, against expectation",
    )
    return f"{difference.first}, {difference.measured}, {verdict}"


def _factor(study: Study, label: str, fans: Sequence[int]) -> str:
    """The measured factor a layer, from the first to the last hidden layer, beside what the formula says for relu."""
    signal = [spread.mean for spread in study.arm(label).course("signal") if spread is not None]
    if len(signal) < 2 or signal[0] <= 0 or signal[-1] <= 0:
        return f"with {label} the signal ends on its way"
    measured = (signal[-1] / signal[0]) ** (1 / (len(signal) - 1))
    said = f"with {label} its spread goes from {digits(signal[0])} to {digits(signal[-1])}, {digits(measured)} a layer"
    std = {f"std {_SMALL:g}": _SMALL, f"std {_LARGE:g}": _LARGE}.get(label)
    if std is None or not fans:
        return said
    formula = std * math.sqrt(_mean_fan(fans) / 2)
    return f"{said} (std sqrt(inputs / 2) = {digits(formula)} by the formula for relu)"


def _mean_fan(fans: Sequence[int]) -> float:
    """The geometric mean: the fan of layers of equal width with the same product."""
    return math.exp(sum(map(math.log, fans)) / len(fans))
