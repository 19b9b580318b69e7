"""Activations: what a neuron does with its weighted sum.

An activation is `f(x: Tensor, *, ...) -> Tensor`; the result has the shape of x. The derivative of relu at 0 is 0;
at the kinks of the others it is what torch takes. Facts of an entry, which the assembly reads:

- `init`: the initialiser that `auto` stands for in a layer that is followed by this activation (dlf/inits.py).
- `inplace`: the same function written over its input, where the derivative can be had from the result alone, bit for
  bit. It is valid where nothing else needs the input: straight after a weighted sum, and it saves a copy there.
  elu, selu and celu have none, because torch's in-place derivative differs from the ordinary one in the last bits.
- `back`: `f(g, a, *, ...) -> g f'(z)`, the chain rule through the activation from its result a = f(z) alone. Who has
  one can be trained without autograd (dlf/backpropagation.py).
- `slope`: `f(z, *, ...) -> f'(z)`, elementwise, written out in elementary functions (dlf/chain_rule.py). Where every
  result depends on several inputs there is no such derivative, and `pullback` stands in its place:
  `f(g, z, *, ...) -> dL/dz` for g = dL/da.
- `formulas`: f and that derivative as a page prints them, z being the input and a = f(z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from dlf.registry import Registry

ACTIVATIONS: Registry[Callable[..., Tensor]] = Registry("activation")

_aten: Any = torch.ops.aten


def _relu_back(g: Tensor, a: Tensor) -> Tensor:
    result: Tensor = _aten.threshold_backward(g, a, 0)
    return result


@ACTIVATIONS.register(
    "relu",
    init="he_normal",
    inplace=torch.relu_,
    back=_relu_back,
    slope=lambda z: (z > 0).to(z),
    formulas=("max(z, 0)", "1 where z > 0, else 0"),
)
def relu(x: Tensor) -> Tensor:
    """max(x, 0), elementwise; range [0, inf). Nair and Hinton, 2010."""
    return torch.relu(x)


def _bent(z: Tensor, slope: Tensor | float) -> Tensor:
    """1 where z > 0, else `slope`: the derivative of what bends at 0."""
    return torch.where(z > 0, torch.ones_like(z), slope)


def _leaky_relu_(x: Tensor, *, slope: float) -> Tensor:
    return F.leaky_relu_(x, slope)


def _leaky_relu_back(g: Tensor, a: Tensor, *, slope: float) -> Tensor:
    result: Tensor = _aten.leaky_relu_backward(g, a, slope, True)
    return result


@ACTIVATIONS.register(
    "leaky_relu",
    init="he_normal",
    inplace=_leaky_relu_,
    back=_leaky_relu_back,
    slope=_bent,
    formulas=("z where z > 0, else slope z", "1 where z > 0, else slope"),
)
def leaky_relu(x: Tensor, *, slope: NonNegativeFloat = 0.01) -> Tensor:
    """max(x, 0) + slope * min(x, 0), elementwise. Maas et al., 2013."""
    return F.leaky_relu(x, slope)


@ACTIVATIONS.register(
    "elu",
    init="he_normal",
    slope=lambda z, alpha: _bent(z, alpha * z.exp()),
    formulas=("z where z > 0, else alpha (exp(z) - 1)", "1 where z > 0, else alpha exp(z)"),
)
def elu(x: Tensor, *, alpha: PositiveFloat = 1.0) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1), elementwise; range (-alpha, inf). Clevert et al., 2015."""
    return F.elu(x, alpha)


# Klambauer et al., 2017, appendix A
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


@ACTIVATIONS.register(
    "selu",
    init="lecun_normal",
    slope=lambda z: _SELU_SCALE * _bent(z, _SELU_ALPHA * z.exp()),
    formulas=("1.0507 z where z > 0, else 1.7581 (exp(z) - 1)", "1.0507 where z > 0, else 1.7581 exp(z)"),
)
def selu(x: Tensor) -> Tensor:
    """1.0507 * x where x > 0, else 1.7581 * (exp(x) - 1), elementwise: keeps mean 0 and variance 1 from layer to layer.

    For lecun_normal weights and standardized inputs; its dropout is alpha_dropout. Klambauer et al., 2017.
    """
    return F.selu(x)


