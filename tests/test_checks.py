"""Every check passes on healthy networks and finds its fault, on several seeds; its numbers are computed otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from dlf import yaml12
from dlf.checks import CHECKS, Prepared, architecture, baselines, batch, prepare, run_checks, samples, signals, start
from dlf.checks.prepared import uninformed
from dlf.config import loads
from dlf.data import load
from dlf.engine import Experiment, TrainState
from dlf.experiment import assemble
from dlf.findings import Finding
from dlf.losses import LOSSES, BoundLoss
from dlf.modules import Weighted

SEEDS = range(3)
SMALL: dict[str, Any] = {
    "data": {"type": "digits", "limit": 600, "validation": 0.2},
    "model": {"layers": [{"type": "linear", "units": 32}, {"type": "linear", "units": 32}]},
    "optimizer": {"type": "adam", "lr": 0.003},
    "train": {"device": "cpu"},
}
SPIRAL: dict[str, Any] = {**SMALL, "data": {"type": "spiral", "validation": 0.2}}
NUMBERS: dict[str, Any] = {**SMALL, "data": {"type": "diabetes", "validation": 0.2}}

Change = Callable[[Experiment, TrainState], tuple[Experiment, TrainState] | None]


def prepared(config: dict[str, Any], *overrides: str, seed: int = 0, change: Change | None = None) -> Prepared:
    """What the checks look at, with a fault put in after it was assembled."""
    resolved = loads(yaml12.dump(config), "the test", [f"seed={seed}", *overrides]).config
    data, _ = load(resolved.data_section, torch.device("cpu"), lambda message: None)
    experiment, state, resolved = assemble(resolved, data, torch.device("cpu"))
    if change is not None:
        experiment, state = change(experiment, state) or (experiment, state)
    return prepare(experiment, state, resolved)


def one(found: list[Finding], name: str) -> Finding:
    (finding,) = [finding for finding in found if finding.name == name]
    return finding


def quick(looked: Prepared) -> list[Finding]:
    """All but the check that trains longest where something is wrong."""
    return [finding for check in CHECKS if check is not batch.one_batch for finding in check(looked)]


def layers(*widths: int, **settings: object) -> str:
    return f"model.layers={json.dumps([{'type': 'linear', 'units': width, **settings} for width in widths])}"


def weight_of(layer: nn.Module) -> Tensor:
    """Its weight, to be written to."""
    return layer.get_parameter("weight").data


def bias_of(layer: nn.Module) -> Tensor:
    return layer.get_parameter("bias").data


def relayered(*modules: Callable[[nn.Sequential], nn.Module]) -> Change:
    """The network with further modules behind its last one."""

    def change(experiment: Experiment, state: TrainState) -> tuple[Experiment, TrainState]:
        for module in modules:
            state.network.layers.append(module(state.network.layers))
        return experiment, TrainState(state.network, state.optimizer, losses=state.losses, sums=state.sums)

    return change


# --- healthy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (SMALL, []),
        (SPIRAL, ["model.activation=tanh", "optimizer.lr=0.01"]),
        (NUMBERS, ["loss=huber"]),
        (NUMBERS, ["loss=mae"]),
        (SMALL, ["loss=hinge"]),
        (SMALL, ["loss=kl_div"]),
        (SMALL, ["loss=nll", "loss.class_weights=balanced"]),
        (SMALL, ["model.layers=[]"]),
        (SMALL, ["model.layers=[{type: conv2d, channels: 8}, batch_norm, max_pool2d, {type: linear, units: 16}]"]),
        (SMALL, ["model.layers=[{type: maxout, units: 16}, {type: residual, layers: [{type: linear, units: 16}]}]"]),
    ],
)
def test_healthy_networks_have_no_findings(config: dict[str, Any], overrides: list[str], seed: int) -> None:
    found = run_checks(prepared(config, *overrides, seed=seed))
    assert [finding for finding in found if finding.verdict != "pass"] == []
    names = [finding.name for finding in found]
    assert len(set(names)) == len(names)
    assert {"first_loss", "gradients", "one_batch", "update_size", "samples_apart", "association"} <= set(names)


def test_no_check_changes_what_it_looks_at() -> None:
    looked = prepared(SMALL, "model.layers=[{type: linear, units: 8}, batch_norm, dropout]", "regularizers=[l2]")
    network = looked.state.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.random.get_rng_state()
    mode = network.training
    first = run_checks(looked)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training == mode
    assert looked.state.optimizer.state == {}
    assert looked.state.step == 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), generator)
    again = run_checks(prepare(looked.experiment, looked.state, looked.config))
    assert again == first


@pytest.mark.gpu
def test_the_same_is_found_on_a_gpu() -> None:
    for overrides in ([], ["model.layers=[{type: conv2d, channels: 4}, batch_norm, {type: linear, units: 8}]"]):
        found = []
        for device in ("cpu", "cuda"):
            resolved = loads(yaml12.dump(SMALL), "the test", overrides).config
            data, _ = load(resolved.data_section, torch.device(device), lambda message: None)
            found.append(run_checks(prepare(*assemble(resolved, data, torch.device(device)))))
        verdicts = [{finding.name: finding.verdict for finding in each} for each in found]
        assert verdicts[0] == verdicts[1]


def test_every_check_is_registered() -> None:
    assert len(set(CHECKS)) == len(CHECKS)


# --- the first loss -------------------------------------------------------------------------------------------------

CLASSES = 7
BLANKS: dict[str, tuple[dict[str, Any], float]] = {  # by hand, for outputs that say nothing
    "cross_entropy": ({}, math.log(CLASSES)),
    "nll": ({}, math.log(CLASSES)),
    # less the entropy of q = 0.9 + 0.1 / 7 once and 0.1 / 7 six times
    "kl_div": (
        {},
        math.log(CLASSES)
        + (0.9 + 0.1 / CLASSES) * math.log(0.9 + 0.1 / CLASSES)
        + 6 * (0.1 / CLASSES) * math.log(0.1 / CLASSES),
    ),
    "binary_cross_entropy": ({}, math.log(2)),
    "hinge": ({"margin": 1.5}, 1.5),
    "mse": ({}, 1.0),  # the variance of y
    "mae": ({}, math.sqrt(2 / math.pi)),  # E|y| of a normal
    "huber": ({"delta": 1e9}, 0.5),
}


@pytest.mark.parametrize("name", LOSSES.names())
def test_outputs_that_say_nothing_have_the_known_loss(name: str) -> None:
    given, expected = BLANKS[name]
    parameters = {**LOSSES.make(name).parameters, **given}
    binary, takes = name == "binary_cross_entropy", LOSSES.get(name).facts["takes"]
    if takes == "values":
        # the quantiles of a normal: their mean square is 1 to a thousandth
        y = torch.special.ndtri((torch.arange(20_000) + 0.5) / 20_000)[:, None]
    else:
        y = torch.arange(700) % (2 if binary else CLASSES)
    output = torch.randn(len(y), 1 if binary or takes == "values" else CLASSES)
    loss = BoundLoss(name, parameters)
    assert float(loss(uninformed(output, takes), y)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("spread", "units"), [(0.1, 10), (0.5, 10), (0.3, 3)])
def test_outputs_unrelated_to_the_targets_cost_half_their_variance(spread: float, units: int) -> None:
    """E[log sum exp z] - E[z] = ln C + s^2 / 2 * (1 - 1 / C) for small s, by Taylor: the mean of z varies too."""
    looked = prepared(SMALL)
    n = 20_000
    generator = torch.Generator().manual_seed(0)
    output = spread * torch.randn(n, units, generator=generator, dtype=torch.float64)
    y = torch.randint(units, (n,), generator=generator)
    looked = replace(looked, x=torch.zeros(n, 1), y=y)
    looked.__dict__["look"] = replace(prepared(SMALL).look, output=output)
    expected = math.log(units) + spread**2 / 2 * (1 - 1 / units)
    assert start.unrelated(looked) == pytest.approx(expected, abs=0.05 * spread**2 + 4 * spread / math.sqrt(n))


def test_outputs_that_know_the_answers_are_found() -> None:
    """Their own loss is below that of the same outputs beside other samples' targets, and far below ln 10."""
    looked = prepared(SMALL)
    known = replace(looked.look, output=nn.functional.one_hot(looked.y, 10).double(), loss=torch.tensor(0.3))
    looked.__dict__["look"] = known
    own = nn.functional.cross_entropy(known.output, looked.y).item()
    assert start.unrelated(looked) == pytest.approx(own + 0.9, abs=0.05)  # nine of ten targets are another class's
    assert one(start.first_loss(looked), "first_loss").verdict == "warn"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("spread", "verdict"), [(1.0, "pass"), (15.0, "warn"), (150.0, "fail")])
