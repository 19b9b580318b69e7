"""The chain rule written out, for every layer, activation and loss, beside autograd and beside differences of the loss.

A registered entry without a derivative fails here. Both comparisons are relative to the largest entry of the tensor:
1e-10 beside autograd, which does the same arithmetic in another order (a few hundred operations on numbers near 1, each
rounded by 1.1e-16), and 1e-6 beside central differences, whose errors are h^2 / 6 times a third derivative near 1 and
1.1e-16 / h: with h = 1e-5 both are about 1e-11, and what is left allows for gradients that are small beside the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_activations import CASES as ACTIVATION_CASES
from test_layers import IMAGE, build, every_layer, samples
from test_losses import CASES as LOSS_CASES
from test_losses import sample
from torch import Tensor, nn

from dlf import data, derivatives, precision
from dlf.activations import ACTIVATIONS
from dlf.chain_rule import in_float64, walk
from dlf.config import load
from dlf.data import Normalization
from dlf.errors import UsageError
from dlf.experiment import assemble
from dlf.layers import LAYERS, Shape
from dlf.losses import LOSSES, BoundLoss
from dlf.model import Network
from dlf.registry import Registry

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
MSE = BoundLoss("mse")
H = 1e-5


def network_of(*modules: nn.Module, seed: int = 0) -> Network:
    """The modules behind a normalization that is not trivial, in float64."""
    inputs = Normalization(torch.tensor([0.1]), torch.tensor([1.3]))
    targets = Normalization(torch.tensor([0.2]), torch.tensor([0.7]))
    return Network(nn.Sequential(*modules), inputs, targets).double()


def value(network: Network, x: Tensor, y: Tensor, loss: BoundLoss) -> Tensor:
    """The loss as the network itself computes it, with the same chance each time."""
    torch.manual_seed(5)
    return loss(network(x), network.scaled(y))


def ours(network: Network, x: Tensor, y: Tensor, loss: BoundLoss) -> dict[str, Tensor]:
    """The gradients by the chain rule, of every parameter and of the first layer's input, and the loss itself."""
    torch.manual_seed(5)
    walked = walk(network, x, y, loss)
    assert set(walked.gradients) == {name for name, _ in network.named_parameters()}
    return {**walked.gradients, "x": walked.layers[0].backward[-1].value, "L": walked.loss.value}


def by_autograd(network: Network, x: Tensor, y: Tensor, loss: BoundLoss) -> dict[str, Tensor]:
    """The same by autograd; dL/dx of the first layer is that of the raw input times the input's spread."""
    x = x.clone().requires_grad_()
    parameters = dict(network.named_parameters())
    found = value(network, x, y, loss)
    gradients = torch.autograd.grad(found, [*parameters.values(), x], materialize_grads=True)
    *own, of_input = gradients
    return {**dict(zip(parameters, own, strict=True)), "x": of_input * network.inputs_std, "L": found.detach()}


def by_differences(network: Network, x: Tensor, y: Tensor, loss: BoundLoss) -> dict[str, Tensor]:
    """(L(p + h) - L(p - h)) / (2 h) for every entry of every parameter."""
    found = {}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            slopes = torch.zeros_like(parameter).view(-1)
            flat = parameter.view(-1)
            for index in range(len(flat)):
                before = flat[index].item()
                ends = []
                for end in (before + H, before - H):
                    flat[index] = end
                    ends.append(value(network, x, y, loss).item())
                flat[index] = before
                slopes[index] = (ends[0] - ends[1]) / (2 * H)
            found[name] = slopes.view_as(parameter)
    return found


def deviation(mine: dict[str, Tensor], other: dict[str, Tensor], visible: float = 0.0) -> float:
    """The largest difference, relative to the largest entry of the other's tensor, or to what is visible at all.

    What cancels to nothing in one tensor (a bias before a batch_norm) leaves the rounding errors of the others there:
    entries below a millionth of the largest one of all count as that large.
    """
    assert all(mine[name].shape == tensor.shape for name, tensor in other.items())
    most = {name: tensor.abs().amax().item() for name, tensor in other.items()}
    least = max(visible, 1e-6 * max(most.values(), default=0.0))
    apart = {name: (mine[name] - tensor).abs().amax().item() for name, tensor in other.items()}
    return max((apart[name] / (max(most[name], least) or 1.0) for name in other), default=0.0)


