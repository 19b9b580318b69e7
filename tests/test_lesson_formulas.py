"""Every formula of docs/lesson.md is what dlf computes: who changes one has to change its check."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from lesson import blocks, sections
from torch import Tensor, nn

from dlf import layers, optimizers, yaml12
from dlf.activations import ACTIVATIONS
from dlf.config import loads
from dlf.data import Part, batches, load, order
from dlf.engine import TrainState
from dlf.experiment import assemble
from dlf.inits import INITS
from dlf.layers import LAYERS
from dlf.losses import BoundLoss
from dlf.modules import Dropout, Linear
from dlf.optimizers import OPTIMIZERS
from dlf.regularizers import l2

CHECKS: dict[str, Callable[[], None]] = {}

close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def formula(text: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """The check of this block of formulas, word for word."""

    def register(check: Callable[[], None]) -> Callable[[], None]:
        CHECKS[text.strip("\n") + "\n"] = check
        return check

    return register


def test_every_formula_has_its_check() -> None:
    assert set(blocks("")) == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.__name__)
def test_formula(check: Callable[[], None]) -> None:
    torch.manual_seed(0)
    check()


def dense(inputs: int, units: int, activation: str = "identity") -> Linear:
    """A linear layer in double precision, its bias not 0."""
    module, _ = LAYERS.build(LAYERS.make("linear", units=units, activation=activation), (inputs,))
    assert isinstance(module, Linear)
    layers.initialise(module, torch.Generator().manual_seed(1))
    module = module.double()
    nn.init.normal_(module.bias)  # type: ignore[arg-type]
    return module


@formula("""
z = w_1 x_1 + w_2 x_2 + ... + w_n x_n + b
a = f(z)
""")
def neuron() -> None:
    unit, x = dense(3, 1, "tanh"), [0.5, -1.5, 2.0]
    w, b = unit.weight[0].tolist(), unit.bias.item()  # type: ignore[union-attr]
    z = w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + b
    assert unit(torch.tensor([x]).double()).item() == pytest.approx(math.tanh(z), rel=1e-12)


@formula("""
z = W x + b
a = f(z)
parameters = m n + m
""")
def layer() -> None:
    m, n = 4, 3
    module, x = dense(n, m, "sigmoid"), torch.randn(n).double()
    z = [sum(module.weight[i, j] * x[j] for j in range(n)) + module.bias[i] for i in range(m)]  # type: ignore[index]
    close(module(x[None])[0], torch.stack([1 / (1 + torch.exp(-one)) for one in z]))
    assert sum(parameter.numel() for parameter in module.parameters()) == m * n + m


@formula("""
W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)
""")
def two_linear_layers() -> None:
    first, second, x = dense(3, 5), dense(5, 2), torch.randn(3).double()
    assert first.bias is not None
    assert second.bias is not None
    one = second.weight @ first.weight, second.weight @ first.bias + second.bias
    close(second(first(x[None]))[0], one[0] @ x + one[1])


def assembled(**sections: Any) -> TrainState:
    """A network of these sections with its first weights, in double precision."""
    config = loads(yaml12.dump(sections), "the test").config
    device = torch.device("cpu")
    data, _ = load(config.data_section, device, lambda message: None)
    state = assemble(config, data, device)[1]
    state.network.double()
    return state


@formula("""
a_0 = (x - mean) / std
a_i = f_i(W_i a_(i-1) + b_i)        for i = 1 ... n
output = a_n
""")
def forward() -> None:
    hidden = [{"type": "linear", "units": 4, "activation": "tanh"}, {"type": "linear", "units": 3}]
    state = assembled(data={"type": "breast_cancer", "test": 0.2}, model={"layers": hidden})
    network, config = state.network, {"data": {"type": "breast_cancer", "test": 0.2}}
    data, _ = load(loads(yaml12.dump(config), "the test").config.data_section, torch.device("cpu"), print)
    x = data.train.x[:].double()
    torch.testing.assert_close(network.inputs_mean, x.mean(0), rtol=1e-6, atol=0)  # measured in single precision
    torch.testing.assert_close(network.inputs_std, x.std(0, correction=0), rtol=1e-5, atol=0)
    a = (x - network.inputs_mean) / network.inputs_std
    functions: list[Callable[[Tensor], Tensor]] = [torch.tanh, torch.relu, lambda z: z]
    for module, f in zip(network.layers, functions, strict=True):
        assert isinstance(module, Linear)
        assert module.bias is not None
        a = f(a @ module.weight.T + module.bias)
    close(network(x), a)


@formula("""
cross_entropy:         p_c = exp(z_c) / (exp(z_1) + ... + exp(z_C))    L = -log p_y
binary_cross_entropy:  p = 1 / (1 + exp(-z))                           L = -(y log p + (1 - y) log(1 - p))
mse:                                                                   L = (output - y)^2
""")
def the_losses() -> None:
    z, classes = torch.randn(5, 3).double(), torch.tensor([0, 2, 1, 1, 0])
    p = z.exp() / z.exp().sum(1, keepdim=True)
    settings = {"label_smoothing": 0.0, "class_weights": None}
    close(BoundLoss("cross_entropy", settings)(z, classes), -p[torch.arange(5), classes].log().mean())
    y, p = torch.tensor([0, 1, 1, 0, 1]), 1 / (1 + (-z[:, 0]).exp())
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    close(BoundLoss("binary_cross_entropy")(z[:, :1], y), expected)
    close(BoundLoss("mse")(z[:, :1], z[:, 1:2]), ((z[:, 0] - z[:, 1]) ** 2).mean())


def test_the_loss_begins_where_nothing_is_known() -> None:
    """All logits 0: every class has the same probability; the derivative is p less 1 at the true class."""
    z, y = torch.zeros(1, 10).double().requires_grad_(), torch.tensor([3])
    loss = BoundLoss("cross_entropy")(z, y)
    assert loss.item() == pytest.approx(math.log(10), rel=1e-12)
    loss.backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    close(z.grad[0], torch.tensor([0.1, 0.1, 0.1, -0.9, *6 * [0.1]], dtype=torch.float64))


@formula("""
dL/dz = dL/da * f'(z)        each unit for itself
dL/dW = dL/dz x^T            row i, column j: dL/dz_i x_j
dL/db = dL/dz
dL/dx = W^T dL/dz            dL/dx_j = w_1j dL/dz_1 + ... + w_mj dL/dz_m
""")
def backpropagation() -> None:
    module, x, handed = dense(3, 4, "tanh"), torch.randn(3).double().requires_grad_(), torch.randn(4).double()
    assert module.bias is not None
    a = module(x[None])[0]
    by_autograd = torch.autograd.grad(a, [module.weight, module.bias, x], handed)
    dz = handed * (1 - a.detach() ** 2)
    by_the_rules = dz[:, None] * x.detach()[None, :], dz, module.weight.T @ dz
    for one, other in zip(by_the_rules, by_autograd, strict=True):
        close(one, other)


class Bowl(nn.Module):
    """A network with one weight."""

    def __init__(self, w: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[w]]).double())


def stepped(optimizer: Mapping[str, Any], gradients: list[float]) -> list[float]:
    """The weight of a Bowl after each step with these gradients."""
    bowl, weights = Bowl(), []
    update = optimizers.build(bowl, OPTIMIZERS.make(**optimizer))
    for gradient in gradients:
        bowl.w.grad = torch.tensor([[gradient]]).double()
        update.step()
        weights.append(bowl.w.item())
    return weights


@formula("""
w <- w - lr g
""")
def gradient_descent() -> None:
    assert stepped({"name": "sgd", "lr": 0.1}, [0.5, -2.0]) == pytest.approx([0.95, 1.15])


def test_above_two_by_the_curvature_a_step_moves_away() -> None:
    c = 4.0
    for lr, comes_nearer in ((0.9 / c, True), (1.9 / c, True), (2.1 / c, False)):
        w = stepped({"name": "sgd", "lr": lr}, [c * 1.0])[0]  # from w = 1, where the gradient is c
        assert w == pytest.approx(1 - lr * c)
        assert (abs(w) < 1) == comes_nearer
        assert (w > 0) == (lr < 1 / c)


@formula("""
mean of the batch = (g_1 + ... + g_B) / B
its variance = variance of a single sample's gradient / B
steps of an epoch = N / B, rounded up
""")
def the_batch() -> None:
    g = torch.randn(100_000).double()
    for size in (4, 16):
        means = g.view(-1, size).mean(1)
        # the variance of k means is known to sqrt(2 / k) of itself; four times that
        assert (means.var() / (g.var() / size)).item() == pytest.approx(1, abs=4 * math.sqrt(2 * size / len(g)))
    part = Part(torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64))
    visited = order(10, 0, 0)
    assert sorted(visited.tolist()) == list(range(10))
    assert len(list(batches(part, visited, 4, 0))) == math.ceil(10 / 4)


@formula("""
l2:       L + weight (sum of all w^2)          a step of gradient descent shrinks each w by 2 lr weight w
dropout:  a' = a m / (1 - rate)                m is 0 with probability rate, else 1; only in training
""")
def regularization() -> None:
    w = torch.randn(3, 2).double().requires_grad_()
    w.grad = torch.zeros_like(w)
    close(l2([w], weight=0.25), 0.25 * (w**2).sum())
    close(w.grad, 2 * 0.25 * w.detach())
    rate, a = 0.25, torch.ones(40_000)  # a rate that is a multiple of 1/65,536
    dropout = Dropout(rate)
    thinned = dropout(a)
    assert sorted(set(thinned.tolist())) == pytest.approx([0, 1 / (1 - rate)])
    # the share of zeros is known to sqrt(rate (1 - rate) / n); four times that
    assert (thinned == 0).float().mean().item() == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 40_000))
    assert torch.equal(dropout.eval()(a), a)


def drawn(init: str, inputs: int = 300, units: int = 200) -> Tensor:
    weight = torch.empty(units, inputs)
    INITS.build(INITS.make(init), weight, torch.Generator().manual_seed(0))
    return weight


@formula("""
variance of z = n * variance of w * mean of x^2
""")
def the_size_of_a_sum() -> None:
    n, count = 50, 200_000
    w, x = 0.3 * torch.randn(count, n), 1 + 2 * torch.randn(n)
    z = w @ x  # normal, for given x: its variance is known to sqrt(2 / count) of itself
    assert z.var().item() == pytest.approx(n * 0.09 * (x**2).mean().item(), rel=4 * math.sqrt(2 / count))


@formula("""
lecun:   variance of w = 1 / n
he:      variance of w = 2 / n              relu cuts away half of mean of z^2
xavier:  variance of w = 2 / (n + m)        between 1 / n for the way there and 1 / m for the way back
""")
def the_initialisers() -> None:
    n, m = 300, 200
    expected = {"lecun": 1 / n, "he": 2 / n, "xavier": 2 / (n + m)}
    for name, variance in expected.items():
        for shape in ("normal", "uniform"):  # of 60,000 normal numbers, and better of uniform ones: sqrt(2 / 60,000)
            assert drawn(f"{name}_{shape}").var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / 60_000))
    z = torch.randn(200_000)
    assert (z.relu() ** 2).mean().item() == pytest.approx(0.5, rel=4 * math.sqrt(5 / 200_000))  # variance 3/2 - 1/4


@formula("""
sgd with momentum:  m = momentum m + g                              w <- w - lr m
adam:               m = b1 m + (1 - b1) g      m' = m / (1 - b1^t)
                    v = b2 v + (1 - b2) g^2    v' = v / (1 - b2^t)  w <- w - lr m' / (sqrt(v') + eps)
adamw:              m', v' as adam                                  w <- w - lr (m' / (sqrt(v') + eps) + weight_decay w)
""")
def the_optimizers() -> None:
    gradients, lr = [0.5, -2.0, 0.1], 0.1
    w, m, expected = 1.0, 0.0, []
    for g in gradients:
        m = 0.9 * m + g
        w -= lr * m
        expected.append(w)
    assert stepped({"name": "sgd", "lr": lr, "momentum": 0.9}, gradients) == pytest.approx(expected)
    for name, decay in (("adam", 0.0), ("adamw", 0.5)):
        b1, b2, eps = 0.9, 0.999, 1e-8
        w, m, v, expected = 1.0, 0.0, 0.0, []
        for t, g in enumerate(gradients, 1):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            mean, square = m / (1 - b1**t), v / (1 - b2**t)
            w -= lr * (mean / (math.sqrt(square) + eps) + decay * w)
            expected.append(w)
        assert stepped({"name": name, "lr": lr, "weight_decay": decay}, gradients) == pytest.approx(expected)


def test_momentum_comes_to_a_step_of_lr_by_one_less_the_momentum() -> None:
    weights = stepped({"name": "sgd", "lr": 0.1, "momentum": 0.9}, 200 * [1.0])
    assert weights[-2] - weights[-1] == pytest.approx(0.1 / (1 - 0.9))


# --- the table of activations ---------------------------------------------------------------------------------------

ROWS = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", sections()["Activation"], re.MULTILINE)


def value(text: str, **numbers: float) -> float:
    """What a formula of the table gives: "1 where z > 0, else 0", "a * (1 - a)", "1 - a^2"."""
    text = re.sub(r"(.+) where (.+), else (.+)", r"(\1) if (\2) else (\3)", text.split(", with", maxsplit=1)[0])
    return float(eval(text.replace("^", "**"), {"exp": math.exp, "max": max, "min": min}, numbers))


@pytest.mark.parametrize(("name", "function", "derivative", "reach"), ROWS)
def test_the_table_of_activations(name: str, function: str, derivative: str, reach: str) -> None:
    """The function as dlf has it, its derivative as autograd has it, and how far 1,001 values reach."""
    z = torch.linspace(-9, 9, 1001, dtype=torch.float64).requires_grad_()
    a = ACTIVATIONS.build(ACTIVATIONS.make(name), z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    for one, of_it, its_slope in zip(z.tolist(), a.tolist(), slope.tolist(), strict=True):
        assert value(function, z=one) == pytest.approx(of_it, rel=1e-9, abs=1e-12)
        assert value(derivative, z=one, a=of_it) == pytest.approx(its_slope, rel=1e-9, abs=1e-12)
    least, greatest = a.min().item(), a.max().item()
    assert (
        reach
        == {
            "relu": "0 and above",
            "leaky_relu": "all numbers",
            "elu": "above -1",
            "tanh": "between -1 and 1",
            "sigmoid": "between 0 and 1",
        }[name]
    )
    bounds = {"0 and above": (0, 9), "all numbers": (-0.09, 9), "above -1": (-1, 9)}
    bounds |= {"between -1 and 1": (-1, 1), "between 0 and 1": (0, 1)}
    assert (least, greatest) == pytest.approx(bounds[reach], abs=2e-4)


def test_the_table_has_its_rows() -> None:
    assert [row[0] for row in ROWS] == ["relu", "leaky_relu", "elu", "tanh", "sigmoid"]
    assert "1/4" in sections()["Activation"]
    slopes = [a * (1 - a) for a in torch.linspace(0, 1, 1001).tolist()]
    assert max(slopes) == pytest.approx(1 / 4)