def test_large_outputs_have_a_large_first_loss(spread: float, verdict: str, seed: int) -> None:
    usual = prepared(SMALL, seed=seed).look.output.std().item()

    def scaled(experiment: Experiment, state: TrainState) -> None:
        weight_of(state.network.layers[-1]).mul_(spread / usual)

    finding = one(start.first_loss(prepared(SMALL, seed=seed, change=scaled)), "first_loss")
    # the largest of 10 outputs is 1.5 spreads above the mean: 1, 10 and 100 times ln 10
    assert finding.verdict == verdict, finding


def test_a_first_loss_that_is_no_number_fails() -> None:
    def broken(experiment: Experiment, state: TrainState) -> None:
        weight_of(state.network.layers[1])[0, 0] = math.nan

    looked = prepared(SMALL, change=broken)
    assert one(start.first_loss(looked), "first_loss").verdict == "fail"
    found = run_checks(looked)
    assert one(found, "gradients").verdict == "fail"
    assert one(found, "one_batch").verdict == "fail"


# --- gradients, units, outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("config", [SMALL, SPIRAL, NUMBERS])
def test_zeros_are_found(config: dict[str, Any], seed: int) -> None:
    found = quick(prepared(config, "model.init=zeros", seed=seed))
    failed = {finding.name for finding in found if finding.verdict == "fail"}
    assert {"equal_units", "gradients", "signal_spread", "dead_units", "outputs_vary"} <= failed


