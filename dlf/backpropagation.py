"""How gradients are computed: by autograd for every network, by the chain rule written out for plain chains.

A chain is a network of linear and dropout layers, one behind the other, whose activations have a derivative that
follows from their result (the fact `back` in dlf/activations.py). With a_0 the normalized input and g_n the derivative
of the loss by the output,

    forward    a_i = f(a_{i-1} W_i^T + b_i)                                           (batch, units)
    backward   d_i = g_i f'(a_i)    dW_i = d_i^T a_{i-1}    db_i = sum of d_i over the batch    g_{i-1} = d_i W_i

is all that there is to do. Autograd does the same, and on a CPU it spends up to a fifth of a small network's step on
recording it, on conversions, and on memory for results that are as large in every step (benchmarks/README.md). Where
the products are compiled, evaluation goes forward by the same ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlf import native
from dlf.activations import ACTIVATIONS
from dlf.losses import BoundLoss
from dlf.model import Network
from dlf.modules import Dropout, Linear


def _one_pass() -> Callable[..., Any] | None:
    """oneDNN's product, bias and activation in one pass, as torch's compiler calls it; None where torch lacks it."""
    available: Callable[[], bool] = torch.backends.mkldnn.is_available
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if available() else None


_ONE_PASS = _one_pass()
_KNOWN_AS = {"relu": "relu", "identity": "none"}
_ITS_NUMBERS = (torch.float32, torch.bfloat16)
_PAYS_FROM = 2**20  # multiply-adds: a smaller product is over before that pass is set up
_TILES_PAY_FROM = 2**20  # weights of a layer: with fewer, what stands around torch's products takes longer than they do


class Backpropagation(Protocol):
    """(x, y, loss) -> (output, value): one batch forward and backward, x and y as they were read.

    Leaves dL/dp in the `grad` of every parameter p. The output is (batch, units), the value 0-dim; both without graph.
    """

    @property
    def compiled(self) -> bool:
        """Whether its products are compiled ones, which bring their own threads (dlf/native)."""

    def __call__(self, x: Tensor, y: Tensor, loss: BoundLoss) -> tuple[Tensor, Tensor]: ...


def backpropagation(network: Network) -> Backpropagation:
    """The fastest way for this network where it is."""
    links = _links(network)
    return Autograd(network) if links is None else Chain(network, links)


def compiled_forward(network: Network, shape: Sequence[int]) -> Callable[[Tensor], Tensor] | None:
    """network.eval()(x) for samples x of this shape on the CPU, by the compiled products that it is trained with.

    Whether the network is in training makes no difference. None where it has no such products, or where the samples are
    not as wide as its first layer: torch then says what is wrong, and compiled products would read what is not theirs.
    """
    if _level(network) is None or (links := _links(network, dropping=False)) is None:
        return None
    flattens = any(isinstance(layer, nn.Flatten) for layer in network.layers)
    if math.prod(shape) != links[0].weight.shape[1] or not (flattens or len(shape) == 1):
        return None
    chain = Chain(network, links)
    return lambda x: chain.forward(x).clone()


@dataclass(frozen=True)
class Autograd:
    """For every network, everywhere: torch records the forward pass and walks it back."""

    network: Network
    compiled = False

    def __call__(self, x: Tensor, y: Tensor, loss: BoundLoss) -> tuple[Tensor, Tensor]:
        output = self.network(x)
        value = loss(output, self.network.scaled(y))
        for parameter in self.network.parameters():
            parameter.grad = None
        value.backward()  # type: ignore[no-untyped-call]
        return output.detach(), value.detach()


@dataclass
class Chain:
    """For chains on a CPU: the chain rule written out, without a graph."""

    network: Network
    links: list[Link]

    compiled: bool = field(init=False)

    def __post_init__(self) -> None:
        self.compiled = all(isinstance(link, CompiledLink) for link in self.links)

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, loss: BoundLoss) -> tuple[Tensor, Tensor]:
        output = self.forward(x)
        value, g = loss.with_gradient(output, self.network.scaled(y))
        for link in reversed(self.links):
            g = link.backward(g, further=link is not self.links[0])
        return output, value

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(batch, units), in memory that the next batch may write over."""
        a, shift = self._normalized(x)
        for link in self.links:
            a, shift = link.forward(a, shift), 0.0
        return a.to(self.network.inputs_mean.dtype)

    def _normalized(self, x: Tensor) -> tuple[Tensor, float]:
        """What the first link takes: a, and what is to be added to it."""
        network, first = self.network, self.links[0]
        if self.compiled:
            found = native.normalized(x, network.inputs_mean, network.inputs_std, keep_zeros=not first.drops)
            if found is not None:
                return found
        return network.normalize(x).flatten(1), 0.0


