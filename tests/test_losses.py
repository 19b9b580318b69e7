"""Losses: values and gradients against the formulas in numpy, stability, and what is made of the outputs.

The references are written from the definitions, in float64, with their gradients by hand. Losses add, multiply and take
logarithms of some 100 numbers of size 1 to 10: some 100 roundings of 2^-53 = 1.1e-16 each, 1e-13 with a margin of ten.
Every entry also names a wrong variant, which the same comparison must reject.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dlf.losses import LOSSES, BoundLoss, Task, balanced, outputs, predicted, probabilities
from dlf.registry import InvalidError

Array = NDArray[Any]
Result = tuple[float, Array]  # value, gradient with respect to the output
Formula = Callable[..., Result]
TOLERANCE = 1e-13
BATCH, CLASSES, TARGETS = 7, 4, 3


def softmax(z: Array) -> Array:
    powers: Array = np.exp(z)
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares


def smoothed(target: Array, classes: int, smoothing: float) -> Array:
    return (1 - smoothing) * np.eye(classes)[target] + smoothing / classes


def cross_entropy(
    z: Array, y: Array, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
) -> Result:
    p, classes = softmax(z), z.shape[1]
    weighted = smoothed(y, classes, label_smoothing) * (np.ones(classes) if class_weights is None else class_weights)
    value = -(weighted * np.log(p)).sum() / len(z)
    return value, (p * weighted.sum(1, keepdims=True) - weighted) / len(z)


def binary_cross_entropy(z: Array, y: Array, label_smoothing: float = 0.0, positive_weight: float = 1.0) -> Result:
    p, q = 1 / (1 + np.exp(-z[:, 0])), (1 - label_smoothing) * y + label_smoothing / 2
    value = -(positive_weight * q * np.log(p) + (1 - q) * np.log(1 - p)).mean()
    return value, ((1 - q) * p - positive_weight * q * (1 - p))[:, None] / len(z)


def nll(logp: Array, y: Array, class_weights: Sequence[float] | None = None) -> Result:
    weighted = np.eye(logp.shape[1])[y] * (np.ones(logp.shape[1]) if class_weights is None else class_weights)
    return -(weighted * logp).sum() / len(logp), -weighted / len(logp)


def kl_div(logp: Array, y: Array, label_smoothing: float = 0.1) -> Result:
    q = smoothed(y, logp.shape[1], label_smoothing)
    entropy = -sum(float(share * math.log(share)) for share in q.flat if share > 0)
    return (-(q * logp).sum() - entropy) / len(logp), -q / len(logp)


def hinge(s: Array, y: Array, margin: float = 1.0) -> Result:
    value, gradient = 0.0, np.zeros_like(s)
    for i, true in enumerate(y):
        if s.shape[1] == 1:
            sign = 1 if true else -1
            gap, slopes = margin - sign * s[i, 0], {0: -sign}
        else:
            _, rival = max((float(score), c) for c, score in enumerate(s[i]) if c != true)
            gap, slopes = margin - s[i, true] + s[i, rival], {true: -1, rival: 1}
        if gap > 0:
            value += gap / len(s)
            for c, slope in slopes.items():
                gradient[i, c] = slope / len(s)
    return value, gradient


def mse(o: Array, t: Array) -> Result:
    return float(((o - t) ** 2).mean()), 2 * (o - t) / o.size


def mae(o: Array, t: Array) -> Result:
    return float(np.abs(o - t).mean()), np.sign(o - t) / o.size


def huber(o: Array, t: Array, delta: float = 1.0) -> Result:
    e = np.abs(o - t)
    return float(np.where(e <= delta, e**2 / 2, delta * (e - delta / 2)).mean()), np.clip(o - t, -delta, delta) / o.size


def wrong_smoothing(z: Array, y: Array, label_smoothing: float = 0.0, class_weights: Any = None) -> Result:
    """The share spread over the other classes only, s / (C - 1) each."""
    return cross_entropy(z, y, label_smoothing * z.shape[1] / (z.shape[1] - 1), class_weights)


def wrong_mean(logp: Array, y: Array, class_weights: Sequence[float] | None = None) -> Result:
    """Divided by the sum of the weights, as torch does, in place of the batch."""
    value, gradient = nll(logp, y, class_weights)
    share = 1.0 if class_weights is None else float(np.asarray(class_weights)[y].mean())
    return value / share, gradient / share


def wrong_positive(z: Array, y: Array, label_smoothing: float = 0.0, positive_weight: float = 1.0) -> Result:
    """The weight on class 0."""
    return binary_cross_entropy(-z, 1 - y, label_smoothing, positive_weight)


def wrong_direction(logp: Array, y: Array, label_smoothing: float = 0.1) -> Result:
    """KL(network || target)."""
    q = np.maximum(smoothed(y, logp.shape[1], label_smoothing), 1e-9)
    terms = np.exp(logp) * (logp - np.log(q))
    return float(terms.sum() / len(logp)), (np.exp(logp) + terms) / len(logp)


def wrong_sum(s: Array, y: Array, margin: float = 1.0) -> Result:
    """Over all other classes (Weston and Watkins), and for one score a margin of 0: the perceptron."""
    if s.shape[1] == 1:
        return hinge(s, y, margin=0.0)
    module = torch.nn.MultiMarginLoss(margin=margin)
    return module(torch.tensor(s), torch.tensor(y)).item(), np.zeros_like(s)


class Reference(NamedTuple):
    right: Formula
    wrong: Formula
    settings: tuple[dict[str, Any], ...]  # the last one tells right from wrong


WEIGHTS = (0.5, 1.0, 2.0, 3.5)
REFERENCES = {
    "cross_entropy": Reference(
        cross_entropy,
        wrong_smoothing,
        ({}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.2, "class_weights": WEIGHTS}),
    ),
    "binary_cross_entropy": Reference(
        binary_cross_entropy,
        wrong_positive,
        ({}, {"label_smoothing": 0.3}, {"label_smoothing": 0.2, "positive_weight": 2.5}),
    ),
    "nll": Reference(nll, wrong_mean, ({}, {"class_weights": WEIGHTS})),
    "kl_div": Reference(kl_div, wrong_direction, ({}, {"label_smoothing": 0.0}, {"label_smoothing": 0.4})),
    "hinge": Reference(hinge, wrong_sum, ({}, {"margin": 2.5})),
    "mse": Reference(mse, lambda o, t: (mse(o, t)[0] / 2, mse(o, t)[1] / 2), ({},)),
    "mae": Reference(mae, lambda o, t: (mae(o, t)[0] * TARGETS, mae(o, t)[1] * TARGETS), ({},)),
    "huber": Reference(
        huber,
        lambda o, t, delta=1.0: (huber(o, t, delta)[0] / delta, huber(o, t, delta)[1] / delta),
        ({}, {"delta": 0.3}),
    ),
}

# Every loss with every task that it serves; a loss without a reference fails with a KeyError.
PAIRS = [(name, task) for name in LOSSES.names() for task in LOSSES.get(name).facts["tasks"]]
CASES = [(name, task, settings) for name, task in PAIRS for settings in REFERENCES[name].settings]


def sample(name: str, task: Task, seed: int = 0, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Random output and target in float64, such as the loss takes them, away from the kinks with probability 1."""
    generator = torch.Generator().manual_seed(seed)
    units = outputs(task, CLASSES, TARGETS)
    output = 2 * torch.randn(batch, units, generator=generator, dtype=torch.float64)
    if task == "regression":
        return output, torch.randn(batch, TARGETS, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2 if task == "binary" else CLASSES, (batch,), generator=generator)
    if LOSSES.get(name).facts["takes"] == "log_probabilities":
        output = output.log_softmax(1)
    return output, target


