"""A network without activations is its one matrix, up to rounding; a network with one is refused by the layer's name.

In float64 a product of n matrices, each of some 50 terms a sum and of a gain near 1, is rounded some 100 n times by
1.1e-16 of numbers below 10: 1e-12 for ten layers, and the bound that dlf promises is 1e-10.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlf.activations import ACTIVATIONS
from dlf.chain_rule import in_float64
from dlf.collapse import collapse
from dlf.data import Normalization
from dlf.errors import UsageError
from dlf.inits import INITS
from dlf.layers import LAYERS, Shape, fill_defaults, initialise, stack
from dlf.model import Network

BOUND = 1e-10


def linear(units: int, **settings: Any) -> dict[str, Any]:
    return {"type": "linear", "units": units, **settings}


def network_of(shape: Shape, *layers: Any, activation: str = "identity") -> Network:
    """In float64 and evaluation mode, every number random, spreads positive."""
    components = [LAYERS.validate(layer) for layer in layers]
    filled = fill_defaults(components, ACTIVATIONS.make(activation), INITS.make("xavier_normal"))
    modules = torch.nn.Sequential(*(row.module for row in stack(shape, filled)))
    generator = torch.Generator().manual_seed(4)
    initialise(modules, generator)
    for name, value in modules.state_dict().items():
        if value.ndim == 1:
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if "weight" in name or "var" in name else noise - 0.5)
    inputs = Normalization(torch.tensor(0.4), torch.tensor(1.7))
    return in_float64(Network(modules, inputs, inputs).eval())


def samples(shape: Shape) -> Tensor:
    return 3 * torch.randn((50, *shape), generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def difference(network: Network, x: Tensor, matrix: Tensor, shift: Tensor) -> float:
    with torch.no_grad():
        return float((network.normalize(x).flatten(1) @ matrix.T + shift - network(x)).abs().max())


IMAGE = (3, 4, 5)
NETWORKS: dict[str, tuple[Shape, list[Any]]] = {
    "one layer": ((7,), [linear(3)]),
    "ten layers": ((50,), [*[linear(50)] * 9, linear(4)]),
    "no bias": ((7,), [linear(9, bias=False), linear(3)]),
    "an image in rows": (IMAGE, [linear(8), linear(2)]),
    "batch_norm of features": ((7,), [linear(9), "batch_norm", linear(3)]),
    "batch_norm of channels": (IMAGE, ["batch_norm", linear(6)]),
    "what does nothing in evaluation": ((7,), [linear(9), "dropout", "alpha_dropout", linear(3)]),
    "an activation layer of nothing": ((7,), [{"type": "activation", "function": "identity"}, linear(3)]),
    "a block": ((7,), [linear(7), {"type": "residual", "layers": [linear(9), linear(7)]}, linear(3)]),
    "a block with a projection": (
        (7,),
        [linear(8), {"type": "residual", "projection": True, "layers": [linear(9), "batch_norm"]}, linear(3)],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_its_matrix(name: str) -> None:
    shape, layers = NETWORKS[name]
    network, x = network_of(shape, *layers), samples(shape)
    matrix, shift = collapse(network)
    assert matrix.dtype == shift.dtype == torch.float64
    assert matrix.shape == (len(network(x[:1])[0]), x[0].numel())
    assert difference(network, x, matrix, shift) < BOUND


def test_the_bound_is_no_matter_of_taste() -> None:
    """What ten layers of single precision differ by, and what one weight that is off by a millionth does."""
    shape, layers = NETWORKS["ten layers"]
    network, x = network_of(shape, *layers), samples(shape)
    matrix, shift = collapse(network)
    assert difference(network.float(), x.float(), matrix.float(), shift.float()) > BOUND
    network = network_of(shape, *layers)
    network.get_parameter("layers.4.weight").data[1, 2] += 1e-6
    assert difference(network, x, matrix, shift) > BOUND


def test_the_order_of_the_matrices_counts() -> None:
    """W_2 W_1 by hand, the bias of the first layer through the second."""
    network = network_of((2,), linear(2), linear(2))
    (w1, b1, w2, b2) = network.parameters()
    matrix, shift = collapse(network)
    torch.testing.assert_close(matrix, (w2 @ w1).detach(), rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(shift, (w2 @ b1 + b2).detach(), rtol=1e-15, atol=1e-15)
    assert (matrix - w1 @ w2).abs().max() > 0.1


def test_a_network_with_an_activation_is_no_matrix() -> None:
    """Refused, and rightly: the matrix of its weights gives something else."""
    layers = [linear(9), linear(3, activation="identity")]
    bent, straight = network_of((7,), *layers, activation="relu"), network_of((7,), *layers)
    matrix, shift = collapse(straight)
    assert difference(bent, samples((7,)), matrix, shift) > 0.1
    with pytest.raises(UsageError, match="layer 0 ends in relu, and only layers without an activation are one matrix"):
        collapse(bent)


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        ((7,), [linear(4), {"type": "activation", "function": "tanh"}], "layer 1 ends in tanh"),
        ((7,), [{"type": "residual", "layers": [linear(7, activation="relu")]}, linear(2)], r"layer 0\.0 ends in relu"),
        ((7,), [linear(4), "layer_norm"], "layer 1 is a LayerNorm; what can be collapsed is made of linear, batch_n"),
        (IMAGE, ["max_pool2d", linear(2)], "layer 0 is a MaxPool2d"),
        ((7,), ["dropout"], "a network without a linear layer has no matrix"),
    ],
)
def test_what_is_no_affine_map_is_refused_by_name(shape: Shape, layers: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        collapse(network_of(shape, *layers))
