"""An optimizer's update alone, without what torch wraps around it: torch's kernels and bits, or dlf's own (dlf/native).

Around every update torch serves hooks, profilers and its compiler, which the first call would import (a second at the
start, 0.1 ms of every step), and it gathers tensors into lists, sorted by device and type (0.05 to 0.2 ms). A small
network's whole step takes 1.5 ms.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlf import native

Update = Callable[[], Any]


def update_of(optimizer: torch.optim.Optimizer, *, compiled: bool = False) -> Update:
    """The update as a function, by dlf's own kernels if `compiled`; call it without gradients (torch.no_grad)."""
    whole: Update = partial(inspect.unwrap(type(optimizer).step), optimizer)
    kernel = (_COMPILED if compiled else _KERNELS).get(type(optimizer))
    if kernel is None or not all(_is_fused(group) for group in optimizer.param_groups):
        return whole
    return Fused(optimizer, whole, kernel)


class Fused:
    """One kernel for each group of parameters, called with lists that are gathered once.

    The first update is torch's own, which makes the optimizer's state; so is every update in which a parameter has no
    gradient. Lists are gathered anew when the state was replaced, as a checkpoint does.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, whole: Update, kernel: Callable[..., None]) -> None:
        self.optimizer = optimizer
        self.whole = whole
        self.kernel = kernel
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.gathered: list[tuple[dict[str, Any], dict[str, list[Tensor]]]] = []
        self.of: Any = None

    def __call__(self) -> None:
        state = self.optimizer.state
        if len(state) < len(self.parameters) or any(parameter.grad is None for parameter in self.parameters):
            self.whole()
            return
        if state is not self.of:  # loading a checkpoint puts another in its place
            self.gathered, self.of = [(group, self._lists(group)) for group in self.optimizer.param_groups], state
        for group, lists in self.gathered:
            self.kernel(group, [parameter.grad for parameter in lists["params"]], lists)

    def _lists(self, group: dict[str, Any]) -> dict[str, list[Tensor]]:
        states = [self.optimizer.state[parameter] for parameter in group["params"]]
        return {"params": group["params"], **{name: [each[name] for each in states] for name in states[0]}}


_ONE = torch.ones(())  # on a CPU a number becomes a tensor anew for every counter


def _is_fused(group: dict[str, Any]) -> bool:
    plain = not (group.get("maximize") or group.get("differentiable") or group.get("capturable"))
    return plain and bool(group.get("fused")) and not isinstance(group["lr"], Tensor)


def _adam(group: dict[str, Any], gradients: list[Tensor], lists: dict[str, list[Tensor]]) -> None:
    torch._foreach_add_(lists["step"], 1 if lists["step"][0].is_cuda else _ONE)
    kernel = torch._fused_adamw_ if group.get("decoupled_weight_decay") else torch._fused_adam_
    kernel(
        lists["params"],
        gradients,
        lists["exp_avg"],
        lists["exp_avg_sq"],
        lists.get("max_exp_avg_sq", []),
        lists["step"],
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=False,
    )


def _compiled_adam(group: dict[str, Any], gradients: list[Tensor], lists: dict[str, Any]) -> None:
    if "compiled" not in lists:
        lists["compiled"] = _prepared(group, lists)
    if lists["compiled"] is None:
        _adam(group, gradients, lists)
        return
    lists["compiled"](
        gradients, rate=group["lr"], betas=group["betas"], epsilon=group["eps"], decay=group["weight_decay"]
    )


def _prepared(group: dict[str, Any], lists: dict[str, list[Tensor]]) -> native.Adam | None:
    """None for what it is not written for: amsgrad, and what was put into float64, as by dlf explain."""
    level = native.level(lists["params"][0].dtype)
    if level is None or group["amsgrad"]:
        return None
    names = ("params", "exp_avg", "exp_avg_sq", "step")
    return native.Adam(level, *(lists[name] for name in names), decoupled=bool(group.get("decoupled_weight_decay")))


_COMPILED = {torch.optim.Adam: _compiled_adam, torch.optim.AdamW: _compiled_adam}
_KERNELS: dict[type[torch.optim.Optimizer], Callable[..., None]] = {torch.optim.Adam: _adam, torch.optim.AdamW: _adam}