def bound(name: str, settings: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(LOSSES.build, LOSSES.make(name, **settings))


def measured(name: str, settings: dict[str, Any], output: Tensor, target: Tensor) -> Result:
    leaf = output.clone().requires_grad_()
    value = bound(name, settings)(leaf, target)
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient.numpy()


def agrees(one: Result, other: Result) -> bool:
    return bool(
        abs(one[0] - other[0]) < TOLERANCE * max(1, abs(other[0])) and np.abs(one[1] - other[1]).max() < TOLERANCE
    )


@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_value_and_gradient_are_those_of_the_formula(name: str, task: Task, settings: dict[str, Any]) -> None:
    for seed in range(5):
        output, target = sample(name, task, seed)
        expected = REFERENCES[name].right(output.numpy(), target.numpy(), **settings)
        assert agrees(measured(name, settings, output, target), expected)


@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_the_gradient_that_training_takes_is_that_of_the_formula(
    name: str, task: Task, settings: dict[str, Any]
) -> None:
    """Written out where the loss has the fact `gradient`, from autograd elsewhere; without a graph either way."""
    parameters = LOSSES.make(name, **settings).parameters
    if isinstance(parameters.get("class_weights"), tuple):
        parameters["class_weights"] = torch.tensor(parameters["class_weights"], dtype=torch.float64)
    for seed in range(5):
        output, target = sample(name, task, seed)
        kept = output.clone()
        value, gradient = BoundLoss(name, parameters).with_gradient(output, target)
        assert torch.equal(output, kept)
        assert not value.requires_grad
        assert not gradient.requires_grad
        expected = REFERENCES[name].right(output.numpy(), target.numpy(), **settings)
        assert agrees((value.item(), gradient.numpy()), expected)


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_the_comparison_rejects_a_wrong_variant(name: str, task: Task) -> None:
    reference = REFERENCES[name]
    output, target = sample(name, task)
    wrong = reference.wrong(output.numpy(), target.numpy(), **reference.settings[-1])
    assert not agrees(measured(name, reference.settings[-1], output, target), wrong)


def gradcheck(loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor) -> bool:
    return torch.autograd.gradcheck(loss, (output.clone().requires_grad_(), target), raise_exception=False)


@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_gradient_is_that_of_finite_differences(name: str, task: Task, settings: dict[str, Any]) -> None:
    assert gradcheck(bound(name, settings), *sample(name, task))


def test_finite_differences_reject_a_gradient_that_is_cut_off() -> None:
    def cut(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) - output.logsumexp(1).mean().detach() + output.logsumexp(1).mean() / 2

    assert not gradcheck(cut, *sample("cross_entropy", "classification"))


@pytest.mark.parametrize(("name", "task", "settings"), CASES)
def test_the_loss_of_the_whole_is_the_mean_over_its_parts(name: str, task: Task, settings: dict[str, Any]) -> None:
    loss, (output, target) = bound(name, settings), sample(name, task)
    parts = sum(loss(output[i:j], target[i:j]) * (j - i) / BATCH for i, j in ((0, 1), (1, 3), (3, BATCH)))
    assert abs(loss(output, target) - parts).item() < 10 * TOLERANCE


def test_the_mean_over_parts_rejects_torchs_weighted_mean() -> None:
    output, target = sample("cross_entropy", "classification")
    loss = partial(F.cross_entropy, weight=torch.tensor(WEIGHTS, dtype=torch.float64))
    parts = loss(output[:3], target[:3]) * 3 / BATCH + loss(output[3:], target[3:]) * 4 / BATCH
    assert abs(loss(output, target) - parts).item() > 1e-3


def extremes(name: str, task: Task) -> tuple[Tensor, Tensor]:
    """Outputs of +-1e4 in float32, right and wrong; exp(1e4) is far beyond float32's 3e38."""
    if task == "regression":
        return torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, -1e4]])
    if task == "binary":
        return torch.tensor([[1e4], [1e4], [-1e4], [-1e4]]), torch.tensor([0, 1, 0, 1])
    output = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [1e4, 1e4, -1e4]])
    return (output.log_softmax(1) if LOSSES.get(name).facts["takes"] == "log_probabilities" else output), torch.tensor(
        [0, 1, 2]
    )


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_extreme_outputs_give_finite_numbers(name: str, task: Task) -> None:
    value, gradient = measured(name, {}, *extremes(name, task))
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_check_of_extremes_rejects_the_naive_formula() -> None:
    output, target = extremes("cross_entropy", "classification")
    naive = -(output.exp() / output.exp().sum(1, keepdim=True)).log()[torch.arange(3), target].mean()
    assert not math.isfinite(naive.item())


