"""Points in the plane, generated: problems small enough to see what a network does with them.

Sample i belongs to class i mod classes before the order is drawn, so class sizes differ by one at most. With noise 0
every point lies exactly on the figure that the docstring names. The same parameters give the same points on every
machine. None has an official test set.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from dlf.datasets import DATASETS, Array, Dataset, DataSpec, Samples, Source

Count = Annotated[int, Field(ge=100, le=10_000_000)]  # enough for every class in every part of the split
Classes = Annotated[int, Field(ge=2, le=20)]
Ratio = Annotated[float, Field(gt=0, lt=1)]

_XOR = ("same sign", "different sign")
_CIRCLES = ("outer", "inner")
_MOONS = ("upper", "lower")


def _numbered(parameters: dict[str, Any]) -> DataSpec:
    return DataSpec((2,), _numbers(parameters["classes"]))


def _numbers(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(classes)))


@DATASETS.register("xor", spec=lambda **_: DataSpec((2,), _XOR))
def xor(source: Source, *, samples: Count = 1000, noise: NonNegativeFloat = 0.0, seed: NonNegativeInt = 0) -> Dataset:
    """Do x1 and x2 differ in sign: uniform points of the square [-1, 1]^2. What no linear model learns.

    x float32 (samples, 2), y int64 (samples,). `noise` is the standard deviation of what is added to both coordinates
    after the label is known. Minsky and Papert, 1969.
    """
    rng, y = _start(samples, 2, seed)
    size = 1 - rng.random((samples, 2))  # in (0, 1]: no point on an axis
    first = np.where(rng.random(samples) < 0.5, 1.0, -1.0)
    x = size * np.stack([first, np.where(y == 0, first, -first)], 1)
    return _finish(x, y, noise, rng, _XOR)


@DATASETS.register("spiral", spec=lambda **parameters: _numbered(parameters))
def spiral(
    source: Source,
    *,
    samples: Count = 1000,
    classes: Classes = 2,
    turns: PositiveFloat = 1.5,
    noise: NonNegativeFloat = 0.02,
    seed: NonNegativeInt = 0,
) -> Dataset:
    """Which arm of a spiral: radius t, angle 2 pi (turns t + k / classes) for arm k, t uniform in (0, 1].

    x float32 (samples, 2), y int64 (samples,). `noise` is the standard deviation of what is added to both coordinates.
    After the two spirals of Lang and Witbrock, 1988.
    """
    rng, y = _start(samples, classes, seed)
    t = 1 - rng.random(samples)
    return _finish(t[:, None] * _direction(turns * t + y / classes), y, noise, rng, _numbers(classes))


@DATASETS.register("circles", spec=lambda **_: DataSpec((2,), _CIRCLES))
def circles(
    source: Source,
    *,
    samples: Count = 1000,
    inner_radius: Ratio = 0.5,
    noise: NonNegativeFloat = 0.05,
    seed: NonNegativeInt = 0,
) -> Dataset:
    """Outer or inner circle: radius 1 or inner_radius around the origin, angles uniform.

    x float32 (samples, 2), y int64 (samples,). `noise` is the standard deviation of what is added to both coordinates.
    The figure of scikit-learn's make_circles.
    """
    rng, y = _start(samples, 2, seed)
    radius = np.where(y == 0, 1.0, inner_radius)
    return _finish(radius[:, None] * _direction(rng.random(samples)), y, noise, rng, _CIRCLES)


@DATASETS.register("moons", spec=lambda **_: DataSpec((2,), _MOONS))
def moons(source: Source, *, samples: Count = 1000, noise: NonNegativeFloat = 0.1, seed: NonNegativeInt = 0) -> Dataset:
    """Two half circles that interlock: (cos a, sin a) and (1 - cos a, 1/2 - sin a), a uniform in [0, pi).

    x float32 (samples, 2), y int64 (samples,). `noise` is the standard deviation of what is added to both coordinates.
    The figure of scikit-learn's make_moons.
    """
    rng, y = _start(samples, 2, seed)
    upper = _direction(rng.random(samples) / 2)
    x = np.where(y[:, None] == 0, upper, [1.0, 0.5] - upper)
    return _finish(x, y, noise, rng, _MOONS)


@DATASETS.register("blobs", spec=lambda **parameters: _numbered(parameters))
def blobs(
    source: Source,
    *,
    samples: Count = 1000,
    classes: Classes = 3,
    noise: NonNegativeFloat = 0.2,
    seed: NonNegativeInt = 0,
) -> Dataset:
    """Round clouds: normal with standard deviation `noise` around centres spread evenly over the unit circle.

    x float32 (samples, 2), y int64 (samples,). The centre of class k lies at the angle 2 pi k / classes.
    """
    rng, y = _start(samples, classes, seed)
    return _finish(_direction(y / classes), y, noise, rng, _numbers(classes))


def _start(samples: int, classes: int, seed: int) -> tuple[np.random.Generator, Array]:
    """The generator, and balanced labels (samples,) in an order that it draws."""
    rng = np.random.default_rng(seed)
    return rng, rng.permutation(np.arange(samples, dtype=np.int64) % classes)


def _direction(turns: Array) -> Array:
    """The unit vectors (n, 2) at these angles (n,), given in turns: 1 is the full circle."""
    return np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], 1)


def _finish(x: Array, y: Array, noise: float, rng: np.random.Generator, classes: tuple[str, ...]) -> Dataset:
    moved = x + noise * rng.standard_normal(x.shape)
    return Dataset(Samples(moved.astype(np.float32), y), classes=classes, features=("x1", "x2"))
