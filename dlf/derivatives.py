"""The derivative of every layer, written out: what comes in, what goes out, and what the chain rule hands back.

A derivative is one decorated function for the modules of one layer,

    f(module, x) -> (quantities, back)          back(g) -> quantities

The first quantities lead from the input x to the output, which is the last of them. `back` is given g = dL/d(output)
and leads to dL/dx, its last quantity, by way of the gradients of the parameters. dlf/chain_rule.py puts layers one
behind the other. A module's own mode decides between training and evaluation, and nothing of it is changed.

Tensors are float64, on the CPU, samples first: x is (batch, features) or (batch, channels, height, width). Gradients of
parameters are sums over the batch. Where a function has a kink, its derivative there is what torch takes: that of the
left side, and the first of equal numbers is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlf.activations import ACTIVATIONS
from dlf.errors import UsageError
from dlf.modules import Activate, Conv2d, Dropout, Linear, Maxout, Weighted
from dlf.registry import Component


@dataclass(frozen=True)
class Quantity:
    """A named number, vector or matrix of one pass: "dL/dW" = "dL/dz x^T" and its value.

    The value has the batch first where there is one; a gradient of a parameter has the parameter's shape, and
    `parameter` is then its name, "weight" in the layer and "layers.0.weight" in the network.
    """

    symbol: str
    formula: str
    value: Tensor
    parameter: str = ""


Back = Callable[[Tensor], list[Quantity]]
Derivative = Callable[[Any, Tensor], tuple[list[Quantity], Back]]

_DERIVATIVES: dict[type[nn.Module], tuple[str, Derivative]] = {}


def derivative_of(name: str, *modules: type[nn.Module]) -> Callable[[Derivative], Derivative]:
    """Register the decorated function as the derivative of these modules, which `type: name` of the YAML makes."""

    def add(function: Derivative) -> Derivative:
        for module in modules:
            assert module not in _DERIVATIVES, f"{module.__name__} has two derivatives"
            _DERIVATIVES[module] = name, function
        return function

    return add


def find(module: nn.Module, index: str) -> tuple[str, Derivative]:
    """The layer's name in the YAML and its derivative; UsageError, with what to add, where nobody wrote it out."""
    if type(module) not in _DERIVATIVES:
        kind = type(module).__name__
        known = ", ".join(sorted({name for name, _ in _DERIVATIVES.values()}))
        raise UsageError(
            f"layer {index} is a {kind}, and its derivative is not written out; those of these layers are: {known}."
            f" Add a function for it, decorated with @derivative_of(NAME, {kind}) (dlf/derivatives.py)"
        )
    return _DERIVATIVES[type(module)]


def formulas_of(facts: Mapping[str, Any], parameters: Mapping[str, Any], otherwise: tuple[str, str]) -> tuple[str, str]:
    """The fact `formulas` of an activation or a loss, with its parameters: the function's and the derivative's."""
    formulas = facts.get("formulas", otherwise)
    if callable(formulas):
        of_function, of_derivative = formulas(**parameters)
        return of_function, of_derivative
    settings = "".join(f", {name} = {value}" for name, value in parameters.items())
    return formulas[0] + settings, formulas[1] + settings


# --- what every neuron does: a weighted sum and an activation ---------------------------------------------------------


def activated(activation: Component, z: Tensor) -> tuple[list[Quantity], Back]:
    """a = f(z), and from dL/da to dL/dz; of the identity no quantities, for a is z and dL/dz is dL/da.

    UsageError where the activation has neither the fact `slope` nor `pullback` (dlf/activations.py).
    """
    if activation.type == "identity":
        return [], lambda g: []
    entry, parameters = ACTIVATIONS.get(activation.type), activation.parameters
    slope, pullback = entry.facts.get("slope"), entry.facts.get("pullback")
    if slope is None and pullback is None:
        raise UsageError(
            f"the derivative of the activation {activation.type} is not written out: register it with"
            " slope=g, where g(z, ...) is f'(z), and formulas=(that of f, that of f') (dlf/activations.py)"
        )
    a = entry.function(z.clone(), **parameters)
    of_f, of_derivative = formulas_of(entry.facts, parameters, ("as registered", "as registered"))

    def back(g: Tensor) -> list[Quantity]:
        if slope is None:
            return [Quantity("dL/dz", of_derivative, entry.facts["pullback"](g, z, **parameters))]
        steepness = slope(z, **parameters)
        return [
            Quantity("f'(z)", of_derivative, steepness),
            Quantity("dL/dz", "dL/da f'(z)", g * steepness),
        ]

    return [Quantity("a", f"{activation.type}(z) = {of_f}", a)], back


