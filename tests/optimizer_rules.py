"""The update rules of the optimizers in numpy, written from their papers: the reference of tests/test_optimizers.py.

One call makes one update t = 1, 2, ...: parameter p, its gradient g, a state s of its own, settings h -> the new p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = dict[str, Any]
Settings = dict[str, Any]
Rule = Callable[[Array, Array, int, State, Settings], Array]


def l2(p: Array, g: Array, h: Settings) -> Any:
    return g + h["weight_decay"] * p


def mean(s: State, name: str, value: Array, beta: float) -> Any:
    s[name] = beta * s.get(name, np.zeros_like(value)) + (1 - beta) * value
    return s[name]


def sgd(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    g = l2(p, g, h)
    s["m"] = g if t == 1 else h["momentum"] * s["m"] + g
    return p - h["lr"] * (g + h["momentum"] * s["m"] if h["nesterov"] else s["m"])


def adam_step(g: Array, t: int, s: State, h: Settings) -> Any:
    b1, b2 = h["betas"]
    m, v = mean(s, "m", g, b1), mean(s, "v", g * g, b2)
    s["largest"] = np.maximum(s.get("largest", 0), v)
    v = s["largest"] if h.get("amsgrad") else v
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + h["eps"])


def adam(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    return p - h["lr"] * adam_step(l2(p, g, h), t, s, h)


def adamw(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    return p - h["lr"] * (adam_step(g, t, s, h) + h["weight_decay"] * p)


def rmsprop(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    g = l2(p, g, h)
    v = mean(s, "v", g * g, h["alpha"]) - (mean(s, "g", g, h["alpha"]) ** 2 if h["centered"] else 0)
    s["m"] = h["momentum"] * s.get("m", 0) + g / (np.sqrt(v) + h["eps"])
    return p - h["lr"] * s["m"]


def adagrad(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    g = l2(p, g, h)
    s["v"] = s.get("v", 0) + g * g
    return p - h["lr"] * g / (np.sqrt(s["v"]) + h["eps"])


def adadelta(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    g = l2(p, g, h)
    d = np.sqrt(s.get("u", 0) + h["eps"]) / np.sqrt(mean(s, "v", g * g, h["rho"]) + h["eps"]) * g
    mean(s, "u", d * d, h["rho"])
    return p - h["lr"] * d


def nadam(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    g, (b1, b2) = l2(p, g, h), h["betas"]
    c = [b1 * (1 - 0.5 * 0.96 ** (i * h["momentum_decay"])) for i in range(1, t + 2)]  # c(1) ... c(t + 1)
    m, v = mean(s, "m", g, b1), mean(s, "v", g * g, b2)
    ahead = c[t] * m / (1 - math.prod(c)) + (1 - c[t - 1]) * g / (1 - math.prod(c[:t]))
    return p - h["lr"] * ahead / (np.sqrt(v / (1 - b2**t)) + h["eps"])


def radam(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    g, (b1, b2) = l2(p, g, h), h["betas"]
    m, v = mean(s, "m", g, b1) / (1 - b1**t), mean(s, "v", g * g, b2)
    n = 2 / (1 - b2) - 1
    k = n - 2 * t * b2**t / (1 - b2**t)
    if k <= 5:
        return p - h["lr"] * m
    r = math.sqrt((k - 4) * (k - 2) * n / ((n - 4) * (n - 2) * k))
    return p - h["lr"] * r * m * math.sqrt(1 - b2**t) / (np.sqrt(v) + h["eps"])


def lion(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    b1, b2 = h["betas"]
    direction = np.sign(b1 * s.get("m", 0) + (1 - b1) * g)
    mean(s, "m", g, b2)
    return p - h["lr"] * (direction + h["weight_decay"] * p)


def newton_schulz(matrix: Array, iterations: int) -> Any:
    """The iteration by what it does: singular values x go to 3.4445 x - 4.7750 x^3 + 2.0315 x^5, no vector turns."""
    u, x, vt = np.linalg.svd(matrix, full_matrices=False)
    x = x / np.linalg.norm(matrix)
    for _ in range(iterations):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return u @ np.diag(x) @ vt


def muon(p: Array, g: Array, t: int, s: State, h: Settings) -> Any:
    if p.ndim != 2:
        return adamw(p, g, t, s, h)
    s["b"] = h["momentum"] * s.get("b", 0) + g  # Jordan's form; its length does not matter to the direction
    direction = newton_schulz(g + h["momentum"] * s["b"], h["iterations"])
    return p - h["lr"] * (0.2 * math.sqrt(max(p.shape)) * direction + h["weight_decay"] * p)


RULES: dict[str, Rule] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "nadam": nadam,
    "radam": radam,
    "lion": lion,
    "muon": muon,
}
