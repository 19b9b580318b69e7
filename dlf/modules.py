"""The modules that layers are made of, where torch's own would cost time or lack what dlf needs.

They are built on the meta device, without memory, and know how to fill themselves: nothing here reads a weight before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlf.activations import ACTIVATIONS
from dlf.inits import INITS, chosen
from dlf.registry import Component, Flaw, InvalidError

IDENTITY = ACTIVATIONS.make("identity")
AUTO = INITS.make("auto")
MOST_WEIGHTS = 2**40  # 4 TiB of float32: no machine holds it, and well below where torch's own arithmetic overflows
_STEPS = 2**16  # a share is rounded to 1/65,536: 0.2 becomes 0.19999695


def misfit(message: str) -> InvalidError:
    """What is said of a shape that a layer does not take."""
    return InvalidError([Flaw((), message)])


def _plain(activation: Component, *, overwrite: bool) -> Callable[[Tensor], Tensor]:
    """The activation as a callable of one tensor; with `overwrite` it may write over its input."""
    entry = ACTIVATIONS.get(activation.type)
    function: Callable[..., Tensor] = entry.facts.get("inplace", entry.function) if overwrite else entry.function
    return partial(function, **activation.parameters) if activation.parameters else function


class Weighted(nn.Module):
    """A weight (out, in, *kernel), a bias (out,) or None, what fills the weight and what follows the sum."""

    bias: Tensor | None
    pieces = 1  # maps of the same size that lie one behind the other in the weight

    def __init__(
        self, shape: tuple[int, ...], bias: bool, init: Component | None, activation: Component | None = None
    ) -> None:
        super().__init__()
        if math.prod(shape) > MOST_WEIGHTS:
            size = " x ".join(map(str, shape))
            raise misfit(f"a weight of {size} numbers fits into no machine: take fewer units, channels or pixels")
        self.weight = nn.Parameter(torch.empty(shape))
        self.register_parameter("bias", nn.Parameter(torch.empty(shape[0])) if bias else None)
        self.activation = activation or IDENTITY
        self.init = chosen(init or AUTO, self.activation)
        self.activate = _plain(self.activation, overwrite=True)  # the sum is fresh and nobody else's
        self.products: torch.dtype | None = None  # in which numbers the products are computed; None: as they come
        self.hand_on = False  # whether what comes out keeps that type, because the next product rounds to it anyway

    def product(self, function: Callable[..., Tensor], x: Tensor, *settings: Any) -> Tensor:
        """function(x, weight, bias, *settings) in `products`; out comes that type with `hand_on`, else float32."""
        if self.products is None:
            return function(x, self.weight, self.bias, *settings)
        bias = None if self.bias is None else self.bias.to(self.products)
        output = function(x.to(self.products), self.weight.to(self.products), bias, *settings)
        return output if self.hand_on else output.to(self.weight.dtype)

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the weight from the generator, each piece with the fans of its own, and the bias with zeros."""
        for piece in self.weight.chunk(self.pieces):
            INITS.build(self.init, piece, generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Linear(Weighted):
    """activation(x W^T + b): (batch, in) -> (batch, units)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.product(F.linear, x))


class Conv2d(Weighted):
    """activation(W * x + b): (batch, in, height, width) -> (batch, channels, height', width')."""

    def __init__(self, *weighted: Any, stride: int, padding: int) -> None:
        super().__init__(*weighted)
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.product(F.conv2d, x, self.stride, self.padding))


class Maxout(Weighted):
    """max over the pieces of x W_piece^T + b_piece: (batch, in) -> (batch, units)."""

    def __init__(self, *weighted: Any, pieces: int) -> None:
        super().__init__(*weighted)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        sums = self.product(F.linear, x)  # (batch, pieces * units), piece after piece
        return sums.view(len(x), self.pieces, sums.shape[1] // self.pieces).max(dim=1).values


class Activate(nn.Module):
    """An activation as a module: same shape out as in. It never writes over its input, which may be a skip's too."""

    def __init__(self, activation: Component) -> None:
        super().__init__()
        self.activation = activation
        self.activate = _plain(activation, overwrite=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(x)


class Dropout(nn.Module):
    """x * m / keep in training, with m 0 for a share of `rate` and 1 for `keep`, the rest; x in evaluation.

    Any shape, which stays. The mask comes from torch's default generator: 64 of its bits decide four values, so a mask
    of 128 x 512 costs 0.1 ms where drawing real numbers costs 0.5. The scale is by the rounded share, so the mean is
    exact. Srivastava et al., 2014.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.drop = round(rate * _STEPS)
        self.scale = _STEPS / (_STEPS - self.drop) if self.drop < _STEPS else 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0:
            return x
        if x.device.type != "cpu":  # one kernel does all of it
            return F.dropout(x, self.rate)
        return x * self.mask(x)

    def mask(self, x: Tensor) -> Tensor:
        """What x is multiplied by in training, on the CPU: zeros and `scale`, of the shape and type of x."""
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        words = bits.view(torch.int16)[: x.numel()].view(x.shape)  # uniform over -32,768 .. 32,767
        keep = words >= self.drop - _STEPS // 2 if self.drop < _STEPS else torch.zeros_like(words)
        return keep.to(x.dtype).mul_(self.scale)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