def _over(batch: Tensor, formula: str) -> str:
    """What is added up over the samples, and says so where there are several."""
    return formula if len(batch) == 1 else f"sum over the batch of {formula}"


def _sum_formula(layer: Weighted) -> str:
    return "W x" if layer.bias is None else "W x + b"


@derivative_of("linear", Linear)
def linear(layer: Linear, x: Tensor) -> tuple[list[Quantity], Back]:
    """z = W x + b, a = f(z); W (units, in)."""
    z = _affine(layer, x)
    after, to_z = activated(layer.activation, z)

    def back(g: Tensor) -> list[Quantity]:
        steps = to_z(g)
        return [*steps, *_affine_back(layer, x, steps[-1].value if steps else g)]

    return [Quantity("z", _sum_formula(layer), z), *after], back


def _affine(layer: Weighted, x: Tensor) -> Tensor:
    """x W^T + b: (batch, in) -> (batch, out)."""
    z = x @ layer.weight.T
    return z if layer.bias is None else z + layer.bias


def _affine_back(layer: Weighted, x: Tensor, d: Tensor) -> list[Quantity]:
    """From d = dL/dz (batch, out) to dL/dW (out, in), dL/db (out,) and dL/dx (batch, in)."""
    steps = [Quantity("dL/dW", _over(x, "dL/dz x^T"), d.T @ x, "weight")]
    if layer.bias is not None:
        steps.append(Quantity("dL/db", _over(x, "dL/dz"), d.sum(0), "bias"))
    return [*steps, Quantity("dL/dx", "W^T dL/dz", d @ layer.weight)]


@derivative_of("maxout", Maxout)
def maxout(layer: Maxout, x: Tensor) -> tuple[list[Quantity], Back]:
    """z = W x + b in pieces, a = the largest piece of each unit."""
    z = _affine(layer, x)
    pieces = z.view(len(x), layer.pieces, -1)  # (batch, pieces, units)
    a, winner = pieces.max(dim=1)

    def back(g: Tensor) -> list[Quantity]:
        d = torch.zeros_like(pieces).scatter_(1, winner[:, None], g[:, None]).flatten(1)
        step = Quantity("dL/dz", "dL/da for the largest piece, 0 for the others", d)
        return [step, *_affine_back(layer, x, d)]

    return [Quantity("z", _sum_formula(layer), z), Quantity("a", "max over the pieces of z", a)], back


@derivative_of("conv2d", Conv2d)
def conv2d(layer: Conv2d, x: Tensor) -> tuple[list[Quantity], Back]:
    """z = W * x + b, a = f(z): for each place of the kernel what linear does, between the channels of each pixel."""
    weight, border = layer.weight, layer.padding
    size = weight.shape[-1]
    padded = F.pad(x, (border,) * 4)
    places = list(_windows(padded, size, layer.stride))
    z = sum(_mixed(weight[:, :, i, j], padded[window]) for (i, j), window in places)
    assert isinstance(z, Tensor)
    if layer.bias is not None:
        z = z + layer.bias[:, None, None]
    after, to_z = activated(layer.activation, z)

    def back(g: Tensor) -> list[Quantity]:
        steps = to_z(g)
        d = steps[-1].value if steps else g
        dw, dx = torch.zeros_like(weight), torch.zeros_like(padded)
        for (i, j), window in places:
            dw[:, :, i, j] = torch.einsum("nohw,nchw->oc", d, padded[window])
            dx[window] += _mixed(weight[:, :, i, j].T, d)
        steps.append(Quantity("dL/dW", _over(x, "dL/dz x^T, added up over the pixels"), dw, "weight"))
        if layer.bias is not None:
            steps.append(Quantity("dL/db", _over(x, "dL/dz, added up over the pixels"), d.sum((0, 2, 3)), "bias"))
        height, width = x.shape[2:]
        inside = dx[:, :, border : border + height, border : border + width]
        return [*steps, Quantity("dL/dx", "W^T dL/dz, added up over the windows that see the pixel", inside)]

    formula = "W * x" if layer.bias is None else "W * x + b"
    return [Quantity("z", formula + ", * a sliding sum of products", z), *after], back