@pytest.mark.parametrize("init", ["ones", "{type: constant, value: 0.1}"])
def test_equal_units_are_found(init: str) -> None:
    finding = one(start.units_differ(prepared(SMALL, f"model.init={init}")), "equal_units")
    assert finding.verdict == "fail"
    assert finding.value == 2


def test_an_output_layer_that_starts_at_0_is_no_fault() -> None:
    """The hidden layers get no gradient at the first step, and one from the second on."""

    def zeroed(experiment: Experiment, state: TrainState) -> None:
        weight_of(state.network.layers[-1]).zero_()

    looked = prepared(SMALL, change=zeroed)
    assert not looked.look.parameters["layers.1.weight"].any()  # type: ignore[union-attr]
    found = run_checks(looked)
    assert [finding.name for finding in found if finding.verdict == "fail"] == []
    assert "after 3 steps" in one(found, "outputs_vary").said


def freeze(experiment: Experiment, state: TrainState) -> None:
    state.network.layers[1].requires_grad_(False)


def leave_out(experiment: Experiment, state: TrainState) -> None:
    out = {id(parameter) for parameter in state.network.layers[1].parameters()}
    for group in state.optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in out]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("change", [freeze, leave_out])
def test_a_layer_that_is_not_trained_is_named(change: Change, seed: int) -> None:
    found = quick(prepared(SMALL, seed=seed, change=change))
    finding = one(found, "frozen_layer")
    assert (finding.verdict, finding.layer) == ("fail", "1")
    assert "weight and bias" in finding.said


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_what_no_gradient_reaches_is_named() -> None:
    def detached(experiment: Experiment, state: TrainState) -> tuple[Experiment, TrainState]:
        state.network.layers.insert(2, Detached())
        return experiment, TrainState(state.network, state.optimizer, losses=state.losses, sums=state.sums)

    finding = one(start.parameters_learn(prepared(SMALL, change=detached)), "gradients")
    assert finding.verdict == "fail"
    assert "1.bias, 1.weight" in finding.said


def test_a_loss_that_is_cut_off_is_a_finding_and_no_crash() -> None:
    found = run_checks(prepared(SMALL, change=relayered(lambda layers: Detached())))
    assert one(found, "gradients").verdict == "fail"


def test_a_bias_before_a_batch_norm_is_no_fault() -> None:
    plain = {"type": "linear", "units": 16, "activation": "identity"}
    finding = one(
        start.parameters_learn(prepared(SMALL, f"model.layers={json.dumps([plain, 'batch_norm'])}")), "gradients"
    )
    assert finding.verdict == "pass"
    assert "1 bias before a batch_norm" in finding.said


@pytest.mark.parametrize("seed", SEEDS)
def test_silent_units_are_found(seed: int) -> None:
    def silenced(experiment: Experiment, state: TrainState) -> None:
        bias_of(state.network.layers[2]).fill_(-1000.0)

    found = quick(prepared(SMALL, seed=seed, change=silenced))
    assert one(found, "outputs_vary").verdict == "fail"
    finding = one(found, "dead_units")
    assert (finding.verdict, finding.value, finding.layer) == ("fail", 1.0, "2")


@pytest.mark.parametrize(("silent", "verdict"), [(0, "pass"), (20, "warn"), (31, "fail")])
def test_the_share_of_silent_units_is_counted(silent: int, verdict: str) -> None:
    def silenced(experiment: Experiment, state: TrainState) -> None:
        bias_of(state.network.layers[1])[:silent] = -1000.0

    finding = one(signals.dead_units(prepared(SMALL, change=silenced)), "dead_units")
    assert finding.verdict == verdict
    assert finding.value is not None
    if silent:
        assert finding.value >= silent / 32


