"""The chain rule, written out: a network forward and backward, with every quantity kept, without autograd.

With x_0 the normalized input, x_{i+1} the output of layer i, o that of the last one, and L the loss,

    forward    x_{i+1} = f_i(x_i)       L = loss(o, t)
    backward   dL/do                    dL/dx_i = dL/dx_{i+1} (dx_{i+1} / dx_i)

and on the way back each layer leaves the gradients of its own parameters. What f_i and its derivative are is said in
dlf/derivatives.py, layer for layer, and in dlf/activations.py and dlf/losses.py beside each function. It is here to be
read and to be shown (`dlf explain`); training takes dlf/backpropagation.py, which is faster.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dlf.derivatives import Quantity, find, formulas_of
from dlf.errors import UsageError
from dlf.layers import Residual
from dlf.losses import LOSSES, BoundLoss
from dlf.model import Network
from dlf.modules import Weighted


@dataclass(frozen=True)
class LayerPass:
    """One layer, forward and backward.

    `layer` is its index as `dlf summarize` counts ("0", "2.1" inside of a block, "2.skip" for the block's projection),
    `type` its name in the YAML. `forward` leads from x to the output, its last quantity; `backward` leads from
    dL/d(output) to dL/dx. `inner` holds the layers of a residual block's body, and its projection where it has one.
    """

    layer: str
    type: str
    forward: tuple[Quantity, ...]
    backward: tuple[Quantity, ...]
    inner: tuple[LayerPass, ...] = ()

    @property
    def gradients(self) -> dict[str, Tensor]:
        """dL/dp of every parameter p of the layer, `inner` included, by its name in the network."""
        own = {quantity.parameter: quantity.value for quantity in self.backward if quantity.parameter}
        return own | _merged(self.inner)


@dataclass(frozen=True)
class Walk:
    """One batch through the network and back.

    `normalized` is what the first layer takes, `target` what the loss compares the output with (regression targets are
    scaled), `loss_gradient` is dL/do.
    """

    normalized: Quantity
    target: Tensor
    layers: tuple[LayerPass, ...]
    output: Tensor
    loss: Quantity
    loss_gradient: Quantity

    @property
    def gradients(self) -> dict[str, Tensor]:
        """dL/dp of every parameter p, by its name in the network; sums over the batch."""
        return _merged(self.layers)


def _merged(layers: Sequence[LayerPass]) -> dict[str, Tensor]:
    return {name: gradient for layer in layers for name, gradient in layer.gradients.items()}


def in_float64(network: Network) -> Network:
    """A copy on the CPU that computes everything in float64, in the same mode."""
    exact = copy.deepcopy(network).to("cpu", torch.float64)
    for module in exact.modules():
        if isinstance(module, Weighted):
            module.products, module.hand_on = None, False
    return exact


@torch.no_grad()
def walk(network: Network, x: Tensor, y: Tensor, loss: BoundLoss) -> Walk:
    """The batch x, y, as the data set holds them, through a network in float64 on the CPU (`in_float64`).

    The network's mode decides: batch_norm takes the statistics of the batch and dropout drops in training, with the
    masks that the network itself would draw from torch's default generator. The network stays as it is, its running
    statistics too. UsageError names the layer, activation or loss whose derivative is not written out.
    """
    assert network.inputs_mean.dtype == torch.float64, "walk(in_float64(network), ...)"
    x = network.normalize(x)
    target = network.scaled(y)
    layers = [(str(index), f"layers.{index}", layer) for index, layer in enumerate(network.layers)]
    output, back = _forward(layers, x, "the normalized input")
    value, gradient = _loss(loss, output, target)
    return Walk(
        normalized=Quantity("x", "(input - mean) / std", x),
        target=target,
        layers=back(gradient.value, "dL/do"),
        output=output,
        loss=value,
        loss_gradient=gradient,
    )


Layers = Sequence[tuple[str, str, nn.Module]]  # index, name in the network, module
Backward = Callable[[Tensor, str], tuple[LayerPass, ...]]  # from dL/d(output), and where that comes from


def _forward(layers: Layers, x: Tensor, source: str) -> tuple[Tensor, Backward]:
    """x, which comes from `source`, through all layers: the output, and the way back."""
    backs = []
    for index, path, module in layers:
        x, back = _layer(index, path, module, Quantity("x", source, x))
        backs.append(back)
        source = f"the output of layer {index}"

    def backward(g: Tensor, origin: str) -> tuple[LayerPass, ...]:
        passes: list[LayerPass] = []
        for back in reversed(backs):
            passes.insert(0, back(g, origin))
            g, origin = passes[0].backward[-1].value, f"dL/dx of layer {passes[0].layer}"
        return tuple(passes)

    return x, backward


def _layer(index: str, path: str, module: nn.Module, x: Quantity) -> tuple[Tensor, Callable[[Tensor, str], LayerPass]]:
    """One layer by its own derivative."""
    if isinstance(module, Residual):
        return _block(index, path, module, x)
    name, derivative = find(module, index)
    steps, way_back = derivative(module, x.value)
    output = steps[-1]

    def back(g: Tensor, origin: str) -> LayerPass:
        coming = Quantity(f"dL/d{output.symbol}", origin, g)
        backward = (coming, *(_in_network(path, quantity) for quantity in way_back(g)))
        return LayerPass(index, name, (x, *steps), backward)

    return output.value, back


def _in_network(path: str, quantity: Quantity) -> Quantity:
    return replace(quantity, parameter=f"{path}.{quantity.parameter}") if quantity.parameter else quantity


def _block(index: str, path: str, block: Residual, x: Quantity) -> tuple[Tensor, Callable[[Tensor, str], LayerPass]]:
    """y = B(x) + S(x), the body and the way around it: the gradient takes both ways back, and they add up."""
    around = [] if isinstance(block.skip, nn.Identity) else [(f"{index}.skip", f"{path}.skip", block.skip)]
    body = [(f"{index}.{i}", f"{path}.body.{i}", layer) for i, layer in enumerate(block.body)]
    skipped, skip_back = _forward(around, x.value, "x of the block")
    bent, body_back = _forward(body, x.value, "x of the block")
    forward = (
        x,
        Quantity("B(x)", "x through the layers of the block", bent),
        Quantity("S(x)", "x through the projection" if around else "x itself", skipped),
        Quantity("y", "B(x) + S(x)", bent + skipped),
    )

    def back(g: Tensor, origin: str) -> LayerPass:
        inner, outer = body_back(g, "dL/dy of the block"), skip_back(g, "dL/dy of the block")
        by_body, by_skip = inner[0].backward[-1].value, outer[0].backward[-1].value if outer else g
        backward = (
            Quantity("dL/dy", origin, g),
            Quantity("dL/dx by B", f"dL/dx of layer {inner[0].layer}", by_body),
            Quantity("dL/dx by S", f"dL/dx of layer {outer[0].layer}" if outer else "dL/dy", by_skip),
            Quantity("dL/dx", "dL/dx by B + dL/dx by S", by_body + by_skip),
        )
        return LayerPass(index, "residual", forward, backward, inner=(*inner, *outer))

    return bent + skipped, back


def _loss(loss: BoundLoss, output: Tensor, target: Tensor) -> tuple[Quantity, Quantity]:
    """L and dL/do, each with its formula."""
    facts = LOSSES.get(loss.name).facts
    if "gradient" not in facts:
        raise UsageError(
            f"the derivative of the loss {loss.name} is not written out: register it with gradient=g, where"
            " g(output, target, ...) is (loss, dL/d(output)), and formulas=(that of the loss, that of dL/do)"
            " (dlf/losses.py)"
        )
    value, gradient = loss.with_gradient(output, target)
    of_loss, of_gradient = formulas_of(facts, loss.parameters, (loss.name, f"derivative of {loss.name}"))
    return Quantity("L", of_loss, value), Quantity("dL/do", of_gradient, gradient)
