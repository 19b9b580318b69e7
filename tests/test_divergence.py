"""A number that is none never reaches a checkpoint; the message names its step, its tensor and the last good save."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import pytest
import torch
from conftest import Assembled, Train
from torch import Tensor

from dlf import checkpoint, engine
from dlf.api import Silent
from dlf.config import ExperimentConfig
from dlf.engine import Experiment, TrainState, check_finite, fit
from dlf.errors import DivergedError
from dlf.run import RunDirectory

# 4 steps an epoch, adam
SMALL: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 30},
    "model": {"layers": [{"type": "linear", "units": 6}, "batch_norm"]},
    "train": {"epochs": 3},
}
RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "every second epoch": {"every_epochs": 2},
    "every step": {"every_steps": 1},
    "every third step": {"every_steps": 3},
    "all the time": {"every_minutes": 1e-9},
    "a signal": {},
}


def checked_at(rule: str, step: int) -> int:
    """The step after which a number that was spoilt in `step`, of the second epoch, is found: at the next save."""
    if rule in ("every step", "all the time", "a signal"):
        return step
    return 6 if rule == "every third step" and step <= 6 else 8


class Spoil(Silent):
    """Spoils one number in the course of one step; keeps the bytes of the checkpoints as they were then."""

    def __init__(self, kind: str, value: float, step: int, stop: bool) -> None:
        self.kind, self.value, self.at, self.stop = kind, value, step, stop
        self.kept: dict[str, bytes] = {}

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        self.run = run
        self.name, self.parameter = list(state.network.named_parameters())[-1]
        loss = experiment.loss

        def spoilt_loss(output: Tensor, target: Tensor) -> Tensor:  # its gradient stays as it is
            now = self.kind == "loss" and torch.is_grad_enabled() and state.step == self.at - 1
            return loss(output, target) + (self.value if now else 0.0)

        def spoilt_gradient(gradient: Tensor) -> Tensor:
            now = self.kind == "gradient" and state.step == self.at - 1
            return torch.full_like(gradient, self.value) if now else gradient

        object.__setattr__(experiment, "loss", spoilt_loss)
        self.parameter.register_hook(spoilt_gradient)  # type: ignore[no-untyped-call]

    def step(self, state: TrainState) -> None:
        if state.step != self.at:
            return
        self.kept = checkpoints(self.run)
        with torch.no_grad():
            if self.kind == "parameter":
                self.parameter[0] = self.value
            if self.kind == "optimizer":
                state.optimizer.state[self.parameter]["exp_avg_sq"][0] = self.value
        if self.stop:
            os.kill(os.getpid(), signal.SIGTERM)


def checkpoints(run: RunDirectory) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.last.parent.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlf.environment._commit", lambda: None)


# how many steps after the spoilt one a loss is the first that is not finite: the weights of a step are those of the
# update before; an infinite second moment stops adam and spoils no loss at all, a second moment that is NaN spoils the
# weight in the next update
DELAY: dict[tuple[str, str], int] = {
    ("loss", "nan"): 0,
    ("loss", "inf"): 0,
    ("gradient", "nan"): 1,
    ("gradient", "inf"): 1,
    ("parameter", "nan"): 1,
    ("parameter", "inf"): 1,
    ("optimizer", "nan"): 2,
    ("optimizer", "inf"): 99,
}


@pytest.mark.fault("N1")
@pytest.mark.parametrize("step", [5, 6, 8], ids=["first", "middle", "last"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "value"), DELAY)
def test_n1_step_and_tensor_are_named_and_nothing_is_saved(
    kind: str, value: str, rule: str, step: int, train: Train
) -> None:
    spoil = Spoil(kind, float(value), step, stop=rule == "a signal")
    with pytest.raises(DivergedError) as error:
        train({**SMALL, "checkpoint": RULES[rule]}, display=spoil)
    assert error.value.exit_code == 6
    found, first = checked_at(rule, step), step + DELAY[kind, value]
    named = re.findall(r"the loss of step (\d+) is not a finite number", str(error.value))
    assert named == ([str(first)] if first <= found else [])
    spread = found > step and (kind, value) != ("optimizer", "inf")
    pattern = rf"after step {found} (parameter \S+|optimizer\.\S+ of \S+) (?:is|and \d+ more tensors are) not finite"
    tensors = re.findall(pattern, str(error.value))
    if kind == "loss":
        assert tensors == []
    elif not spread:
        name = "optimizer.exp_avg_sq of " if kind == "optimizer" else "parameter "
        assert tensors == [name + spoil.name]
    else:
        assert len(tensors) == 1
    assert checkpoints(spoil.run) == spoil.kept
    info = spoil.run.read_info()
    assert (info["status"], info["epochs"]) == ("diverged", 1)
    assert info["diverged_at"] == (first if first <= found else None)
    saved = checkpoint.read(spoil.run.last if checkpoint.exists(spoil.run.last) else spoil.run.best)
    assert saved.position.step < step
    where = f"Last good checkpoint: {saved.folder} (epoch 1, step {saved.position.step})."
    assert str(error.value).endswith(where)


@pytest.mark.fault("N1")
def test_a_huge_gradient_that_leaves_finite_weights_is_found(assembled: Assembled) -> None:
    """1e30 squared is no float32: adam's second moment is infinite, and the weight would never move again."""
    experiment, state = assembled(SMALL)
    name, parameter = list(state.network.named_parameters())[-1]
    parameter.register_hook(lambda gradient: gradient * 1e30 if state.step == 1 else gradient)  # type: ignore[no-untyped-call]
    with pytest.raises(DivergedError, match=rf"after step 4 optimizer\.exp_avg_sq of {name} is not finite"):
        list(fit(state, experiment, epochs=1, history=[]))
    assert all(bool(torch.isfinite(p).all()) for p in state.network.parameters())
    assert bool(torch.isfinite(state.losses).all())


@pytest.mark.fault("N1")
@pytest.mark.parametrize("spoilt", ["running_var", "sums"])
def test_what_else_a_checkpoint_takes_is_looked_at(spoilt: str, assembled: Assembled) -> None:
    state = assembled(SMALL)[1]
    check_finite(state)
    names = dict(state.network.named_buffers())
    tensor = state.sums if spoilt == "sums" else next(names[name] for name in names if name.endswith(spoilt))
    tensor[1] = float("inf")
    name = "the sum of the penalty" if spoilt == "sums" else r"statistic \S+running_var"
    with pytest.raises(DivergedError, match=f"after step 0 {name} is not finite"):
        check_finite(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5)])
def test_finite_is_what_isfinite_says(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape, dtype=dtype)
    assert engine._is_finite(tensor)
    if dtype.is_floating_point:
        for place in range(tensor.numel()):
            for value in (float("nan"), float("inf"), float("-inf")):
                spoilt = tensor.clone()
                spoilt.view(-1)[place] = value
                assert not engine._is_finite(spoilt)
        assert engine._is_finite(tensor * torch.finfo(dtype).max)
