"""Every shipped experiment runs from end to end, and the two on small data are as good as scikit-learn's network."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import pytest

import dlf
from dlf import shipped
from dlf.api import Trained
from dlf.data import Part

# what makes a run short
SHORT = {
    "mnist": ["train.epochs=1", "data.download=false"],
    "fashion_mnist": ["train.epochs=1", "data.download=false"],
    "spiral": ["train.epochs=3"],  # two of them warm up
}


@pytest.mark.parametrize("name", shipped.names())
def test_it_trains_evaluates_and_is_counted(name: str, tmp_path: Path) -> None:
    result = dlf.train(name, *SHORT.get(name, ["train.epochs=2"]), runs=tmp_path)
    assert result.status == "completed"
    assert result.data in (result.requested_data, "digits")
    found = dlf.evaluate(result.path)
    assert found["samples"] > 0
    assert np.isfinite(found["loss"])
    assert dlf.summarize(name).parameters > 0


def test_the_lesson_is_the_network_of_the_lesson() -> None:
    summary = dlf.summarize("lesson")
    assert summary.parameters == 2817  # as Keras counts Dense 64, Dense 32, Dense 1 on 10 inputs
    assert [layer.shape for layer in summary.layers] == [(64,), (32,), (1,)]
    assert (summary.loss, summary.optimizer, summary.batch_size) == ("binary_cross_entropy", "adam", 32)


def test_the_lesson_data_follow_their_rule() -> None:
    """configs/lesson.csv: standard normal columns, and a label that needs products of them, with noise of 0.3."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(600, 10)).round(3)
    noise = 0.3 * generator.normal(size=600)
    score = x[:, 0] * x[:, 1] + np.abs(x[:, 2]) - 0.8 * x[:, 3] * x[:, 4] + 0.5 * x[:, 5] + noise
    table = np.loadtxt(shipped.find("lesson").with_suffix(".csv"), delimiter=",", skiprows=1)
    np.testing.assert_allclose(table[:, :10], x, atol=5e-4)
    assert np.array_equal(table[:, 10], score > np.median(score))


@pytest.mark.usefixtures("mnist")
@pytest.mark.mnist
def test_mnist_learns_in_an_epoch(tmp_path: Path) -> None:
    """One epoch on 20,000 images: 90 % is far from chance (10 %) and from what a broken step reaches."""
    result = dlf.train("mnist", "train.epochs=1", "data.limit=20000", "data.validation=2000", runs=tmp_path)
    assert result.data == "mnist"
    assert dlf.evaluate(result.path)["accuracy"] > 0.9


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_as_good_as_scikit_learn(name: str, tmp_path: Path) -> None:
    """Medians of three seeds on the test part of the same split, both trained on the training part alone."""
    from sklearn.neural_network import MLPClassifier

    ours, theirs = [], []
    for seed in range(3):
        run = dlf.train(name, f"seed={seed}", runs=tmp_path).path
        ours.append(dlf.evaluate(run)["accuracy"])
        trained = dlf.load(run)
        network = MLPClassifier(random_state=seed, max_iter=1000)
        network.fit(*_table(trained, trained.data.train))
        theirs.append(network.score(*_table(trained, trained.data.test)))
    assert median(ours) >= median(theirs), (ours, theirs)


def _table(trained: Trained, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a part, standardized as dlf does, as a table; and their labels."""
    return trained.network.normalize(part.x[:]).flatten(1).numpy(), part.y.numpy()
