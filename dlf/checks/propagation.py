"""How large signals are expected to be in a network that has just been initialised, layer by layer, on given samples.

The expectation is over the weights. With independent weights of mean 0 and variance v (He, Xavier, LeCun) and no bias,
the sums z of a layer with many units are normal. All that passes on of samples x and x' are two means over the units:
q = E[a(x)^2], and d = E[(a(x) - a(x'))^2], which is what later layers can tell them apart by:

    linear       q -> fan_in v q       d -> fan_in v d
    activation   q -> E[f(z)^2]        d -> E[(f(z) - f(z'))^2]     z, z' normal, E[z^2] = q, E[(z - z')^2] = d

so that He's formula keeps q for relu: fan_in 2 / fan_in * E[relu(z)^2] = q. Two numbers are shown of a layer: the size
of its outputs, the square root of the mean of q, and their spread, the standard deviation of a unit between samples,
the square root of half of the mean of d. Neal, 1996; Poole et al., 2016; Schoenholz et al., 2017.

A finite layer is one draw. The mean of a^2 over n units varies: relatively by about (E[a^4] / E[a^2]^2 - 1) / n, whose
numerator `VARIANCE` bounds, and the variances of the layers up to one add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlf.checks.looking import Look, walk
from dlf.layers import Residual
from dlf.model import Network
from dlf.modules import Activate, Conv2d, Dropout, Linear, Weighted
from dlf.registry import Component

SAMPLES = 32  # signals are followed for so many: 496 pairs, a few milliseconds a layer
_DEVIATIONS = 4  # of the logarithm of a size: once in 16,000 layers by chance, were it normal
VARIANCE = 5.0  # of relu's squares: E[a^4] / E[a^2]^2 - 1 = (3/2) / (1/2)^2 - 1; tanh has less, linear units 2
_REACH = 7.0  # standard deviations: 3e-12 of a normal lies beyond
_NODES = 48  # for each of two normals; a kink such as relu's costs 0.7 % of the mean, a smooth function nothing


def _squared(value: float) -> float:
    """value^2, inf where it is too large: Python's own power raises."""
    return value * value


def _he(given: Mapping[str, Any], fan_in: int, fan_out: int) -> float:
    return 2 / ((1 + _squared(given["slope"])) * (fan_in if given["fan"] == "in" else fan_out))


# The variance of a weight by initialiser, from its parameters and the fans; all have mean 0.
_FORMULAS: Mapping[str, Callable[[Mapping[str, Any], int, int], float]] = {
    "xavier_uniform": lambda given, fan_in, fan_out: _squared(given["gain"]) * 2 / (fan_in + fan_out),
    "xavier_normal": lambda given, fan_in, fan_out: _squared(given["gain"]) * 2 / (fan_in + fan_out),
    "he_uniform": _he,
    "he_normal": _he,
    "lecun_uniform": lambda given, fan_in, fan_out: 1 / fan_in,
    "lecun_normal": lambda given, fan_in, fan_out: 1 / fan_in,
    "uniform": lambda given, fan_in, fan_out: _squared(given["limit"]) / 3,
    "normal": lambda given, fan_in, fan_out: _squared(given["std"]),
    "truncated_normal": lambda given, fan_in, fan_out: _squared(given["std"]) * _left_of_variance(given["cut"]),
    "zeros": lambda given, fan_in, fan_out: 0.0,
}


def _left_of_variance(cut: float) -> float:
    """The variance of a standard normal cut off at +-cut: 1 - 2 cut phi(cut) / (2 Phi(cut) - 1)."""
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return 1 - 2 * cut * density / math.erf(cut / math.sqrt(2))


def weight_variance(init: Component, shape: torch.Size | tuple[int, ...]) -> float | None:
    """The variance of a weight (out, in, *kernel) under its initialiser; None where its mean is not 0, or unknown."""
    size = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * size, shape[0] * size
    given = init.parameters
    if (
        init.type == "orthogonal"
    ):  # the shorter side's vectors have length gain, and entries of variance gain^2 / longer
        return _squared(given["gain"]) / max(shape[0], fan_in)
    if init.type not in _FORMULAS or given.get("mean", 0.0) != 0:
        return None
    return _FORMULAS[init.type](given, fan_in, fan_out)


@dataclass(frozen=True)
class Signal:
    """The outputs of a layer: q `squares` (n,), d `distances` (n, n) and E[a] `means` (n,), of n samples.

    `variance` is that of the logarithm of q, from the finite widths since the signal was last measured.
    """

    squares: Tensor
    distances: Tensor
    means: Tensor
    variance: float = 0.0

    @property
    def size(self) -> float:
        """The root mean square of the outputs, over samples and units."""
        return math.sqrt(float(self.squares.mean()))

    @property
    def spread(self) -> float:
        """The standard deviation of a unit's outputs between samples; its square is the mean over the units."""
        return math.sqrt(float(self.distances.mean()) / 2)


