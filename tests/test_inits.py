"""Every initialiser against the distribution that its docstring states, with the fans counted by hand.

The weights are far from square, so that fan_in, fan_out and their mean are three different numbers. An initialiser
without a distribution fails here, and so does a parameter that no case varies.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from dlf.activations import ACTIVATIONS
from dlf.inits import INITS, chosen

SHAPES = [(400, 100), (30, 60, 5, 4)]  # 40,000 and 36,000 weights


def uniform_of(std: float) -> Any:
    return stats.uniform(-sqrt(3) * std, 2 * sqrt(3) * std)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    units, inputs, *kernel = shape
    return inputs * prod(kernel), units * prod(kernel)


def xavier(shape: tuple[int, ...], gain: float) -> float:
    return gain * sqrt(2 / sum(fans(shape)))


def he(shape: tuple[int, ...], slope: float, fan: str) -> float:
    return sqrt(2 / ((1 + slope**2) * fans(shape)[("in", "out").index(fan)]))


# What is drawn, from the formulas of the papers: shape and parameters -> a distribution of scipy.
DISTRIBUTIONS: dict[str, Callable[..., Any]] = {
    "xavier_uniform": lambda shape, gain: uniform_of(xavier(shape, gain)),
    "xavier_normal": lambda shape, gain: stats.norm(0, xavier(shape, gain)),
    "he_uniform": lambda shape, slope, fan: uniform_of(he(shape, slope, fan)),
    "he_normal": lambda shape, slope, fan: stats.norm(0, he(shape, slope, fan)),
    "lecun_uniform": lambda shape: uniform_of(sqrt(1 / fans(shape)[0])),
    "lecun_normal": lambda shape: stats.norm(0, sqrt(1 / fans(shape)[0])),
    "uniform": lambda shape, limit: stats.uniform(-limit, 2 * limit),
    "normal": lambda shape, mean, std: stats.norm(mean, std),
    "truncated_normal": lambda shape, mean, std, cut: stats.truncnorm(-cut, cut, mean, std),
}

# What every weight is where nothing is drawn. Besides, orthogonal is tested by its product, and auto draws nothing.
CONSTANTS: dict[str, Callable[..., float]] = {
    "zeros": lambda: 0.0,
    "ones": lambda: 1.0,
    "constant": lambda value: value,
}

PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "xavier_uniform": [{}, {"gain": 1.7}],
    "xavier_normal": [{}, {"gain": 1.7}],
    "he_uniform": [{}, {"fan": "out"}, {"slope": 0.8}],
    "he_normal": [{}, {"fan": "out"}, {"slope": 0.8}],
    "uniform": [{}, {"limit": 0.3}],
    "normal": [{}, {"mean": 0.2, "std": 0.4}],
    "truncated_normal": [{}, {"mean": -0.3, "std": 0.2}, {"cut": 1.1}, {"cut": 0.1}],
    "orthogonal": [{}, {"gain": 1.7}],
    "constant": [{"value": -0.7}],
}

NAMES = INITS.names()
CASES = [(name, parameters) for name in NAMES if name != "auto" for parameters in PARAMETERS.get(name, [{}])]
BY_DISTRIBUTION = [case for case in CASES if case[0] not in CONSTANTS and case[0] != "orthogonal"]
WITH_CHANCE = [case for case in CASES if case[0] not in CONSTANTS]


def drawn(name: str, parameters: dict[str, Any], shape: tuple[int, ...], seed: int = 0) -> Tensor:
    weight = nn.Parameter(torch.full(shape, torch.nan, dtype=torch.float64))
    INITS.build(INITS.make(name, **parameters), weight, torch.Generator().manual_seed(seed))
    assert weight.requires_grad
    assert weight.grad_fn is None
    return weight.detach()


def check_distribution(weight: Tensor, distribution: Any) -> None:
    """Mean, variance and shape of n independent draws; the seed is fixed.

    Mean: standard error std / sqrt(n). Variance: variance * sqrt((kurtosis - 1) / n), kurtosis 3 of the normal and 1.8
    of the uniform, so 0.7 % at the most for our weights; fans differ by a factor of 2. 4.5 standard errors: 7e-6 of
    right draws fail. Shape: sqrt(n) times the largest distance of the distribution functions exceeds 2.4 with
    probability 2 exp(-2 * 2.4^2) = 2e-5 (Kolmogorov, 1933). Normal and uniform of the same variance differ by 0.057,
    which is 10 then.
    """
    values = weight.flatten().numpy()
    n = len(values)
    mean, variance, _, excess = (float(moment) for moment in distribution.stats("mvsk"))
    assert abs(values.mean() - mean) < 4.5 * sqrt(variance / n)
    assert abs(((values - mean) ** 2).mean() - variance) < 4.5 * variance * sqrt((excess + 2) / n)
    assert sqrt(n) * stats.kstest(values, distribution.cdf).statistic < 2.4
    low, high = distribution.support()
    assert (values >= low).all()
    assert (values <= high).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "parameters"), BY_DISTRIBUTION)
def test_weights_are_of_the_stated_distribution(name: str, parameters: dict[str, Any], shape: tuple[int, ...]) -> None:
    expected = DISTRIBUTIONS[name](shape, **INITS.make(name, **parameters).parameters)
    check_distribution(drawn(name, parameters, shape), expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_varied(name: str) -> None:
    varied = {key for parameters in PARAMETERS.get(name, []) for key in parameters}
    assert varied == set(INITS.get(name).model.model_fields) - {"type"}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("name", "parameters", "meant"),
    [
        ("he_normal", {"fan": "out"}, "he_normal"),
        ("he_uniform", {"fan": "out"}, "he_uniform"),
        ("he_normal", {}, "he_uniform"),
        ("he_uniform", {}, "he_normal"),
        ("he_normal", {"slope": 0.3}, "he_normal"),
        ("xavier_normal", {}, "lecun_normal"),
        ("xavier_normal", {}, "he_normal"),
        ("xavier_uniform", {}, "xavier_normal"),
        ("lecun_uniform", {}, "lecun_normal"),
        ("lecun_normal", {}, "he_normal"),
        ("normal", {"std": 0.0488}, "normal"),
        ("normal", {"mean": 0.002}, "normal"),
        ("normal", {}, "truncated_normal"),
        ("truncated_normal", {"cut": 2.2}, "truncated_normal"),
        ("uniform", {"limit": 0.051}, "uniform"),
    ],
)
def test_the_check_rejects(name: str, parameters: dict[str, Any], meant: str, shape: tuple[int, ...]) -> None:
    expected = DISTRIBUTIONS[meant](shape, **INITS.make(meant).parameters)
    with pytest.raises(AssertionError):
        check_distribution(drawn(name, parameters, shape), expected)


def test_the_check_rejects_another_shape_of_the_same_mean_and_variance() -> None:
    """Two-point and Laplace draws, which the moments alone would let pass or nearly so."""
    chance = np.random.default_rng(0)
    for values in (chance.choice([-1.0, 1.0], 36_000), chance.laplace(0, sqrt(0.5), 36_000)):
        with pytest.raises(AssertionError):
            check_distribution(torch.tensor(values), stats.norm(0, 1))


def check_orthogonal(weight: Tensor, gain: float) -> None:
    """Q^T Q = gain^2 I for a tall matrix, Q Q^T for a wide one.

    The error of a Householder QR in float64 is a small multiple of columns * 1.1e-16 (Higham, 2002, section 19.3):
    400 * 1.1e-16 * 1.7^2 = 1.3e-13.
    """
    matrix = weight.flatten(1).numpy()
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [*SHAPES, (100, 400), (64, 64)], ids=str)
@pytest.mark.parametrize("parameters", PARAMETERS["orthogonal"], ids=str)
def test_orthogonal_is_orthogonal_times_gain(parameters: dict[str, Any], shape: tuple[int, ...]) -> None:
    check_orthogonal(drawn("orthogonal", parameters, shape), parameters.get("gain", 1.0))


def test_the_orthogonal_check_rejects_a_wrong_gain_and_a_normal_matrix() -> None:
    """A normal matrix with std 1 / sqrt(rows) has columns of length 1, but not orthogonal ones."""
    for weight in (drawn("orthogonal", {"gain": 1.001}, (400, 100)), drawn("normal", {"std": 0.05}, (400, 100))):
        with pytest.raises(AssertionError):
            check_orthogonal(weight, 1.0)


def diagonals(sign_corrected: bool) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.empty(2, 2, dtype=torch.float64) for _ in range(2000)]
    for matrix in matrices:
        INITS.build(INITS.make("orthogonal"), matrix, generator)
        if not sign_corrected:
            matrix.mul_(-matrix[0, 0].sign())
    return torch.stack([matrix[0, 0] for matrix in matrices])


def test_orthogonal_prefers_no_direction() -> None:
    """A corner of a uniform 2 x 2 orthogonal matrix is the cosine of a uniform angle: the arcsine distribution.

    A bare QR makes that corner negative always.
    """
    arcsine = stats.arcsine(-1, 2)
    check_distribution(diagonals(sign_corrected=True), arcsine)
    with pytest.raises(AssertionError):
        check_distribution(diagonals(sign_corrected=False), arcsine)


@pytest.mark.parametrize(("name", "parameters"), [case for case in CASES if case[0] in CONSTANTS])
def test_constants_are_constant(name: str, parameters: dict[str, Any]) -> None:
    weight = drawn(name, parameters, (3, 4, 2, 2))
    assert (weight == CONSTANTS[name](**parameters)).all()


def check_generator(initialise: Callable[[Tensor, torch.Generator], None]) -> None:
    """The same seed gives the same bytes, another seed others, and the global generator is neither read nor moved."""

    def draw(seed: int, global_seed: int) -> bytes:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        weight = torch.empty(40, 30)
        initialise(weight, torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return weight.numpy().tobytes()

    assert draw(1, 5) == draw(1, 6)
    assert draw(1, 5) != draw(2, 5)


@pytest.mark.parametrize(("name", "parameters"), WITH_CHANCE)
def test_the_generator_alone_decides(name: str, parameters: dict[str, Any]) -> None:
    component = INITS.make(name, **parameters)
    check_generator(lambda weight, generator: INITS.build(component, weight, generator))


def test_the_generator_check_rejects_the_global_generator_and_a_fixed_seed() -> None:
    def fixed(weight: Tensor, generator: torch.Generator) -> None:
        weight.normal_(generator=torch.Generator().manual_seed(0))

    for wrong in (lambda weight, generator: weight.normal_(), fixed):
        with pytest.raises(AssertionError):
            check_generator(wrong)


# --- auto -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("relu", "he_normal"), ("gelu", "he_normal"), ("selu", "lecun_normal"), ("tanh", "xavier_uniform")],
)
def test_auto_is_chosen_by_the_activation(activation: str, expected: str) -> None:
    found = chosen(INITS.make("auto"), ACTIVATIONS.make(activation))
    assert found == INITS.make(expected)


@pytest.mark.parametrize("activation", ACTIVATIONS.names())
def test_any_other_initialiser_stays(activation: str) -> None:
    init = INITS.make("normal", std=0.3)
    assert chosen(init, ACTIVATIONS.make(activation)) is init
    assert chosen(INITS.make("auto"), ACTIVATIONS.make(activation)).type != "auto"


def test_auto_itself_draws_nothing() -> None:
    with pytest.raises(AssertionError, match="chosen"):
        INITS.build(INITS.make("auto"), torch.empty(2, 2), torch.Generator())
