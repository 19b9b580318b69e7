"""Dropout and alpha dropout in training, against the statistics that they promise; seeds are fixed."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from dlf.layers import LAYERS


def check_dropout(module: nn.Module, rate: float) -> None:
    """A share of zeros within 4.5 standard errors sqrt(rate (1 - rate) / n), all others exactly 1 / (1 - rate)."""
    n = 40_000
    y = module.train()(torch.ones(n, dtype=torch.float64))
    assert abs((y == 0).double().mean().item() - rate) < 4.5 * sqrt(rate * (1 - rate) / n)
    assert ((y == 0) | ((y - 1 / (1 - rate)).abs() < 1e-15)).all()


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