@given(smoothing=st.floats(0, 0.99), seed=st.integers(0, 1000))
def test_kl_is_cross_entropy_less_the_entropy_of_the_target(smoothing: float, seed: int) -> None:
    logits, target = sample("cross_entropy", "classification", seed)
    q = smoothed(np.array([0]), CLASSES, smoothing)[0]
    entropy = -sum(share * math.log(share) for share in q if share > 0)
    divergence = bound("kl_div", {"label_smoothing": smoothing})(logits.log_softmax(1), target)
    crossed = bound("cross_entropy", {"label_smoothing": smoothing})(logits, target)
    assert abs(divergence.item() - (crossed.item() - entropy)) < 10 * TOLERANCE
    assert divergence.item() > -TOLERANCE


def test_kl_of_the_target_itself_is_zero() -> None:
    q = smoothed(np.arange(CLASSES), CLASSES, 0.1)
    value = bound("kl_div", {})(torch.tensor(np.log(q)), torch.arange(CLASSES))
    assert abs(value.item()) < TOLERANCE


def test_hinge_of_two_scores_is_the_binary_hinge_of_their_difference() -> None:
    scores = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.arange(50) % 2
    binary = bound("hinge", {})(scores[:, 1:] - scores[:, :1], target)
    assert abs(bound("hinge", {})(scores, target) - binary).item() < TOLERANCE


