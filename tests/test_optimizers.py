"""Every optimizer makes the updates that its paper writes down, spares what it should, and resumes bit for bit.

The reference is the rule of each paper in numpy and float64, on a least-squares problem whose gradients numpy works
out as well. Both sides round at 2^-53 = 1.1e-16: 12 updates of some 100 operations on numbers near 1 stay under 1e-12.
Only torch's nadam holds a number in float32, the product c(1)...c(t): 12 roundings of 6e-8 in it move 12 steps of 0.05
by less than 1e-6. The wrong rules below are off by more than 1e-4.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from optimizer_rules import (
    RULES,
    Array,
    Rule,
    Settings,
    State,
    adadelta,
    adam,
    adamw,
    lion,
    newton_schulz,
    rmsprop,
    sgd,
)
from torch import nn

from dlf.optimizers import OPTIMIZERS, build, orthogonalized, parameter_groups, state_bytes_per_parameter
from dlf.registry import Component, InvalidError

UPDATES = 12  # radam divides from its 6th update on
TOLERANCE = {name: 1e-6 if name == "nadam" else 1e-12 for name in OPTIMIZERS.names()}

generator = np.random.default_rng(0)
X, Y = generator.normal(size=(16, 4)), generator.normal(size=(16, 3))
WEIGHT, BIAS = generator.normal(size=(3, 4)), generator.normal(size=3)


# Every key is tried away from its default by one of these, which a test makes sure of.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sgd": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "adam": [{"betas": (0.5, 0.9)}, {"eps": 0.1}, {"amsgrad": True, "betas": (0.9, 0.5)}],
    "adamw": [{"betas": (0.5, 0.9)}, {"eps": 0.1}, {"amsgrad": True, "betas": (0.9, 0.5)}],
    "rmsprop": [
        {"alpha": 0.5},
        {"eps": 0.1},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.5},
    ],
    "adagrad": [{"eps": 0.1}],
    "adadelta": [{"rho": 0.5}, {"eps": 0.1}],
    "nadam": [{"betas": (0.5, 0.9)}, {"eps": 0.1}, {"momentum_decay": 0.5}],
    "radam": [{"betas": (0.5, 0.9)}, {"eps": 0.1}],
    "lion": [{"betas": (0.5, 0.9)}],
    "muon": [{"momentum": 0.5}, {"iterations": 2}, {"betas": (0.5, 0.9)}, {"eps": 0.1}],
}
DECAYS: list[dict[str, Any]] = [{"weight_decay": 0.0}, {"weight_decay": 0.3, "decay": "all"}]


def lr(name: str) -> float:
    return 2.0 if name == "adadelta" else 0.05  # adadelta's first steps are sqrt(eps) short


CASES = [
    (name, {"lr": lr(name), "weight_decay": 0.3, **parameters})
    for name in OPTIMIZERS.names()
    for parameters in [{}, *DECAYS, *OPTIONS.get(name, [])]
]


def rate(t: int) -> float:
    """A schedule's factor, so that an optimizer which does not read its learning rate anew is noticed."""
    return 1 / (1 + 0.1 * t)


def by_numpy(rule: Rule, component: Component) -> list[Array]:
    """Weight and bias after UPDATES updates on the loss sum((X W^T + b - Y)^2) / (2 * 16)."""
    given = component.parameters
    weight, bias, states = WEIGHT, BIAS, ({}, {})  # type: tuple[Array, Array, tuple[State, State]]
    spared = 0.0 if component.decay == "weights" else given["weight_decay"]  # type: ignore[attr-defined]
    for t in range(1, UPDATES + 1):
        errors = (X @ weight.T + bias - Y) / len(X)
        h = {**given, "lr": given["lr"] * rate(t)}
        weight, bias = (
            rule(weight, errors.T @ X, t, states[0], h),
            rule(bias, errors.sum(axis=0), t, states[1], {**h, "weight_decay": spared}),
        )
    return [weight, bias]


def network(dtype: torch.dtype = torch.float64) -> nn.Linear:
    layer = nn.Linear(4, 3, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(WEIGHT))
        layer.bias.copy_(torch.from_numpy(BIAS))
    return layer


def loss_of(layer: nn.Module) -> torch.Tensor:
    like = next(layer.parameters())
    loss: torch.Tensor = (layer(torch.tensor(X).to(like)) - torch.tensor(Y).to(like)).square().sum() / 32
    return loss


def advance(layer: nn.Module, optimizer: torch.optim.Optimizer, updates: range) -> None:
    for t in updates:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate(t)
        optimizer.zero_grad()
        loss_of(layer).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def by_dlf(component: Component, device: str = "cpu") -> list[Array]:
    layer = network().to(device)
    advance(layer, build(layer, component), range(1, UPDATES + 1))
    return [parameter.detach().cpu().numpy() for parameter in layer.parameters()]


