"""What a step costs beyond its arithmetic, where that can be counted: waiting for the device, copies, allocations.

No test asserts a time. Each counts what a variant without care does too often, and is tried on such a variant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import Assembled
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dlf import engine, native
from dlf.backpropagation import Autograd, Chain
from dlf.engine import Experiment, TrainState, train_epoch

MLP: dict[str, Any] = {
    "data": {"type": "digits", "validation": 0.2},
    "model": {"layers": [{"type": "linear", "units": 96}, {"type": "linear", "units": 48}]},
}
EVERYTHING: dict[str, Any] = {
    "data": {"type": "digits", "validation": 0.2},
    "model": {
        "layers": [
            {"type": "conv2d", "channels": 2},
            "batch_norm",
            {"type": "linear", "units": 12},
            {"type": "dropout", "rate": 0.3},
        ]
    },
    "regularizers": ["l1", "l2", "clip_norm", "clip_value", "max_norm"],
    "schedule": {"type": "cosine", "warmup_epochs": 1},
}
REGRESSION: dict[str, Any] = {"data": "diabetes", "model": {"layers": [{"type": "linear", "units": 8}]}}


# --- waiting --------------------------------------------------------------------------------------------------------


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts every way in which Python reads a tensor's numbers, for which it would wait for a GPU to finish."""
    counted: Counter[str] = Counter()

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Tensor, *arguments: Any, **options: Any) -> Any:
            counted[name] += 1
            return method(self, *arguments, **options)

        return read

    names = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__", "nonzero")
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(torch.Tensor, name, watched(name, getattr(torch.Tensor, name)))
        yield counted


def waits_of_an_epoch(made: tuple[Experiment, TrainState], monkeypatch: pytest.MonkeyPatch) -> int:
    experiment, state = made
    with waits(monkeypatch) as counted:
        train_epoch(state, experiment, [], lambda state: None)
    return counted.total()


@pytest.mark.parametrize("config", [MLP, EVERYTHING, REGRESSION])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_epoch_waits_as_often_however_many_steps_it_has(
    config: dict[str, Any], optimizer: str, assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check for numbers that are not finite reads the device, its steps do not."""
    config = {**config, "optimizer": optimizer}
    few, many = (waits_of_an_epoch(assembled(config, f"data.batch_size={size}"), monkeypatch) for size in (200, 20))
    assert few == many > 0


def test_the_count_notices_a_step_that_reads_its_loss(assembled: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine.train_step

    def reading(*arguments: Any) -> Tensor:
        loss = real(*arguments)
        loss.item()
        return loss

    monkeypatch.setattr(engine, "train_step", reading)
    few, many = (waits_of_an_epoch(assembled(MLP, f"data.batch_size={size}"), monkeypatch) for size in (200, 20))
    assert few < many


# --- operations, copies and memory ----------------------------------------------------------------------------------


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations by name, and the bytes of every piece of memory that one of them made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: Counter[str] = Counter()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations[func.overloadpacket.__name__] += 1
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self.made.append(leaf.untyped_storage().nbytes())
        return result

    @property
    def copies(self) -> int:
        return sum(self.operations[name] for name in ("_to_copy", "copy_", "clone", "contiguous"))


def a_later_step(made: tuple[Experiment, TrainState], way: type) -> Counted:
    """What the third step does: in the first two, memory that stays is made."""
    experiment, state = made
    if way is Autograd:
        state.backpropagate = Autograd(state.network)
    assert isinstance(state.backpropagate, way)
    x, y = experiment.data.train.x[:128], experiment.data.train.y[:128]
    state.network.train()
    for _ in range(2):
        engine.train_step(state, experiment, x, y)
    counted = Counted()
    with counted:
        engine.train_step(state, experiment, x, y)
    return counted


@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_the_chain_takes_fewer_operations_and_less_memory_than_autograd(numbers: str, assembled: Assembled) -> None:
    chain, autograd = (a_later_step(assembled(MLP, f"train.precision={numbers}"), way) for way in (Chain, Autograd))
    assert chain.operations.total() < autograd.operations.total()
    assert sum(chain.made) < sum(autograd.made)


def test_a_step_of_the_chain_copies_a_sample_and_a_bias_and_nothing_else(
    assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's operators bytes become numbers, to be normalized, and each layer's bias gradient is put in its place.
    The compiled kernels do both on the way."""
    layers = len(MLP["model"]["layers"]) + 1
    if native.level(torch.float32):
        assert a_later_step(assembled(MLP, "train.precision=float32"), Chain).copies == 0
    monkeypatch.setattr(native, "level", lambda products: None)
    assert a_later_step(assembled(MLP, "train.precision=float32"), Chain).copies == 1 + layers


def test_a_step_of_the_chain_makes_no_memory_as_large_as_a_weight(assembled: Assembled) -> None:
    """Gradients stay where they are; autograd makes each anew."""
    wide = {**MLP, "model": {"layers": [{"type": "linear", "units": 2048}]}}
    chain, autograd = (a_later_step(assembled(wide, "train.precision=float32"), way) for way in (Chain, Autograd))
    weight = 2048 * 64 * 4  # bytes; no sum has as many
    assert chain.made.count(weight) == 0
    assert autograd.made.count(weight) == 1
