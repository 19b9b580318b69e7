"""The chain rule written out gives autograd's gradients for every chain; every other network is left to autograd."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from conftest import Assembled
from torch import Tensor, nn

from dlf import native, precision
from dlf.activations import ACTIVATIONS
from dlf.backpropagation import Autograd, Chain, CompiledLink, backpropagation, compiled_forward
from dlf.data import Normalization
from dlf.engine import fit, outputs
from dlf.inits import INITS
from dlf.layers import LAYERS, fill_defaults, initialise, stack
from dlf.losses import BoundLoss
from dlf.model import Network
from dlf.modules import Linear
from dlf.registry import Component

BATCH, INPUTS, CLASSES = 24, 10, 4
BACK = [name for name in ACTIVATIONS.names() if "back" in ACTIVATIONS.get(name).facts]
CROSS_ENTROPY = BoundLoss("cross_entropy", {"label_smoothing": 0.1, "class_weights": None})


def linear(units: int, activation: str = "relu", **settings: Any) -> Component:
    return LAYERS.make("linear", units=units, activation=activation, **settings)


def dropout(rate: float) -> Component:
    return LAYERS.make("dropout", rate=rate)


def network_of(*layers: Component, inputs: int = INPUTS, dtype: torch.dtype = torch.float64) -> Network:
    """A network with weights of this type; biases are not zero, so that a lost one is seen."""
    filled = fill_defaults(layers, ACTIVATIONS.make("relu"), INITS.make("auto"))
    modules = nn.Sequential(*(row.module for row in stack((inputs,), filled)))
    generator = torch.Generator().manual_seed(1)
    initialise(modules, generator)
    scale = Normalization(torch.tensor(0.3), torch.tensor(1.7))
    network = Network(modules, scale, scale).to(dtype)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, generator=generator)
    return network


def batch(inputs: int = INPUTS, size: int = BATCH, pixels: bool = False) -> tuple[Tensor, Tensor]:
    """Numbers or, as `pixels`, bytes of which half are 0."""
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(size, inputs, generator=generator), torch.randint(CLASSES, (size,), generator=generator)
    return x.clamp_(min=0).mul_(60).byte() if pixels else x, y


def gradients(way: Callable[..., Any], network: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """All that a step leaves: output, value and gradients, with dropout drawn from one seed."""
    network.train()
    torch.manual_seed(3)
    output, value = way(x, y, CROSS_ENTROPY)
    assert not output.requires_grad
    assert not value.requires_grad
    named = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return {"output": output, "value": value, **named}


def deviation(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any tensor, by the largest number of that tensor."""
    assert one.keys() == other.keys()
    return max(
        ((one[name].double() - other[name].double()).abs().max() / other[name].double().abs().max()).item()
        for name in one
    )


CHAINS = {
    "no hidden layer": [linear(CLASSES, "identity")],
    "dropout first": [dropout(0.5), linear(8), linear(CLASSES, "identity")],
    "dropout between": [linear(8), dropout(0.25), linear(7, "tanh"), dropout(0.5), linear(CLASSES, "identity")],
    "dropout of nothing": [linear(8), dropout(0.0), linear(CLASSES, "identity")],
    "all activations": [*(linear(9, name) for name in BACK), linear(CLASSES, "identity")],
    "parameters of activations": [
        LAYERS.make("linear", units=9, activation={"type": "leaky_relu", "slope": 0.3}),
        LAYERS.make("linear", units=9, activation={"type": "hard_tanh", "limit": 0.7}),
        linear(CLASSES, "identity"),
    ],
}


@pytest.mark.parametrize("name", CHAINS)
def test_gradients_of_a_chain_are_those_of_autograd(name: str) -> None:
    """In float64: 2^-52 a rounding, at most 24 terms a sum and 8 layers, and a thousandfold for cancellation."""
    network, (x, y) = network_of(*CHAINS[name]), batch()
    way = backpropagation(network)
    assert isinstance(way, Chain)
    for _ in range(2):  # the second time into the same memory
        assert deviation(gradients(way, network, x, y), gradients(Autograd(network), network, x, y)) < 1e-11


