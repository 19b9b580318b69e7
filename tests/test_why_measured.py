"""What five topics measure, activations to normalization, beside what it must be."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import dlf
from dlf import yaml12
from dlf.config import loads
from dlf.data import load
from dlf.engine import Experiment, TrainState, fit
from dlf.errors import UsageError
from dlf.experiment import assemble
from dlf.modules import Activate, Weighted
from dlf.questions.design import Design, Subject, varied
from dlf.questions.results import Study, Sweep
from dlf.questions.signals import signals
from dlf.questions.topics import find
from dlf.questions.topics.activations import _collapsed
from dlf.questions.topics.depth import _parameters, _width
from dlf.questions.topics.learning_rate import _curvature_and_weights
from dlf.questions.topics.normalization import _moments, _scales
from dlf.questions.trials import prepare

CPU = torch.device("cpu")
IRIS: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 200, "validation": 40, "test": 0},
    "model": {"activation": "tanh", "layers": [{"type": "linear", "units": 5}, {"type": "linear", "units": 4}]},
    "train": {"epochs": 2, "device": "cpu"},
}

Running = tuple[Experiment, TrainState]


def running(*overrides: str) -> Running:
    """An untrained network on iris."""
    config = loads(yaml12.dump(IRIS), "the test", overrides).config
    data, _ = load(config.data_section, CPU, lambda message: None)
    return assemble(config, data, CPU)[:2]


def designed(topic: str, *overrides: str, config: Mapping[str, Any] = IRIS) -> tuple[Subject, Design]:
    return prepare(loads(yaml12.dump(dict(config)), "the test", overrides), find(topic).ask, lambda message: None)


def loss_of(experiment: Experiment, network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The loss of the training part as a function of all parameters in a row, in float64."""
    part = experiment.data.train
    exact = copy.deepcopy(network).double()
    shapes = {name: p.shape for name, p in exact.named_parameters()}

    def loss(row: Tensor) -> Tensor:
        pieces = torch.split(row, [math.prod(shape) for shape in shapes.values()])
        values = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return experiment.loss(functional_call(exact, values, (part.x,)), part.y)

    return loss


# --- learning_rate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_the_curvature_is_the_largest_eigenvalue_of_the_hessian(activation: str) -> None:
    """Beside the whole matrix of second derivatives, by torch.autograd.functional in float64."""
    experiment, state = running(f"model.activation={activation}", "model.init=lecun_normal")
    found = _curvature_and_weights(experiment, state)
    row = torch.cat([p.detach().double().flatten() for p in state.network.parameters()])
    hessian = torch.autograd.functional.hessian(loss_of(experiment, state.network), row)  # type: ignore[no-untyped-call]
    values = torch.linalg.eigvalsh(hessian)
    # thirty products of power iteration come from below, and less near with the shift that tanh needs
    assert 0.97 * values[-1] < found["curvature"] < 1.001 * values[-1]
    if activation == "tanh":
        assert -values[0] > values[-1]  # the farthest from 0 is another one
    weights = torch.cat([p.detach().flatten() for p in state.network.parameters() if p.ndim == 2])
    assert found["weight"] == pytest.approx(weights.square().mean().sqrt().item(), rel=1e-6)


def test_measuring_the_curvature_leaves_no_trace() -> None:
    experiment, state = running()
    before = copy.deepcopy(state.network.state_dict())
    _curvature_and_weights(experiment, state)
    assert state.network.training
    assert all(parameter.grad is None for parameter in state.network.parameters())
    assert all(torch.equal(before[name], value) for name, value in state.network.state_dict().items())


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("share", "falls"), [(0.97, True), (1.03, False)])
def test_steps_swing_up_beyond_the_limit(momentum: float, share: float, falls: bool) -> None:
    """Gradient descent on a linear network with a squared loss, whose Hessian stays: x -> x - lr H x, heavy ball."""
    config = {
        "data": {"type": "diabetes", "batch_size": 500, "limit": 250, "validation": 40, "test": 0},
        "model": {"layers": []},
        "train": {"epochs": 100, "device": "cpu"},
    }
    subject, _ = designed("learning_rate", config=config)
    experiment, state = assemble(subject.config, subject.data, CPU)[:2]
    limit = 2 * (1 + momentum) / _curvature_and_weights(experiment, state)["curvature"]
    sgd = f"optimizer={{type: sgd, lr: {share * limit}, momentum: {momentum}}}"
    loaded = loads(yaml12.dump(config), "the test", [sgd])
    experiment, state = assemble(loaded.config, subject.data, CPU)[:2]
    losses = [record["train_loss"] for record in fit(state, experiment, epochs=100, history=[])]
    assert (losses[-1] < losses[0]) is falls
    assert (losses[-1] > 10 * losses[0]) is not falls


