"""Which loss fits which data, and which output layer: what does not fit is refused with the reason a learner needs."""

from __future__ import annotations

import math
from typing import Any

from dlf.losses import LOSSES, Task
from dlf.registry import Component, Entry, Flaw, InvalidError


def default_loss(task: Task) -> str:
    """The loss of a task where none is named."""
    return {"classification": "cross_entropy", "binary": "binary_cross_entropy", "regression": "mse"}[task]


def task_of(loss: Component, classes: int | None) -> Task:
    """The task that `loss` solves on data with so many classes, None for numbers as targets.

    Two classes are binary where the loss serves that. InvalidError, with the losses that fit, where the loss cannot
    serve the data or has weights for another number of classes.
    """
    tasks: tuple[Task, ...] = LOSSES.get(loss.type).facts["tasks"]
    candidates: tuple[Task, ...] = ("regression",) if classes is None else ("classification",)
    if classes == 2:
        candidates = ("binary", "classification")
    for task in candidates:
        if task in tasks:
            _check_weights(loss, classes)
            return task
    fitting = [name for name in LOSSES.names() if set(candidates) & set(LOSSES.get(name).facts["tasks"])]
    message = f"{_misfit(loss.type, tasks, classes)}. Losses that fit: {', '.join(fitting)}"
    raise InvalidError([Flaw((), message)])


def _misfit(name: str, tasks: tuple[Task, ...], classes: int | None) -> str:
    """Why a loss for `tasks` cannot serve data with so many classes."""
    if classes is None:
        return f"{name} compares classes, and the targets of this data are numbers"
    if "regression" in tasks:
        return (
            f"{name} measures a distance between numbers, and the targets of this data are {classes} classes: their "
            "numbers 0, 1, ... are names without distance, and class 2 is not twice class 1"
        )
    return f"{name} tells two classes apart by one output, and this data has {classes} classes"


def _check_weights(loss: Component, classes: int | None) -> None:
    weights = loss.parameters.get("class_weights")
    if isinstance(weights, tuple) and len(weights) != classes:
        message = f"has {len(weights)} weights, and this data has {classes} classes: give one weight for each class"
        raise InvalidError([Flaw(("class_weights",), message)])


# The least and greatest value of the activations that do not reach every number, with their default settings.
_BOUNDS = {
    "softmax": (0.0, 1.0),
    "log_softmax": (-math.inf, 0.0),
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "elu": (-1.0, math.inf),
    "celu": (-1.0, math.inf),
    "selu": (-1.7581, math.inf),
    "gelu": (-0.1701, math.inf),
    "silu": (-0.2785, math.inf),
    "mish": (-0.3089, math.inf),
    "hardswish": (-0.375, math.inf),
}


def refuses(loss: Entry[Any], activation: str) -> str | None:
    """Why an output layer with this activation contradicts the loss, in a sentence for the user; None where it fits."""
    takes = loss.facts["takes"]
    if takes == "log_probabilities":
        if activation == "log_softmax":
            return None
        return (
            f"{loss.name} takes log-probabilities, and {activation} gives none: leave the output layer to dlf, which "
            "ends it in log_softmax"
        )
    if takes == "values" or activation not in _BOUNDS:
        return None
    binary = loss.facts["tasks"] == ("binary",)
    if takes == "scores":
        low, high = _BOUNDS[activation]
        consequence = f"takes scores of any size, and {activation} gives only values from {low:.4g} to {high:g}"
    else:
        consequence = _for_one_logit(activation) if binary else _for_logits(activation)
    return f"{loss.name} {consequence}; use identity, or no activation, in the output layer"


def _for_one_logit(activation: str) -> str:
    """What binary cross-entropy makes of the single output after this activation."""
    if activation in ("softmax", "log_softmax"):
        constant = 1 if activation == "softmax" else 0
        return f"takes one logit, and {activation} over one output is always {constant}: nothing can be learned"
    low, high = (1 / (1 + math.exp(-bound)) for bound in _BOUNDS[activation])
    after = "applies sigmoid itself; after" if "sigmoid" in activation else "takes a logit of any size; after"
    never = ", and class 0 is never predicted" if low >= 0.5 else ""
    return f"{after} {activation} the probability of class 1 stays between {low:.2f} and {high:.2f}{never}"


def _for_logits(activation: str) -> str:
    """What cross-entropy makes of the outputs, one for each class, after this activation.

    After softmax the outputs s are >= 0 and add up to 1. sum_c exp(s_c) is convex, so it is greatest in a corner, one
    s = 1 and the rest 0: C - 1 + e. The least probability is exp(0), the greatest exp(1), over that sum. Outputs that
    are free in a range of width d reach 1 / (1 + (C - 1) exp(d)) and exp(d) / (exp(d) + C - 1).
    """
    if activation == "log_softmax":
        return "applies log_softmax itself; a second one changes nothing and costs time"
    low, high = _BOUNDS[activation]
    if high == math.inf:
        return (
            f"takes logits of any size, and after {activation} none is below {low:g}, near which little gradient flows"
        )
    if activation == "softmax":
        formulas, least = ("1/(C-1+e)", "e/(C-1+e)"), 1 / (9 + math.e)
    else:
        power = "e" if high - low == 1 else f"e^{high - low:g}"
        formulas, least = (f"1/(1+(C-1){power})", f"{power}/({power}+C-1)"), 1 / (1 + 9 * math.exp(high - low))
    greatest = math.exp(high - low) / (math.exp(high - low) + 9)
    return (
        f"applies softmax itself; {activation} before it squeezes the gradients: with C classes every probability then "
        f"lies between {formulas[0]} and {formulas[1]}, which is {least:.3f} and {greatest:.3f} for 10 classes"
    )
