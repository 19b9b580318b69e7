"""The bare update is the optimizer's own: equal bits, whatever happens to gradients and state in between."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlf.optimizers import OPTIMIZERS, build
from dlf.updates import Fused, update_of

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "adam": [{"amsgrad": True}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decay": "all"}],
    "adamw": [{"amsgrad": True}, {"weight_decay": 0.0}],
    "sgd": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
}
CASES = [(name, settings) for name in OPTIMIZERS.names() for settings in ({}, *SETTINGS.get(name, []))]
Update = Callable[[], Any]


def trained(name: str, settings: dict[str, Any], bare: Callable[[torch.optim.Optimizer], Update]) -> list[Tensor]:
    """Parameters and state after nine updates: with other rates, a restored state and a missing gradient in between."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = build(network, OPTIMIZERS.make(name, **settings))
    update = bare(optimizer)
    for step in range(9):
        optimizer.zero_grad()
        network(torch.randn(4, 6)).square().sum().backward()
        if step == 3:
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
        if step == 5:
            optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
        if step == 7:
            network[0].bias.grad = None
        with torch.no_grad():
            update()
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    return [parameter.detach() for parameter in network.parameters()] + state


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_bare_update_is_that_of_step(name: str, settings: dict[str, Any]) -> None:
    """The reference is torch's (or dlf's) `step` with all that torch wraps around it."""
    assert same(trained(name, settings, update_of), trained(name, settings, lambda optimizer: optimizer.step))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_lists_that_outlive_the_state_are_noticed(name: str) -> None:
    """A variant that gathers its lists once and for all updates moments that a checkpoint has replaced."""

    class Stale(Fused):
        def __call__(self) -> None:
            if self.of is not None and all(parameter.grad is not None for parameter in self.parameters):
                for group, lists in self.gathered:
                    self.kernel(group, [parameter.grad for parameter in lists["params"]], lists)
            else:
                super().__call__()

    def stale(optimizer: torch.optim.Optimizer) -> Update:
        fused = update_of(optimizer)
        assert isinstance(fused, Fused), "torch's wrapping is left out where it costs most"
        return Stale(fused.optimizer, fused.whole, fused.kernel)

    assert not same(trained(name, {}, stale), trained(name, {}, lambda optimizer: optimizer.step))
