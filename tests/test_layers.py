"""Every layer against numpy (values), central differences (gradients), a real run (shapes) and NaN (initial values).

A registered layer without a case or a reference fails here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from dlf.activations import ACTIVATIONS
from dlf.inits import INITS
from dlf.layers import (
    LAYERS,
    Residual,
    Shape,
    fill_defaults,
    initialise,
    multiply_adds,
    stack,
)
from dlf.modules import Linear, Weighted
from dlf.registry import Component

Array = NDArray[Any]
Parameters = dict[str, Any]

FEATURES, IMAGE = (5,), (2, 5, 4)
SHRINK = {"type": "conv2d", "channels": 3, "stride": 2}

CASES: dict[str, list[tuple[Shape, Parameters]]] = {
    "linear": [(FEATURES, {"units": 4}), (FEATURES, {"units": 4, "activation": "tanh", "bias": False})],
    "conv2d": [
        (IMAGE, {"channels": 2}),
        (IMAGE, {"channels": 2, "kernel": 2, "stride": 2, "padding": "valid", "activation": "tanh"}),
        (IMAGE, {"channels": 4, "kernel": 4, "stride": 3, "bias": False}),
    ],
    "maxout": [(FEATURES, {"units": 4}), (FEATURES, {"units": 2, "pieces": 3, "bias": False})],
    "activation": [(shape, {"function": "tanh"}) for shape in (FEATURES, IMAGE)],
    "prelu": [(FEATURES, {}), (IMAGE, {"shared": False, "init_slope": 0.1})],
    "dropout": [(FEATURES, {}), (IMAGE, {"rate": 0.3})],
    "alpha_dropout": [(FEATURES, {}), (IMAGE, {"rate": 0.3})],
    "batch_norm": [(FEATURES, {}), (IMAGE, {"momentum": 0.3, "eps": 0.1})],
    "layer_norm": [(FEATURES, {}), (IMAGE, {"eps": 0.1})],
    "rms_norm": [(FEATURES, {}), (IMAGE, {"eps": 0.1})],
    "flatten": [(FEATURES, {}), (IMAGE, {})],
    "max_pool2d": [(IMAGE, {}), (IMAGE, {"size": 3, "stride": 1})],
    "avg_pool2d": [(IMAGE, {}), (IMAGE, {"size": 3, "stride": 1})],
    "residual": [
        (FEATURES, {"layers": [{"type": "linear", "units": 5, "activation": "tanh"}, "layer_norm"]}),
        (FEATURES, {"layers": [{"type": "linear", "units": 3}], "projection": True}),
        (IMAGE, {"layers": [{"type": "residual", "layers": [{"type": "conv2d", "channels": 2}]}, "rms_norm"]}),
        (IMAGE, {"layers": [SHRINK, {"type": "activation", "function": "tanh"}], "projection": True}),
    ],
}

ALL = [(name, *case) for name in LAYERS.names() for case in CASES[name]]
every_layer = pytest.mark.parametrize(("name", "shape", "parameters"), ALL)


def build(name: str, shape: Shape, parameters: Parameters) -> tuple[nn.Module, Shape]:
    """The layer in float64 with all numbers random, those of the running variance positive."""
    module, output = LAYERS.build(LAYERS.make(name, **parameters), shape)
    module.double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.2)
                value.mul_(1 if isinstance(module, nn.modules.batchnorm._BatchNorm) else value.shape[0] ** -0.5)
    return module, output


def samples(shape: Shape, count: int = 3) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- values -----------------------------------------------------------------------------------------------------------


def after(sums: Array, activation: Component | None) -> Array:
    assert activation is None or activation.type == "tanh", "the cases use no other"
    return sums if activation is None else np.tanh(sums)


def weight_and_bias(module: nn.Module) -> tuple[Array, Array]:
    weight = module.get_parameter("weight").detach().numpy()
    bias = dict(module.named_parameters()).get("bias")
    return weight, np.zeros(len(weight)) if bias is None else bias.detach().numpy()


def linear_values(module: nn.Module, x: Array, activation: Component | None = None, **_: Any) -> Array:
    weight, bias = weight_and_bias(module)
    return after(np.einsum("bi,oi->bo", x, weight) + bias, activation)


def conv2d_values(
    module: nn.Module, x: Array, kernel: int, stride: int, padding: str, activation: Component | None, **_: Any
) -> Array:
    weight, bias = weight_and_bias(module)
    border = (kernel - 1) // 2 if padding == "same" else 0
    sums = np.einsum("bchwij,ocij->bohw", windows(x, kernel, stride, border), weight)
    return after(sums + bias[:, None, None], activation)


def windows(x: Array, size: int, stride: int, border: int = 0) -> Array:
    """(batch, channels, height', width', size, size)"""
    padded = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)))
    return sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]


def maxout_values(module: nn.Module, x: Array, units: int, pieces: int, **_: Any) -> Array:
    weight, bias = weight_and_bias(module)
    maps = [x @ weight[k * units :][:units].T + bias[k * units :][:units] for k in range(pieces)]
    return np.asarray(np.max(maps, axis=0))


def prelu_values(module: nn.Module, x: Array, **_: Any) -> Array:
    slope = module.get_parameter("weight").detach().numpy().reshape(-1, *[1] * (x.ndim - 2))
    return np.where(x > 0, x, slope * x)


def batch_norm_values(module: nn.Module, x: Array, eps: float, **_: Any) -> Array:
    """In evaluation; training has a test of its own."""
    gain, shift, mean, variance = (value.numpy() for value in list(module.state_dict().values())[:4])
    axes = (-1, *[1] * (x.ndim - 2))
    y = (x - mean.reshape(axes)) / np.sqrt(variance.reshape(axes) + eps)
    return np.asarray(y * gain.reshape(axes) + shift.reshape(axes))


def layer_norm_values(module: nn.Module, x: Array, eps: float) -> Array:
    gain, shift = weight_and_bias(module)
    over = tuple(range(1, x.ndim))
    return np.asarray((x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + eps) * gain + shift)


def rms_norm_values(module: nn.Module, x: Array, eps: float) -> Array:
    gain, _ = weight_and_bias(module)
    return np.asarray(x / np.sqrt((x**2).mean(tuple(range(1, x.ndim)), keepdims=True) + eps) * gain)


def residual_values(module: nn.Module, x: Array, **_: Any) -> Array:
    assert isinstance(module, Residual)
    y = x
    for row in module.rows:
        y = VALUES[row.component.type](row.module, y, **row.component.parameters)
    if isinstance(module.skip, Weighted) and x.ndim == 2:
        x = linear_values(module.skip, x)
    elif isinstance(module.skip, Weighted):
        weight = module.skip.weight.detach().numpy()[:, :, 0, 0]
        x = np.einsum("bchw,oc->bohw", x[:, :, ::2, ::2], weight)
    return np.asarray(x + y)


VALUES: dict[str, Callable[..., Array]] = {
    "linear": linear_values,
    "conv2d": conv2d_values,
    "maxout": maxout_values,
    "activation": lambda module, x, function: after(x, function),
    "prelu": prelu_values,
    "dropout": lambda module, x, rate: x,
    "alpha_dropout": lambda module, x, rate: x,
    "batch_norm": batch_norm_values,
    "layer_norm": layer_norm_values,
    "rms_norm": rms_norm_values,
    "flatten": lambda module, x: x.reshape(len(x), -1),
    "max_pool2d": lambda module, x, size, stride: windows(x, size, stride or size).max((-1, -2)),
    "avg_pool2d": lambda module, x, size, stride: windows(x, size, stride or size).mean((-1, -2)),
    "residual": residual_values,
}


def check_values(module: nn.Module, x: Tensor, expected: Array) -> None:
    """At most 60 products of numbers below 4 are added, each rounded by 1.1e-16: 60 * 4 * 4 * 1.1e-16 = 1e-13."""
    before = x.clone()
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-13, atol=1e-13, strict=True)
    assert torch.equal(x, before), "the layer wrote over its input"


@every_layer
def test_values_are_those_of_the_formula(name: str, shape: Shape, parameters: Parameters) -> None:
    module, _ = build(name, shape, parameters)
    x = samples(shape)
    complete = LAYERS.make(name, **parameters).parameters
    check_values(module.eval(), x, VALUES[name](module, x.numpy(), **complete))


def wrong_values(name: str) -> Array:
    """What the first case of the layer would give if it were wrong in the way that is named beside it."""
    shape, parameters = CASES[name][0]
    module, _ = build(name, shape, parameters)
    x = samples(shape).numpy()
    complete = LAYERS.make(name, **parameters).parameters
    if name == "conv2d":  # a true convolution, with mirrored filters
        module.get_parameter("weight").data = module.get_parameter("weight").data.flip(2, 3)
    elif name == "maxout":  # unit after unit in place of piece after piece
        weight = module.get_parameter("weight")
        weight.data = weight.data.view(4, 2, -1).transpose(0, 1).reshape(8, -1)
    elif name == "layer_norm":  # the variance of n - 1
        return np.asarray(VALUES[name](module, x, **complete) * sqrt((FEATURES[0] - 1) / FEATURES[0]))
    elif name == "batch_norm":  # twice the eps
        complete["eps"] = 2e-5
    elif name == "residual":  # the skip is forgotten
        return np.asarray(VALUES[name](module, x, **complete) - x)
    return VALUES[name](module, x, **complete)


@pytest.mark.parametrize("name", ["conv2d", "maxout", "layer_norm", "batch_norm", "residual"])
def test_the_check_of_values_rejects_a_wrong_variant(name: str) -> None:
    shape, parameters = CASES[name][0]
    module, _ = build(name, shape, parameters)
    with pytest.raises(AssertionError):
        check_values(module.eval(), samples(shape), wrong_values(name))


def test_the_check_of_values_rejects_a_layer_that_writes_over_its_input() -> None:
    with pytest.raises(AssertionError, match="wrote over"):
        check_values(nn.ReLU(inplace=True), samples(FEATURES), np.maximum(samples(FEATURES).numpy(), 0))


@pytest.mark.parametrize(("shape", "parameters"), CASES["batch_norm"])
def test_batch_norm_in_training(shape: Shape, parameters: Parameters) -> None:
    """Normalizes by the biased variance of the batch and keeps the unbiased one, as in the paper (algorithm 2)."""
    module, _ = build("batch_norm", shape, parameters)
    settings = LAYERS.make("batch_norm", **parameters).parameters
    x = samples(shape, 7)
    over = (0, 2, 3)[: x.ndim - 1]
    mean, variance = x.numpy().mean(over), x.numpy().var(over)
    count = x.numel() // shape[0]
    old_mean, old_variance = (module.get_buffer(f"running_{what}").numpy().copy() for what in ("mean", "var"))
    output = module.train()(x).detach()

    share = settings["momentum"]
    found_mean, found_variance = (module.get_buffer(f"running_{what}").numpy() for what in ("mean", "var"))
    np.testing.assert_allclose(found_mean, (1 - share) * old_mean + share * mean, rtol=1e-13)
    unbiased = variance * count / (count - 1)
    np.testing.assert_allclose(found_variance, (1 - share) * old_variance + share * unbiased, rtol=1e-13)

    with torch.no_grad():
        module.get_buffer("running_mean").copy_(torch.tensor(mean))
        module.get_buffer("running_var").copy_(torch.tensor(variance))
    expected = batch_norm_values(module, x.numpy(), **settings)
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-13, atol=1e-13)


# --- gradients --------------------------------------------------------------------------------------------------------


def check_gradients(module: nn.Module, x: Tensor) -> None:
    """Of the input and every parameter. All numbers are about 1, so gradcheck's own step and tolerances fit.

    Chance is the same in every call; a draw of normal numbers is nowhere within 1e-6 of a kink.
    """
    names = [name for name, _ in module.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        torch.manual_seed(0)
        output: Tensor = functional_call(module, dict(zip(names, values, strict=True)), (x,))
        return output

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *module.parameters()), check_undefined_grad=False)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_central_differences(name: str, shape: Shape, parameters: Parameters, training: bool) -> None:
    module, _ = build(name, shape, parameters)
    check_gradients(module.train(training), samples(shape, 2))


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS.names() if "inplace" in ACTIVATIONS.get(name).facts])
def test_gradients_through_an_activation_that_overwrites_the_sum(name: str) -> None:
    for case in (("linear", FEATURES, {"units": 4}), ("conv2d", IMAGE, {"channels": 2})):
        layer, shape, parameters = case
        module, _ = build(layer, shape, {**parameters, "activation": name})
        check_gradients(module, samples(shape, 2))


class LinearWithoutBiasGradient(Linear):
    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return nn.functional.linear(x, self.weight, self.bias.detach())


def test_the_check_of_gradients_rejects_a_forgotten_parameter() -> None:
    module = LinearWithoutBiasGradient((4, 5), True, None).double()
    with pytest.raises(RuntimeError):
        check_gradients(module, samples(FEATURES))


# --- shapes -----------------------------------------------------------------------------------------------------------


def check_shape(name: str, shape: Shape, parameters: Parameters, claim: Callable[[Shape], Shape] = lambda s: s) -> None:
    module, output = LAYERS.build(LAYERS.make(name, **parameters), shape)
    assert tuple(module(torch.zeros(2, *shape)).shape) == (2, *claim(output))


@every_layer
def test_shapes_are_those_of_a_real_run(name: str, shape: Shape, parameters: Parameters) -> None:
    check_shape(name, shape, parameters)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_shapes_of_windows(size: int, stride: int) -> None:
    for shape in ((1, 5, 8), (2, 6, 7)):
        for padding in ("same", "valid"):
            parameters = {"channels": 2, "kernel": size, "stride": stride, "padding": padding}
            check_shape("conv2d", shape, parameters)
        check_shape("max_pool2d", shape, {"size": size, "stride": stride})
        check_shape("avg_pool2d", shape, {"size": size, "stride": stride})


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_same_padding_of_an_odd_kernel_divides_and_rounds_up(kernel: int, stride: int) -> None:
    layer = LAYERS.make("conv2d", channels=4, kernel=kernel, stride=stride)
    assert LAYERS.build(layer, (1, 7, 10))[1] == (4, -(-7 // stride), -(-10 // stride))


def test_the_check_of_shapes_rejects_a_wrong_claim() -> None:
    with pytest.raises(AssertionError):
        check_shape("conv2d", IMAGE, {"channels": 2, "padding": "valid"}, lambda output: (2, *IMAGE[1:]))


@pytest.mark.parametrize("name", LAYERS.names())
def test_no_setting_of_a_layer_is_left_open(name: str) -> None:
    layer = LAYERS.make(name, **CASES[name][0][1])
    (filled,) = fill_defaults([layer], ACTIVATIONS.make("relu"), INITS.make("auto"))
    found = filled.parameters
    assert all(found[key] is not None for key in ("activation", "init") if key in found)


# --- initial values ---------------------------------------------------------------------------------------------------


def poisoned(layer: Component, shape: Shape) -> nn.Sequential:
    """A layer as the assembly builds it: without memory, then with memory that holds nonsense."""
    with torch.device("meta"):
        rows = stack(shape, [layer])
    network = nn.Sequential(*(row.module for row in rows)).to_empty(device="cpu")
    poison(network)
    return network


def poison(network: nn.Module) -> None:
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(torch.nan if value.is_floating_point() else -7)


def check_initial_values(network: nn.Module) -> None:
    """Nothing is left as it was, and the generator alone decides: twice the same bytes, whatever the global state."""
    drawn = []
    for global_seed in (1, 2):
        poison(network)
        torch.manual_seed(global_seed)
        initialise(network, torch.Generator().manual_seed(4))
        values = list(network.state_dict().values())
        assert not any(value.isnan().any() or (value == -7).any() for value in values)
        drawn.append(b"".join(value.numpy().tobytes() for value in values))
    assert drawn[0] == drawn[1]


@every_layer
def test_every_number_is_set_from_the_generator(name: str, shape: Shape, parameters: Parameters) -> None:
    check_initial_values(poisoned(LAYERS.make(name, **parameters), shape))


class Unset(nn.Module):
    """Sets one of its two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.one)


class NoReset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(1))


@pytest.mark.parametrize("wrong", [Unset, NoReset, lambda: nn.Linear(3, 4)], ids=["unset", "no reset", "global"])
def test_the_check_of_initial_values_rejects(wrong: Callable[[], nn.Module]) -> None:
    with pytest.raises(AssertionError):
        check_initial_values(nn.Sequential(wrong()))


# --- cost -------------------------------------------------------------------------------------------------------------


def check_multiply_adds(name: str, shape: Shape, parameters: Parameters, factor: int = 1) -> None:
    """torch counts two operations, a product and a sum, for each product in the matrix products that it really runs."""
    module, output = LAYERS.build(LAYERS.make(name, **parameters), shape)
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, *shape))
    assert 2 * multiply_adds(module, output) * factor == counter.get_total_flops()


@every_layer
def test_multiply_adds_are_those_that_torch_runs(name: str, shape: Shape, parameters: Parameters) -> None:
    check_multiply_adds(name, shape, parameters)


def test_the_check_of_multiply_adds_rejects_a_wrong_count() -> None:
    with pytest.raises(AssertionError):
        check_multiply_adds("conv2d", IMAGE, {"channels": 2}, factor=2)
