"""Losses: what training minimizes, and what is made of the outputs.

A loss is `f(output, target, *, ...) -> Tensor`: the mean over the samples of the batch, 0-dim, differentiable. Being a
plain mean, it does not depend on how a data set is cut into batches: the losses of the parts, weighted by their sizes,
give the loss of the whole. That holds with class weights too (torch's own mean divides by the sum of the weights).

| task | output | target |
| --- | --- | --- |
| classification | (batch, classes) | int64 (batch,), 0 .. classes-1 |
| binary | (batch, 1) | int64 (batch,), 0 or 1 |
| regression | (batch, targets) | float (batch, targets) |

The fact `gradient` is `f(output, target, *, ...) -> (loss, dL/d output)`, the derivative written out; both tensors come
without a graph. Training takes it, and autograd where a loss has none. The fact `formulas` holds the two as a page
prints them, o being the output, t the target and n the samples: a pair of texts, or `f(*, ...)` that gives the pair.

The fact `tasks` lists what a loss serves, the fact `takes` what the network must give it: "logits" (any number; the
loss applies softmax or sigmoid itself), "log_probabilities" (the network ends in log_softmax), "scores" (any number, no
probability), "values" (regression).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PlainValidator, PositiveFloat, WithJsonSchema
from torch import Tensor

from dlf import native
from dlf.registry import Registry, Share, shown

Task = Literal["classification", "binary", "regression"]

LOSSES: Registry[Callable[..., Tensor]] = Registry("loss")


def _class_weights(value: object) -> tuple[float, ...] | Literal["balanced"] | None:
    if value is None or value == "balanced":
        return None if value is None else "balanced"
    if isinstance(value, list | tuple) and value:
        if all(type(one) in (int, float) and 0 < one < math.inf for one in value):
            return tuple(float(one) for one in value)
        raise ValueError("expected positive, finite numbers, one for each class")
    raise ValueError(f"expected a list of positive numbers, one for each class, or 'balanced', got {shown(value)}")


# In YAML a list, "balanced" or nothing. The assembly puts a tensor, on the device, in the place of the first two.
ClassWeights = Annotated[
    tuple[float, ...] | Literal["balanced"] | Tensor | None,
    PlainValidator(_class_weights),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 1},
                {"const": "balanced"},
                {"type": "null"},
            ]
        }
    ),
]


def balanced(counts: Sequence[int]) -> tuple[float, ...]:
    """n / (classes * count_c) for each class: every class then weighs the same in the sum over all n samples.

    `counts` holds the samples of each class in the training part. A class without samples gets 1. King and Zeng, 2001.
    """
    return tuple(sum(counts) / (len(counts) * count) if count else 1.0 for count in counts)


def _on(output: Tensor, class_weights: ClassWeights) -> Tensor | None:
    assert not isinstance(class_weights, str), "the assembly computes balanced weights"
    return None if class_weights is None else torch.as_tensor(class_weights, dtype=output.dtype, device=output.device)


def _cross_entropy_gradient(
    output: Tensor, target: Tensor, *, label_smoothing: float, class_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    if output.dtype == torch.float32 and output.device.type == "cpu" and native.level(torch.float32):
        return native.cross_entropy(output, target, label_smoothing, _on(output, class_weights))
    n, classes = output.shape
    spread = label_smoothing / classes
    logs = torch.log_softmax(output, 1)
    aim = torch.full_like(logs, spread).scatter_(1, target[:, None], 1 - label_smoothing + spread)  # w q
    if class_weights is not None:
        aim.mul_(class_weights)
    value = torch.dot(aim.view(-1), logs.view(-1)) / -n
    p = logs.exp_()
    if class_weights is not None:
        p.mul_(aim.sum(1, keepdim=True))
    return value, p.sub_(aim).div_(n)


def _cross_entropy_formulas(*, label_smoothing: float, class_weights: object) -> tuple[str, str]:
    q = f"q the true class, smoothed by {label_smoothing:g}" if label_smoothing else "q 1 for the true class, else 0"
    if class_weights is None:
        return f"mean of -sum(q log softmax(o)), {q}", "(softmax(o) - q) / n"
    return f"mean of -sum(w q log softmax(o)), {q}, w the class weights", "(softmax(o) sum(w q) - w q) / n"


@LOSSES.register(
    "cross_entropy",
    tasks=("classification",),
    takes="logits",
    gradient=_cross_entropy_gradient,
    formulas=_cross_entropy_formulas,
)
def cross_entropy(
    output: Tensor, target: Tensor, *, label_smoothing: Share = 0.0, class_weights: ClassWeights = None
) -> Tensor:
    """-sum_c w_c q_c log softmax(z)_c for the classes, from logits z; q is the smoothed true class, w_c its weight.

    q_c = (1 - s) [c = target] + s / classes with s = label_smoothing (Szegedy et al., 2016, section 7); w_c = 1 without
    class_weights. Mean over the batch. output (batch, classes), target int64 (batch,). The gradient without weights is
    (softmax(z) - q) / batch.
    """
    weight = _on(output, class_weights)
    total = F.cross_entropy(output, target, weight, reduction="sum", label_smoothing=label_smoothing)
    return total / len(target)


def _binary_cross_entropy_gradient(
    output: Tensor, target: Tensor, *, label_smoothing: float, positive_weight: float
) -> tuple[Tensor, Tensor]:
    value = binary_cross_entropy(output, target, label_smoothing=label_smoothing, positive_weight=positive_weight)
    aim = target.to(output.dtype)[:, None] * (1 - label_smoothing) + label_smoothing / 2  # q, (batch, 1)
    positive = aim * positive_weight
    return value, torch.sigmoid(output).mul_(positive + (1 - aim)).sub_(positive).div_(len(output))


def _binary_cross_entropy_formulas(*, label_smoothing: float, positive_weight: float) -> tuple[str, str]:
    q, s = ("q", f", q = {1 - label_smoothing:g} t + {label_smoothing / 2:g}") if label_smoothing else ("t", "")
    p = f"p = sigmoid(o){s}"
    if positive_weight == 1:
        return f"mean of -({q} log p + (1 - {q}) log(1 - p)), {p}", f"(p - {q}) / n"
    w = f"{positive_weight:g}"
    return f"mean of -({w} {q} log p + (1 - {q}) log(1 - p)), {p}", f"((1 - {q}) p - {w} {q} (1 - p)) / n"


@LOSSES.register(
    "binary_cross_entropy",
    tasks=("binary",),
    takes="logits",
    gradient=_binary_cross_entropy_gradient,
    formulas=_binary_cross_entropy_formulas,
)
def binary_cross_entropy(
    output: Tensor, target: Tensor, *, label_smoothing: Share = 0.0, positive_weight: PositiveFloat = 1.0
) -> Tensor:
    """-(w q log sigmoid(z) + (1 - q) log(1 - sigmoid(z))) for two classes, from one logit z.

    q = (1 - s) target + s / 2 with s = label_smoothing; w = positive_weight multiplies the loss of class 1. Mean over
    the batch. output (batch, 1), target int64 (batch,) of 0 and 1. The gradient with w = 1 is (sigmoid(z) - q) / batch.
    """
    logit = output[:, 0]
    smoothed = target.to(logit.dtype) * (1 - label_smoothing) + label_smoothing / 2
    weight = None if positive_weight == 1 else logit.new_full((), positive_weight)
    return F.binary_cross_entropy_with_logits(logit, smoothed, pos_weight=weight)


def _nll_gradient(output: Tensor, target: Tensor, *, class_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    weights = torch.ones_like(output) if class_weights is None else class_weights.to(output).expand_as(output)
    true = target[:, None]
    gradient = torch.zeros_like(output).scatter_(1, true, weights.gather(1, true) / -len(output))
    return (gradient * output).sum(), gradient  # the loss is linear in the output


def _nll_formulas(*, class_weights: object) -> tuple[str, str]:
    if class_weights is None:
        return "mean of -o_t, t the true class", "-1 / n for the true class, else 0"
    return "mean of -w_t o_t, t the true class, w the class weights", "-w_t / n for the true class, else 0"


@LOSSES.register(
    "nll", tasks=("classification",), takes="log_probabilities", gradient=_nll_gradient, formulas=_nll_formulas
)
def nll(output: Tensor, target: Tensor, *, class_weights: ClassWeights = None) -> Tensor:
    """-w_y log p_y for the true class y, from log-probabilities: the network ends in log_softmax.

    Mean over the batch. output (batch, classes), target int64 (batch,). nll after log_softmax is cross_entropy.
    """
    return F.nll_loss(output, target, _on(output, class_weights), reduction="sum") / len(target)


def _kl_div_gradient(output: Tensor, target: Tensor, *, label_smoothing: float) -> tuple[Tensor, Tensor]:
    gradient = _smoothed(output, target, label_smoothing) / -len(output)
    return kl_div(output, target, label_smoothing=label_smoothing), gradient


def _smoothed(output: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """q (batch, classes): (1 - s) [c = target] + s / classes."""
    spread = label_smoothing / output.shape[1]
    return torch.full_like(output, spread).scatter_(1, target[:, None], 1 - label_smoothing + spread)


@LOSSES.register(
    "kl_div",
    tasks=("classification",),
    takes="log_probabilities",
    gradient=_kl_div_gradient,
    formulas=("mean of sum(q (log q - o)), q the smoothed true class", "-q / n"),
)
def kl_div(output: Tensor, target: Tensor, *, label_smoothing: Share = 0.1) -> Tensor:
    """sum_c q_c (log q_c - log p_c): KL divergence of the smoothed true class q from the network's log-probabilities.

    q_c = (1 - s) [c = target] + s / classes with s = label_smoothing. Mean over the batch. output (batch, classes),
    target int64 (batch,). It is cross-entropy less the entropy of q, a constant: the gradients are those of
    cross-entropy, and the least value is 0 whatever the smoothing. Kullback and Leibler, 1951.
    """
    return F.kl_div(output, _smoothed(output, target, label_smoothing), reduction="batchmean")


def _hinge_gradient(output: Tensor, target: Tensor, *, margin: float) -> tuple[Tensor, Tensor]:
    if output.shape[1] == 1:
        side = (2 * target - 1).to(output)[:, None]
        lead, direction = side * output, side
    else:
        true = target[:, None]
        others = output.scatter(1, true, -math.inf)
        best = others.amax(1, keepdim=True)
        rivals = (others == best).to(output)  # equal ones share, as in torch
        lead = output.gather(1, true) - best
        direction = (-rivals / rivals.sum(1, keepdim=True)).scatter_(1, true, 1.0)
    short = F.relu(margin - lead)  # (batch, 1)
    return short.mean(), direction * (short > 0) / -len(output)


@LOSSES.register(
    "hinge",
    tasks=("classification", "binary"),
    takes="scores",
    gradient=_hinge_gradient,
    formulas=(
        "mean of max(0, margin - lead), lead = o_t - the best other score, or (2 t - 1) o of a single one",
        "-(dlead/do) / n where lead < margin, else 0",
    ),
)
def hinge(output: Tensor, target: Tensor, *, margin: PositiveFloat = 1.0) -> Tensor:
    """max(0, margin - y s) for two classes, y = -1 or +1; for more, max(0, margin - (s_y - the best other score)).

    The second form is Crammer and Singer's (2001), which Keras calls categorical_hinge; torch's multi_margin_loss sums
    over all other classes instead. With two scores it equals the first form, s being their difference. Mean over the
    batch. output (batch, 1) for two classes, else (batch, classes); target int64 (batch,).
    """
    if output.shape[1] == 1:
        return F.relu(margin - (2 * target - 1) * output[:, 0]).mean()
    true = target[:, None]
    lead = output.gather(1, true)[:, 0] - output.scatter(1, true, -math.inf).amax(1)  # (batch,)
    return F.relu(margin - lead).mean()


def _mse_gradient(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    errors = (output - target).view(-1)
    n = errors.numel()
    return torch.dot(errors, errors) / n, errors.mul(2 / n).view_as(output)


@LOSSES.register(
    "mse",
    tasks=("regression",),
    takes="values",
    gradient=_mse_gradient,
    formulas=("mean of (o - t)^2", "2 (o - t) / (n targets)"),
)
def mse(output: Tensor, target: Tensor) -> Tensor:
    """(output - target)^2, mean over the batch and the targets; both (batch, targets). Large errors count most."""
    assert output.shape == target.shape, (output.shape, target.shape)
    return F.mse_loss(output, target)


def _mae_gradient(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    errors = output - target
    return errors.abs().mean(), errors.sign().div_(errors.numel())


@LOSSES.register(
    "mae",
    tasks=("regression",),
    takes="values",
    gradient=_mae_gradient,
    formulas=("mean of |o - t|", "sign(o - t) / (n targets)"),
)
def mae(output: Tensor, target: Tensor) -> Tensor:
    """|output - target|, mean over the batch and the targets; both (batch, targets). It learns the median."""
    assert output.shape == target.shape, (output.shape, target.shape)
    return F.l1_loss(output, target)


def _huber_gradient(output: Tensor, target: Tensor, *, delta: float) -> tuple[Tensor, Tensor]:
    errors = output - target
    return huber(output, target, delta=delta), errors.clamp(-delta, delta).div_(errors.numel())


@LOSSES.register(
    "huber",
    tasks=("regression",),
    takes="values",
    gradient=_huber_gradient,
    formulas=(
        "mean of e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), e = o - t",
        "(e cut off at -delta and delta) / (n targets)",
    ),
)
def huber(output: Tensor, target: Tensor, *, delta: PositiveFloat = 1.0) -> Tensor:
    """e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), e = output - target: outliers pull with a fixed force.

    Mean over the batch and the targets; both (batch, targets). Huber, 1964.
    """
    assert output.shape == target.shape, (output.shape, target.shape)
    return F.huber_loss(output, target, delta=delta)


@dataclass(frozen=True)
class BoundLoss:
    """A loss with its parameters: what training minimizes, and its gradient."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch, 0-dim."""
        return LOSSES.get(self.name).function(output, target, **self.parameters)

    def with_gradient(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its derivative by the output, (batch, units), which has no graph; neither have the two."""
        written: Callable[..., tuple[Tensor, Tensor]] | None = LOSSES.get(self.name).facts.get("gradient")
        if written is not None:
            return written(output, target, **self.parameters)
        with torch.enable_grad():
            output = output.detach().requires_grad_()
            value = self(output, target)
            return value.detach(), torch.autograd.grad(value, output)[0]


def outputs(task: Task, classes: int | None, targets: int) -> int:
    """Units of the output layer: one for each class, 1 for binary, one for each target of a regression."""
    if task == "classification":
        assert classes, "a classification has classes"
        return classes
    return 1 if task == "binary" else targets


def probabilities(output: Tensor, takes: str, task: Task) -> Tensor:
    """(batch, classes) probabilities from what the network gives: softmax, or exp of log-probabilities.

    Binary: two columns, sigmoid(-z) and sigmoid(z). The scores of hinge are put through the same functions: their order
    is right, but they are not calibrated; 0.9 does not mean right nine times out of ten.
    """
    assert task != "regression", "a regression has no probabilities"
    if task == "binary":
        return torch.cat([torch.sigmoid(-output), torch.sigmoid(output)], 1)
    return output.exp() if takes == "log_probabilities" else output.softmax(1)


def predicted(output: Tensor, task: Task) -> Tensor:
    """The predicted class, int64 (batch,): the largest output, the first of equal ones; binary: 1 where output > 0."""
    assert task != "regression", "a regression predicts no classes"
    return (output[:, 0] > 0).long() if task == "binary" else output.argmax(1)
