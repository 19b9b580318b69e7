"""The comparison of gradients: it agrees with right ones, refuses wrong ones, and knows a kink and its own rounding."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import Assembled
from torch import Tensor

from dlf.chain_rule import in_float64, walk
from dlf.gradient_check import (
    AUTOGRAD_BOUND,
    DIFFERENCES_BOUND,
    Gradients,
    beside_autograd,
    beside_differences,
    entry_name,
    is_kink,
    slope_at,
)
from dlf.losses import BoundLoss
from dlf.model import Network

ROUNDING = 1e-15
Case = tuple[Network, Tensor, Tensor, BoundLoss, Gradients]


def case(assembled: Assembled, activation: str = "tanh", units: int = 5) -> Case:
    """A network on the spiral, a sample, and our gradients of its loss."""
    model = {"activation": activation, "layers": [{"type": "linear", "units": units}]}
    experiment, state = assembled({"data": {"type": "spiral"}, "model": model})
    network, train = in_float64(state.network).eval(), experiment.data.train
    assert isinstance(train.x, Tensor)
    x, y = train.x[:1], train.y[:1]
    return network, x, y, experiment.loss, walk(network, x, y, experiment.loss).gradients


def test_right_gradients_agree_with_both(assembled: Assembled) -> None:
    given = case(assembled)
    before = {name: parameter.clone() for name, parameter in given[0].named_parameters()}
    by_autograd, by_differences = beside_autograd(*given), beside_differences(*given)
    assert by_autograd.holds
    assert by_autograd.deviation < AUTOGRAD_BOUND
    assert by_differences.holds
    assert 0 < by_differences.deviation < DIFFERENCES_BOUND
    assert by_autograd.entries == by_autograd.of == by_differences.entries == 2 * 5 + 5 + 5 + 1
    assert by_differences.limit == by_autograd.limit == ""
    for name, parameter in given[0].named_parameters():  # the differences moved them
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("share", [1e-5, 1e-3, 1e-2])
def test_a_wrong_entry_is_found_and_named(assembled: Assembled, share: float) -> None:
    network, x, y, loss, right = case(assembled)
    wrong = {name: gradient.clone() for name, gradient in right.items()}
    wrong["layers.0.weight"][3, 1] += share * right["layers.0.weight"].abs().max()
    for found in (beside_autograd(network, x, y, loss, wrong), beside_differences(network, x, y, loss, wrong)):
        assert not found.holds
        assert found.where == "layers.0.weight[3, 1]"
        assert found.deviation == pytest.approx(share, rel=0.02)  # of the largest entry, which may be the wrong one
        assert found.kinks == ()


def test_a_deviation_that_is_too_small_for_differences_is_seen_by_autograd(assembled: Assembled) -> None:
    network, x, y, loss, right = case(assembled)
    wrong = {name: gradient * (1 + 1e-8) for name, gradient in right.items()}
    assert not beside_autograd(network, x, y, loss, wrong).holds
    assert beside_differences(network, x, y, loss, wrong).holds


def test_of_a_large_network_a_single_wrong_entry_is_seen_along_a_direction(assembled: Assembled) -> None:
    network, x, y, loss, right = case(assembled, units=1000)
    found = beside_differences(network, x, y, loss, right)
    assert found.holds
    assert found.directions == 4
    assert found.entries < found.of == 4001
    wrong = {name: gradient.clone() for name, gradient in right.items()}
    middle = int(right["layers.0.weight"].abs().view(-1).argsort()[1000])  # none of the largest, and hardly drawn
    wrong["layers.0.weight"].view(-1)[middle] *= -1
    refused = beside_differences(network, x, y, loss, wrong)
    assert not refused.holds
    assert refused.where == "layers.0.weight"


def test_a_network_at_a_kink_is_recognized(assembled: Assembled) -> None:
    """With z = 0 in a unit of relu the loss breaks there: left the slope is 0, and torch takes that one."""
    network, x, y, loss, _ = case(assembled, "relu")
    with torch.no_grad():
        dict(network.named_parameters())["layers.0.weight"][2] = 0.0
    gradients = walk(network, x, y, loss).gradients
    found = beside_differences(network, x, y, loss, gradients)
    assert found.holds
    assert set(found.kinks) == {"layers.0.weight[2, 0]", "layers.0.weight[2, 1]", "layers.0.bias[2]"}
    wrong = {name: gradient.clone() for name, gradient in gradients.items()}
    wrong["layers.0.bias"][2] = 1e3  # not between the slopes of both sides
    assert not beside_differences(network, x, y, loss, wrong).holds


def test_a_network_that_is_sure_has_fewer_digits(assembled: Assembled) -> None:
    """dL/do = p - 1 for p = 1 - 1e-9 keeps 7 digits, whoever computes it: the bound says so, and a factor is found."""
    network, x, y, loss, _ = case(assembled)
    with torch.no_grad():
        output = network(x)
        sign = 1.0 if int(y) else -1.0
        dict(network.named_parameters())["layers.1.bias"].add_(sign * math.log(1e9) - output[0])
    right = walk(network, x, y, loss).gradients
    by_autograd = beside_autograd(network, x, y, loss, right)
    by_differences = beside_differences(network, x, y, loss, right)
    assert by_autograd.holds
    assert 1e-7 < by_autograd.bound < 1e-4
    assert "rounding" in by_autograd.limit
    assert by_differences.holds
    assert "layers.0.weight" in by_differences.limit
    doubled = {name: 2 * gradient for name, gradient in right.items()}
    assert not beside_autograd(network, x, y, loss, doubled).holds


@pytest.mark.parametrize(
    ("line", "slope"),
    [
        (math.exp, 1.0),
        (lambda t: math.sin(3 * t), 3.0),
        (lambda t: 5.0 * t + 2, 5.0),
        (lambda t: abs(t - 1e-3) + t, 0.0),  # a kink nearby, that the first width crosses
        (lambda t: max(t + 3e-5, 0.0) * 2, 2.0),
    ],
)
def test_slopes_known_by_hand(line: Callable[[float], float], slope: float) -> None:
    found, error = slope_at(line, 1.0, ROUNDING)
    assert abs(found - slope) <= 1e-8
    assert error <= 1e-7
    assert not is_kink(line, slope, ROUNDING)


def test_a_kink_takes_slopes_between_both_sides_alone() -> None:
    assert is_kink(abs, 0.0, ROUNDING)
    assert is_kink(abs, -1.0, ROUNDING)
    assert not is_kink(abs, 1.5, ROUNDING)
    assert not is_kink(math.exp, 1.0, ROUNDING)


def test_entries_have_their_places() -> None:
    assert entry_name("w", torch.Size((3, 4)), 7) == "w[1, 3]"
    assert entry_name("b", torch.Size((5,)), 4) == "b[4]"