class Link(ABC):
    """A linear layer of a chain and the dropout before it, with the memory that it keeps from step to step."""

    def __init__(self, layer: Linear, dropout: Dropout | None) -> None:
        weight, bias = layer.weight, layer.bias
        assert isinstance(bias, nn.Parameter)
        self.parameters = weight, bias
        self.weight, self.bias = weight.detach(), bias.detach()
        self.gradients = torch.empty_like(weight), torch.empty_like(bias)
        self.activate = layer.activate
        self.settings = layer.activation.parameters
        self.back: Callable[..., Tensor] = ACTIVATIONS.get(layer.activation.type).facts["back"]
        self.known_as = _KNOWN_AS.get(layer.activation.type)
        self.dropout = dropout
        self.drops = dropout is not None and dropout.drop > 0

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        """f((x + shift) W^T + b) for x (batch, in): (batch, units), in memory that the next step may write over.

        Only what is compiled, and does not drop, takes another shift than 0.
        """
        self.mask = self.dropout.mask(x) if self.dropout is not None and self.drops else None
        self.input, self.shift = x if self.mask is None else x * self.mask, shift
        self.result = self.activated_sum(self.input)
        return self.result

    def backward(self, g: Tensor, *, further: bool) -> Tensor:
        """Fills the gradients from g = dL/da (batch, units); dL/dx (batch, in), which only `further` asks for."""
        d = self.before_activation(g)
        self.fill_gradients(d)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        if not further:
            return d
        g = self.before_product(d)
        return g if self.mask is None else g.mul_(self.mask)

    @abstractmethod
    def activated_sum(self, x: Tensor) -> Tensor:
        """f((x + shift) W^T + b)."""

    @abstractmethod
    def before_activation(self, g: Tensor) -> Tensor:
        """d = g f'(a)."""

    @abstractmethod
    def fill_gradients(self, d: Tensor) -> None:
        """d^T (x + shift) and the sum of d over the batch."""

    @abstractmethod
    def before_product(self, d: Tensor) -> Tensor:
        """d W."""


class TorchLink(Link):
    """By torch's operators. `weight` and `bias` are in the numbers of the products: the parameters themselves, or
    copies that are rounded anew in every step into the same memory."""

    def __init__(self, layer: Linear, dropout: Dropout | None) -> None:
        super().__init__(layer, dropout)
        self.products = layer.products or self.weight.dtype
        self.weight, self.bias = self.weight.to(self.products), self.bias.to(self.products)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        assert shift == 0
        large = x.shape[0] * self.weight.numel() >= _PAYS_FROM and self.products in _ITS_NUMBERS
        self.one_pass = _ONE_PASS if large else None
        if self.weight.dtype != self.parameters[0].dtype:
            self.weight.copy_(self.parameters[0])
            self.bias.copy_(self.parameters[1])
        return super().forward(x.to(self.products))

    def activated_sum(self, x: Tensor) -> Tensor:
        if self.one_pass is None or self.known_as is None:
            return self.activate(F.linear(x, self.weight, self.bias))
        result: Tensor = self.one_pass(x, self.weight, self.bias, self.known_as, [], "")
        return result

    def before_activation(self, g: Tensor) -> Tensor:
        return self.back(g.to(self.products), self.result, **self.settings)

    def fill_gradients(self, d: Tensor) -> None:
        weight, bias = self.gradients
        if self.products == weight.dtype:
            torch.mm(d.t(), self.input, out=weight)
        else:
            weight.copy_(d.t() @ self.input)
        bias.copy_(d.sum(0))

    def before_product(self, d: Tensor) -> Tensor:
        """d W, which oneDNN computes faster in single precision than the library behind `@`."""
        if self.one_pass is None:
            return d @ self.weight
        result: Tensor = self.one_pass(d, self.weight.t(), None, "none", [], "")
        return result