@ACTIVATIONS.register(
    "celu",
    init="he_normal",
    slope=lambda z, alpha: _bent(z, (z / alpha).exp()),
    formulas=("z where z > 0, else alpha (exp(z / alpha) - 1)", "1 where z > 0, else exp(z / alpha)"),
)
def celu(x: Tensor, *, alpha: PositiveFloat = 1.0) -> Tensor:
    """x where x > 0, else alpha * (exp(x / alpha) - 1), elementwise: elu without a kink. Barron, 2017."""
    if x.dtype == torch.float64:  # torch's derivative holds 1 / alpha in single precision even then
        return F.elu(x / alpha) * alpha
    return F.celu(x, alpha)


def _gelu_slope(z: Tensor, *, approximate: Literal["none", "tanh"]) -> Tensor:
    if approximate == "none":
        phi = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        return torch.erfc(-z / math.sqrt(2)) / 2 + z * phi
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (z + 0.044715 * z**3))
    return (1 + t) / 2 + z * (1 - t.square()) / 2 * c * (1 + 3 * 0.044715 * z.square())


@ACTIVATIONS.register("gelu", init="he_normal", slope=_gelu_slope, formulas=("z Phi(z)", "Phi(z) + z Phi'(z)"))
def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """x * Phi(x), Phi the distribution function of the standard normal, elementwise. Hendrycks and Gimpel, 2016.

    `tanh` takes 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) for Phi(x).
    """
    return F.gelu(x, approximate=approximate)


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s + z * s * (1 - s)


@ACTIVATIONS.register(
    "silu",
    init="he_normal",
    slope=_silu_slope,
    formulas=("z sigmoid(z)", "s + z s (1 - s), s = sigmoid(z)"),
)
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), elementwise; also called swish. Elfwing et al., 2017."""
    return F.silu(x)


def _mish_slope(z: Tensor) -> Tensor:
    t = torch.tanh(torch.logaddexp(z, torch.zeros_like(z)))
    return t + z * (1 - t.square()) * torch.sigmoid(z)


@ACTIVATIONS.register(
    "mish",
    init="he_normal",
    slope=_mish_slope,
    formulas=("z tanh(log(1 + exp(z)))", "t + z (1 - t^2) sigmoid(z), t = tanh(log(1 + exp(z)))"),
)
def mish(x: Tensor) -> Tensor:
    """x * tanh(log(1 + exp(x))), elementwise. Misra, 2019."""
    return F.mish(x)


@ACTIVATIONS.register(
    "softplus",
    init="he_normal",
    slope=lambda z, beta, threshold: torch.where(beta * z > threshold, 1.0, torch.sigmoid(beta * z)),
    formulas=("log(1 + exp(beta z)) / beta, z where beta z > threshold", "sigmoid(beta z), 1 where beta z > threshold"),
)
def softplus(x: Tensor, *, beta: PositiveFloat = 1.0, threshold: PositiveFloat = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, elementwise, and x where beta * x > threshold. Dugas et al., 2001."""
    return F.softplus(x, beta, threshold)


@ACTIVATIONS.register(
    "softsign",
    init="xavier_uniform",
    slope=lambda z: 1 / (1 + z.abs()).square(),
    formulas=("z / (1 + |z|)", "1 / (1 + |z|)^2"),
)
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|), elementwise; range (-1, 1). Bergstra et al., 2009."""
    return F.softsign(x)


@ACTIVATIONS.register(
    "tanh",
    init="xavier_uniform",
    inplace=torch.tanh_,
    back=_aten.tanh_backward,
    slope=lambda z: 1 - torch.tanh(z).square(),
    formulas=("(exp(z) - exp(-z)) / (exp(z) + exp(-z))", "1 - a^2"),
)
def tanh(x: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)), elementwise; range (-1, 1)."""
    return torch.tanh(x)