def _mixed(weight: Tensor, x: Tensor) -> Tensor:
    """weight (out, in) times the channels of every pixel: (batch, in, height, width) -> (batch, out, height, width)."""
    return torch.einsum("oc,nchw->nohw", weight, x)


Window = tuple[slice, slice, slice, slice]


def _windows(x: Tensor, size: int, stride: int) -> Iterator[tuple[tuple[int, int], Window]]:
    """For each place (i, j) of a sliding size x size window: the pixels of x that lie under it, one for each output."""
    height, width = ((side - size) // stride for side in x.shape[2:])
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + stride * height + 1, stride)
            columns = slice(j, j + stride * width + 1, stride)
            yield (i, j), (slice(None), slice(None), rows, columns)


# --- activations as layers --------------------------------------------------------------------------------------------


@derivative_of("activation", Activate)
def activation(layer: Activate, x: Tensor) -> tuple[list[Quantity], Back]:
    """a = f(z) with z = x."""
    after, to_z = activated(layer.activation, x)

    def back(g: Tensor) -> list[Quantity]:
        steps = to_z(g)
        return [*steps, Quantity("dL/dx", "dL/dz", steps[-1].value if steps else g)]

    return [Quantity("z", "x", x), *after], back


@derivative_of("prelu", nn.PReLU)
def prelu(layer: nn.PReLU, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = max(x, 0) + s min(x, 0), the slope s learnt, one for all or one a channel."""
    slope = layer.weight.view(-1, *[1] * (x.ndim - 2))
    below = x.clamp(max=0)

    def back(g: Tensor) -> list[Quantity]:
        steepness = torch.where(x > 0, 1.0, slope)
        ds = (g * below).transpose(0, 1).flatten(1).sum(1)  # (channels,)
        formula = "dL/dy min(x, 0), added up over all that share s"
        return [
            Quantity("f'(x)", "1 where x > 0, else s", steepness),
            Quantity("dL/ds", _over(x, formula), ds if layer.num_parameters > 1 else ds.sum()[None], "weight"),
            Quantity("dL/dx", "dL/dy f'(x)", g * steepness),
        ]

    return [Quantity("y", "max(x, 0) + s min(x, 0), s learnt", x.clamp(min=0) + slope * below)], back


# --- dropout ----------------------------------------------------------------------------------------------------------


def _unchanged(x: Tensor, why: str) -> tuple[list[Quantity], Back]:
    return [Quantity("y", f"x: {why}", x)], lambda g: [Quantity("dL/dx", "dL/dy", g)]


@derivative_of("dropout", Dropout)
def dropout(layer: Dropout, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = m x in training, m drawn as the layer draws it, from torch's default generator."""
    if not layer.training or layer.drop == 0:
        return _unchanged(x, "nothing is dropped in evaluation" if layer.drop else "a rate of 0 drops nothing")
    mask = layer.mask(x)
    drawn = Quantity("m", f"0 for a share of {layer.rate:g}, else {layer.scale:.6g}", mask)
    return [drawn, Quantity("y", "m x", mask * x)], lambda g: [Quantity("dL/dx", "m dL/dy", mask * g)]


@derivative_of("alpha_dropout", nn.AlphaDropout)
def alpha_dropout(layer: nn.AlphaDropout, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = c (m x + (1 - m) s) + d in training: what is dropped becomes s, the least value of selu.

    c and d restore mean 0 and variance 1; m is drawn as torch draws it, from its default generator.
    """
    if not layer.training or layer.p == 0:
        return _unchanged(x, "nothing is dropped in evaluation" if layer.p else "a rate of 0 drops nothing")
    least = -1.7580993408473766  # selu(-inf), as torch rounds it
    scale = 1 / math.sqrt((1 - layer.p) * (1 + layer.p * least**2))
    shift = -scale * layer.p * least
    mask = torch.empty_like(x).bernoulli_(1 - layer.p)
    y = scale * (mask * x + (1 - mask) * least) + shift
    formula = f"{scale:.6g} (m x + (1 - m) {least:.6g}) + {shift:.6g}"
    steps = [Quantity("m", f"0 for a share of {layer.p:g}, else 1", mask), Quantity("y", formula, y)]
    return steps, lambda g: [Quantity("dL/dx", f"{scale:.6g} m dL/dy", scale * mask * g)]


# --- normalization ----------------------------------------------------------------------------------------------------


@derivative_of("batch_norm", nn.BatchNorm1d, nn.BatchNorm2d)
def batch_norm(layer: nn.BatchNorm1d, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = gain n + shift, n = (x - mean) / sqrt(variance + eps) over the batch; with running values in evaluation."""
    over, column = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    if layer.training:
        if x.numel() == x.shape[1]:
            raise UsageError("batch_norm cannot measure the spread of one sample: take more, or evaluation mode")
        mean, variance, whose = x.mean(over), x.var(over, correction=0), " over the batch"
    else:
        mean, variance, whose = layer.get_buffer("running_mean"), layer.get_buffer("running_var"), " seen in training"
    deviation = (variance + layer.eps).sqrt().view(column)
    n = (x - mean.view(column)) / deviation

    def back(g: Tensor) -> list[Quantity]:
        steps = _gain_back(layer, layer.weight.view(column), n, g, over)
        if layer.training:
            return [*steps, _standardized_back(steps[-1].value, n, deviation, over)]
        return [*steps, Quantity("dL/dx", "dL/dn / sqrt(variance + eps)", steps[-1].value / deviation)]

    y = layer.weight.view(column) * n + layer.bias.view(column)
    steps = [Quantity("mean", f"mean of x{whose}", mean), Quantity("variance", f"variance of x{whose}", variance)]
    return [*steps, Quantity("n", _STANDARDIZED, n), Quantity("y", "gain n + shift", y)], back


_STANDARDIZED = "(x - mean) / sqrt(variance + eps)"


@derivative_of("layer_norm", nn.LayerNorm)
def layer_norm(layer: nn.LayerNorm, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = gain n + shift, n = (x - mean) / sqrt(variance + eps) over each sample."""
    over = tuple(range(1, x.ndim))
    mean, variance = x.mean(over, keepdim=True), x.var(over, correction=0, keepdim=True)
    deviation = (variance + layer.eps).sqrt()
    n = (x - mean) / deviation

    def back(g: Tensor) -> list[Quantity]:
        steps = _gain_back(layer, layer.weight, n, g, (0,))
        return [*steps, _standardized_back(steps[-1].value, n, deviation, over)]

    steps = [
        Quantity("mean", "mean of x over the sample", mean.flatten(1)),
        Quantity("variance", "variance of x over the sample", variance.flatten(1)),
        Quantity("n", _STANDARDIZED, n),
        Quantity("y", "gain n + shift", layer.weight * n + layer.bias),
    ]
    return steps, back


@derivative_of("rms_norm", nn.RMSNorm)
def rms_norm(layer: nn.RMSNorm, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = gain n, n = x / rms, rms = sqrt(mean(x^2) + eps) over each sample."""
    over = tuple(range(1, x.ndim))
    assert layer.eps is not None
    rms = (x.square().mean(over, keepdim=True) + layer.eps).sqrt()
    n = x / rms

    def back(g: Tensor) -> list[Quantity]:
        steps = _gain_back(layer, layer.weight, n, g, (0,))
        dn = steps[-1].value
        dx = (dn - n * (dn * n).mean(over, keepdim=True)) / rms
        return [*steps, Quantity("dL/dx", "(dL/dn - n mean(dL/dn n)) / rms: rms depends on x too", dx)]

    root = Quantity("rms", "sqrt(mean of x^2 over the sample + eps)", rms.flatten(1))
    return [root, Quantity("n", "x / rms", n), Quantity("y", "gain n", layer.weight * n)], back


def _gain_back(layer: nn.Module, gain: Tensor, n: Tensor, g: Tensor, over: tuple[int, ...]) -> list[Quantity]:
    """From g = dL/dy with y = gain n + shift to dL/dgain, dL/dshift where there is one, and dL/dn."""
    pixels = ", added up over the pixels" if len(over) > 1 else ""
    steps = [Quantity("dL/dgain", _over(n, "dL/dy n") + pixels, (g * n).sum(over), "weight")]
    if getattr(layer, "bias", None) is not None:
        steps.append(Quantity("dL/dshift", _over(n, "dL/dy") + pixels, g.sum(over), "bias"))
    return [*steps, Quantity("dL/dn", "dL/dy gain", g * gain)]


def _standardized_back(dn: Tensor, n: Tensor, deviation: Tensor, over: tuple[int, ...]) -> Quantity:
    """From dL/dn to dL/dx where mean and variance, over these dimensions, are those of x itself."""
    dx = (dn - dn.mean(over, keepdim=True) - n * (dn * n).mean(over, keepdim=True)) / deviation
    formula = "(dL/dn - mean(dL/dn) - n mean(dL/dn n)) / sqrt(variance + eps): mean and variance depend on x too"
    return Quantity("dL/dx", formula, dx)


# --- shapes and windows -----------------------------------------------------------------------------------------------


@derivative_of("flatten", nn.Flatten)
def flatten(layer: nn.Flatten, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = x in one row."""
    y = x.flatten(1)
    return [Quantity("y", "x in one row", y)], lambda g: [Quantity("dL/dx", "dL/dy in the shape of x", g.view_as(x))]


@derivative_of("max_pool2d", nn.MaxPool2d)
def max_pool2d(layer: nn.MaxPool2d, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = the largest pixel of each window, which alone is handed the gradient."""
    windows = _pooled(layer, x)
    y, winner = torch.stack([x[window] for window in windows]).max(0)

    def back(g: Tensor) -> list[Quantity]:
        dx = torch.zeros_like(x)
        for place, window in enumerate(windows):
            dx[window] += g * (winner == place)
        return [Quantity("dL/dx", "dL/dy at the largest pixel of the window, 0 elsewhere", dx)]

    return [Quantity("y", "max of x over the window", y)], back


@derivative_of("avg_pool2d", nn.AvgPool2d)
def avg_pool2d(layer: nn.AvgPool2d, x: Tensor) -> tuple[list[Quantity], Back]:
    """y = the mean of each window, whose pixels share the gradient."""
    windows = _pooled(layer, x)
    y = torch.stack([x[window] for window in windows]).mean(0)

    def back(g: Tensor) -> list[Quantity]:
        dx = torch.zeros_like(x)
        for window in windows:
            dx[window] += g / len(windows)
        return [Quantity("dL/dx", f"dL/dy / {len(windows)} for each pixel of the window", dx)]

    return [Quantity("y", "mean of x over the window", y)], back


def _pooled(layer: nn.MaxPool2d | nn.AvgPool2d, x: Tensor) -> list[Window]:
    size, stride = layer.kernel_size, layer.stride
    assert isinstance(size, int)
    assert isinstance(stride, int)
    return [window for _, window in _windows(x, size, stride)]