def check(network: Network, x: Tensor, y: Tensor, loss: BoundLoss = MSE) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mine = ours(network, x, y, loss)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())  # nothing is changed
    assert deviation(mine, by_autograd(network, x, y, loss)) <= 1e-10
    # both losses are rounded to some 1.1e-16 of their size: of smaller slopes differences do not show six digits
    visible = 8 * 1.1e-16 * mine["L"].item() / H / 1e-6
    assert deviation(mine, by_differences(network, x, y, loss), visible) <= 1e-6


def targets_for(network: Network, x: Tensor) -> Tensor:
    torch.manual_seed(5)
    with torch.no_grad():
        output = network(x)
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


# --- layers -----------------------------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("training", [True, False])
def test_every_layer(name: str, shape: Shape, parameters: dict[str, Any], training: bool, count: int) -> None:
    module, _ = build(name, shape, parameters)
    if training and name == "batch_norm" and count == 1 and len(shape) == 1:
        pytest.skip("a batch of one has no spread: refused, as a test below shows")
    network = network_of(module, nn.Flatten()).train(training)
    x = samples(shape, count).detach()
    check(network, x, targets_for(network, x))


def test_batch_norm_refuses_one_sample() -> None:
    module, _ = build("batch_norm", (5,), {})
    with pytest.raises(UsageError, match="batch_norm cannot measure the spread of one sample"):
        walk(network_of(module).train(), samples((5,), 1), torch.zeros(1, 5), MSE)


@pytest.mark.parametrize("seed", range(3))
def test_layers_behind_each_other(seed: int) -> None:
    """A convolution, a pool, a block with a projection, a norm and maxout, with dropout that drops."""
    stack: list[tuple[str, dict[str, Any]]] = [
        ("conv2d", {"channels": 3, "activation": "gelu"}),
        ("max_pool2d", {}),
        ("residual", {"projection": True, "layers": [{"type": "conv2d", "channels": 4}, "batch_norm"]}),
        ("activation", {"function": "tanh"}),
        ("flatten", {}),
        ("maxout", {"units": 3}),
        ("dropout", {}),
        ("linear", {"units": 2}),
    ]
    shape: Shape = (2, 6, 6)
    modules = []
    for name, settings in stack:
        module, shape = build(name, shape, settings)
        modules.append(module)
    network = network_of(*modules).train()
    x = samples((2, 6, 6), 4).detach() + seed
    check(network, x, targets_for(network, x))


# --- activations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters"), ACTIVATION_CASES)
@pytest.mark.parametrize("layer", ["linear", "conv2d"])
def test_every_activation(name: str, parameters: dict[str, Any], layer: str) -> None:
    """Sums from -10 to 10, so that both sides of every kink are met; the draw is nowhere within h of one."""
    shape, settings = ((5,), {"units": 4}) if layer == "linear" else (IMAGE, {"channels": 2})
    module, _ = build(layer, shape, {**settings, "activation": {"type": name, **parameters}})
    network = network_of(module, nn.Flatten())
    x = 6 * samples(shape, 4).detach()
    check(network, x, targets_for(network, x))


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "task", "settings"), LOSS_CASES)
@pytest.mark.parametrize("count", [1, 5])
def test_every_loss(name: str, task: Any, settings: dict[str, Any], count: int) -> None:
    """The outputs that tests of the losses take, as biases of a layer whose weights add little."""
    output, target = sample(name, task, seed=3, batch=count)
    parameters = LOSSES.make(name, **settings).parameters
    if isinstance(parameters.get("class_weights"), tuple):
        parameters["class_weights"] = torch.tensor(parameters["class_weights"], dtype=torch.float64)
    units = output.shape[1]
    function = "log_softmax" if LOSSES.get(name).facts["takes"] == "log_probabilities" else "identity"
    module, _ = build("linear", (3,), {"units": units, "activation": function})
    network = network_of(module)
    check(network, samples((3,), count).detach(), target, BoundLoss(name, parameters))


