"""How gradients are computed: by autograd for every network, by the chain rule written out for plain chains.

A chain is a network of linear and dropout layers, one behind the other, whose activations have a derivative that
follows from their result (the fact `back` in dlf/activations.py). With a_0 the normalized input and g_n the derivative
of the loss by the output,

    forward    a_i = f(a_{i-1} W_i^T + b_i)                                           (batch, units)
    backward   d_i = g_i f'(a_i)    dW_i = d_i^T a_{i-1}    db_i = sum of d_i over the batch    g_{i-1} = d_i W_i

is all that there is to do. Autograd does the same, and on a CPU it spends up to a fifth of a small network's step on
recording it, on conversions, and on memory for results that are as large in every step (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlf.activations import ACTIVATIONS
from dlf.losses import BoundLoss
from dlf.model import Network
from dlf.modules import Dropout, Linear


def _one_pass() -> Callable[..., Any] | None:
    """oneDNN's product, bias and activation in one pass, as torch's compiler calls it; None where torch lacks it."""
    available: Callable[[], bool] = torch.backends.mkldnn.is_available
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if available() else None


_ONE_PASS = _one_pass()
_ITS_NAMES = {"relu": "relu", "identity": "none"}
_ITS_NUMBERS = (torch.float32, torch.bfloat16)
_PAYS_FROM = 2**20  # multiply-adds: a smaller product is over before that pass is set up


class Backpropagation(Protocol):
    """(x, y, loss) -> (output, value): one batch forward and backward, x and y as they were read.

    Leaves dL/dp in the `grad` of every parameter p. The output is (batch, units), the value 0-dim; both without graph.
    """

    def __call__(self, x: Tensor, y: Tensor, loss: BoundLoss) -> tuple[Tensor, Tensor]: ...


def backpropagation(network: Network) -> Backpropagation:
    """The fastest way for this network where it is."""
    links = _links(network)
    return Autograd(network) if links is None else Chain(network, links)


@dataclass(frozen=True)
class Autograd:
    """For every network, everywhere: torch records the forward pass and walks it back."""

    network: Network

    def __call__(self, x: Tensor, y: Tensor, loss: BoundLoss) -> tuple[Tensor, Tensor]:
        output = self.network(x)
        value = loss(output, self.network.scaled(y))
        for parameter in self.network.parameters():
            parameter.grad = None
        value.backward()  # type: ignore[no-untyped-call]
        return output.detach(), value.detach()


@dataclass(frozen=True)
class Chain:
    """For chains on a CPU: the chain rule written out, without a graph."""

    network: Network
    links: list[Link]

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, loss: BoundLoss) -> tuple[Tensor, Tensor]:
        a = self.network.normalize(x).flatten(1)
        for link in self.links:
            a = link.forward(a)
        output = a.to(self.network.inputs_mean.dtype)
        value, g = loss.with_gradient(output, self.network.scaled(y))
        for link in reversed(self.links):
            g = link.backward(g, further=link is not self.links[0])
        return output, value


class Link:
    """A linear layer of a chain and the dropout before it: what stays from forward to backward, and from step to step.

    `weight` and `bias` are in the numbers of the products: the parameters themselves, or copies that are rounded anew
    in every step into the same memory. `gradients` are written anew in every step too.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, layer: Linear, dropout: Dropout | None) -> None:
        self.parameters = weight, bias
        self.gradients = torch.empty_like(weight), torch.empty_like(bias)
        self.products = layer.products or weight.dtype
        self.weight, self.bias = (parameter.detach().to(self.products) for parameter in self.parameters)
        self.activate = layer.activate
        self.settings = layer.activation.parameters
        self.back: Callable[..., Tensor] = ACTIVATIONS.get(layer.activation.type).facts["back"]
        self.name_in_one_pass = _ITS_NAMES.get(layer.activation.type)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """f(x W^T + b) for x (batch, in): (batch, units)."""
        x = x.to(self.products)
        self.mask = None if self.dropout is None or self.dropout.drop == 0 else self.dropout.mask(x)
        self.input = x if self.mask is None else x * self.mask
        large = x.shape[0] * self.weight.numel() >= _PAYS_FROM and self.products in _ITS_NUMBERS
        self.one_pass = _ONE_PASS if large else None
        if self.weight.dtype != self.parameters[0].dtype:
            self.weight.copy_(self.parameters[0])
            self.bias.copy_(self.parameters[1])
        self.result = self._activated_sum()
        return self.result

    def backward(self, g: Tensor, *, further: bool) -> Tensor:
        """Fills the gradients from g = dL/da (batch, units); dL/dx (batch, in), which only `further` asks for."""
        d = self.back(g.to(self.products), self.result, **self.settings)
        weight, bias = self.gradients
        if self.products == weight.dtype:
            torch.mm(d.t(), self.input, out=weight)
        else:
            weight.copy_(d.t() @ self.input)
        bias.copy_(d.sum(0))
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        if not further:
            return d
        g = self._through(d)
        return g if self.mask is None else g.mul_(self.mask)

    def _activated_sum(self) -> Tensor:
        if self.one_pass is None or self.name_in_one_pass is None:
            return self.activate(F.linear(self.input, self.weight, self.bias))
        result: Tensor = self.one_pass(self.input, self.weight, self.bias, self.name_in_one_pass, [], "")
        return result

    def _through(self, d: Tensor) -> Tensor:
        """d W, which oneDNN computes faster in single precision than the library behind `@`."""
        if self.one_pass is None:
            return d @ self.weight
        result: Tensor = self.one_pass(d, self.weight.t(), None, "none", [], "")
        return result


def _links(network: Network) -> list[Link] | None:
    """The chain that the network's layers form; None where they form none, or where autograd has the better kernels."""
    links: list[Link] = []
    dropout = None
    for layer in network.layers:
        if isinstance(layer, Linear) and layer.bias is not None and _is_plain(layer):
            links.append(Link(layer.weight, layer.bias, layer, dropout))  # type: ignore[arg-type]
            dropout = None
        elif isinstance(layer, Dropout) and dropout is None:
            dropout = layer
        elif not isinstance(layer, nn.Flatten) or links:
            return None
    return links if links and dropout is None else None


def _is_plain(layer: Linear) -> bool:
    derivative_is_known = "back" in ACTIVATIONS.get(layer.activation.type).facts
    return derivative_is_known and all(p.requires_grad and p.device.type == "cpu" for p in layer.parameters())
