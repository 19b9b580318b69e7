"""Dropout and alpha dropout in training, against the statistics that they promise; seeds are fixed."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from dlf.layers import LAYERS


def check_dropout(module: nn.Module, rate: float) -> None:
    """A share of zeros within 4.5 standard errors sqrt(rate (1 - rate) / n), all others 1 / (1 - rate).

    The share is rounded to 1/65,536, so by 2^-17 at most, and 1 / (1 - r) has the slope 1 / (1 - r)^2.
    """
    n = 40_000
    y = module.train()(torch.ones(n, dtype=torch.float64))
    assert abs((y == 0).double().mean().item() - rate) < 4.5 * sqrt(rate * (1 - rate) / n)
    assert ((y == 0) | ((y - 1 / (1 - rate)).abs() <= 1.01 * 2**-17 / (1 - rate) ** 2)).all()


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_in_training(rate: float) -> None:
    torch.manual_seed(0)
    check_dropout(LAYERS.build(LAYERS.make("dropout", rate=rate), (1,))[0], rate)
    for wrong in (nn.Dropout(rate + 0.02), nn.AlphaDropout(rate), nn.Identity()):
        with pytest.raises(AssertionError):
            check_dropout(wrong, rate)


def check_mean_and_variance(module: nn.Module) -> None:
    """Of standard normal numbers they stay 0 and 1 within 4.5 standard errors; that of the variance by the draws."""
    n = 40_000
    x = torch.randn(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = module.train()(x)
    assert abs(y.mean().item()) < 4.5 / sqrt(n)
    assert abs(y.square().mean().item() - 1) < 4.5 * y.square().std().item() / sqrt(n)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_alpha_dropout_keeps_mean_and_variance(rate: float) -> None:
    torch.manual_seed(0)
    module, _ = LAYERS.build(LAYERS.make("alpha_dropout", rate=rate), (1,))
    check_mean_and_variance(module)
    dropped = module(torch.zeros(40_000)).unique(return_counts=True)[1].min().item() / 40_000
    assert abs(min(rate, 1 - rate) - dropped) < 4.5 * sqrt(rate * (1 - rate) / 40_000)
    with pytest.raises(AssertionError):
        check_mean_and_variance(nn.Dropout(rate))


def test_dropout_is_a_function_of_the_seed_and_its_gradient_that_of_its_mask() -> None:
    module, _ = LAYERS.build(LAYERS.make("dropout", rate=0.3), (7,))
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    y = module.train()(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), y)
    assert not torch.equal(module(x), y)
    y.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad * x, y, rtol=1e-15)  # y = x * m: the gradient is m
    assert module.eval()(x) is x


def test_dropout_drops_neighbours_independently() -> None:
    # four values share 64 bits of the generator; two of a word are both dropped with probability rate^2
    module, _ = LAYERS.build(LAYERS.make("dropout", rate=0.5), (1,))
    torch.manual_seed(0)
    dropped = (module.train()(torch.ones(40_000)) == 0).view(-1, 4).double()
    together = torch.corrcoef(dropped.T) - torch.eye(4)
    assert together.abs().max().item() < 4.5 / sqrt(10_000)  # the standard error of a correlation of 0
