"""Bundled sets are scikit-learn's, to the last value; generated points lie where their docstring says.

Tolerance of the figures: a coordinate is at most 1.5 and float32 rounds it by at most 2^-24 of its power of two, so a
point is off by less than 2e-7. On a spiral the radius, off by as much, turns the angle by 2 pi turns times that: 3e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import Array
from scipy import stats
from sklearn import datasets as bundled

from dlf.datasets import DATASETS, Dataset, Source
from dlf.registry import InvalidError

NOWHERE = Source(Path("/nonexistent"), download=False)


def load(name: str, **parameters: Any) -> Dataset:
    dataset: Dataset = DATASETS.build(DATASETS.make(name, **parameters), NOWHERE)
    return dataset


def entries(module: str) -> list[str]:
    """The data sets that one file of the package registers."""
    return [name for name in DATASETS.names() if DATASETS.get(name).function.__module__ == f"dlf.datasets.{module}"]


# --- scikit-learn's -------------------------------------------------------------------------------------------------

LOADERS: dict[str, Callable[[], Any]] = {
    "digits": bundled.load_digits,
    "breast_cancer": bundled.load_breast_cancer,
    "wine": bundled.load_wine,
    "iris": bundled.load_iris,
    "diabetes": lambda: bundled.load_diabetes(scaled=False),
}


@pytest.mark.parametrize("name", entries("sklearn_bundled"))
def test_bundled_sets_are_scikit_learns(name: str) -> None:
    bunch, dataset = LOADERS[name](), load(name)
    x = dataset.train.x
    if name == "digits":
        x = np.rint(x[:, 0].reshape(-1, 64) * (16 / 255))  # the 17 values come back
    assert np.array_equal(x, bunch.data.astype(np.float32))
    assert np.array_equal(dataset.train.y.reshape(-1), bunch.target)
    assert dataset.test is None
    if dataset.features is not None:
        assert dataset.features == tuple(bunch.feature_names)
    if dataset.classes is not None:
        assert dataset.classes == tuple(map(str, bunch.target_names))


def test_digits_use_the_whole_range_of_a_byte() -> None:
    x = load("digits").train.x
    assert len(np.unique(x)) == 17
    # every byte is v * 255 / 16 to within the half that rounding takes
    assert np.abs(x[:, 0] - bundled.load_digits().images * (255 / 16)).max() <= 0.5
    assert (x.min(), x.max()) == (0, 255)


def test_diabetes_is_not_the_scaled_version() -> None:
    assert not np.allclose(load("diabetes").train.x, bundled.load_diabetes(scaled=True).data)


# --- points ---------------------------------------------------------------------------------------------------------


def unit(angle: Array) -> Array:
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def from_xor(x: Array, y: Array, p: Mapping[str, Any]) -> Array:
    outside = np.maximum(np.abs(x).max(1) - 1, 0)
    return np.asarray(np.where((np.prod(x, 1) < 0) == (y == 1), outside, 1.0))


def from_spiral(x: Array, y: Array, p: Mapping[str, Any]) -> Array:
    radius = np.hypot(x[:, 0], x[:, 1])
    arm = unit(2 * np.pi * (p["turns"] * radius + y / p["classes"]))
    return np.asarray(np.linalg.norm(x - radius[:, None] * arm, axis=1) + np.maximum(radius - 1, 0))


def from_circles(x: Array, y: Array, p: Mapping[str, Any]) -> Array:
    return np.asarray(np.abs(np.hypot(x[:, 0], x[:, 1]) - np.array([1.0, p["inner_radius"]])[y]))


def from_moons(x: Array, y: Array, p: Mapping[str, Any]) -> Array:
    centre, side = np.array([[0.0, 0.0], [1.0, 0.5]])[y], np.array([1.0, -1.0])[y]
    off = x - centre
    return np.asarray(np.abs(np.hypot(off[:, 0], off[:, 1]) - 1) + np.maximum(-side * off[:, 1], 0))


def from_blobs(x: Array, y: Array, p: Mapping[str, Any]) -> Array:
    return np.asarray(np.linalg.norm(x - unit(2 * np.pi * y / p["classes"]), axis=1))


DISTANCE: dict[str, Callable[[Array, Array, Mapping[str, Any]], Array]] = {
    "xor": from_xor,
    "spiral": from_spiral,
    "circles": from_circles,
    "moons": from_moons,
    "blobs": from_blobs,
}
"""How far each point lies from the figure of its class: float64 (n,)."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in entries("points")),
    ("spiral", {"classes": 5, "turns": 0.7}),
    ("circles", {"inner_radius": 0.2}),
    ("blobs", {"classes": 7}),
]