@ACTIVATIONS.register(
    "sigmoid",
    init="xavier_uniform",
    inplace=torch.sigmoid_,
    back=_aten.sigmoid_backward,
    slope=lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
    formulas=("1 / (1 + exp(-z))", "a (1 - a)"),
)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), elementwise; range (0, 1)."""
    return torch.sigmoid(x)


@ACTIVATIONS.register(
    "hard_sigmoid",
    init="xavier_uniform",
    slope=lambda z: (z.abs() < 3).to(z) / 6,
    formulas=("z / 6 + 1/2, cut off at 0 and 1", "1/6 where |z| < 3, else 0"),
)
def hard_sigmoid(x: Tensor) -> Tensor:
    """x / 6 + 1 / 2 cut off at 0 and 1, elementwise: sigmoid in three straight pieces. Howard et al., 2019."""
    if x.dtype == torch.float64:  # torch's derivative holds 1 / 6 in single precision even then
        return F.hardtanh(x, -3.0, 3.0) / 6 + 0.5
    return F.hardsigmoid(x)


def _hard_tanh_(x: Tensor, *, limit: float) -> Tensor:
    return F.hardtanh_(x, -limit, limit)


def _hard_tanh_back(g: Tensor, a: Tensor, *, limit: float) -> Tensor:
    result: Tensor = _aten.hardtanh_backward(g, a, -limit, limit)
    return result


@ACTIVATIONS.register(
    "hard_tanh",
    init="xavier_uniform",
    inplace=_hard_tanh_,
    back=_hard_tanh_back,
    slope=lambda z, limit: (z.abs() < limit).to(z),
    formulas=("z cut off at -limit and limit", "1 where |z| < limit, else 0"),
)
def hard_tanh(x: Tensor, *, limit: PositiveFloat = 1.0) -> Tensor:
    """x cut off at -limit and limit, elementwise: tanh in three straight pieces. Collobert, 2004."""
    return F.hardtanh(x, -limit, limit)


@ACTIVATIONS.register(
    "hardswish",
    init="he_normal",
    slope=lambda z: torch.where(z.abs() < 3, z / 3 + 0.5, (z > 0).to(z)),
    formulas=("z (z / 6 + 1/2), 0 where z < -3, z where z > 3", "z / 3 + 1/2 where |z| < 3, else 0 below and 1 above"),
)
def hardswish(x: Tensor) -> Tensor:
    """x * hard_sigmoid(x), elementwise: silu without an exponential. Howard et al., 2019."""
    return F.hardswish(x)


def _relu6_(x: Tensor) -> Tensor:
    return F.hardtanh_(x, 0.0, 6.0)


def _relu6_back(g: Tensor, a: Tensor) -> Tensor:
    result: Tensor = _aten.hardtanh_backward(g, a, 0.0, 6.0)
    return result


@ACTIVATIONS.register(
    "relu6",
    init="he_normal",
    inplace=_relu6_,
    back=_relu6_back,
    slope=lambda z: ((z > 0) & (z < 6)).to(z),
    formulas=("min(max(z, 0), 6)", "1 where 0 < z < 6, else 0"),
)
def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6), elementwise; range [0, 6]. Krizhevsky, 2010."""
    return F.relu6(x)


def _softmax_pullback(g: Tensor, z: Tensor) -> Tensor:
    a = torch.softmax(z, dim=1)
    return a * (g - (g * a).sum(1, keepdim=True))


@ACTIVATIONS.register(
    "softmax",
    init="xavier_uniform",
    pullback=_softmax_pullback,
    formulas=("exp(z) / sum(exp(z))", "a (dL/da - sum(dL/da a))"),
)
def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over dimension 1, the features or channels: positive numbers that add up to 1.

    x is (batch, features) or (batch, channels, height, width). Bridle, 1990.
    """
    return torch.softmax(x, dim=1)


@ACTIVATIONS.register(
    "log_softmax",
    init="xavier_uniform",
    pullback=lambda g, z: g - torch.softmax(z, dim=1) * g.sum(1, keepdim=True),
    formulas=("z - log(sum(exp(z)))", "dL/da - softmax(z) sum(dL/da)"),
)
def log_softmax(x: Tensor) -> Tensor:
    """x - log(sum(exp(x))) over dimension 1, the features or channels: the logarithm of softmax without its underflow.

    x is (batch, features) or (batch, channels, height, width).
    """
    return torch.log_softmax(x, dim=1)


@ACTIVATIONS.register(
    "identity", init="xavier_uniform", back=lambda g, a: g, slope=torch.ones_like, formulas=("z", "1")
)
def identity(x: Tensor) -> Tensor:
    """x itself: the layer stays linear."""
    return x