# --- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("training", [True, False])
def test_the_first_batch_of_every_shipped_experiment(path: Path, training: bool) -> None:
    """Beside autograd alone: half a million differences take too long."""
    config = load(path, ["data.download=false"] if "fallback" in path.read_text() else []).config
    cpu = torch.device("cpu")
    prepared, section = data.load(config.data_section, cpu, lambda message: None)
    experiment, state, _ = assemble(config.model_copy(update={"data": section}), prepared, cpu)
    network = in_float64(state.network).train(training)
    batch = slice(config.data_section.batch_size)
    x, y = prepared.train.x[batch], prepared.train.y[batch]
    mine, theirs = ours(network, x, y, experiment.loss), _without_input(network, x, y, experiment.loss)
    assert deviation(mine, theirs) <= 1e-10


def _without_input(network: Network, x: Tensor, y: Tensor, loss: BoundLoss) -> dict[str, Tensor]:
    """by_autograd for inputs that may be bytes."""
    parameters = dict(network.named_parameters())
    found = value(network, x, y, loss)
    gradients = torch.autograd.grad(found, list(parameters.values()), materialize_grads=True)
    return {**dict(zip(parameters, gradients, strict=True)), "L": found.detach()}


def test_the_walk_keeps_what_it_says() -> None:
    """2-2-1 by hand: x (1, -2), W1 ((1, 2), (3, 4)), b1 (0.5, -0.5), tanh; w2 (1, -1), b2 0.25; mse with t = 1."""
    modules = [build("linear", (2,), {"units": 2, "activation": "tanh"})[0], build("linear", (2,), {"units": 1})[0]]
    network = Network(nn.Sequential(*modules), *[Normalization(torch.tensor([0.0]), torch.tensor([1.0]))] * 2).double()
    with torch.no_grad():
        for parameter, numbers in zip(
            network.parameters(), ([[1, 2], [3, 4]], [0.5, -0.5], [[1, -1]], [0.25]), strict=True
        ):
            parameter.copy_(torch.tensor(numbers))
    walked = walk(network, torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0]]), MSE)
    first, second = walked.layers
    a1, a2 = (torch.tanh(torch.tensor(z, dtype=torch.float64)).item() for z in (-2.5, -5.5))
    o = a1 - a2 + 0.25
    g = 2 * (o - 1)
    expected = {
        "z": [-2.5, -5.5],
        "a": [a1, a2],
        "dL/da": [g, -g],
        "f'(z)": [1 - a1**2, 1 - a2**2],
        "dL/dz": [g * (1 - a1**2), -g * (1 - a2**2)],
    }
    found = {quantity.symbol: quantity.value for quantity in (*first.forward, *first.backward)}
    for symbol, numbers in expected.items():
        torch.testing.assert_close(found[symbol], torch.tensor([numbers], dtype=torch.float64), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found["dL/dW"], found["dL/dz"].T @ torch.tensor([[1.0, -2.0]]).double())
    assert [quantity.symbol for quantity in second.backward] == ["dL/dz", "dL/dW", "dL/db", "dL/dx"]
    assert walked.loss.value.item() == pytest.approx((o - 1) ** 2, rel=1e-14)
    assert walked.loss_gradient.value.item() == pytest.approx(g, rel=1e-14)


def test_in_float64_is_a_copy_whose_products_are_not_rounded() -> None:
    module, _ = build("linear", (5,), {"units": 3, "activation": "tanh"})
    network = network_of(module).float().train()
    precision.apply(network, "bfloat16")
    exact = in_float64(network)
    assert network.inputs_mean.dtype == torch.float32
    assert exact.training
    x, y = samples((5,), 4).detach(), torch.zeros(4, 3)
    assert deviation(ours(exact, x, y, MSE), by_autograd(exact, x, y, MSE)) <= 1e-10
    rounded = {name: tensor.double() for name, tensor in by_autograd(network, x.float(), y, MSE).items()}
    assert deviation(rounded, by_autograd(exact, x, y, MSE)) > 1e-4  # of bfloat16's 2^-8


# --- who is not covered, and what is wrong ----------------------------------------------------------------------------


def without(entry: Any, monkeypatch: pytest.MonkeyPatch, *facts: str) -> None:
    """Take facts from a registered entry, for the time of a test."""
    kept = {key: fact for key, fact in entry.facts.items() if key not in facts}
    monkeypatch.setitem(entry.__dict__, "facts", kept)  # the entry is frozen


