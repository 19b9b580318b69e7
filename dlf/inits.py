"""Initialisers: what the weights are before the first step.

An initialiser is `f(weight: Tensor, generator: torch.Generator, *, ...) -> None`. It fills the weight in place and
draws from that generator alone, which must be on the weight's device. A weight is (out, in, *kernel), and the fans are

    fan_in  = in  * prod(kernel)        how many products one output adds up
    fan_out = out * prod(kernel)        how many products one input goes into

The uniform distributions are U(-limit, limit) with limit = sqrt(3) * std; none of the normal ones is cut off, except
truncated_normal. Biases are no business of an initialiser: they start at zero (dlf/layers.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import init

from dlf.activations import ACTIVATIONS
from dlf.registry import Component, Registry

INITS: Registry[Callable[..., None]] = Registry("init")

Fan = Literal["in", "out"]
_FAN_MODES: dict[Fan, Literal["fan_in", "fan_out"]] = {"in": "fan_in", "out": "fan_out"}


def chosen(init: Component, activation: Component) -> Component:
    """The initialiser that `auto` stands for in a layer with this activation; any other one unchanged."""
    return INITS.make(ACTIVATIONS.get(activation.type).facts["init"]) if init.type == "auto" else init


@INITS.register("auto")
def auto(weight: Tensor, generator: torch.Generator) -> None:
    """Picks by the layer's activation: he_normal for relu and its kin, lecun_normal for selu, else xavier_uniform."""
    raise AssertionError("auto draws nothing: chosen() replaces it by an initialiser")


@INITS.register("xavier_uniform")
def xavier_uniform(weight: Tensor, generator: torch.Generator, *, gain: PositiveFloat = 1.0) -> None:
    """Uniform, std = gain * sqrt(2 / (fan_in + fan_out)). Glorot and Bengio, 2010.

    A compromise between 1 / fan_in, which keeps the size of the signals, and 1 / fan_out, of the gradients.
    """
    init.xavier_uniform_(weight, gain, generator)


@INITS.register("xavier_normal")
def xavier_normal(weight: Tensor, generator: torch.Generator, *, gain: PositiveFloat = 1.0) -> None:
    """Normal, mean 0, std = gain * sqrt(2 / (fan_in + fan_out)). Glorot and Bengio, 2010."""
    init.xavier_normal_(weight, gain, generator)


@INITS.register("he_uniform")
def he_uniform(weight: Tensor, generator: torch.Generator, *, slope: NonNegativeFloat = 0.0, fan: Fan = "in") -> None:
    """Uniform, std = sqrt(2 / ((1 + slope^2) * fan)), slope that of a leaky relu. He et al., 2015.

    `fan: in` keeps the size of the signals, `fan: out` that of the gradients.
    """
    init.kaiming_uniform_(weight, slope, _FAN_MODES[fan], "leaky_relu", generator)


@INITS.register("he_normal")
def he_normal(weight: Tensor, generator: torch.Generator, *, slope: NonNegativeFloat = 0.0, fan: Fan = "in") -> None:
    """Normal, mean 0, std = sqrt(2 / ((1 + slope^2) * fan)), slope that of a leaky relu. He et al., 2015.

    `fan: in` keeps the size of the signals, `fan: out` that of the gradients.
    """
    init.kaiming_normal_(weight, slope, _FAN_MODES[fan], "leaky_relu", generator)


@INITS.register("lecun_uniform")
def lecun_uniform(weight: Tensor, generator: torch.Generator) -> None:
    """Uniform, std = sqrt(1 / fan_in). LeCun et al., 1998."""
    limit = math.sqrt(3 / _fan_in(weight))
    init.uniform_(weight, -limit, limit, generator)


@INITS.register("lecun_normal")
def lecun_normal(weight: Tensor, generator: torch.Generator) -> None:
    """Normal, mean 0, std = sqrt(1 / fan_in): the one that selu is made for. LeCun et al., 1998."""
    init.normal_(weight, 0.0, math.sqrt(1 / _fan_in(weight)), generator)


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()


@INITS.register("uniform")
def uniform(weight: Tensor, generator: torch.Generator, *, limit: PositiveFloat = 0.05) -> None:
    """Uniform between -limit and limit, whatever the size of the layer."""
    init.uniform_(weight, -limit, limit, generator)


@INITS.register("normal")
def normal(weight: Tensor, generator: torch.Generator, *, mean: float = 0.0, std: PositiveFloat = 0.05) -> None:
    """Normal with this mean and standard deviation, whatever the size of the layer."""
    init.normal_(weight, mean, std, generator)


@INITS.register("truncated_normal")
def truncated_normal(
    weight: Tensor,
    generator: torch.Generator,
    *,
    mean: float = 0.0,
    std: PositiveFloat = 0.05,
    cut: PositiveFloat = 2.0,
) -> None:
    """Normal with this mean and std, drawn again where it lies more than cut * std from the mean.

    `std` is that of the uncut normal: with cut 2 the weights have 0.88 of it.
    """
    init.trunc_normal_(weight, mean, std, mean - cut * std, mean + cut * std, generator)


@INITS.register("orthogonal")
def orthogonal(weight: Tensor, generator: torch.Generator, *, gain: PositiveFloat = 1.0) -> None:
    """gain * a random orthogonal matrix, of the weight as (out, in * prod(kernel)). Saxe et al., 2013.

    Uniform over the orthogonal matrices; its rows are orthonormal where it is wide, its columns where it is tall.
    """
    init.orthogonal_(weight, gain, generator)


@INITS.register("zeros")
def zeros(weight: Tensor, generator: torch.Generator) -> None:
    """All zeros. A hidden layer cannot learn from there: every unit stays like its neighbour."""
    init.zeros_(weight)


@INITS.register("ones")
def ones(weight: Tensor, generator: torch.Generator) -> None:
    """All ones. A hidden layer cannot learn from there: every unit stays like its neighbour."""
    init.ones_(weight)


@INITS.register("constant")
def constant(weight: Tensor, generator: torch.Generator, *, value: float) -> None:
    """All equal to value. A hidden layer cannot learn from there: every unit stays like its neighbour."""
    init.constant_(weight, value)
