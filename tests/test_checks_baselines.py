"""The simple models against scikit-learn's, and the test for "there is something to learn" against shuffling itself."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch import Tensor

from dlf.checks.baselines import DECAY, asked_across, linked, logistic_regression, nearest, ridge_regression


def of(load: object) -> tuple[Tensor, Tensor]:
    assert callable(load)
    x, y = load(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(x).double()[order], torch.from_numpy(y)[order]


def standardized(x: Tensor) -> Tensor:
    std = x.std(0, correction=0)
    return (x - x.mean(0)) / torch.where(std > 0, std, 1.0)


@pytest.mark.parametrize("load", [load_iris, load_digits])  # digits has columns that never vary
def test_the_logistic_regression_is_scikit_learns(load: object) -> None:
    x, y = of(load)
    x, y = x[:300], y[:300]
    model = logistic_regression(x, y, int(y.max()) + 1, steps=1500)
    reference = LogisticRegression(C=1 / (DECAY * len(x)), tol=1e-10, max_iter=10_000)
    reference.fit(standardized(x).numpy(), y.numpy())
    expected = torch.from_numpy(reference.predict_proba(standardized(x).numpy()))
    assert torch.allclose(model(x).softmax(1), expected, atol=1e-5)


def test_forty_steps_are_as_right_as_all_of_them() -> None:
    x, y = of(load_digits)
    accuracies = [
        float((logistic_regression(x[:1000], y[:1000], 10, **steps)(x[1000:]).argmax(1) == y[1000:]).double().mean())
        for steps in ({}, {"steps": 1500})
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)
    assert accuracies[1] > 0.93  # what logistic regressions reach on digits


def test_the_ridge_regression_is_scikit_learns() -> None:
    x, y = of(load_diabetes)
    model = ridge_regression(x, y[:, None])
    expected = Ridge(alpha=1.0).fit(standardized(x).numpy(), y.numpy()).predict(standardized(x).numpy())
    assert torch.allclose(model(x)[:, 0], torch.from_numpy(expected), rtol=1e-9)


def test_the_neighbours_are_scikit_learns() -> None:
    x, y = of(load_digits)
    std = x[:500].std(0, correction=0)
    scaled = (x - x[:500].mean(0)) / torch.where(std > 0, std, 1.0)
    classes = KNeighborsClassifier(5).fit(scaled[:500].numpy(), y[:500].numpy())
    logs = nearest(x[:500], y[:500], x[500:700], 10)
    shares = torch.from_numpy(classes.predict_proba(scaled[500:700].numpy()))  # (200, 10), k / 5
    assert torch.allclose(logs.exp(), (5 * shares + 1 / 10) / 6)
    numbers = KNeighborsRegressor(5).fit(scaled[:500].numpy(), y[:500].numpy())
    means = nearest(x[:500], y[:500, None].double(), x[500:700], None)
    assert torch.allclose(means[:, 0], torch.from_numpy(numbers.predict(scaled[500:700].numpy())))


@pytest.mark.parametrize("numbers", [False, True])
def test_the_link_is_measured_in_spreads_of_shuffling(numbers: bool) -> None:
    """Against 20,000 shufflings: the mean and the spread of the fit are what the closed form says."""
    generator = torch.Generator().manual_seed(0)
    n = 40
    output = torch.randn(n, 1 if numbers else 3, generator=generator, dtype=torch.float64)
    if numbers:
        y = output + torch.randn(n, 1, generator=generator, dtype=torch.float64)
    else:
        output = output.log_softmax(1)
        y = (output + torch.randn(n, 3, generator=generator, dtype=torch.float64)).argmax(1)

    def fit(y: Tensor) -> float:
        each = -(output - y).square()[:, 0] if numbers else output[torch.arange(n), y]
        return float(each.sum())

    shuffled = torch.tensor([fit(y[torch.randperm(n, generator=generator)]) for _ in range(20_000)])
    expected = (fit(y) - shuffled.mean()) / shuffled.std()
    # a spread of 20,000 draws is known to 0.5 %, the mean to 0.007 of it
    assert linked(output, y) == pytest.approx(expected.item(), rel=0.02, abs=0.03)
    assert expected > 2


def test_predictions_that_never_vary_are_linked_to_nothing() -> None:
    y = torch.tensor([0, 1, 0, 1, 0])
    assert linked(torch.full((5, 2), 0.5).log(), y) == 0.0
    assert linked(torch.zeros(5, 1), torch.randn(5, 1)) == 0.0


def test_of_shuffled_labels_the_link_of_both_halves_is_nearly_standard_normal() -> None:
    """Over 300 shufflings: a standard deviation is known to 1 / sqrt(600) = 4 %, a mean to 1 / sqrt(300) = 6 %."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    found = []
    for _ in range(300):
        y = torch.randint(2, (60,), generator=generator)
        found.append(asked_across(x, y, lambda x, y, asked: logistic_regression(x, y, 2, steps=10)(asked))[0])
    values = torch.tensor(found)
    assert 0.7 < values.std().item() < 1.16  # 0.71 if the halves knew nothing of each other, 1 if they agreed
    assert values.mean().item() == pytest.approx(0.0, abs=0.24)
