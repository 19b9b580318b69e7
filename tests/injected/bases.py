"""Healthy experiments, drawn by a seed: data, network, activation and optimizer differ, and all of them learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Config = dict[str, Any]


class Problem(NamedTuple):
    """A data set, how long it is trained on, by how much its rates are multiplied, and what a healthy network reaches.

    `reached` is a validation accuracy, of a regression the share of the variance that is explained; well above what
    guessing gives, and below what every sensible network gets.
    """

    data: Config
    classes: int  # 0: numbers
    epochs: int
    rate: float
    reached: float
    image: bool = False


_MNIST = {"type": "mnist", "limit": 3000, "validation": 0.2, "batch_size": 64, "download": False}
_POINTS = {"batch_size": 32, "validation": 0.2}
PROBLEMS = {
    "digits": Problem({"type": "digits", "batch_size": 32}, 10, 12, 1.0, 0.85, image=True),
    "mnist": Problem({**_MNIST, "fallback": {"type": "digits", "batch_size": 32}}, 10, 8, 1.0, 0.8, image=True),
    "breast_cancer": Problem({"type": "breast_cancer", "batch_size": 32, "validation": 0.2}, 2, 30, 1.0, 0.85),
    "wine": Problem({"type": "wine", "batch_size": 16, "validation": 0.2}, 3, 40, 1.0, 0.8),
    "spiral": Problem({"type": "spiral", "turns": 1.0, "classes": 3, **_POINTS}, 3, 60, 3.0, 0.75),
    "moons": Problem({"type": "moons", "noise": 0.15, **_POINTS}, 2, 30, 3.0, 0.85),
    "blobs": Problem({"type": "blobs", "classes": 5, **_POINTS}, 5, 30, 2.0, 0.85),
    "diabetes": Problem({"type": "diabetes", "batch_size": 32, "validation": 0.2}, 0, 25, 1.0, 0.2),
}
ACTIVATIONS = ("relu", "tanh", "gelu", "leaky_relu", "elu", "silu", "selu", "softplus")
OPTIMIZERS: tuple[Config, ...] = (
    {"type": "adam", "lr": 0.002},
    {"type": "adamw", "lr": 0.002, "weight_decay": 0.02},
    {"type": "sgd", "lr": 0.02, "momentum": 0.9},
    {"type": "rmsprop", "lr": 0.001},
    {"type": "nadam", "lr": 0.002},
    {"type": "lion", "lr": 0.0003},
)


@dataclass(frozen=True)
class Base:
    """A healthy experiment: what it solves, and its configuration as a mapping."""

    problem: str
    config: Config

    @property
    def classes(self) -> int:
        """0 for a regression."""
        return PROBLEMS[self.problem].classes

    @property
    def hidden(self) -> int:
        """How many layers with weights stand before the output layer."""
        return sum(layer["type"] in ("linear", "conv2d", "residual") for layer in self.config["model"]["layers"])


def base(seed: int, suits: Callable[[Base], bool] = lambda base: True) -> Base:
    """The first of the seed's experiments that suits: all faults that suit the first one are put into the same."""
    chance = np.random.default_rng([seed, 0xBA5E])
    while True:
        drawn = _draw(seed, chance)
        if suits(drawn):
            return drawn


def _draw(seed: int, chance: np.random.Generator) -> Base:
    name = str(chance.choice(list(PROBLEMS)))
    problem = PROBLEMS[name]
    activation = str(chance.choice(ACTIVATIONS))
    optimizer = dict(OPTIMIZERS[chance.integers(len(OPTIMIZERS))])
    optimizer["lr"] = float(optimizer["lr"] * problem.rate)
    convolutional = problem.image and chance.random() < 0.3
    layers = _convolutional(chance, activation) if convolutional else _dense(chance, name, activation)
    numbers = {"loss": str(chance.choice(["mse", "huber", "mae"])), "metrics": ["r2"]} if not problem.classes else {}
    config = {
        "name": name,
        "seed": seed,
        "data": {**problem.data, "split_seed": seed},
        "model": {"activation": activation, "layers": layers},
        "optimizer": optimizer,
        "schedule": str(chance.choice(["constant", "cosine"])),
        "train": {"epochs": problem.epochs, "device": "cpu", "threads": 1},
        **numbers,
    }
    return Base(name, config)


def _dense(chance: np.random.Generator, problem: str, activation: str) -> list[Config]:
    """One to four hidden layers; half of the networks have something between them."""
    needed = 2 if problem == "spiral" else 1  # one narrow layer bends the plane too slowly
    depth = int(chance.integers(needed, 5))
    widths = [int(chance.choice([32, 64, 128])) for _ in range(depth)]
    between = str(chance.choice(["nothing", "nothing", "nothing", "dropout", "batch_norm", "layer_norm", "residual"]))
    layers: list[Config] = []
    for index, units in enumerate(widths):
        layers += _block(units, between, activation, first=index == 0)
    return layers


def _block(units: int, between: str, activation: str, *, first: bool) -> list[Config]:
    linear: Config = {"type": "linear", "units": units}
    if between == "dropout":
        return [linear, {"type": "dropout", "rate": 0.1}]
    if between in ("batch_norm", "layer_norm"):
        return [
            {**linear, "activation": "identity"},
            {"type": between},
            {"type": "activation", "function": activation},
        ]
    if between == "residual" and not first:
        return [{"type": "residual", "projection": True, "layers": [linear]}]
    return [linear]


def _convolutional(chance: np.random.Generator, activation: str) -> list[Config]:
    channels = int(chance.choice([8, 16]))
    norm = [{"type": "batch_norm"}] if chance.random() < 0.5 else []
    pool = {"type": str(chance.choice(["max_pool2d", "avg_pool2d"]))}
    return [
        {"type": "conv2d", "channels": channels},
        *norm,
        pool,
        {"type": "conv2d", "channels": 2 * channels},
        *norm,
        {"type": "linear", "units": 32},
    ]