def differ(one: list[Array], other: list[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def test_every_optimizer_has_a_reference() -> None:
    assert set(OPTIMIZERS.names()) == set(RULES) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_key_is_tried_away_from_its_default(name: str) -> None:
    default = OPTIMIZERS.make(name)
    tried = [OPTIMIZERS.make(name, **parameters) for other, parameters in CASES if other == name]
    for key in type(default).model_fields.keys() - {"type"}:
        assert any(getattr(component, key) != getattr(default, key) for component in tried), key


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_makes_the_updates_of_its_paper(name: str, parameters: dict[str, Any]) -> None:
    component = OPTIMIZERS.make(name, **parameters)
    assert differ(by_dlf(component), by_numpy(RULES[name], component)) < TOLERANCE[name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_makes_the_updates_of_its_paper_on_cuda(name: str, parameters: dict[str, Any]) -> None:
    component = OPTIMIZERS.make(name, **parameters)
    assert differ(by_dlf(component, "cuda"), by_numpy(RULES[name], component)) < TOLERANCE[name]


def uncorrected_adam(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    return adam(p, g, 10**9, s, h)


def lion_with_one_mean(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    return lion(p, g, t, s, {**h, "betas": (h["betas"][1], h["betas"][1])})


def muon_without_looking_ahead(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    if p.ndim != 2:
        return adamw(p, g, t, s, h)
    s["b"] = h["momentum"] * s.get("b", 0) + g
    return p - h["lr"] * (0.4 * newton_schulz(s["b"], h["iterations"]) + h["weight_decay"] * p)


@pytest.mark.parametrize(
    ("name", "wrong", "parameters"),
    [
        ("adam", uncorrected_adam, {}),
        ("adam", adamw, {"weight_decay": 0.3}),  # decoupled in place of L2
        ("adamw", adam, {"weight_decay": 0.3}),
        ("sgd", lambda p, g, t, s, h: sgd(p, g, t, s, {**h, "nesterov": False}), {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", lambda p, g, t, s, h: rmsprop(p, g, t, s, {**h, "centered": False}), {"centered": True}),
        ("adagrad", lambda p, g, t, s, h: rmsprop(p, g, t, s, {**h, "alpha": 0.99, "momentum": 0, "centered": 0}), {}),
        ("adadelta", lambda p, g, t, s, h: adadelta(p, g, t, s, {**h, "rho": 0.95}), {}),
        ("nadam", adam, {}),
        ("radam", adam, {}),
        ("lion", lion_with_one_mean, {"betas": (0.1, 0.99)}),
        ("muon", muon_without_looking_ahead, {}),
    ],
)
def test_the_comparison_notices_a_wrong_rule(name: str, wrong: Rule, parameters: dict[str, Any]) -> None:
    component = OPTIMIZERS.make(name, lr=lr(name), **parameters)
    assert differ(by_dlf(component), by_numpy(wrong, component)) > 1e-4


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_the_comparison_notices_decay_of_the_bias(name: str) -> None:
    spared = OPTIMIZERS.make(name, lr=lr(name), weight_decay=0.3)
    taken = OPTIMIZERS.make(name, lr=lr(name), weight_decay=0.3, decay="all")
    assert differ(by_dlf(spared), by_numpy(RULES[name], taken)) > 1e-5  # adadelta's first steps are short


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_lowers_a_convex_loss(name: str) -> None:
    layer = network()
    optimizer = build(layer, OPTIMIZERS.make(name))
    before = loss_of(layer).item()
    advance(layer, optimizer, range(100))
    assert loss_of(layer).item() < before


@pytest.mark.parametrize(("name", "parameters"), [case for case in CASES if case[0] not in ("lion", "muon")])
def test_fused_and_plain_updates_agree(name: str, parameters: dict[str, Any]) -> None:
    """torch's other implementation goes parameter by parameter; lion and muon have only one. The bound is numpy's."""
    component = OPTIMIZERS.make(name, **parameters)
    layer = network()
    optimizer = build(layer, component)
    for group in optimizer.param_groups:
        group.update({kernel: False for kernel in ("fused", "foreach") if kernel in group})
    advance(layer, optimizer, range(1, UPDATES + 1))
    assert differ(by_dlf(component), [parameter.detach().numpy() for parameter in layer.parameters()]) < TOLERANCE[name]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_the_update_is_one_kernel_where_torch_has_one(name: str) -> None:
    assert all(group["fused"] for group in build(network(), OPTIMIZERS.make(name)).param_groups)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_goes_on_bit_for_bit_from_its_state(name: str, parameters: dict[str, Any]) -> None:
    component = OPTIMIZERS.make(name, **parameters)
    through = network(torch.float32)
    optimizer = build(through, component)
    advance(through, optimizer, range(1, 8))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    stopped = copy.deepcopy(through)
    advance(through, optimizer, range(8, 13))

    resumed = build(stopped, component)
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    advance(stopped, resumed, range(8, 13))
    assert all(torch.equal(a, b) for a, b in zip(through.parameters(), stopped.parameters(), strict=True))
    assert tensors_of(optimizer.state_dict()) == tensors_of(resumed.state_dict())


def tensors_of(state: dict[str, Any]) -> dict[tuple[int, str], list[Any]]:
    return {
        (i, key): torch.as_tensor(value).tolist() for i, own in state["state"].items() for key, value in own.items()
    }


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS.names() if name != "sgd"])
def test_the_resume_check_notices_a_lost_state(name: str) -> None:
    """Starting anew in the middle ends elsewhere; 40 updates, so that lion's signs have come to change."""
    component = OPTIMIZERS.make(name, lr=lr(name))
    through, stopped = network(torch.float32), network(torch.float32)
    advance(through, build(through, component), range(40))
    for half in (range(20), range(20, 40)):
        advance(stopped, build(stopped, component), half)
    assert not torch.equal(through.weight, stopped.weight)


def mixed_network() -> nn.Module:
    """Parameters of 4, 2, 1 and 1 dimensions, and a frozen one."""
    layers = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LayerNorm(8, bias=False), nn.Linear(8, 3), nn.Linear(3, 3)
    )
    layers[4].requires_grad_(False)
    return layers


def test_decay_spares_biases_and_norms_in_a_group_of_their_own() -> None:
    net = mixed_network()
    weights, spared = parameter_groups(net, OPTIMIZERS.make("adamw"))
    assert [parameter.ndim for parameter in weights["params"]] == [4, 2]
    assert [parameter.ndim for parameter in spared["params"]] == [1, 1, 1]
    assert spared["weight_decay"] == 0.0
    assert "weight_decay" not in weights
    ids = [id(parameter) for group in (weights, spared) for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in net.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("parameters", [{"decay": "all"}, {"weight_decay": 0.0}])
def test_one_group_suffices_where_all_are_treated_alike(parameters: dict[str, Any]) -> None:
    net = mixed_network()
    groups = parameter_groups(net, OPTIMIZERS.make("adamw", **parameters))
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in trainable]]


def test_a_group_without_parameters_is_left_out() -> None:
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), OPTIMIZERS.make("adamw"))) == 1
    assert [group["weight_decay"] for group in parameter_groups(nn.LayerNorm(2), OPTIMIZERS.make("adamw"))] == [0.0]


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_keeps_the_learning_rate_for_the_schedule(name: str) -> None:
    optimizer = build(mixed_network(), OPTIMIZERS.make(name, lr=0.25, weight_decay=0.1))
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.25] * len(optimizer.param_groups)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_the_state_is_as_large_as_said(name: str, parameters: dict[str, Any]) -> None:
    component = OPTIMIZERS.make(name, **parameters)
    net = mixed_network()
    optimizer = build(net, component)
    net(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    for parameter in net.parameters():
        state = optimizer.state.get(parameter, {})
        kept = sum(value.nbytes for value in state.values() if torch.is_tensor(value) and value.ndim)
        expected = state_bytes_per_parameter(component, parameter.ndim) if parameter.requires_grad else 0
        assert kept == expected * parameter.numel()


def test_muon_orthogonalizes_matrices_only() -> None:
    optimizer = build(mixed_network(), OPTIMIZERS.make("muon"))
    dimensions = {(group["rule"], parameter.ndim) for group in optimizer.param_groups for parameter in group["params"]}
    assert dimensions == {("muon", 2), ("adamw", 4), ("adamw", 1)}


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 4), (4, 1)])
def test_newton_schulz_moves_the_singular_values_and_nothing_else(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).normal(size=shape)
    result = orthogonalized(torch.from_numpy(matrix), 5).numpy()
    assert differ([result], [newton_schulz(matrix, 5)]) < 1e-12
    assert differ([result], [newton_schulz(matrix, 4)]) > 1e-3  # one iteration less would be noticed


