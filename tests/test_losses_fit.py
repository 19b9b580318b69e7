"""Which loss fits which data and which output layer: the refusals, and that the reasons they give are true.

What is said of an activation is compared with its range, found by trying it out on a wide, fine grid.
"""

from __future__ import annotations

import math

import pytest
import torch

from dlf.activations import ACTIVATIONS
from dlf.fitting import default_loss, refuses, task_of
from dlf.losses import LOSSES, Task, outputs
from dlf.registry import InvalidError


@pytest.mark.parametrize(("name", "classes"), [(name, classes) for name in LOSSES.names() for classes in (None, 2, 3)])
def test_task_follows_from_the_loss_and_the_classes(name: str, classes: int | None) -> None:
    tasks = LOSSES.get(name).facts["tasks"]
    if (classes is None) != ("regression" in tasks) or (classes == 3 and tasks == ("binary",)):
        with pytest.raises(InvalidError, match=f"{name} .*Losses that fit: ") as caught:
            task_of(LOSSES.make(name), classes)
        offered = caught.value.flaws[0].message.rpartition(": ")[2].split(", ")
        assert offered
        for fitting in offered:
            task_of(LOSSES.make(fitting), classes)
    else:
        expected = (
            "regression" if classes is None else "binary" if classes == 2 and "binary" in tasks else "classification"
        )
        assert task_of(LOSSES.make(name), classes) == expected


def test_mse_on_classes_is_refused_with_the_reason() -> None:
    with pytest.raises(
        InvalidError, match=r"names without distance.*Losses that fit: cross_entropy, nll, kl_div, hinge"
    ):
        task_of(LOSSES.make("mse"), 10)


def test_weights_for_another_number_of_classes_are_refused() -> None:
    loss = LOSSES.make("cross_entropy", class_weights=[1, 2])
    assert task_of(loss, 2) == "classification"
    with pytest.raises(InvalidError, match="has 2 weights, and this data has 3 classes") as caught:
        task_of(loss, 3)
    assert caught.value.flaws[0].path == ("class_weights",)


@pytest.mark.parametrize(("task", "classes"), [("classification", 3), ("binary", 2), ("regression", None)])
def test_default_loss_serves_its_task(task: Task, classes: int | None) -> None:
    assert task_of(LOSSES.make(default_loss(task)), classes) == task
    assert outputs(task, classes, targets=5) == {"classification": 3, "binary": 1, "regression": 5}[task]


def reach(activation: str) -> tuple[float, float]:
    """The least and greatest value of an activation over a wide, fine range of inputs of two units."""
    # 20001 steps of 0.001 around 0 for the dips, and far away points for the limits
    t = torch.cat([torch.linspace(-10, 10, 20001), torch.tensor([-1e4, 1e4])]).double()
    values = ACTIVATIONS.build(ACTIVATIONS.make(activation), torch.stack([t, -t], 1))
    return values.min().item(), values.max().item()


@pytest.mark.parametrize("activation", ACTIVATIONS.names())
def test_an_activation_that_does_not_reach_every_number_is_refused_before_logits(activation: str) -> None:
    low, high = reach(activation)
    limited = low > -10 or high < 10  # leaky_relu's slope of 0.01 gives -100 at -1e4
    for name in ("cross_entropy", "binary_cross_entropy", "hinge"):
        reason = refuses(LOSSES.get(name), activation)
        assert (reason is not None) == limited, reason
        assert reason is None or (reason.startswith(name) and activation in reason and "identity" in reason)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS.names() if "softmax" not in name])
def test_the_probabilities_that_are_said_to_remain_are_those_that_remain(activation: str) -> None:
    low, high = reach(activation)
    binary, several = (refuses(LOSSES.get(name), activation) for name in ("binary_cross_entropy", "cross_entropy"))
    if binary is None or several is None:
        return
    least, greatest = (1 / (1 + math.exp(-min(bound, 50))) for bound in (low, high))
    assert f"between {least:.2f} and {greatest:.2f}" in binary
    assert ("class 0 is never predicted" in binary) == (least >= 0.5)
    if math.isfinite(high) and high < 10:
        corners = torch.tensor([[low] + [high] * 9, [high] + [low] * 9], dtype=torch.float64).softmax(1)[:, 0]
        assert f"which is {corners[0]:.3f} and {corners[1]:.3f} for 10 classes" in several


def test_the_remaining_probabilities_are_said_as_a_formula_too() -> None:
    # widths of the ranges: 1 and 2
    for activation, power in (("sigmoid", "e"), ("tanh", "e^2")):
        reason = refuses(LOSSES.get("cross_entropy"), activation)
        assert reason is not None
        assert f"between 1/(1+(C-1){power}) and {power}/({power}+C-1)," in reason


def test_two_softmaxes_squeeze_as_said() -> None:
    # 20,000 points of the simplex, near the corners too, and a corner itself, which must reach both limits
    shares = torch.cat(
        [(50 * torch.randn(20_000, 10, dtype=torch.float64)).softmax(1), torch.eye(10, dtype=torch.float64)]
    )
    twice = shares.softmax(1)
    assert twice.min().item() == pytest.approx(1 / (9 + math.e), rel=1e-14)
    assert twice.max().item() == pytest.approx(math.e / (9 + math.e), rel=1e-14)
    reason = refuses(LOSSES.get("cross_entropy"), "softmax")
    assert reason is not None
    assert f"which is {1 / (9 + math.e):.3f} and {math.e / (9 + math.e):.3f} for 10 classes" in reason


@pytest.mark.parametrize("activation", ACTIVATIONS.names())
def test_log_probabilities_come_from_log_softmax_only_and_a_regression_takes_anything(activation: str) -> None:
    for name in LOSSES.names():
        entry = LOSSES.get(name)
        if entry.facts["takes"] == "log_probabilities":
            assert (refuses(entry, activation) is None) == (activation == "log_softmax")
        if entry.facts["takes"] == "values":
            assert refuses(entry, activation) is None