class CompiledLink(Link):
    """By compiled products (dlf/native), which do on the way what stands around them: relu and its derivative among it.

    Only the factors are rounded: what lies between two products, and every gradient, is float32.
    """

    def __init__(self, layer: Linear, dropout: Dropout | None, level: native.Level) -> None:
        super().__init__(layer, dropout)
        self.level = level
        self.relu = self.known_as == "relu"
        self.batch = 0

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        assert shift == 0 or not self.drops
        if len(x) != self.batch:
            self._prepare(len(x))
        assert x.shape == self.g.shape  # nothing in C would see it
        return super().forward(x.contiguous(), shift)

    def _prepare(self, batch: int) -> None:
        """Memory for what comes out of the products, and the products, for batches of this size."""
        self.batch, (units, inputs) = batch, self.weight.shape
        weight, bias = self.gradients
        self.sum, self.g = (self.weight.new_empty(batch, size) for size in (units, inputs))
        gate = self.sum if self.relu else None  # relu's derivative is 1 where its result is above 0
        self.forward_product = native.Product(
            self.level, self.g, self.weight.t(), self.sum, bias=self.bias, relu=self.relu
        )
        # transposed, so that of its factors the input is the one whose zeros are left out
        self.weight_product = native.Product(self.level, self.g.t(), self.sum, weight.t(), gate_b=gate, sums=bias)
        self.input_product = native.Product(self.level, self.sum, self.weight, self.g, gate_a=gate)

    def activated_sum(self, x: Tensor) -> Tensor:
        self.forward_product(x, self.weight, self.shift)
        return self.sum if self.known_as else self.activate(self.sum)

    def before_activation(self, g: Tensor) -> Tensor:
        """With relu g itself, since its products are gated by the result; so with identity, where d is g."""
        return (g if self.known_as else self.back(g, self.result, **self.settings)).contiguous()

    def fill_gradients(self, d: Tensor) -> None:
        self.weight_product(self.input, d, self.shift)

    def before_product(self, d: Tensor) -> Tensor:
        self.input_product(d, self.weight)
        return self.g


def _links(network: Network, *, dropping: bool = True) -> list[Link] | None:
    """The chain that the network's layers form; None where they form none, or where autograd has the better kernels.

    `dropping` as in training.
    """
    links: list[Link] = []
    dropout = None
    level = _level(network)
    for layer in network.layers:
        if isinstance(layer, Linear) and layer.bias is not None and _is_plain(layer):
            drop = dropout if dropping else None
            links.append(TorchLink(layer, drop) if level is None else CompiledLink(layer, drop, level))
            dropout = None
        elif isinstance(layer, Dropout) and dropout is None:
            dropout = layer
        elif not isinstance(layer, nn.Flatten) or links:
            return None
    return links if links and dropout is None else None


def _level(network: Network) -> native.Level | None:
    """For which instructions the products of its linear layers are compiled; None where they are left to torch.

    So are large ones in bfloat16 where a processor has tiles (AMX): they multiply eight times as fast as vectors do.
    """
    layers = [layer for layer in network.layers if isinstance(layer, Linear)]
    kinds = {layer.products or layer.weight.dtype for layer in layers}
    if len(kinds) != 1 or any(layer.weight.dtype != torch.float32 for layer in layers):
        return None
    largest = max(layer.weight.numel() for layer in layers)
    if kinds == {torch.bfloat16} and largest >= _TILES_PAY_FROM and torch.cpu._is_amx_tile_supported():
        return None
    return native.level(*kinds)


def _is_plain(layer: Linear) -> bool:
    derivative_is_known = "back" in ACTIVATIONS.get(layer.activation.type).facts
    return derivative_is_known and all(
        p.requires_grad and p.device.type == "cpu" and p.is_contiguous() for p in layer.parameters()
    )