def measured(outputs: Tensor) -> Signal:
    """The signal of outputs as they are, (n, units, ...)."""
    flat = outputs.detach().double().cpu().flatten(1)
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square() / flat.shape[1]
    return Signal(flat.square().mean(1), distances, flat.mean(1))


@singledispatch
def through(layer: nn.Module, signal: Signal, given: Tensor) -> Signal | None:
    """The signal expected behind a layer; None where there is no formula for it.

    `given` is what the layer was really given, (n, units, ...): its height and width count.
    """
    return None


@through.register
def _(layer: nn.Flatten | nn.Identity | Dropout | nn.AlphaDropout, signal: Signal, given: Tensor) -> Signal:
    return signal


@through.register
def _(layer: Linear | Conv2d, signal: Signal, given: Tensor) -> Signal | None:
    variance = weight_variance(layer.init, layer.weight.shape)
    if variance is None:
        return None
    factor = variance * _terms(layer, given)
    noise = signal.variance + VARIANCE / len(layer.weight)
    sums = Signal(signal.squares * factor, signal.distances * factor, torch.zeros_like(signal.means), noise)
    return activated(layer.activate, sums)


def _terms(layer: Linear | Conv2d, given: Tensor) -> float:
    """How many products one sum has, on average: at the border of an image fewer, where it is padded with zeros."""
    if isinstance(layer, Linear):
        return layer.weight.shape[1]
    window = torch.ones(1, 1, *layer.weight.shape[2:], dtype=torch.float64)
    inside = F.conv2d(
        torch.ones(1, 1, *given.shape[2:], dtype=torch.float64), window, None, layer.stride, layer.padding
    )
    return float(inside.mean()) * layer.weight.shape[1]


@through.register
def _(layer: Activate, signal: Signal, given: Tensor) -> Signal | None:
    return activated(layer.activate, signal)


@through.register
def _(layer: nn.PReLU, signal: Signal, given: Tensor) -> Signal | None:
    slope = float(layer.weight.detach().mean())
    return activated(lambda z: F.leaky_relu(z, slope), signal)


@through.register  # of images the variance over the pixels counts too, which is not followed
def _(layer: nn.BatchNorm1d, signal: Signal, given: Tensor) -> Signal:
    """Every unit loses its mean over the batch and is divided by its spread; on average over the units."""
    variance = signal.distances.mean() / 2
    if variance == 0:
        zero = torch.zeros_like
        return Signal(zero(signal.squares), zero(signal.distances), zero(signal.means), signal.variance)
    centred = signal.distances.mean(1) - variance  # of each sample, its squared distance to the mean of all
    return Signal(centred / variance, signal.distances / variance, torch.zeros_like(signal.means), signal.variance)


@through.register
def _(layer: nn.LayerNorm, signal: Signal, given: Tensor) -> Signal:
    means = signal.means
    distances = signal.distances - (means[:, None] - means[None, :]).square()
    return _rescaled(replace(signal, squares=signal.squares - means.square(), distances=distances))


@through.register
def _(layer: nn.RMSNorm, signal: Signal, given: Tensor) -> Signal:
    return _rescaled(signal)


def _rescaled(signal: Signal) -> Signal:
    """Every sample divided by its size r: |a/r - a'/r'|^2 = (d - (r - r')^2) / (r r'); 0 where a sample has no size."""
    sizes = signal.squares.clamp(min=0).sqrt()
    both = torch.outer(sizes, sizes)
    apart = (signal.distances - (sizes[:, None] - sizes[None, :]).square()).clamp(min=0)
    distances = torch.where(both > 0, apart / both, 0.0)
    return Signal((sizes > 0).double(), distances, torch.zeros_like(sizes), signal.variance)


@through.register
def _(block: Residual, signal: Signal, given: Tensor) -> Signal | None:
    """skip + body: squares and distances add up where the body ends in fresh weights of mean 0, or is centred."""
    last = block.body[-1]
    ends_in_sum = isinstance(last, Weighted) and last.activation.type == "identity"
    if not (ends_in_sum or isinstance(last, nn.BatchNorm1d | nn.BatchNorm2d)):
        return None
    with torch.no_grad():
        skip = through(block.skip, signal, given)
        body: Signal | None = signal
        for module in block.body:
            body = through(module, body, given) if body is not None else None
            given = module(given)
    if skip is None or body is None:
        return None
    squares, distances = skip.squares + body.squares, skip.distances + body.distances
    return Signal(squares, distances, skip.means + body.means, max(skip.variance, body.variance))