def test_the_rates_are_decades_of_the_configured_one() -> None:
    _, design = designed("learning_rate", "optimizer={type: sgd, lr: 0.02}")
    rates = [variant.settings["optimizer.lr"] for variant in design.variants]
    assert rates == [2e-5, 2e-4, 2e-3, 0.02, 0.2, 2.0, 20.0]
    assert [variant.label for variant in design.variants][3] == "lr 0.02"
    sweep = design.charts[0]
    assert isinstance(sweep, Sweep)
    assert list(sweep.at.values()) == rates
    assert [(claim.first, claim.expected, claim.second) for claim in design.claims] == [
        ("lr 2e-05", "worse", "lr 0.02"),
        ("lr 20", "worse", "lr 0.02"),
    ]


# --- depth and initialization ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(("features", "outputs", "wanted"), [(2, 1, 1185), (64, 10, 50826), (784, 10, 1000)])
def test_the_width_comes_nearest_to_the_parameters_wanted(
    layers: int, features: int, outputs: int, wanted: int
) -> None:
    """Beside all widths, one by one; and the count is that of the real network."""
    counts = {units: _parameters(features, layers, units, outputs) for units in range(1, 1200)}
    nearest = min(counts, key=lambda units: abs(counts[units] - wanted))
    units = _width(features, layers, outputs, wanted)
    assert units == nearest
    sizes = [features, *[units] * layers, outputs]
    assert counts[units] == sum(p.numel() for a, b in pairwise(sizes) for p in nn.Linear(a, b).parameters())


def test_networks_of_all_depths_are_as_large_as_the_given_one() -> None:
    subject, design = designed("depth", "model.layers=[{type: linear, units: 64}, {type: linear, units: 32}]")
    wanted = sum(p.numel() for p in subject.blueprint.layers.parameters())
    for variant, layers in zip(design.variants, (1, 2, 4, 8, 16), strict=True):
        config = varied(subject, variant)
        network = assemble(config, subject.data, CPU)[1].network
        assert len(config.model.layers) == layers
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(wanted, rel=0.1)


def test_signals_and_gradients_are_those_of_the_layers() -> None:
    """Layer by layer by hand, in float64."""
    experiment, state = running()
    found = signals(experiment, state)
    part = experiment.data.train
    network = copy.deepcopy(state.network).double()
    given = []
    assert isinstance(part.x, Tensor)
    a = network.normalize(part.x)
    for layer in network.layers:
        assert isinstance(layer, Weighted)
        assert layer.bias is not None
        a = a @ layer.weight.T + layer.bias
        if layer is not network.layers[-1]:
            a = a.tanh()
            a.retain_grad()
            given.append(a)
    loss = experiment.loss(a, part.y)
    loss.backward()  # type: ignore[no-untyped-call]
    own = [(len(part) * a.grad).square().mean().sqrt().item() for a in given if a.grad is not None]
    assert found["first_loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert found["gradient"] == pytest.approx(own, rel=1e-5)
    assert found["first_gradient"] == found["gradient"][0]
    assert found["kept"] == pytest.approx(own[0] / own[-1], rel=1e-5)
    values = [a.detach().numpy() for a in given]
    assert found["signal"] == pytest.approx([value.std() for value in values], rel=1e-5)
    assert found["apart"] == pytest.approx([math.sqrt(value.var(axis=0).mean()) for value in values], rel=1e-5)
    assert not state.network.layers[0]._forward_hooks
    assert state.network.training


def test_a_network_that_passes_no_gradient_keeps_none() -> None:
    found = signals(*running("model.init=zeros"))
    assert found["gradient"] == [0.0, 0.0]
    assert found["kept"] is None


@pytest.mark.parametrize(
    ("activation", "first"), [("relu", "he_normal"), ("tanh", "xavier_uniform"), ("selu", "lecun_normal")]
)
def test_the_first_weights_are_replaced_in_every_layer(activation: str, first: str) -> None:
    layers = "model.layers=[{type: linear, units: 40, init: ones}, {type: linear, units: 30}]"
    subject, design = designed("initialization", f"model.activation={activation}", layers)
    assert design.variants[0].label == first
    assert {claim.second for claim in design.claims} == {first}
    for variant, std in zip(design.variants, (None, None, 0.0, 0.01, 1.0), strict=True):
        network = assemble(varied(subject, variant), subject.data, CPU)[1].network
        weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim == 2])
        assert not bool((weights == 1).any())
        if std is not None:  # 1,450 weights: their spread is within 5 standard errors, std / sqrt(2 n)
            assert weights.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * len(weights)))


