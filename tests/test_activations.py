"""Every activation against its formula and its derivative, both written out in numpy and float64.

A reference is `pullback(x, g, **parameters) -> (value, gradient)`: the gradient of sum(g * f(x)) with respect to x.
An activation without a reference fails here, and so does a parameter that no case varies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import erf, expit
from torch import Tensor

from dlf.activations import ACTIVATIONS
from dlf.inits import INITS

Array = NDArray[Any]
Pullback = Callable[..., tuple[Array, Array]]

# Away from every kink (0, +-1, +-3, 6 and the limits of CASES), and far out, where exp overflows or underflows.
LINE = np.array([-1000.0, -90.0, -30.0, -7.3, -3.4, -2.6, -1.7, -0.6, -0.07, -1e-9])
X = np.concatenate([LINE, -LINE])[:, None] * np.array([1.0, 0.9, 1.04])  # (20, 3)
G = np.cos(np.arange(X.size, dtype=np.float64)).reshape(X.shape)
KEEN_SCALE, KEEN_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717  # Klambauer et al., 2017


def elementwise(value: Callable[..., Array], derivative: Callable[..., Array]) -> Pullback:
    def pullback(x: Array, g: Array, **parameters: Any) -> tuple[Array, Array]:
        return value(x, **parameters), g * derivative(x, **parameters)

    return pullback


def exp_below(x: Array) -> Array:
    """exp(x) for x < 0 and 1 above, so that the branch that is not taken does not overflow."""
    return np.exp(np.minimum(x, 0))


def normal_cdf(x: Array) -> Array:
    return np.asarray(0.5 * (1 + erf(x / np.sqrt(2))))


def gelu_value(x: Array, approximate: str) -> Array:
    if approximate == "none":
        return x * normal_cdf(x)
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def gelu_derivative(x: Array, approximate: str) -> Array:
    if approximate == "none":
        return np.asarray(normal_cdf(x) + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi))
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return np.asarray(0.5 * (1 + t) + 0.5 * x * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2))


def softplus_value(x: Array, beta: float, threshold: float) -> Array:
    return np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta)


def mish_derivative(x: Array) -> Array:
    t = np.tanh(np.logaddexp(0, x))
    return np.asarray(t + x * (1 - t * t) * expit(x))


def softmax_pullback(x: Array, g: Array) -> tuple[Array, Array]:
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p, p * (g - (g * p).sum(1, keepdims=True))


def log_softmax_pullback(x: Array, g: Array) -> tuple[Array, Array]:
    p, _ = softmax_pullback(x, g)
    top = x.max(1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(1, keepdims=True)), g - p * g.sum(1, keepdims=True)


PULLBACKS: dict[str, Pullback] = {
    "relu": elementwise(lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0)),
    "leaky_relu": elementwise(
        lambda x, slope: np.where(x > 0, x, slope * x), lambda x, slope: np.where(x > 0, 1.0, slope)
    ),
    "elu": elementwise(
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda x, alpha: np.where(x > 0, 1.0, alpha * exp_below(x)),
    ),
    "selu": elementwise(
        lambda x: KEEN_SCALE * np.where(x > 0, x, KEEN_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: KEEN_SCALE * np.where(x > 0, 1.0, KEEN_ALPHA * exp_below(x)),
    ),
    "celu": elementwise(
        lambda x, alpha: np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha),
        lambda x, alpha: np.where(x > 0, 1.0, exp_below(x / alpha)),
    ),
    "gelu": elementwise(gelu_value, gelu_derivative),
    "silu": elementwise(lambda x: x * expit(x), lambda x: expit(x) * (1 + x * expit(-x))),
    "mish": elementwise(lambda x: x * np.tanh(np.logaddexp(0, x)), mish_derivative),
    "softplus": elementwise(
        softplus_value, lambda x, beta, threshold: np.where(beta * x > threshold, 1.0, expit(beta * x))
    ),
    "softsign": elementwise(lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
    "tanh": elementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": elementwise(expit, lambda x: expit(x) * expit(-x)),
    "hard_sigmoid": elementwise(lambda x: np.clip(x / 6 + 0.5, 0, 1), lambda x: (np.abs(x) < 3) / 6),
    "hard_tanh": elementwise(lambda x, limit: np.clip(x, -limit, limit), lambda x, limit: 1.0 * (np.abs(x) < limit)),
    "hardswish": elementwise(
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, 1.0 * (x > 0)),
    ),
    "relu6": elementwise(lambda x: np.clip(x, 0, 6), lambda x: 1.0 * ((x > 0) & (x < 6))),
    "softmax": softmax_pullback,
    "log_softmax": log_softmax_pullback,
    "identity": elementwise(lambda x: x, np.ones_like),
}

OTHER_PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "leaky_relu": [{"slope": 0.3}, {"slope": 0.0}],
    "elu": [{"alpha": 0.4}],
    "celu": [{"alpha": 1.9}],
    "gelu": [{"approximate": "tanh"}],
    "softplus": [{"beta": 1.7}, {"threshold": 2.0}, {"beta": 0.5, "threshold": 1.5}],
    "hard_tanh": [{"limit": 2.2}],
}

CASES = [(name, parameters) for name in ACTIVATIONS.names() for parameters in [{}, *OTHER_PARAMETERS.get(name, [])]]
NAMES = ACTIVATIONS.names()
INPLACE = [(name, parameters) for name, parameters in CASES if "inplace" in ACTIVATIONS.get(name).facts]


def with_parameters(name: str, parameters: dict[str, Any]) -> tuple[Callable[[Tensor], Tensor], Callable[..., Any]]:
    """The activation and its reference, both with all their parameters."""
    complete = ACTIVATIONS.make(name, **parameters).parameters
    return partial(ACTIVATIONS.get(name).function, **complete), partial(PULLBACKS[name], **complete)


def pull(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x, g)
    return value.detach(), gradient


def check_pullback(function: Callable[[Tensor], Tensor], reference: Callable[..., Any]) -> None:
    """Value and gradient in float64.

    A formula is at most 20 operations, each rounded by a relative 1.1e-16 of quantities up to max(1, |x|): differences
    such as 1 - t^2 keep that as an absolute error, and a derivative multiplies it by x once more at most where it is
    not yet 0, that is for |x| < 40. 40 * 20 * 1.1e-16 = 1e-13.
    """
    value, gradient = pull(function, torch.tensor(X), torch.tensor(G))
    expected_value, expected_gradient = reference(X, G)
    np.testing.assert_allclose(value.numpy(), expected_value, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=1e-13, atol=1e-13, strict=True)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_values_and_derivatives_are_those_of_the_formula(name: str, parameters: dict[str, Any]) -> None:
    check_pullback(*with_parameters(name, parameters))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_varied(name: str) -> None:
    varied = {key for parameters in OTHER_PARAMETERS.get(name, []) for key in parameters}
    assert varied == set(ACTIVATIONS.make(name).parameters)


class TanhWithWrongDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = g[0] * (1 - x * x)  # of the input where the result is meant
        return gradient


def wrong_tanh(x: Tensor) -> Tensor:
    result: Tensor = TanhWithWrongDerivative.apply(x)
    return result


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], Callable[..., Any]]] = {
    "the other gelu": (F.gelu, partial(PULLBACKS["gelu"], approximate="tanh")),
    "a slope that is forgotten": (F.leaky_relu, partial(PULLBACKS["leaky_relu"], slope=0.02)),
    "celu for elu": (partial(F.celu, alpha=0.4), partial(PULLBACKS["elu"], alpha=0.4)),
    "softplus without its threshold": (F.softplus, partial(PULLBACKS["softplus"], beta=1.0, threshold=1e9)),
    "softmax over the batch": (partial(torch.softmax, dim=0), softmax_pullback),
    "a wrong derivative": (wrong_tanh, PULLBACKS["tanh"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_check_rejects(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_pullback(*WRONG[wrong])


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_derivatives_are_central_differences(name: str, parameters: dict[str, Any]) -> None:
    """The formulas above could repeat a mistake of ours; differences of the value cannot.

    gradcheck: step 1e-6 at |x| < 2.5, so that the third derivatives (below 10) leave an error of 1e-11, and rounding
    one of 1e-16 / 1e-6 = 1e-10: its own atol 1e-5 is ample, and a wrong derivative is off by 1e-2 somewhere.
    """
    function, _ = with_parameters(name, parameters)
    x = torch.tensor(X[np.abs(X[:, 0]) < 2][:, :2], requires_grad=True)
    x = (x.detach() + 1e-3).requires_grad_()  # 1e-9 is within a step of the kink at 0
    assert torch.autograd.gradcheck(function, x)


def test_central_differences_reject_a_wrong_derivative() -> None:
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(wrong_tanh, torch.tensor([0.6, -1.7], dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_nothing_overflows_in_float32(name: str, parameters: dict[str, Any]) -> None:
    function, _ = with_parameters(name, parameters)
    far = torch.tensor([[-1e10, -1e4, -100.0, 0.0, 100.0, 1e4]])
    value, gradient = pull(function, far, torch.ones_like(far))
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_images_are_normalized_over_their_channels(name: str) -> None:
    image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pixels = image.permute(0, 2, 3, 1).reshape(-1, 3)  # (batch * height * width, channels)
    function = ACTIVATIONS.get(name).function
    expected = function(pixels).reshape(2, 4, 5, 3).permute(0, 3, 1, 2)
    assert function(image).shape == image.shape
    # The same numbers in another order in memory: a few roundings of values below 10.
    torch.testing.assert_close(function(image), expected, rtol=0, atol=1e-14)


def test_relu_has_derivative_0_at_0() -> None:
    _, gradient = pull(ACTIVATIONS.get("relu").function, torch.zeros(1, 1), torch.ones(1, 1))
    assert gradient.item() == 0


# --- written over the input ------------------------------------------------------------------------------------------


def after_a_sum(function: Callable[[Tensor], Tensor], convolve: bool) -> list[Tensor]:
    """Output and all gradients of function(weighted sum), float32, with sums of 0 and beyond every kink among them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((8, 5, 6, 6) if convolve else (64, 40), generator=generator)
    weight = torch.randn((7, 5, 3, 3) if convolve else (30, 40), generator=generator)
    x[0] = 0
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    y = function(F.conv2d(x, weight) if convolve else F.linear(x, weight))
    return [y.detach(), *torch.autograd.grad(y, leaves, torch.cos(torch.arange(y.numel())).view(y.shape))]