def test_what_has_no_derivative_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    with pytest.raises(UsageError, match=r"layer 0 is a Softshrink, and its derivative is not written out"):
        walk(network_of(nn.Softshrink()), x, y, MSE)
    module, _ = build("linear", (3,), {"units": 3, "activation": "mish"})
    walk(network_of(module), x, y, MSE)
    without(ACTIVATIONS.get("mish"), monkeypatch, "slope")
    with pytest.raises(UsageError, match=r"derivative of the activation mish is not written out: register it with"):
        walk(network_of(module), x, y, MSE)
    module, _ = build("linear", (3,), {"units": 3})
    without(LOSSES.get("mse"), monkeypatch, "gradient")
    with pytest.raises(UsageError, match=r"derivative of the loss mse is not written out: register it with"):
        walk(network_of(module), x, y, MSE)


def transposed(layer: Any, x: Tensor, d: Tensor) -> list[derivatives.Quantity]:
    *steps, _ = RIGHT_AFFINE(layer, x, d)
    return [*steps, derivatives.Quantity("dL/dx", "W dL/dz", d @ layer.weight.T)]


def without_mean(dn: Tensor, n: Tensor, deviation: Tensor, over: tuple[int, ...]) -> derivatives.Quantity:
    return derivatives.Quantity("dL/dx", "dL/dn / deviation", dn / deviation)


def without_bias(layer: Any, x: Tensor, d: Tensor) -> list[derivatives.Quantity]:
    return [
        derivatives.Quantity(q.symbol, q.formula, q.value / len(x) if q.parameter == "bias" else q.value, q.parameter)
        for q in RIGHT_AFFINE(layer, x, d)
    ]


RIGHT_AFFINE = derivatives._affine_back


def without_mask(layer: Any, x: Tensor) -> tuple[list[derivatives.Quantity], derivatives.Back]:
    steps, _ = RIGHT_DROPOUT(layer, x)
    return steps, lambda g: [derivatives.Quantity("dL/dx", "dL/dy", g)]


RIGHT_DROPOUT = derivatives.dropout


@pytest.mark.parametrize(
    ("layer", "settings", "name", "wrong"),
    [
        ("linear", {"units": 5}, "_affine_back", transposed),
        ("linear", {"units": 5}, "_affine_back", without_bias),
        ("batch_norm", {}, "_standardized_back", without_mean),
        ("layer_norm", {}, "_standardized_back", without_mean),
        ("dropout", {}, "dropout", without_mask),
    ],
)
def test_a_wrong_derivative_is_found(
    layer: str, settings: dict[str, Any], name: str, wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = build(layer, (5,), settings)
    network, x = network_of(module).train(), samples((5,), 4).detach()
    y = targets_for(network, x)
    check(network, x, y)
    monkeypatch.setattr(derivatives, name, wrong)
    monkeypatch.setitem(derivatives._DERIVATIVES, type(module), (layer, getattr(derivatives, layer)))
    mine = ours(network, x, y, MSE)
    assert deviation(mine, by_autograd(network, x, y, MSE)) > 1e-3


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS.names() if name not in ("identity", "leaky_relu")])
def test_a_slope_that_is_a_little_off_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a millionth: far above what is allowed, far below what an eye would see in a plot."""
    entry = ACTIVATIONS.get(name)
    fact = "slope" if "slope" in entry.facts else "pullback"
    right = entry.facts[fact]
    monkeypatch.setitem(entry.__dict__, "facts", {**entry.facts, fact: lambda *a, **k: right(*a, **k) * (1 + 1e-6)})
    module, _ = build("linear", (5,), {"units": 4, "activation": name})
    network, x = network_of(module), samples((5,), 4).detach()
    y = targets_for(network, x)
    assert deviation(ours(network, x, y, MSE), by_autograd(network, x, y, MSE)) > 1e-7


def test_every_formula_is_written() -> None:
    """What `dlf explain` prints beside the numbers, f and f' of every activation and loss."""
    registries: tuple[Registry[Any], ...] = (ACTIVATIONS, LOSSES)
    for registry in registries:
        for name in registry.names():
            formulas = derivatives.formulas_of(registry.get(name).facts, registry.make(name).parameters, ("", ""))
            assert all(formulas), name


def test_every_layer_has_a_derivative() -> None:
    """The derivative of every layer is registered under the layer's name in the YAML."""
    assert {name for name, _ in derivatives._DERIVATIVES.values()} == set(LAYERS.names()) - {"residual"}
