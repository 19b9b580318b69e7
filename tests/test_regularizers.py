"""Regularizers: penalties against autograd of the formula written out, limits against numpy and against their meaning.

In float64, on some 100 numbers of size 1: 100 roundings of 1.1e-16 each, 1e-13 with a margin of ten. Every entry also
names a wrong variant, which the same comparison must reject.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dlf.regularizers import REGULARIZERS, weights_of

Array = NDArray[Any]
TOLERANCE = 1e-13
SHAPES = ((5, 4), (3, 2, 3, 3), (1, 6))


def network(seed: int = 0) -> list[nn.Parameter]:
    """Parameters with gradients, in float64."""
    rng = np.random.default_rng(seed)
    parameters = [nn.Parameter(torch.tensor(rng.normal(size=shape))) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.tensor(3 * rng.normal(size=tuple(parameter.shape)))
    return parameters


def arrays(tensors: list[nn.Parameter]) -> list[Array]:
    return [tensor.detach().numpy().copy() for tensor in tensors]


def gradients(tensors: list[nn.Parameter]) -> list[Array]:
    return [tensor.grad.numpy().copy() for tensor in tensors if tensor.grad is not None]


# Penalties: the value as a formula of one tensor, summed over the weights; autograd gives the gradient.
def l1(w: Tensor, weight: float) -> Tensor:
    return weight * w.abs().sum()


def l2(w: Tensor, weight: float) -> Tensor:
    return weight * (w * w).sum()


def elastic_net(w: Tensor, l1: float, l2: float) -> Tensor:
    return l1 * w.abs().sum() + l2 * (w * w).sum()


# Limits: arrays in, arrays out.
def clip_norm(gs: list[Array], max_norm: float) -> list[Array]:
    norm = sum(float((g**2).sum()) for g in gs) ** 0.5
    return [g * min(1.0, max_norm / norm) for g in gs]


def clip_value(gs: list[Array], limit: float) -> list[Array]:
    return [np.clip(g, -limit, limit) for g in gs]


def max_norm(ws: list[Array], limit: float, rows: bool = True) -> list[Array]:
    limited = []
    for w in ws:
        axes = tuple(range(1, w.ndim)) if rows else (0, *range(2, w.ndim))
        norms = np.sqrt((w**2).sum(axes, keepdims=True))
        limited.append(w * np.minimum(1.0, limit / norms))
    return limited


class Reference(NamedTuple):
    right: Callable[..., Any]
    wrong: Callable[..., Any]
    settings: tuple[dict[str, Any], ...]
    tolerance: float = TOLERANCE


REFERENCES = {
    "l1": Reference(l1, l2, ({"weight": 0.3}, {"weight": 0.0})),
    # half of it is what torch's weight_decay means
    "l2": Reference(l2, lambda w, weight: l2(w, weight) / 2, ({"weight": 0.3}, {"weight": 0.0})),
    "elastic_net": Reference(
        elastic_net, lambda w, l1, l2: elastic_net(w, l2, l1), ({"l1": 0.1, "l2": 0.5}, {"l1": 0.0, "l2": 0.5})
    ),
    # torch divides by the norm + 1e-6, some 20 here and at least 1: less than 1e-6 of the result, itself below max_norm
    "clip_norm": Reference(
        clip_norm,
        lambda gs, max_norm: [clip_norm([g], max_norm)[0] for g in gs],  # each tensor alone
        ({"max_norm": 1.5}, {"max_norm": 1e3}),
        tolerance=1.5e-6,
    ),
    "clip_value": Reference(
        clip_value, lambda gs, limit: clip_norm(gs, max_norm=limit), ({"limit": 0.7}, {"limit": 1e3})
    ),
    # torch divides by the norm + 1e-7, where the norm exceeds the limit of 1
    "max_norm": Reference(
        max_norm,
        lambda ws, limit: max_norm(ws, limit, rows=False),  # the outgoing weights
        ({"limit": 1.0}, {"limit": 1e3}),
        tolerance=1e-7,
    ),
}

# A regularizer without a reference fails with a KeyError.
CASES = [(name, settings) for name in REGULARIZERS.names() for settings in REFERENCES[name].settings]


def act(name: str, settings: dict[str, Any], parameters: list[nn.Parameter]) -> tuple[float, list[Array]]:
    """The value (0 for what is no penalty), and the weights and gradients afterwards."""
    result = REGULARIZERS.build(REGULARIZERS.make(name, **settings), parameters)
    if REGULARIZERS.get(name).facts["acts"] != "penalty":
        assert result is None
        return 0.0, arrays(parameters) + gradients(parameters)
    assert result.shape == ()
    assert not result.requires_grad
    return result.item(), arrays(parameters) + gradients(parameters)


def expected(
    name: str, settings: dict[str, Any], formula: Callable[..., Any], parameters: list[nn.Parameter]
) -> tuple[float, list[Array]]:
    acts = REGULARIZERS.get(name).facts["acts"]
    if acts == "gradient":
        return 0.0, arrays(parameters) + formula(gradients(parameters), **settings)
    if acts == "weights":
        return 0.0, formula(arrays(parameters), **settings) + gradients(parameters)
    assert acts == "penalty"
    weights = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    value = torch.stack([formula(weight, **settings) for weight in weights]).sum()
    added = torch.autograd.grad(value, weights)
    return value.item(), arrays(parameters) + [g + a.numpy() for g, a in zip(gradients(parameters), added, strict=True)]


def agrees(one: tuple[float, list[Array]], other: tuple[float, list[Array]], tolerance: float) -> bool:
    near = all(np.abs(a - b).max() < tolerance for a, b in zip(one[1], other[1], strict=True))
    return near and abs(one[0] - other[0]) < tolerance * max(1, abs(other[0]))


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_acts_as_its_formula(name: str, settings: dict[str, Any]) -> None:
    reference = REFERENCES[name]
    for seed in range(5):
        right = expected(name, settings, reference.right, network(seed))
        assert agrees(act(name, settings, network(seed)), right, reference.tolerance)


@pytest.mark.parametrize("name", REGULARIZERS.names())
def test_the_comparison_rejects_a_wrong_variant(name: str) -> None:
    reference = REFERENCES[name]
    wrong = expected(name, reference.settings[0], reference.wrong, network())
    assert not agrees(act(name, reference.settings[0], network()), wrong, reference.tolerance)


@pytest.mark.parametrize("name", REGULARIZERS.names())
def test_acts_in_place(name: str) -> None:
    parameters = network()
    before = [(parameter.data_ptr(), parameter.grad) for parameter in parameters]
    act(name, {}, parameters)
    assert all(
        p.data_ptr() == pointer and p.grad is grad for p, (pointer, grad) in zip(parameters, before, strict=True)
    )


@pytest.mark.parametrize("name", [n for n in REGULARIZERS.names() if REGULARIZERS.get(n).facts["acts"] != "gradient"])
def test_a_network_without_weights_is_left_alone(name: str) -> None:
    act(name, {}, [])


@pytest.mark.parametrize("name", [n for n in REGULARIZERS.names() if REGULARIZERS.get(n).facts["acts"] == "penalty"])
def test_a_weight_that_the_loss_does_not_reach_is_penalized_too(name: str) -> None:
    reached, unreached = network(), network()
    for one, other in zip(reached, unreached, strict=True):
        one.grad, other.grad = torch.zeros_like(one), None
    assert act(name, {}, reached)[0] == act(name, {}, unreached)[0]
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(reached, unreached, strict=True)
        if a.grad is not None and b.grad is not None
    )
    assert all(parameter.grad is not None for parameter in unreached)


def test_l1_leaves_a_weight_of_zero_alone() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    act("l1", {"weight": 1.0}, [weight])
    assert weight.grad is not None
    assert not weight.grad.any()


@given(seed=st.integers(0, 10_000), limit=st.floats(0.01, 100))
def test_clip_norm_keeps_the_direction_and_never_lengthens(seed: int, limit: float) -> None:
    parameters = network(seed)
    before = np.concatenate([g.ravel() for g in gradients(parameters)])
    act("clip_norm", {"max_norm": limit}, parameters)
    after = np.concatenate([g.ravel() for g in gradients(parameters)])
    assert np.linalg.norm(after) <= min(limit, float(np.linalg.norm(before))) * (1 + TOLERANCE)
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert abs(cosine - 1) < TOLERANCE


@given(seed=st.integers(0, 10_000), limit=st.floats(0.01, 10))
def test_max_norm_limits_each_unit_spares_short_ones_and_does_nothing_twice(seed: int, limit: float) -> None:
    parameters = network(seed)
    before = arrays(parameters)
    act("max_norm", {"limit": limit}, parameters)
    after = arrays(parameters)
    for old, new in zip(before, after, strict=True):
        for row, limited in zip(old, new, strict=True):
            assert np.linalg.norm(limited) <= limit
            assert np.linalg.norm(row) > limit or np.array_equal(row, limited)
    act("max_norm", {"limit": limit}, parameters)
    assert all(np.array_equal(a, b) for a, b in zip(after, arrays(parameters), strict=True))


def test_max_norm_keeps_a_unit_of_zeros() -> None:
    weight = nn.Parameter(torch.zeros(3, 4))
    act("max_norm", {}, [weight])
    assert not weight.isnan().any()
    assert not weight.any()


class Tied(nn.Module):
    """Two layers that share one weight, and what is no weight: norms, biases, something frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.image = nn.Conv2d(2, 3, 3)
        self.norms = nn.Sequential(nn.LayerNorm((2, 4, 4)), nn.RMSNorm((2, 4)), nn.BatchNorm2d(3), nn.PReLU(3))
        self.bias = nn.Parameter(torch.zeros(3, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_weights_are_the_trainable_matrices_and_kernels_each_once() -> None:
    model = Tied()
    found = weights_of(model)
    assert [id(weight) for weight in found] == [id(model.first.weight), id(model.image.weight)]
    naive = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    assert len(naive) > len(found)  # counting dimensions alone takes the scales of the norms, and frozen weights