def test_newton_schulz_makes_nearly_orthogonal() -> None:
    """Singular values between 0.01 and 1 end between 0.65 and 1.25: the range of the five-fold polynomial there."""
    x = np.linspace(0.01, 1, 10_000)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    assert x.min() > 0.65
    assert x.max() < 1.25
    u, v = (np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0] for seed in (2, 3))
    matrix = u @ np.diag([1, 0.8, 0.3, 0.1, 0.05, 0.02]) @ v.T
    values = np.linalg.svd(orthogonalized(torch.from_numpy(matrix), 5).numpy(), compute_uv=False)
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_a_zero_gradient_moves_no_matrix() -> None:
    assert orthogonalized(torch.zeros(3, 2), 5).eq(0).all()


@pytest.mark.parametrize("name", ["lion", "muon"])
def test_our_own_step_takes_a_closure_and_leaves_what_has_no_gradient(name: str) -> None:
    layer, unused = network(), nn.Linear(2, 2)
    optimizer = build(nn.ModuleList([layer, unused]), OPTIMIZERS.make(name))
    before = unused.weight.clone()

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(layer)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    first = loss_of(layer).item()
    assert optimizer.step(closure) == first
    assert loss_of(layer).item() < first
    assert torch.equal(unused.weight, before)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(InvalidError, match="momentum is 0") as caught:
        build(network(), OPTIMIZERS.make("sgd", nesterov=True))
    assert caught.value.flaws[0].path == ("nesterov",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": -0.1},
        {"betas": [0.9, 1.0]},
        {"betas": [0.9]},
        {"weight_decay": -1},
        {"eps": 0.0},
        {"decay": "no"},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        OPTIMIZERS.make("adam", **wrong)