@pytest.mark.parametrize("activation", BACK)
@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_large_products_in_one_pass_are_those_of_autograd(
    activation: str, numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 x 96 x 96 is more than 2^20 multiply-adds, so torch's other kernels are taken where dlf's own are missing."""
    monkeypatch.setattr(native, "level", lambda products: None)
    layers = [linear(96, activation), dropout(0.2), linear(96, activation), linear(CLASSES, "identity")]
    network, (x, y) = network_of(*layers, inputs=96, dtype=torch.float32), batch(96, 128)
    precision.apply(network, numbers)  # type: ignore[arg-type]
    reference = gradients(Autograd(network), network, x, y)
    # float32: 2^-24 a rounding, sums of 128, three layers: 1e-5 is 40 times their root mean square.
    # bfloat16: 2^-8 a rounding, three of them a layer, and an entry near a kink may fall on its other side.
    tolerance = 1e-5 if numbers == "float32" else 0.05
    way = backpropagation(network)
    assert isinstance(way, Chain)
    assert deviation(gradients(way, network, x, y), reference) < tolerance


# --- by compiled products -------------------------------------------------------------------------------------------


class Rounded(torch.autograd.Function):
    """x W^T + b and its derivatives in float64, the factors of every product rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return Rounded.of(x) @ Rounded.of(weight).t() + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return Rounded.of(g) @ Rounded.of(weight), Rounded.of(g).t() @ Rounded.of(x), g.sum(0)

    @staticmethod
    def of(x: Tensor) -> Tensor:
        return x.bfloat16().double()


def reference(network: Network, numbers: str) -> Network:
    """The network in float64, its products as the precision asks."""
    exact = deepcopy(network).double()
    for layer in exact.layers:
        if isinstance(layer, Linear) and numbers == "bfloat16":
            layer.products = None
            layer.product = partial(_rounded, layer)  # type: ignore[method-assign]
    return exact


def _rounded(layer: Linear, function: Any, x: Tensor) -> Tensor:
    result: Tensor = Rounded.apply(x, layer.weight, layer.bias)
    return result


def compiled(network: Network) -> Chain:
    way = backpropagation(network)
    if native.level(torch.float32) is None:
        pytest.skip(f"dlf's kernels: {native.describe()}")
    assert isinstance(way, Chain)
    return way


# float32: 2^-24 a rounding, sums of 128, three layers: 1e-5 is 40 times their root mean square.
# bfloat16: where float32 rounds before it, a number in 10,000 falls to the other side: 2^-8 of one of some 100 terms.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}


def compiled_against_float64(
    layers: list[Component], numbers: str, size: int, change: Callable[[Chain], None], pixels: bool = False
) -> float:
    """The larger deviation of two steps: the second is computed in the memory of the first."""
    network, (x, y) = network_of(*layers, dtype=torch.float32), batch(size=size, pixels=pixels)
    if pixels:
        network.inputs_mean.fill_(30.0)
        network.inputs_std.fill_(42.0)
    precision.apply(network, numbers)  # type: ignore[arg-type]
    way, exact = compiled(network), reference(network, numbers)
    if numbers == "bfloat16" and not way.compiled:
        pytest.skip("this processor does not multiply bfloat16")
    expected = gradients(Autograd(exact), exact, x, y)
    gradients(way, network, x, y)
    change(way)
    return deviation(gradients(way, network, x, y), expected)


@pytest.mark.parametrize("size", [1, BATCH, 128])
@pytest.mark.parametrize("numbers", TOLERANCE)
@pytest.mark.parametrize("name", CHAINS)
def test_compiled_products_give_the_gradients_of_autograd(name: str, numbers: str, size: int) -> None:
    assert compiled_against_float64(CHAINS[name], numbers, size, lambda chain: None) < TOLERANCE[numbers]


@pytest.mark.parametrize("numbers", TOLERANCE)
@pytest.mark.parametrize("name", CHAINS)
def test_compiled_products_say_what_the_network_says(name: str, numbers: str) -> None:
    """Forward alone, as evaluation asks, for batches of several sizes, each in memory of its own."""
    network = network_of(*CHAINS[name], dtype=torch.float32)
    precision.apply(network, numbers)  # type: ignore[arg-type]
    if not compiled(network).compiled:
        pytest.skip("this processor does not multiply bfloat16")
    exact, (x, _) = reference(network, numbers).eval(), batch(size=300)
    forward = compiled_forward(network.train(), (INPUTS,))  # drops nothing all the same
    assert forward is not None
    found = torch.cat([forward(part) for part in torch.split(x, 128)])
    assert not found.requires_grad
    assert deviation({"output": found}, {"output": exact(x)}) < TOLERANCE[numbers]
    drops = any(link.drops for link in compiled(network).links)
    assert drops == ("dropout" in name and name != "dropout of nothing")
    if drops:  # a variant that goes on dropping
        assert deviation({"output": compiled(network).forward(x)}, {"output": exact(x)}) > 0.1


def plain(*, flatten: bool = False) -> Network:
    """Linear layers with compiled products, where there are any."""
    before = [LAYERS.make("flatten")] if flatten else []
    return network_of(*before, linear(8), linear(CLASSES, "identity"), dtype=torch.float32)


def test_a_network_without_compiled_products_has_no_compiled_forward() -> None:
    layers = [linear(8), linear(CLASSES, "identity")]
    assert compiled_forward(network_of(*layers, dtype=torch.float64), (INPUTS,)) is None
    norm = LAYERS.make("batch_norm")
    assert compiled_forward(network_of(layers[0], norm, layers[1], dtype=torch.float32), (INPUTS,)) is None
    view = plain()
    first = view.layers[0]
    assert isinstance(first, Linear)
    first.weight = nn.Parameter(torch.randn(8, 2 * INPUTS)[:, :INPUTS])
    assert compiled_forward(view, (INPUTS,)) is None


@pytest.mark.parametrize("shape", [(INPUTS - 1,), (INPUTS + 1,), (1,), (), (2, INPUTS), (2, INPUTS // 2)], ids=str)
def test_samples_of_another_width_are_left_to_torch(shape: tuple[int, ...]) -> None:
    """Compiled products would read what is not theirs. Torch refuses them, or knows what to do with further axes."""
    network, x = plain(), torch.randn(3, *shape)
    assert compiled_forward(network, shape) is None
    if shape[-1:] == (INPUTS,):
        assert torch.equal(outputs(network, x), network(x))
        return
    with pytest.raises((RuntimeError, IndexError)):
        outputs(network, x)
    assert network.training  # as it was found


def test_samples_with_axes_are_flattened_where_the_network_does_so() -> None:
    compiled(plain())
    forward, x = compiled_forward(plain(flatten=True), (2, INPUTS // 2)), torch.randn(3, 2, INPUTS // 2)
    assert forward is not None
    assert torch.allclose(forward(x), plain(flatten=True)(x), atol=1e-5)


@pytest.mark.parametrize("numbers", TOLERANCE)
@pytest.mark.parametrize("name", CHAINS)
def test_pixels_that_are_0_stay_0(name: str, numbers: str) -> None:
    """The first products are of pixel / deviation, to which -mean / deviation is added, unless dropout comes first.

    In bfloat16 what is rounded is another number than in the reference, each time by 2^-9 of up to 3: 0.02 in a chain.
    """
    seen = []

    def noted(chain: Chain) -> None:
        seen.append(chain.links[0].shift)

    tolerance = 0.02 if numbers == "bfloat16" else TOLERANCE[numbers]
    assert compiled_against_float64(CHAINS[name], numbers, BATCH, noted, pixels=True) < tolerance
    assert seen == [0.0 if name == "dropout first" else pytest.approx(-30 / 42)]


def test_the_comparison_rejects_a_shift_that_is_lost() -> None:
    def lose(chain: Chain) -> None:
        whole = chain._normalized
        chain._normalized = lambda x: (whole(x)[0], 0.0)  # type: ignore[method-assign]

    assert compiled_against_float64(CHAINS["no hidden layer"], "float32", BATCH, lose, pixels=True) > 0.1


@pytest.mark.parametrize(
    ("units", "numbers", "tiles", "own"),
    [
        (1024, "bfloat16", True, False),
        (1024, "bfloat16", False, True),
        (1024, "float32", True, True),
        (1023, "bfloat16", True, True),
    ],
)
def test_large_products_are_left_to_a_processors_tiles(
    units: int, numbers: str, tiles: bool, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(native, "level", lambda products: "avx2")
    layers = [linear(1024), linear(units), linear(CLASSES, "identity")]
    network = network_of(*layers, dtype=torch.float32)
    precision.apply(network, numbers)  # type: ignore[arg-type]
    way = backpropagation(network)
    assert isinstance(way, Chain)
    assert way.compiled == own


def ungated(chain: Chain) -> None:
    link = chain.links[0]
    assert isinstance(link, CompiledLink)
    link.relu = False
    link._prepare(BATCH)


def unrounded(chain: Chain) -> None:
    for link in chain.links:
        assert isinstance(link, CompiledLink)
        link.level = "avx2"
        link._prepare(BATCH)


WRONG_COMPILED: dict[str, Callable[[Chain], None]] = {
    "no relu": ungated,
    "factors that are not rounded": unrounded,
    "no dropout": lambda chain: setattr(chain.links[1], "dropout", None),
    "weights of an earlier step": lambda chain: setattr(chain.links[1], "weight", chain.links[1].weight * 0.9),
}


@pytest.mark.parametrize("name", WRONG_COMPILED)
def test_the_comparison_rejects_a_wrong_compiled_variant(name: str) -> None:
    layers = [linear(8), dropout(0.5), linear(8), linear(CLASSES, "identity")]
    assert compiled_against_float64(layers, "bfloat16", BATCH, WRONG_COMPILED[name]) > TOLERANCE["bfloat16"]


WRONG: dict[str, Callable[[Chain], None]] = {
    "another derivative": lambda chain: setattr(chain.links[0], "back", lambda g, a: g),
    "no dropout": lambda chain: setattr(chain.links[1], "dropout", None),
    "a bias of the layer before": lambda chain: setattr(chain.links[1], "bias", chain.links[0].bias),
    "weights of an earlier step": lambda chain: setattr(chain.links[1], "weight", chain.links[1].weight * 0.9),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_comparison_rejects_a_wrong_variant(name: str) -> None:
    network, (x, y) = network_of(linear(8), dropout(0.5), linear(8), linear(CLASSES, "identity")), batch()
    chain = backpropagation(network)
    assert isinstance(chain, Chain)
    WRONG[name](chain)
    reference = gradients(Autograd(network), network, x, y)
    assert deviation(gradients(chain, network, x, y), reference) > 0.05  # the tolerance in bfloat16


OTHERS = {
    "an activation that needs its input": [linear(8, "gelu"), linear(CLASSES, "identity")],
    "normalization": [linear(8), LAYERS.make("batch_norm"), linear(CLASSES, "identity")],
    "no bias": [linear(8, bias=False), linear(CLASSES, "identity")],
    "maxout": [LAYERS.make("maxout", units=8), linear(CLASSES, "identity")],
    "a block": [LAYERS.make("residual", layers=[linear(INPUTS)]), linear(CLASSES, "identity")],
    "dropout twice": [linear(8), dropout(0.1), dropout(0.1), linear(CLASSES, "identity")],
    "dropout last": [linear(CLASSES, "identity"), dropout(0.1)],
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_chain_is_left_to_autograd(name: str) -> None:
    assert isinstance(backpropagation(network_of(*OTHERS[name])), Autograd)


def test_a_frozen_layer_is_left_to_autograd() -> None:
    network = network_of(linear(8), linear(CLASSES, "identity"))
    next(network.parameters()).requires_grad_(False)
    assert isinstance(backpropagation(network), Autograd)


@pytest.mark.parametrize(
    ("data", "loss"),
    [("iris", "cross_entropy"), ("iris", "hinge"), ("breast_cancer", "binary_cross_entropy"), ("diabetes", "mse")],
)
def test_a_training_by_the_chain_is_that_by_autograd(data: str, loss: str, assembled: Assembled) -> None:
    """Regularizers, clipping and all: the losses of 20 steps agree to what float32 leaves of them."""
    config = {
        "data": {"type": data, "batch_size": 16},
        "model": {"layers": [{"type": "linear", "units": 12}, {"type": "dropout", "rate": 0.2}]},
        "loss": loss,
        "regularizers": ["l2", "clip_norm", "max_norm"],
        "optimizer": {"type": "sgd", "lr": 0.01},
    }
    losses = []
    for way in (Chain, Autograd):
        experiment, state = assembled(config)
        if way is Autograd:
            state.backpropagate = Autograd(state.network)
        assert isinstance(state.backpropagate, way)
        next(fit(state, experiment, epochs=1, history=[]))
        losses.append(state.losses[:20].clone())
    # 2^-24 a rounding, about a hundred of them in a step and its loss, 20 steps: 1.2e-4
    assert torch.allclose(losses[0], losses[1], rtol=2e-4, atol=0)
