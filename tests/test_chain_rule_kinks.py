"""Where there is no derivative, the chain rule written out takes what torch takes: at kinks, and of equal numbers.

Such points are no rare accident: relu hands windows of equal zeros to a pool, and weights of zeros give equal scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_activations import CASES as ACTIVATION_CASES
from test_chain_rule import MSE, by_autograd, deviation, network_of, ours, targets_for
from test_layers import build
from test_losses import CASES as LOSS_CASES
from torch import Tensor, nn

from dlf import derivatives
from dlf.activations import ACTIVATIONS
from dlf.derivatives import Quantity, derivative_of
from dlf.layers import Shape
from dlf.losses import LOSSES, BoundLoss, Task, outputs

# of all activations and of their settings in CASES, exactly; and a float on both sides
KINKS = torch.tensor([0.0, 1.0, 2.2, 3.0, 6.0, 2.0 / 1.7, 3.0 / 0.5, 20.0], dtype=torch.float64)
AT = torch.cat([torch.cat([z, z.nextafter(z + 1), z.nextafter(z - 1)]) for z in (KINKS, -KINKS)])
CLASSES, TARGETS = 4, 3


def slopes(function: Callable[[Tensor], Tensor]) -> Tensor:
    z = AT.clone().requires_grad_()
    return torch.autograd.grad(function(z).sum(), z)[0]


@pytest.mark.parametrize(
    ("name", "parameters"), [(name, own) for name, own in ACTIVATION_CASES if "slope" in ACTIVATIONS.get(name).facts]
)
def test_slopes_at_kinks_are_those_of_torch(name: str, parameters: dict[str, Any]) -> None:
    """At a jump of the derivative the two sides are at least 0.1 apart; formulas are rounded a dozen times."""
    entry, complete = ACTIVATIONS.get(name), ACTIVATIONS.make(name, **parameters).parameters
    mine = entry.facts["slope"](AT, **complete)
    torch.testing.assert_close(mine, slopes(lambda z: entry.function(z, **complete)), rtol=1e-13, atol=1e-14)


def test_a_slope_of_the_other_side_is_found() -> None:
    with pytest.raises(AssertionError):
        torch.testing.assert_close((AT >= 0).double(), slopes(torch.relu))


# --- equal numbers ----------------------------------------------------------------------------------------------------


def few_values(*shape: int) -> Tensor:
    """-1, 0 or 1: with every window of a pool, every kink and every comparison full of ties."""
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(7)).double()


def normalized_to(network: Any, x: Tensor) -> Tensor:
    """What becomes x by the normalization, which the test makes exact."""
    network.inputs_mean.zero_()
    network.inputs_std.fill_(1.0)
    return x


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("max_pool2d", {}, (2, 6, 6)),
        ("max_pool2d", {"size": 3, "stride": 1}, (2, 6, 6)),
        ("maxout", {"units": 4, "pieces": 3}, (5,)),
        ("prelu", {"shared": False}, (5,)),
    ],
)
def test_of_equal_numbers_the_one_that_torch_takes(name: str, settings: dict[str, Any], shape: Shape) -> None:
    module, _ = build(name, shape, settings)
    if name == "maxout":  # pieces of equal weights give equal sums
        module.get_parameter("weight").data.fill_(0.5)
        module.get_parameter("bias").data.fill_(0.25)
    network = network_of(module, nn.Flatten())
    x = normalized_to(network, few_values(3, *shape))
    y = targets_for(network, x)
    assert deviation(ours(network, x, y, MSE), by_autograd(network, x, y, MSE)) <= 1e-10


def test_a_pool_that_hands_the_gradient_to_all_of_the_equal_ones_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(derivatives._DERIVATIVES, nn.MaxPool2d)

    @derivative_of("max_pool2d", nn.MaxPool2d)
    def generous(layer: nn.MaxPool2d, x: Tensor) -> tuple[list[Quantity], derivatives.Back]:
        y = nn.functional.max_pool2d(x, 2)

        def back(g: Tensor) -> list[Quantity]:
            wide = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
            return [Quantity("dL/dx", "", g.repeat_interleave(2, 2).repeat_interleave(2, 3) * (x == wide))]

        return [Quantity("y", "", y)], back

    try:
        network = network_of(build("max_pool2d", (2, 6, 6), {})[0], nn.Flatten())
        x = normalized_to(network, few_values(3, 2, 6, 6))
        y = targets_for(network, x)
        assert deviation(ours(network, x, y, MSE), by_autograd(network, x, y, MSE)) > 0.1
    finally:
        del derivatives._DERIVATIVES[nn.MaxPool2d]


@pytest.mark.parametrize(("name", "task", "settings"), LOSS_CASES)
@pytest.mark.parametrize("outputs_are", ["equal", "of few values", "at the edge"])
def test_losses_at_their_kinks(name: str, task: Task, settings: dict[str, Any], outputs_are: str) -> None:
    """Every score equal, errors of 0, and leads and errors that are exactly the margin or delta."""
    parameters = LOSSES.make(name, **settings).parameters
    if isinstance(parameters.get("class_weights"), tuple):
        parameters["class_weights"] = torch.tensor(parameters["class_weights"], dtype=torch.float64)
    units = outputs(task, CLASSES, TARGETS)
    output = few_values(24, units)
    if outputs_are == "equal":
        output.zero_()
    elif outputs_are == "at the edge":
        output *= float(parameters.get("margin", parameters.get("delta", 1.0)))
    target = torch.zeros(24, TARGETS).double() if task == "regression" else torch.arange(24) % max(2, units)
    if LOSSES.get(name).facts["takes"] == "log_probabilities":
        output = output.log_softmax(1)
    value, mine = BoundLoss(name, parameters).with_gradient(output, target)
    leaf = output.clone().requires_grad_()
    expected = BoundLoss(name, parameters)(leaf, target)
    (theirs,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=1e-13)
