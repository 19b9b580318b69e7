"""One look at all layers of a network: a batch forward and backward in float64, on a copy.

In float64 what is exactly 0 by mathematics is below 1e-9 of its surroundings, and what is merely small is not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlf import precision
from dlf.layers import Residual
from dlf.losses import BoundLoss
from dlf.model import Network
from dlf.modules import Dropout

_OF = "parameter "  # before its name, which no layer's index begins with
ROUNDING = 1e-9  # relative: what float64 leaves of a number that is 0 by mathematics, after the sums of wide layers


@dataclass(frozen=True)
class Look:
    """One batch forward and backward through all layers, in training mode without dropout.

    `outputs` and `gradients` hold, by layer, what it gave and the derivative of the loss by it, None where the loss
    does not depend on it; `inputs` what it was given; `parameters` the derivative by each parameter, by its name.
    """

    loss: Tensor
    output: Tensor
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    parameters: dict[str, Tensor | None]


def walk(modules: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every layer with its index as `dlf summarize` counts, from the input on; those of a block before the block."""
    for number, module in enumerate(modules):
        if isinstance(module, Residual):
            yield from walk(module.body, f"{prefix}{number}.")
        yield f"{prefix}{number}", module


def look(network: Network, loss: BoundLoss, x: Tensor, y: Tensor) -> Look:
    """Forward and backward in training mode; the running values of batch_norm move, and nothing else of the network."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def note(index: str, given: tuple[Tensor], output: Tensor) -> None:
        inputs[index], outputs[index] = given[0], output

    hooks = [
        module.register_forward_hook(lambda _, given, output, index=index: note(index, given, output))
        for index, module in walk(network.layers)
    ]
    training = network.training
    network.train()
    try:
        with torch.enable_grad():
            normalized = network.normalize(x).requires_grad_()  # so that the graph reaches every layer, frozen or not
            output = network.layers(normalized)
            value = loss(output, network.scaled(y.double() if y.is_floating_point() else y))
            parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
            gradients = _gradients(value, {**outputs, **{_OF + name: p for name, p in parameters.items()}})
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return Look(
        loss=value.detach(),
        output=output.detach(),
        inputs={index: given.detach() for index, given in inputs.items()},
        outputs={index: given.detach() for index, given in outputs.items()},
        gradients={index: gradients[index] for index in outputs},
        parameters={name: gradients[_OF + name] for name in parameters},
    )


def _gradients(value: Tensor, of: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """dvalue/dt of each tensor; None where no way leads from it to the value, or a module cut it (detach)."""
    reached = {name: tensor for name, tensor in of.items() if tensor.requires_grad}
    found: dict[str, Tensor | None] = dict.fromkeys(of)
    if value.requires_grad and reached:
        gradients = torch.autograd.grad(value, list(reached.values()), allow_unused=True)
        found.update(zip(reached, gradients, strict=True))
    return found


def owners(network: Network) -> dict[str, str]:
    """For each parameter by its name, the layer that it belongs to, by its index."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        names[parameter]: index
        for index, module in reversed(list(walk(network.layers)))
        for parameter in module.parameters()
    }


# --- copies ---------------------------------------------------------------------------------------------------------


def in_float64(network: Network) -> Network:
    """A copy that computes in float64, without dropout, in training mode."""
    copied = copy.deepcopy(network).double()
    precision.apply(copied, "float32")  # as the numbers come: no product is rounded
    return without_dropout(copied).train()


def without_dropout(network: Network) -> Network:
    """The same network, whose dropout layers let everything pass from now on, in training too."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.rate, module.drop = 0.0, 0
        elif isinstance(module, nn.AlphaDropout):
            module.p = 0.0
    return network