def test_class_weights_may_be_bound_as_a_tensor() -> None:
    output, target = sample("cross_entropy", "classification")
    tensor = LOSSES.get("cross_entropy").function(output, target, class_weights=torch.tensor(WEIGHTS))
    assert tensor == bound("cross_entropy", {"class_weights": WEIGHTS})(output, target)


def test_balanced_weights_make_every_class_weigh_the_same() -> None:
    counts = [10, 30, 60]
    weights = balanced(counts)
    assert weights == pytest.approx((100 / 30, 100 / 90, 100 / 180), rel=1e-15)
    assert [n * w for n, w in zip(counts, weights, strict=True)] == pytest.approx([100 / 3] * 3, rel=1e-15)
    assert balanced([4, 0]) == (0.5, 1.0)


@pytest.mark.parametrize("name", ["cross_entropy", "nll"])
@pytest.mark.parametrize(
    "value", [[], [1, 0], [1, -1.0], [1, math.inf], [1, math.nan], [True, 1], ["1"], "even", 3, {}]
)
def test_class_weights_that_are_none_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidError, match="class_weights: expected") as caught:
        LOSSES.make(name, class_weights=value)
    assert caught.value.flaws[0].path == ("class_weights",)


def test_class_weights_survive_the_way_through_yaml() -> None:
    for value in (None, "balanced", (1.0, 2.5)):
        loss = LOSSES.make("cross_entropy", class_weights=value)
        assert loss.parameters["class_weights"] == value
        assert LOSSES.validate(loss.model_dump(mode="json")) == loss


@pytest.mark.parametrize(("name", "task"), [pair for pair in PAIRS if pair[1] != "regression"])
def test_probabilities_add_up_and_their_greatest_is_the_predicted_class(name: str, task: Task) -> None:
    output, _ = sample(name, task, batch=100)
    found = probabilities(output, LOSSES.get(name).facts["takes"], task)
    z = output.numpy() if task == "classification" else np.hstack([np.zeros((100, 1)), output.numpy()])
    np.testing.assert_allclose(found.numpy(), softmax(z), rtol=TOLERANCE)  # log-probabilities are logits as well
    assert torch.equal(predicted(output, task), found.argmax(1))
    assert predicted(output, task).dtype == torch.int64