def check_same_bits(inplace: Callable[[Tensor], Tensor], ordinary: Callable[[Tensor], Tensor]) -> None:
    for convolve in (False, True):
        pairs = zip(after_a_sum(inplace, convolve), after_a_sum(ordinary, convolve), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize(("name", "parameters"), INPLACE)
def test_the_inplace_form_is_the_ordinary_one_bit_for_bit(name: str, parameters: dict[str, Any]) -> None:
    entry, complete = ACTIVATIONS.get(name), ACTIVATIONS.make(name, **parameters).parameters
    check_same_bits(partial(entry.facts["inplace"], **complete), partial(entry.function, **complete))
    x = torch.linspace(-9, 9, 50)
    assert entry.facts["inplace"](x, **complete).data_ptr() == x.data_ptr()


BACK = [(name, parameters) for name, parameters in CASES if "back" in ACTIVATIONS.get(name).facts]


def back(name: str, parameters: dict[str, Any], x: Array, g: Array) -> Array:
    """g f'(x) by the fact `back`, which is told f(x) and not x."""
    entry, complete = ACTIVATIONS.get(name), ACTIVATIONS.make(name, **parameters).parameters
    result = entry.function(torch.tensor(x), **complete)
    return np.asarray(entry.facts["back"](torch.tensor(g), result, **complete))


@pytest.mark.parametrize(("name", "parameters"), BACK)
def test_the_derivative_from_the_result_is_that_of_the_formula(name: str, parameters: dict[str, Any]) -> None:
    near = np.abs(X) < 8  # further out the result of tanh is 1 to the last bit, and its derivative 0
    _, expected = with_parameters(name, parameters)[1](X[near], G[near])
    # 1 - tanh^2 near 1 loses as many bits as tanh has nines: at 7.3 six digits of sixteen
    np.testing.assert_allclose(back(name, parameters, X[near], G[near]), expected, rtol=1e-9, atol=1e-15)


def test_the_derivative_from_the_result_rejects_the_derivative_at_the_result() -> None:
    """f'(a) in the place of f'(z): what one gets who forgets that a is already the result."""
    expected = with_parameters("tanh", {})[1](X, G)[1]
    assert not np.allclose(G * (1 - np.tanh(np.tanh(X)) ** 2), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("name", "inplace"), [("elu", F.elu_), ("selu", F.selu_), ("celu", F.celu_)])
def test_the_bitwise_check_rejects_a_derivative_from_the_rounded_result(
    name: str, inplace: Callable[[Tensor], Tensor]
) -> None:
    """The reason why these three have no in-place form."""
    assert "inplace" not in ACTIVATIONS.get(name).facts
    with pytest.raises(AssertionError):
        check_same_bits(inplace, ACTIVATIONS.get(name).function)


@pytest.mark.parametrize("name", NAMES)
def test_the_initialiser_for_auto_exists(name: str) -> None:
    INITS.make(ACTIVATIONS.get(name).facts["init"])