def test_the_formula_for_relu_says_what_is_measured() -> None:
    """A layer of n inputs multiplies the spread by std sqrt(n / 2): within a tenth over seven layers of 256 units."""
    wide = "model.layers=[" + ", ".join(["{type: linear, units: 256}"] * 8) + "]"
    for std in (0.01, 1.0):
        experiment, state = running(wide, "model.activation=relu", f"model.init={{type: normal, std: {std}}}")
        signal = signals(experiment, state)["signal"]
        assert (signal[-1] / signal[0]) ** (1 / 7) == pytest.approx(std * math.sqrt(128), rel=0.1)


# --- normalization --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["standard", "none"])
def test_the_moments_are_those_of_what_the_network_sees(kind: str) -> None:
    experiment, state = running(f"data.normalize={kind}")
    found = _moments(experiment, state)
    part = experiment.data.train
    assert isinstance(part.x, Tensor)
    x = part.x.numpy().astype(np.float64)
    if kind == "standard":
        x = (x - x.mean(0)) / x.std(0)
    singular = np.linalg.svd(x / math.sqrt(len(x)), compute_uv=False)
    assert found["most"] == pytest.approx(singular[0] ** 2, rel=1e-4)
    assert found["ratio"] == pytest.approx((singular[0] / singular[-1]) ** 2, rel=1e-3)
    loss = experiment.loss(state.network(part.x), part.y)
    assert found["first_loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_the_features_of_the_least_and_the_greatest_scale_are_named() -> None:
    subject, design = designed("normalization")
    spread = subject.data.train.x[:].numpy().std(0, ddof=1)
    assert subject.data.features is not None
    least, most = subject.data.features[spread.argmin()], subject.data.features[spread.argmax()]
    said = _scales(subject.data)
    assert f"{least} varies by {spread.min():.3f} and {most} by {spread.max():.2f}" in said
    assert f"a factor of {spread.max() / spread.min():.2f}" in said
    assert [variant.settings["data.normalize"] for variant in design.variants] == ["standard", "none"]


def test_bytes_are_also_divided_by_255() -> None:
    _, design = designed("normalization", "data={type: digits, limit: 200}")
    assert [variant.settings["data.normalize"] for variant in design.variants] == ["standard", "unit", "none"]


# --- activations ----------------------------------------------------------------------------------------------------


def test_ten_layers_without_activations_are_one_matrix() -> None:
    ten = "model.layers=[" + ", ".join(["{type: linear, units: 32}"] * 9) + "]"
    experiment, state = running(ten, "model.activation=identity")
    found = _collapsed(experiment, state)
    assert found["collapsed"] < 1e-10
    assert (found["matrices"], found["rows"], found["columns"]) == (10, 3, 4)
    assert found["parameters"] == sum(p.numel() for p in state.network.parameters())
    assert found["outputs"] > 0.1  # beside which 1e-10 is nothing


def test_a_network_with_activations_is_no_matrix() -> None:
    assert _collapsed(*running()) == {}


def test_all_hidden_activations_are_left_out_and_nothing_else() -> None:
    layers = [
        {"type": "linear", "units": 6, "activation": "relu"},
        {"type": "residual", "layers": [{"type": "linear", "units": 6}]},
        {"type": "activation", "function": "gelu"},
    ]
    subject, design = designed("activations", config={**IRIS, "model": {"activation": "tanh", "layers": layers}})
    given, without = (varied(subject, variant) for variant in design.variants)
    assert design.variants[0].label == "with gelu and relu and tanh"
    assert given == subject.config
    network = assemble(without, subject.data, CPU)[1].network
    kinds = [module.activation.type for module in network.modules() if isinstance(module, Weighted | Activate)]
    assert kinds == ["identity"] * 4
    assert without.model_copy(update={"model": given.model}) == given


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("[{type: linear, units: 4}, layer_norm]", "is still no matrix: layer 1"),
        ("[{type: linear, units: 4}, {type: maxout, units: 4}]", "is still no matrix: layer 1"),
        ("[]", "no hidden layer with an activation"),
        ("[{type: linear, units: 4, activation: identity}]", "no hidden layer with an activation"),
    ],
)
def test_networks_that_the_question_does_not_fit_are_refused(layers: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        designed("activations", f"model.layers={layers}")


def test_a_network_without_hidden_layers_has_no_first_weights_to_speak_of() -> None:
    with pytest.raises(UsageError, match="has no hidden layer"):
        designed("initialization", "model.layers=[]")


def test_where_the_effect_is_absent_it_is_said() -> None:
    """Blobs are parted by straight lines: there is nothing that activations could add."""
    data = {"type": "blobs", "validation": 0.4, "noise": 0.05, "batch_size": 32}
    result = dlf.why("activations", {**IRIS, "data": data}, "optimizer={type: adam, lr: 0.05}", seeds=2)
    (study,) = result.studies
    assert isinstance(study, Study)
    assert study.differences[0].verdict == "absent"
    assert "on these data no effect is to be seen" in result.happened
    assert "less" not in result.happened
