"""Expected signals: variances against draws, activations against draws of normals, layers against many networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlf.activations import ACTIVATIONS
from dlf.checks.looking import look, owners, walk
from dlf.checks.propagation import Signal, activated, is_elementwise, layer_signals, measured, through, weight_variance
from dlf.data import Normalization
from dlf.inits import INITS
from dlf.layers import LAYERS, fill_defaults, initialise, stack
from dlf.losses import BoundLoss
from dlf.model import Network
from dlf.modules import Dropout
from dlf.registry import Component

SHAPE = (300, 50, 3, 3)  # fans of 450 and 2,700: 135,000 weights
MEAN_NOT_0 = {"ones", "constant"}


def initialiser(name: str) -> Component:
    return INITS.make(name, value=0.5) if name == "constant" else INITS.make(name)


@pytest.mark.parametrize("name", [name for name in INITS.names() if name != "auto"])
def test_the_variance_of_every_initialiser_is_that_of_its_draws(name: str) -> None:
    init = initialiser(name)
    weight = torch.empty(SHAPE, dtype=torch.float64)
    INITS.build(init, weight, torch.Generator().manual_seed(0))
    expected = weight_variance(init, SHAPE)
    if name in MEAN_NOT_0:
        assert expected is None
        return
    assert expected is not None
    # the mean of n squares of normals has a relative standard deviation of sqrt(2 / n) = 0.4 %; four of them
    assert weight.square().mean().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / weight.numel()))


@pytest.mark.parametrize(
    ("name", "given", "shape", "expected"),
    [
        ("he_normal", {}, (7, 50), 2 / 50),  # He et al., 2015, (10)
        ("he_normal", {"fan": "out"}, (7, 50), 2 / 7),
        ("he_uniform", {"slope": 0.5}, (7, 50), 2 / (1.25 * 50)),  # (15)
        ("xavier_uniform", {}, (7, 50), 2 / 57),  # Glorot and Bengio, 2010, (16)
        ("xavier_normal", {"gain": 3.0}, (7, 50), 9 * 2 / 57),
        ("lecun_normal", {}, (7, 50, 2, 2), 1 / 200),
        ("truncated_normal", {"std": 2.0, "cut": 2.0}, (7, 50), 4 * 0.7737413),  # scipy.stats.truncnorm(-2, 2).var()
        ("orthogonal", {"gain": 2.0}, (7, 50), 4 / 50),
        ("orthogonal", {}, (70, 50), 1 / 70),
    ],
)
def test_the_variances_are_those_of_the_papers(
    name: str, given: dict[str, Any], shape: tuple[int, ...], expected: float
) -> None:
    assert weight_variance(INITS.make(name, **given), shape) == pytest.approx(expected, rel=1e-6)


def test_a_mean_that_is_not_0_has_no_formula() -> None:
    assert weight_variance(INITS.make("normal", mean=0.1), (3, 4)) is None


# --- activations ----------------------------------------------------------------------------------------------------

ELEMENTWISE = [name for name in ACTIVATIONS.names() if name not in ("softmax", "log_softmax")]


def signal_of(covariance: list[list[float]]) -> Signal:
    """The sums of two samples with this covariance."""
    products = torch.tensor(covariance, dtype=torch.float64)
    squares = products.diagonal().clone()
    return Signal(squares, squares[:, None] + squares[None, :] - 2 * products, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_activation_of_normal_sums_is_as_a_million_draws(name: str) -> None:
    covariance = [[2.0, 0.9], [0.9, 0.7]]
    function = ACTIVATIONS.get(name).function
    given = {parameter: field.default for parameter, field in ACTIVATIONS.get(name).model.model_fields.items()}
    del given["type"]
    expected = activated(lambda z: function(z, **given), signal_of(covariance))
    assert expected is not None
    n = 1_000_000
    drawn = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = drawn @ torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64)).t()
    a = function(z, **given)

    def compare(value: Tensor, draws: Tensor) -> None:
        # four standard deviations of the mean of the draws, and what a kink costs the rule of trapezoids: 0.7 %
        error = 4 * draws.std().item() / math.sqrt(n) + 0.007 * draws.abs().mean().item()
        assert value.item() == pytest.approx(draws.mean().item(), abs=error)

    compare(expected.squares[0], a[:, 0].square())
    compare(expected.squares[1], a[:, 1].square())
    compare(expected.distances[0, 1], (a[:, 0] - a[:, 1]).square())
    compare(expected.means[1], a[:, 1])
    assert torch.equal(expected.distances, expected.distances.t())


@pytest.mark.parametrize("c", [-0.9, 0.0, 0.5, 0.99, 1 - 1e-10])
def test_relu_is_the_arc_cosine_kernel(c: float) -> None:
    """E[relu(z) relu(z')] = (sin t + (pi - t) cos t) / (2 pi), t = arccos c. Cho and Saul, 2009, (3) for n = 1."""
    signal = Signal(
        torch.ones(2, dtype=torch.float64),
        torch.tensor([[0, 2 - 2 * c], [2 - 2 * c, 0]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    )
    found = activated(torch.relu, signal)
    assert found is not None
    assert found.squares.tolist() == pytest.approx([0.5, 0.5], rel=1e-3)
    t = math.acos(c)
    expected = 1 - (math.sin(t) + (math.pi - t) * c) / math.pi
    # where c is nearly 1 half of the distance is left, for half of the sums are positive
    expected = 1 - c if c > 0.999 else expected
    assert found.distances[0, 1].item() == pytest.approx(expected, rel=0.02)


def test_differences_far_below_rounding_of_the_sizes_are_followed() -> None:
    """sigmoid is nearly z / 4 + 1 / 2 there: E[(f(z) - f(z'))^2] = E[f'(z)^2] d, and d is 1e-20 of the sizes."""
    distances = torch.tensor([[0, 1e-20], [1e-20, 0]], dtype=torch.float64)
    found = activated(torch.sigmoid, Signal(torch.full((2,), 1e-4).double(), distances, torch.zeros(2).double()))
    assert found is not None
    assert found.distances[0, 1].item() == pytest.approx(1e-20 / 16, rel=1e-3)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_what_mixes_units_has_no_formula(name: str) -> None:
    assert not is_elementwise(ACTIVATIONS.get(name).function)
    assert activated(ACTIVATIONS.get(name).function, signal_of([[1.0, 0.0], [0.0, 1.0]])) is None


# --- layers ---------------------------------------------------------------------------------------------------------

WIDE = 128
LINEAR = {"type": "linear", "units": WIDE}
PLAIN = {**LINEAR, "activation": "identity"}
STACKS: dict[str, list[Any]] = {
    "relu": [LINEAR, LINEAR],
    "xavier": [{**LINEAR, "activation": "tanh"}, {**LINEAR, "activation": "tanh"}],
    "fan_out": [{**LINEAR, "init": {"type": "he_normal", "fan": "out"}}, LINEAR],
    "orthogonal": [{**LINEAR, "init": "orthogonal"}],
    "own activation layer": [PLAIN, {"type": "activation", "function": "gelu"}],
    "prelu": [PLAIN, "prelu"],
    "dropout": [LINEAR, "dropout", LINEAR],
    "batch_norm": [PLAIN, "batch_norm"],
    "layer_norm": [LINEAR, "layer_norm"],
    "rms_norm": [LINEAR, "rms_norm"],
    "residual": [LINEAR, {"type": "residual", "layers": [LINEAR, PLAIN]}],
    "projection": [{"type": "residual", "layers": [LINEAR, PLAIN], "projection": True}],
}
IMAGES: dict[str, list[Any]] = {
    "conv": [{"type": "conv2d", "channels": 64}, {"type": "conv2d", "channels": 64, "stride": 2}],
    "valid": [{"type": "conv2d", "channels": 64, "padding": "valid"}, {"type": "linear", "units": 64}],
}


def networks(shape: tuple[int, ...], layers: list[Any], count: int) -> list[nn.Sequential]:
    """So many drawn networks, in float64 and training mode, dropout aside."""
    components = [LAYERS.validate(layer) for layer in layers]
    filled = fill_defaults(components, ACTIVATIONS.make("relu"), INITS.make("auto"))
    found = []
    for seed in range(count):
        network = nn.Sequential(*(row.module for row in stack(shape, filled)))
        initialise(network, torch.Generator().manual_seed(seed))
        for module in network.modules():
            if isinstance(module, Dropout):
                module.drop = 0
        found.append(network.double())
    return found


def followed(network: nn.Sequential, x: Tensor) -> Signal:
    signal, given = measured(x), x
    for layer in network:
        expected = through(layer, signal, given)
        assert expected is not None
        with torch.no_grad():
            signal, given = expected, layer(given)
    return signal


@pytest.mark.parametrize("name", [*STACKS, *IMAGES])
def test_layers_are_as_expected_on_average_over_many_networks(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(8, *((20,) if name in STACKS else (3, 7, 7)), dtype=torch.float64, generator=generator)
    x = 0.7 * x + 0.5 * x[:1]  # samples that have something in common, and different sizes
    drawn = networks(tuple(x.shape[1:]), STACKS.get(name) or IMAGES[name], 60)
    expected = followed(drawn[0], x)
    with torch.no_grad():
        found = [measured(network(x)) for network in drawn]
    for name_of in ("size", "spread"):
        values = torch.tensor([getattr(signal, name_of) ** 2 for signal in found], dtype=torch.float64)
        error = 4 * values.std().item() / math.sqrt(len(values))
        # 5 %: the formulas are those of infinite width, and a quotient's mean is not the quotient of the means
        value = getattr(expected, name_of) ** 2
        assert value == pytest.approx(values.mean().item(), abs=error + 0.05 * values.mean().item())


@pytest.mark.parametrize("layer", ["max_pool2d", "avg_pool2d", "batch_norm"])
def test_layers_without_a_formula_say_so(layer: str) -> None:
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    (network,) = networks((2, 6, 6), [layer], 1)
    assert through(network[0], measured(x), x) is None
    assert through(nn.Softplus(), measured(x), x) is None


def test_a_block_that_ends_in_an_activation_has_no_formula() -> None:
    (network,) = networks((WIDE,), [{"type": "residual", "layers": [LINEAR]}], 1)
    x = torch.randn(4, WIDE, dtype=torch.float64)
    assert through(network[0], measured(x), x) is None


# --- whole networks -------------------------------------------------------------------------------------------------


def whole(layers: list[Any], seed: int) -> Network:
    (found,) = networks((20,), [*layers, {"type": "linear", "units": 3, "activation": "identity"}], 1)
    initialise(found, torch.Generator().manual_seed(seed))
    unit = Normalization(torch.zeros(20, dtype=torch.float64), torch.ones(20, dtype=torch.float64))
    return Network(found, unit, unit)


@pytest.mark.parametrize("seed", range(5))
def test_twelve_sigmoids_shrink_the_spread_as_expected(seed: int) -> None:
    network = whole([{**LINEAR, "activation": "sigmoid"}] * 12, seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(64, 20, generator=generator, dtype=torch.float64), torch.arange(64) % 3
    rows = layer_signals(network, look(network, BoundLoss("cross_entropy"), x, y))
    assert [row.layer for row in rows] == [str(index) for index in range(13)]
    last = rows[11]
    assert last.expected_spread is not None
    assert last.tolerance is not None
    assert last.spread < 1e-6
    assert 1 / last.tolerance < last.spread / last.expected_spread < last.tolerance
    assert rows[0].gradient is not None
    assert rows[11].gradient is not None
    assert rows[0].gradient < 1e-5 * rows[11].gradient


def test_the_gradient_is_that_of_one_sample() -> None:
    """Of the output it is softmax(z) - [y], whatever the number of samples."""
    network = whole([LINEAR], 0)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 20, dtype=torch.float64, generator=generator), torch.arange(64) % 3
    seen = look(network, BoundLoss("cross_entropy"), x, y)
    p = seen.output.softmax(1) - nn.functional.one_hot(y, 3)
    expected = p.square().sum(1).mean().sqrt().item()
    assert layer_signals(network, seen)[-1].gradient == pytest.approx(expected, rel=1e-12)


def test_a_look_is_in_training_mode_whatever_the_network_was_in() -> None:
    network = whole([PLAIN, "batch_norm", {"type": "activation", "function": "relu"}], 0)
    network.eval()
    x, y = (
        3 * torch.randn(64, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.arange(64) % 3,
    )
    seen = look(network, BoundLoss("cross_entropy"), x, y)
    assert torch.allclose(seen.outputs["1"].mean(0), torch.zeros(WIDE, dtype=torch.float64), atol=1e-12)
    assert not network.training


def test_layers_are_counted_as_summarize_counts() -> None:
    network = whole([LINEAR, {"type": "residual", "layers": ["dropout", LINEAR, PLAIN]}], 0)
    assert [index for index, _ in walk(network.layers)] == ["0", "1.0", "1.1", "1.2", "1", "2"]
    found = owners(network)
    assert found["layers.1.body.1.weight"] == "1.1"
    assert found["layers.2.bias"] == "2"