class OverBatch(nn.Module):
    """The mistake of a softmax over dimension 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_samples_that_are_mixed_are_found() -> None:
    finding = one(start.samples_apart(prepared(SMALL, change=relayered(lambda layers: OverBatch()))), "samples_apart")
    assert finding.verdict == "fail"
    assert finding.value is not None
    assert finding.value > 0.1


def test_batch_norm_mixes_samples_in_training_alone() -> None:
    finding = one(start.samples_apart(prepared(SMALL, "model.layers=[batch_norm]")), "samples_apart")
    assert finding.verdict == "pass"
    assert "batch_norm (layer 0)" in finding.said


@pytest.mark.parametrize(("size", "verdict"), [(1, "fail"), (4, "warn"), (32, "pass")])
def test_small_batches_of_a_batch_norm_are_found(size: int, verdict: str) -> None:
    words = "model.layers=[flatten, batch_norm]"
    looked = prepared(SMALL, words, change=lambda e, s: (replace(e, batch_size=size), s))
    found = run_checks(looked)  # none of them gives batch_norm a batch of one
    assert one(found, "batch_norm_batch").verdict == verdict
    assert start.batch_norm_batches(prepared(SMALL)) == []


# --- what it can express --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "verdict", "value"),
    [
        ([], "pass", 0),
        (["model.layers=[]"], "pass", 0),
        (["model.activation=identity"], "fail", 2),
        (["model.activation={type: leaky_relu, slope: 1.0}"], "fail", 2),  # the identity by another name
        (["model.activation={type: hard_tanh, limit: 1000.0}"], "fail", 2),  # never reached
        (["model.activation={type: hard_tanh, limit: 8.0}"], "pass", 0),  # reached by outliers alone
        (["model.layers=[{type: linear, units: 9, activation: identity}, dropout, batch_norm]"], "fail", 1),
        (["model.layers=[{type: linear, units: 9, activation: identity}, layer_norm]"], "warn", 1),
        (["model.layers=[{type: linear, units: 9, activation: identity}, rms_norm]"], "warn", 1),
        (["model.layers=[{type: linear, units: 9, activation: identity}, prelu]"], "pass", 0),
        (
            [
                "model.activation=identity",
                "model.layers=[{type: linear, units: 9}, {type: linear, units: 9}]",
                "loss=nll",
            ],
            "fail",
            2,
        ),
        (
            ["model.layers=[flatten, {type: residual, layers: [{type: linear, units: 64, activation: identity}]}]"],
            "fail",
            1,
        ),
        (["model.layers=[flatten, {type: residual, layers: [{type: linear, units: 64}]}]"], "pass", 0),
        (["model.layers=[{type: linear, units: 9, activation: identity}, {type: linear, units: 9}]"], "warn", 1),
        (["model.layers=[{type: maxout, units: 9}]"], "pass", 0),
        (["model.layers=[{type: conv2d, channels: 2, activation: identity}, max_pool2d]"], "pass", 0),
        (["model.layers=[{type: conv2d, channels: 2, activation: identity}, avg_pool2d]"], "fail", 1),
        (["model.activation=hard_tanh"], "pass", 0),
        (["model.activation=sigmoid"], "pass", 0),
        (["model.init=zeros"], "pass", 0),  # another fault
    ],
)
def test_layers_without_a_bend_between_them_are_found(overrides: list[str], verdict: str, value: float) -> None:
    finding = one(architecture.nonlinearity(prepared(SMALL, *overrides)), "nonlinearity")
    assert (finding.verdict, finding.value) == (verdict, value)


@pytest.mark.parametrize(
    ("config", "module", "verdict"),
    [
        (SMALL, nn.Softmax(1), "fail"),
        (SMALL, nn.Tanh(), "fail"),
        (SMALL, nn.Sigmoid(), "fail"),
        (SMALL, nn.ReLU(), "warn"),
        (SMALL, nn.LogSoftmax(1), "warn"),
        (SPIRAL, nn.Sigmoid(), "fail"),
        (SPIRAL, nn.Softmax(1), "fail"),
        (SPIRAL, nn.ReLU(), "fail"),  # the probability of class 1 is never below a half
        (NUMBERS, nn.Sigmoid(), "fail"),
        (NUMBERS, nn.ReLU(), "fail"),
        ({**SPIRAL, "loss": "hinge"}, nn.ReLU(), "fail"),  # never below 0, and -1 is asked
        ({**SPIRAL, "loss": "hinge"}, nn.Hardtanh(-2, 2), "pass"),
        ({**SMALL, "loss": "hinge"}, nn.Hardtanh(0, 0.5), "fail"),
        ({**SMALL, "loss": "hinge"}, nn.Hardtanh(0, 2), "pass"),
        (NUMBERS, nn.Hardtanh(-20, 20), "pass"),
        (SMALL, nn.Hardtanh(-20, 20), "pass"),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_that_cannot_reach_their_targets_are_found(
    config: dict[str, Any], module: nn.Module, verdict: str, seed: int
) -> None:
    looked = prepared(config, seed=seed, change=relayered(lambda layers: module))
    assert one(architecture.output_range(looked), "output_range").verdict == verdict


@pytest.mark.parametrize("seed", range(8))
def test_an_output_layer_that_gets_the_same_from_all_samples_reaches_both_ends(seed: int) -> None:
    """Behind deep sigmoids the samples are alike, and the sign of a sum is that of its weights."""
    looked = prepared(SPIRAL, layers(*[16] * 8), "model.activation=sigmoid", seed=seed)
    assert one(architecture.output_range(looked), "output_range").verdict == "pass"


def test_the_probabilities_behind_a_softmax_are_those_of_the_formula() -> None:
    """With C classes the greatest is e / (e + C - 1): tests/test_losses_fit.py derives it."""
    finding = one(
        architecture.output_range(prepared(SMALL, change=relayered(lambda layers: nn.Softmax(1)))), "output_range"
    )
    assert finding.value == pytest.approx(math.e / (math.e + 9), rel=1e-6)


def test_outputs_that_are_no_log_probabilities_are_found() -> None:
    looked = prepared(SMALL, "loss=nll", change=relayered(lambda layers: nn.Identity()))
    assert one(architecture.output_range(looked), "output_range").verdict == "pass"
    looked = prepared(SMALL, change=lambda e, s: (replace(e, loss=BoundLoss("nll", {"class_weights": None})), s))
    assert one(architecture.output_range(looked), "output_range").verdict == "fail"


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("count", "activation", "spread", "gradient"),
    [(12, "sigmoid", "fail", "fail"), (5, "sigmoid", "warn", "warn"), (12, "relu", "pass", "pass")],
)
def test_deep_sigmoids_are_found(count: int, activation: str, spread: str, gradient: str, seed: int) -> None:
    looked = prepared(SMALL, layers(*[64] * count), f"model.activation={activation}", seed=seed)
    assert one(signals.forward(looked), "signal_spread").verdict == spread
    assert one(signals.backward(looked), "gradient_spread").verdict == gradient
    assert one(start.parameters_learn(looked), "gradients").verdict == "pass"  # small, and not 0


@pytest.mark.parametrize("seed", SEEDS)
def test_exploding_signals_are_found(seed: int) -> None:
    looked = prepared(SMALL, layers(*[64] * 6), "model.init={type: normal, std: 1.0}", seed=seed)
    finding = one(signals.forward(looked), "signal_spread")
    assert finding.value is not None
    assert f"a factor of {finding.value:.3g}, {finding.value ** (1 / 6):.2g} a layer" in finding.said
    assert (finding.verdict, one(signals.backward(looked), "gradient_spread").verdict) == ("fail", "warn")
    assert finding.value is not None
    assert finding.value > 1e4


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (3.0, "warn"), (0.3, "warn")])
def test_weights_that_are_not_as_initialised_are_found(factor: float, verdict: str) -> None:
    def changed(experiment: Experiment, state: TrainState) -> None:
        weight_of(state.network.layers[1]).mul_(factor)

    looked = prepared(SMALL, layers(256, 256), change=changed)
    assert one(signals.as_initialised(looked), "initialisation").verdict == verdict


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("config", "optimizer"),
    [
        (SMALL, "{type: adam, lr: 3.0}"),
        (SPIRAL, "{type: sgd, lr: 100.0}"),
        (NUMBERS, "{type: rmsprop, lr: 1.0}"),
        ({**SMALL, "data": "breast_cancer"}, "{type: adamw, lr: 2.0}"),
    ],
)
def test_a_rate_a_thousand_times_too_high_is_found(config: dict[str, Any], optimizer: str, seed: int) -> None:
    looked = prepared(config, f"optimizer={optimizer}", seed=seed)
    finding = one(batch.update_size(looked), "update_size")
    assert finding.verdict == "fail"
    assert "lower optimizer.lr" in finding.remedy


def test_the_size_of_an_update_is_that_of_the_rule() -> None:
    """Plain SGD moves weights by lr * gradient, as the first batch of the same samples has it."""
    looked = prepared(SMALL, "optimizer={type: sgd, lr: 0.05}", "data.batch_size=480", layers(16), "seed=3")
    finding = one(batch.update_size(looked), "update_size")
    train = looked.experiment.data.train
    loss = looked.experiment.loss(looked.state.network(train.x), train.y)
    weights = [layer.weight for layer in looked.state.network.layers if isinstance(layer, Weighted)]
    gradients = torch.autograd.grad(loss, weights)
    # what he_normal draws on average, behind relu, and xavier_uniform in the output layer: variance times count
    (units, features), (outputs, inputs) = (w.shape for w in weights)
    usual = [math.sqrt(2 / features * units * features), math.sqrt(2 / (inputs + outputs) * inputs * outputs)]
    sizes = [max(float(w.detach().norm()), size) for w, size in zip(weights, usual, strict=True)]
    ratios = [float(0.05 * g.norm()) / size for g, size in zip(gradients, sizes, strict=True)]
    assert finding.value == pytest.approx(max(ratios), rel=1e-4)


def test_a_few_weights_that_are_small_by_chance_are_no_alarm() -> None:
    """The four weights of the output layer at a tenth of what they were: beside themselves alone the step is large."""
    looked = prepared({"data": "xor"}, layers(4), "optimizer={type: adam, lr: 0.05}")
    before = one(batch.update_size(looked), "update_size")
    last = looked.state.network.layers[-1]
    assert isinstance(last, Weighted)
    with torch.no_grad():
        last.weight.mul_(0.1)
    finding = one(batch.update_size(looked), "update_size")
    assert finding.verdict == "pass"
    assert before.value is not None
    assert finding.value == pytest.approx(before.value, rel=0.5)


@pytest.mark.parametrize("rate", ["1.0e+30", "1.0e+38"])
def test_updates_that_are_no_numbers_are_the_largest(rate: str) -> None:
    finding = one(batch.update_size(prepared(SMALL, f"optimizer={{type: sgd, lr: {rate}}}")), "update_size")
    assert (finding.verdict, finding.value) == ("fail", math.inf)


def test_a_rate_that_moves_nothing_is_found() -> None:
    finding = one(batch.update_size(prepared(SMALL, "optimizer={type: sgd, lr: 1.0e-9}")), "update_size")
    assert finding.verdict == "warn"
    assert "raise" in finding.remedy


def test_a_batch_that_is_not_learned_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "STEPS", 300)
    seed = 1
    high = one(batch.one_batch(prepared(SMALL, "optimizer.lr=30", seed=seed)), "one_batch")
    assert high.verdict == "fail"
    assert "too high" in high.remedy
    low = one(batch.one_batch(prepared(SMALL, "optimizer.lr=3.0e-6", seed=seed)), "one_batch")
    assert low.verdict == "warn"
    assert "low" in low.remedy
    dead = one(batch.one_batch(prepared(SMALL, "model.init=zeros", seed=seed)), "one_batch")
    assert dead.verdict in ("warn", "fail")
    assert "it is the network" in dead.remedy


def test_one_batch_is_learned_without_dropout_and_penalties() -> None:
    config = {**SMALL, "regularizers": [{"type": "l2", "weight": 10.0}]}
    strong = "model.layers=[{type: linear, units: 32}, {type: dropout, rate: 0.95}]"
    assert one(batch.one_batch(prepared(config, strong)), "one_batch").verdict == "pass"


def test_clipping_belongs_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "STEPS", 200)
    config = {**SMALL, "regularizers": [{"type": "clip_norm", "max_norm": 1.0e-9}], "optimizer": "sgd"}
    assert one(batch.one_batch(prepared(config)), "one_batch").verdict != "pass"


@pytest.mark.parametrize(
    ("loss", "labels", "expected"),
    [
        ("cross_entropy", [0, 1, 2], 0.0),
        ("{type: cross_entropy, label_smoothing: 0.1}", [0, 1, 1], None),
        ("kl_div", [0, 1], 0.0),  # the distance of q to itself
        ("nll", [3], 0.0),
        ("hinge", [0, 9], 0.0),
    ],
)
def test_the_least_loss_is_the_entropy_of_the_labels(loss: str, labels: list[int], expected: float | None) -> None:
    looked = prepared(SMALL, f"loss={loss}")
    if expected is None:  # of q: once 0.91, nine times 0.01
        expected = -(0.91 * math.log(0.91) + 9 * 0.01 * math.log(0.01))
    assert batch.least_loss(looked, torch.tensor(labels)) == pytest.approx(expected, abs=2e-3)


def test_the_least_loss_of_two_classes_is_found_for_each() -> None:
    looked = prepared(SPIRAL, "loss={type: binary_cross_entropy, label_smoothing: 0.2, positive_weight: 3.0}")
    q = 0.9  # of the true class
    one_class = -(0.1 * 3 * math.log(0.3 / 1.2) + 0.9 * math.log(0.9 / 1.2))  # p = w q / (w q + 1 - q)
    other = -(q * 3 * math.log(2.7 / 2.8) + 0.1 * math.log(0.1 / 2.8))
    found = [batch.least_loss(looked, torch.tensor(labels)) for labels in ([0], [1], [0, 1, 1, 1])]
    assert found == pytest.approx([one_class, other, (one_class + 3 * other) / 4], abs=2e-3)


# --- data -----------------------------------------------------------------------------------------------------------


def npz(tmp_path: Path, **arrays: Any) -> dict[str, Any]:
    np.savez(tmp_path / "made.npz", **arrays)
    return {**SMALL, "data": {"type": "npz", "path": str(tmp_path / "made.npz"), "validation": 0.2}}


def table(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Two classes apart by a line, with noise."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 6)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] + 0.5 * generator.normal(size=n) > 0).astype(np.int64)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_a_leak_of_test_into_train_is_counted(tmp_path: Path, share: float, seed: int) -> None:
    x, y = table(700, seed)
    leaked = round(share * 200)
    x_test = np.concatenate([x[:leaked], table(200 - leaked, seed + 100)[0]])
    config = npz(tmp_path, x_train=x[:500], y_train=y[:500], x_test=x_test, y_test=np.resize(y, 200))
    config["data"]["validation"] = 0
    finding = one(samples.twins(prepared(config)), "shared_test")
    assert (finding.verdict, finding.value) == ("fail", share)


def test_samples_that_are_there_twice_are_found_in_both_parts(tmp_path: Path) -> None:
    x, y = table(300)
    found = samples.twins(prepared(npz(tmp_path, x=np.tile(x, (2, 1)), y=np.tile(y, 2))))
    assert [finding.verdict for finding in found] == ["fail", "fail", "pass"]


def test_minus_zero_is_zero(tmp_path: Path) -> None:
    x, y = table(300)
    x[:, 0] = 0.0
    mirrored = x.copy()
    mirrored[:, 0] = -0.0
    config = npz(tmp_path, x_train=x, y_train=y, x_test=mirrored[:50], y_test=y[:50])
    config["data"]["validation"] = 0
    assert one(samples.twins(prepared(config)), "shared_test").value == 1.0


def test_a_table_of_few_different_rows_only_warns(tmp_path: Path) -> None:
    x, y = table(400)
    found = samples.twins(prepared(npz(tmp_path, x=np.sign(x[:, :3]), y=y)))
    assert [(finding.name, finding.verdict) for finding in found] == [
        ("shared_test", "warn"),
        ("shared_validation", "warn"),
        ("contradictions", "warn"),
    ]


def test_images_that_stay_in_their_file_are_compared_too(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8)).astype(np.uint8), np.arange(300) % 3
    np.save(tmp_path / "x.npy", np.concatenate([x, x]))
    np.save(tmp_path / "y.npy", np.concatenate([y, y]))
    files = {"type": "npy", "x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy"), "memory": "map"}
    finding = one(samples.twins(prepared({**SMALL, "data": files})), "shared_test")
    assert finding.verdict == "fail"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["line", "ring", "numbers"])
def test_shuffled_labels_are_found(tmp_path: Path, kind: str, seed: int) -> None:
    x, y = table(600, seed)
    if kind == "ring":  # no line tells them apart
        y = ((x[:, :2] ** 2).sum(1) > 1.4).astype(np.int64)
    if kind == "numbers":
        y = (x[:, :1] - x[:, 1:2]).astype(np.float32)
    right = one(baselines.association(prepared(npz(tmp_path, x=x, y=y), seed=seed)), "association")
    assert right.verdict == "pass"
    y = np.random.default_rng(seed).permutation(y)
    wrong = one(baselines.association(prepared(npz(tmp_path, x=x, y=y), seed=seed)), "association")
    assert wrong.verdict in ("warn", "fail")
    assert "huffled" in wrong.remedy


def test_few_samples_are_not_judged(tmp_path: Path) -> None:
    x, y = table(20)
    assert baselines.association(prepared(npz(tmp_path, x=x, y=y))) == []


@pytest.mark.parametrize(("rare", "verdict"), [(100, "pass"), (20, "warn")])
def test_rare_classes_are_counted(tmp_path: Path, rare: int, verdict: str) -> None:
    x, y = table(500)[0], (np.arange(500) < rare).astype(np.int64)
    config = npz(tmp_path, x=x, y=y)
    finding = one(samples.class_balance(prepared(config)), "class_balance")
    assert finding.verdict == verdict
    weighed = prepared({**config, "loss": {"type": "binary_cross_entropy", "positive_weight": 24.0}})
    assert one(samples.class_balance(weighed), "class_balance").verdict == "pass"


def test_a_class_without_samples_is_named() -> None:
    looked = prepared({**SMALL, "data": {"type": "digits", "limit": 8, "validation": 0, "test": 1}})
    finding = one(samples.class_balance(looked), "class_balance")
    missing = sorted(set(range(10)) - set(looked.experiment.data.train.y.tolist()))
    assert finding.verdict == "fail"
    assert f"'{missing[0]}'" in finding.said


def test_targets_that_never_vary_and_targets_far_out_are_found(tmp_path: Path) -> None:
    x, _ = table(300)
    flat = prepared(npz(tmp_path, x=x, y=np.full((300, 1), 7.0, np.float32)))
    assert one(samples.class_balance(flat), "target_spread").verdict == "fail"
    y = np.where(np.arange(2000)[:, None] == 5, 1e6, np.random.default_rng(0).normal(size=(2000, 1)))
    config = npz(tmp_path, x=table(2000)[0], y=y.astype(np.float32))
    config["data"] |= {"validation": 0, "test": 0.0005}
    found = [one(samples.class_balance(prepared(config, f"data.split_seed={s}")), "target_spread") for s in (1, 2)]
    assert "warn" in [finding.verdict for finding in found]  # the one that is far out may be in the test part


def test_features_that_never_vary_are_named(tmp_path: Path) -> None:
    x, y = table(200)
    x[:, 3] = 4.5
    finding = one(samples.constant_features(prepared(npz(tmp_path, x=x, y=y))), "constant_features")
    assert finding.verdict == "warn"
    assert finding.said.endswith("column 3")
    everything = prepared(npz(tmp_path, x=0 * x, y=y))
    assert one(samples.constant_features(everything), "constant_features").verdict == "fail"


@pytest.mark.parametrize(
    ("change", "overrides", "verdict"),
    [
        (lambda x: x, [], "pass"),
        (lambda x: 1000 * x, [], "pass"),  # standardized
        (lambda x: 10 * x, ["data.normalize=none"], "warn"),
        (lambda x: 1000 * x, ["data.normalize=none"], "fail"),
        (lambda x: x / 1000, ["data.normalize=none"], "warn"),
        (lambda x: x * [1, 1, 1, 1, 1, 0.001], ["data.normalize=none"], "pass"),
        (lambda x: x * [0.1, 0.1, 0.1, 0.1, 0.1, 11], ["data.normalize=none"], "warn"),
    ],
)
def test_unscaled_inputs_are_found(
    tmp_path: Path, change: Callable[[Any], Any], overrides: list[str], verdict: str
) -> None:
    x, y = table(300)
    looked = prepared(npz(tmp_path, x=np.asarray(change(x), np.float32), y=y), *overrides)
    finding = one(samples.input_scale(looked), "input_scale")
    assert finding.verdict == verdict, finding


# --- baselines ------------------------------------------------------------------------------------------------------


def test_the_baselines_are_counted_on_validation_samples() -> None:
    looked = prepared(SMALL)
    found = baselines.baselines(looked)
    data = looked.experiment.data
    frequent = torch.bincount(data.train.y).argmax()
    assert one(found, "baseline_majority").value == pytest.approx(
        float((data.validation.y == frequent).double().mean())
    )
    linear = one(found, "baseline_linear").value
    assert linear is not None
    assert linear > 0.8  # of digits


def test_the_baselines_of_numbers_are_in_their_units() -> None:
    looked = prepared(NUMBERS)
    found = baselines.baselines(looked)
    data = looked.experiment.data
    expected = float((data.validation.y - data.train.y.mean()).abs().mean())
    mean = one(found, "baseline_mean").value
    assert mean == pytest.approx(expected, rel=1e-5)
    linear = one(found, "baseline_linear").value
    assert linear is not None
    assert isinstance(data.train.x, Tensor)
    assert isinstance(data.validation.x, Tensor)
    reference = Ridge(alpha=1.0).fit(looked.state.network.normalize(data.train.x).numpy(), data.train.y.numpy())
    predicted = reference.predict(looked.state.network.normalize(data.validation.x).numpy()).reshape(-1, 1)
    errors = predicted - data.validation.y.numpy()
    assert linear == pytest.approx(np.abs(errors).mean(), rel=0.01)  # whose targets are standardized before the penalty
    assert linear < 0.8 * expected


def test_without_validation_samples_some_of_training_are_held_out() -> None:
    looked = prepared({**SMALL, "data": {"type": "digits", "limit": 600, "validation": 0}})
    assert "training samples" in one(baselines.baselines(looked), "baseline_linear").said