# --- activations ----------------------------------------------------------------------------------------------------


def _normal(nodes: int) -> tuple[Tensor, Tensor]:
    """Points of a standard normal and their weights: the rule of trapezoids, exact to rounding for smooth functions."""
    points = torch.linspace(-_REACH, _REACH, nodes, dtype=torch.float64)
    weights = torch.exp(-points.square() / 2)
    return points, weights / weights.sum()


def activated(function: Callable[[Tensor], Tensor], signal: Signal) -> Signal | None:
    """The signal behind an activation of normal sums; None where a unit's result depends on the other units."""
    if not is_elementwise(function):
        return None
    sizes = signal.squares.clamp(min=0).sqrt()  # (n,)
    distances = torch.zeros_like(signal.distances)
    with torch.no_grad():
        points, weights = _normal(16 * _NODES)
        values = function(torch.outer(sizes, points))
        for row in range(len(sizes) - 1):
            found = _apart(function, sizes[row], sizes[row + 1 :], signal.distances[row, row + 1 :])
            distances[row, row + 1 :] = distances[row + 1 :, row] = found
    return Signal(values.square() @ weights, distances, values @ weights, signal.variance)


def _apart(function: Callable[[Tensor], Tensor], size: Tensor, others: Tensor, distances: Tensor) -> Tensor:
    """E[(f(z) - f(z'))^2] of one sample with each of others: z = s u, z' = s' (c u + sqrt(1 - c^2) v); u, v normal.

    1 - c = (d - (s - s')^2) / (2 s s') keeps its digits where c is nearly 1.
    """
    points, weights = _normal(_NODES)
    both = 2 * size * others
    below = torch.where(both > 0, (distances - (size - others).square()) / both, 1.0).clamp(0, 2)[:, None, None]
    u, v = points[None, :, None], points[None, None, :]
    mixed = (1 - below) * u + (below * (2 - below)).sqrt() * v  # (pairs, u, v)
    # fresh tensors both: an activation may write over what it is given
    difference = function(others[:, None, None] * mixed) - function(size * u)
    return difference.square() @ weights @ weights


def is_elementwise(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether each number of the result depends on its own number alone; softmax does not."""
    grid = torch.linspace(-3, 3, 12, dtype=torch.float64).view(4, 3)
    with torch.no_grad():
        together = function(grid.clone())
        alone = torch.cat([function(column.clone()) for column in torch.split(grid, 1, dim=1)], dim=1)
    return together.shape == alone.shape and bool(torch.allclose(together, alone, rtol=1e-12, atol=1e-12))


# --- the layers of a network -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerSignal:
    """The outputs of a layer at the start: size (root mean square), spread between samples, gradient of the loss.

    The expected ones follow from the initialisers, None where there is no formula. `tolerance` is the factor by which
    a network of these widths may differ from them by chance. The gradient is the norm of dL/da for one sample.
    """

    layer: str
    module: str
    expected_size: float | None
    size: float
    expected_spread: float | None
    spread: float
    tolerance: float | None
    gradient: float | None


def layer_signals(network: Network, look: Look) -> list[LayerSignal]:
    """A row for each layer but flatten and dropout, residual blocks as a whole; `look` is of that network."""
    found = []
    n = min(SAMPLES, len(look.output))
    signal: Signal | None = None
    for index, layer in walk(network.layers):
        if "." in index:
            continue  # what is inside of a block is part of it
        given, output = look.inputs[index][:n], look.outputs[index][:n]
        expected = through(layer, signal or measured(given), given)
        actual = measured(output)
        signal = expected or actual
        if isinstance(layer, nn.Flatten | Dropout | nn.AlphaDropout):
            continue
        found.append(
            LayerSignal(
                layer=index,
                module=type(layer).__name__,
                expected_size=expected.size if expected else None,
                size=actual.size,
                expected_spread=expected.spread if expected else None,
                spread=actual.spread,
                tolerance=math.exp(_DEVIATIONS / 2 * math.sqrt(expected.variance)) if expected else None,
                gradient=gradient_size(look.gradients[index]),
            )
        )
    return found


def gradient_size(gradient: Tensor | None) -> float | None:
    """The norm of the derivative of one sample's loss by the outputs of a layer: the root mean square over the samples.

    That of the mean loss is 1 / n of it, which is undone.
    """
    if gradient is None:
        return None
    return float(torch.linalg.vector_norm(gradient)) * math.sqrt(len(gradient))
