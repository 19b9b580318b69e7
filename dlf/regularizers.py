"""Regularizers that act on the parameters of any network, in one of three moments of a step (the fact `acts`).

"penalty"   after the backward pass: `f(weights, *, ...) -> Tensor` adds the gradient of a penalty to each `w.grad`, in
            place, and returns the value of the penalty, 0-dim. The loss that is reported stays the loss of the data.
"gradient"  after the penalties: `f(parameters, *, ...) -> None` limits the gradients, in place.
"weights"   after the optimizer's update: `f(weights, *, ...) -> None` limits the weights, in place.

None of them waits for the device. The other regularizers of the field live where they act: dropout, batch_norm and the
like are layers, label smoothing belongs to the loss, early stopping to the train section, and decoupled weight decay to
the optimizer (adamw).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from dlf.registry import Registry

REGULARIZERS: Registry[Callable[..., Any]] = Registry("regularizer")


def weights_of(network: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters with 2 or more dimensions, each once, in the order of the modules; no norm scales."""
    found: dict[int, nn.Parameter] = {}
    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):  # their scales have the shape of a sample
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2 and parameter.requires_grad and name != "bias":
                found[id(parameter)] = parameter
    return list(found.values())


@REGULARIZERS.register("l1", acts="penalty")
@torch.no_grad()
def l1(weights: Sequence[Tensor], *, weight: NonNegativeFloat = 1e-4) -> Tensor:
    """weight * sum |w| over all weights (no biases): the gradient weight * sign(w) drives small weights to 0.

    Adds the gradient to each w.grad in place and returns the value, 0-dim. Tibshirani, 1996.
    """
    return _add_l1(list(weights), weight)


@REGULARIZERS.register("l2", acts="penalty")
@torch.no_grad()
def l2(weights: Sequence[Tensor], *, weight: NonNegativeFloat = 1e-4) -> Tensor:
    """weight * sum w^2 over all weights (no biases): the gradient 2 * weight * w shrinks every weight.

    Adds the gradient to each w.grad in place and returns the value, 0-dim. The same as Keras' l2; torch's weight_decay
    of plain SGD is the number before w, twice this weight. Hoerl and Kennard, 1970.
    """
    return _add_l2(list(weights), weight)


@REGULARIZERS.register("elastic_net", acts="penalty")
@torch.no_grad()
def elastic_net(weights: Sequence[Tensor], *, l1: NonNegativeFloat = 1e-4, l2: NonNegativeFloat = 1e-4) -> Tensor:
    """l1 * sum |w| + l2 * sum w^2 over all weights (no biases): the l1 and the l2 penalty together.

    Adds the gradient to each w.grad in place and returns the value, 0-dim. Zou and Hastie, 2005.
    """
    return _add_l1(list(weights), l1) + _add_l2(list(weights), l2)


def _add_l1(weights: list[Tensor], weight: float) -> Tensor:
    if not weights:
        return torch.zeros(())
    torch._foreach_add_(_gradients(weights), torch._foreach_sign(weights), alpha=weight)
    return weight * torch.stack(torch._foreach_norm(weights, 1)).sum()


def _add_l2(weights: list[Tensor], weight: float) -> Tensor:
    if not weights:
        return torch.zeros(())
    torch._foreach_add_(_gradients(weights), weights, alpha=2 * weight)
    return weight * torch.stack(torch._foreach_norm(weights, 2)).square().sum()


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    """The gradient of each weight; zeros where the backward pass has not reached it."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    return [weight.grad for weight in weights if weight.grad is not None]


@REGULARIZERS.register("clip_norm", acts="gradient")
def clip_norm(parameters: Sequence[Tensor], *, max_norm: PositiveFloat = 1.0) -> None:
    """g * min(1, max_norm / |g|), |g| over the gradients of all parameters together: a step keeps its direction.

    In place. Pascanu, Mikolov and Bengio, 2013.
    """
    nn.utils.clip_grad_norm_(parameters, max_norm)


@REGULARIZERS.register("clip_value", acts="gradient")
def clip_value(parameters: Sequence[Tensor], *, limit: PositiveFloat = 1.0) -> None:
    """min(max(g, -limit), limit) for each number of each gradient; the direction may change. In place."""
    nn.utils.clip_grad_value_(parameters, limit)


@REGULARIZERS.register("max_norm", acts="weights")
@torch.no_grad()
def max_norm(weights: Sequence[Tensor], *, limit: PositiveFloat = 3.0) -> None:
    """w * min(1, limit / |w|) for the incoming weights w of each unit, a row of (out, in, ...): none exceeds limit.

    In place, after the update. Srivastava et al., 2014, section 5.1.
    """
    for weight in weights:
        weight.renorm_(2, 0, limit)