@pytest.mark.parametrize(("name", "more"), VARIANTS)
def test_without_noise_every_point_lies_on_its_figure(name: str, more: dict[str, Any]) -> None:
    component = DATASETS.make(name, noise=0.0, **more)
    dataset: Dataset = DATASETS.build(component, NOWHERE)
    x, y = dataset.train.x.astype(np.float64), dataset.train.y
    distance = DISTANCE[name]
    tolerance = 3e-6 if name == "spiral" else 2e-7
    assert distance(x, y, component.parameters).max() < tolerance
    classes = len(dataset.classes or ())
    assert distance(x, (y + 1) % classes, component.parameters).max() > 0.1  # the labels matter
    assert distance(x + 0.7, y, component.parameters).max() > 0.1  # and the place


def test_scikit_learns_figures_are_ours() -> None:
    for name, theirs in (("moons", bundled.make_moons(200)), ("circles", bundled.make_circles(200, factor=0.5))):
        assert DISTANCE[name](theirs[0], theirs[1], {"inner_radius": 0.5}).max() < 1e-12


@pytest.mark.parametrize("name", entries("points"))
@pytest.mark.parametrize("samples", [100, 1001])
def test_classes_are_balanced_and_their_order_drawn(name: str, samples: int) -> None:
    y = load(name, samples=samples).train.y
    counts = np.bincount(y)
    assert counts.sum() == samples
    assert counts.max() - counts.min() <= 1
    assert not np.array_equal(y, np.arange(samples) % len(counts))


@pytest.mark.parametrize("name", entries("points"))
def test_noise_is_normal_with_its_standard_deviation(name: str) -> None:
    """The same seed without noise gives the same points, so the difference is the noise: 2000 draws, fixed seed."""
    moved, still = load(name, noise=0.3).train, load(name, noise=0.0).train
    drawn = ((moved.x.astype(np.float64) - still.x) / 0.3).reshape(-1)
    assert np.array_equal(moved.y, still.y)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert stats.kstest(drawn * 1.2, "norm").pvalue < 1e-3


@pytest.mark.parametrize("name", entries("points"))
def test_the_seed_decides(name: str) -> None:
    first, again, other = load(name), load(name), load(name, seed=1)
    assert first.train.x.tobytes() == again.train.x.tobytes()
    assert first.train.x.tobytes() != other.train.x.tobytes()


def test_the_parameter_along_the_figure_is_uniform() -> None:
    spiral, circles, moons, xor = (load(name, noise=0.0).train for name in ("spiral", "circles", "moons", "xor"))
    radius = np.hypot(*spiral.x.T)
    outer, upper = circles.x[circles.y == 0], moons.x[moons.y == 0]
    samples = {
        "spiral": radius,
        "circles": np.arctan2(outer[:, 1], outer[:, 0]) / (2 * np.pi) % 1,
        "moons": np.arctan2(upper[:, 1], upper[:, 0]) / np.pi,
        "xor": (xor.x.reshape(-1) + 1) / 2,
    }
    for values in samples.values():
        assert stats.kstest(values, "uniform").pvalue > 1e-3
        assert stats.kstest(values**2, "uniform").pvalue < 1e-3


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("xor", {"samples": 99}),
        ("spiral", {"classes": 1}),
        ("spiral", {"turns": 0.0}),
        ("circles", {"inner_radius": 1.0}),
        ("moons", {"noise": -0.1}),
        ("blobs", {"classes": 21}),
        ("blobs", {"seed": -1}),
    ],
)
def test_parameters_without_a_figure_are_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match=next(iter(parameters))):
        DATASETS.make(name, **parameters)
