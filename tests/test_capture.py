"""A captured training equals an eager one, and what cannot be captured is done eagerly with the reason told.

No GPU is needed: `Recorded` stands for a CUDA graph on the CPU. It notes the operations on tensors that a step makes
and repeats exactly those, with the numbers that they were given and on the memory that they had. So whatever Python
computes anew in each step (a rate, an index, a seed) is frozen, as a CUDA graph freezes it, and shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import Assembled
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dlf import engine
from dlf.backpropagation import Autograd
from dlf.capture import WARM_UP, CudaGraph, prepare
from dlf.engine import Experiment, TrainState, fit
from dlf.optimizers import OPTIMIZERS, build

CONFIG: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 20, "validation": 0.2},  # 96 samples: 4 full batches and one of 16
    "model": {
        "layers": [
            {"type": "linear", "units": 8},
            {"type": "batch_norm"},
            {"type": "dropout", "rate": 0.4},
            {"type": "linear", "units": 6, "activation": "tanh"},
        ]
    },
    "optimizer": "adam",
    "schedule": {"type": "cosine", "warmup_epochs": 1},
    "regularizers": ["l2", "clip_norm", "max_norm"],
    "train": {"epochs": 3},
}


def tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


class Recorded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations on tensors as a graph: noted while the work is done, whose effects are then taken back."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = state
        self.noted: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.noted.append(
            (func, args, kwargs or {}, [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        )
        return result

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def capture(self, work: Callable[[], None]) -> None:
        before, generator = [tensor.clone() for tensor in self._memory()], torch.get_rng_state()
        with self:
            work()
        torch.set_rng_state(generator)
        with torch.no_grad():
            for tensor, old in zip(self._memory(), before, strict=True):
                tensor.copy_(old)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, outputs in self.noted:
            for output, new in zip(outputs, tensors(func(*args, **kwargs)), strict=True):
                if output.data_ptr() != new.data_ptr():
                    output.copy_(new)

    def _memory(self) -> list[Tensor]:
        """Everything that a step changes."""
        memory = [*self.state.network.state_dict().values(), self.state.sums]
        return memory + [value for entry in self.state.optimizer.state.values() for value in entry.values()]


def trained(made: tuple[Experiment, TrainState], epochs: int = 3) -> list[Tensor]:
    experiment, state = made
    state.backpropagate = Autograd(state.network)  # as on a GPU
    history: list[Any] = []
    for record in fit(state, experiment, epochs=epochs, history=history):
        history.append(record)
    memory = [value for entry in state.optimizer.state.values() for value in entry.values()]
    return [state.losses, *state.network.state_dict().values(), *memory]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def eager(assembled: Assembled, config: dict[str, Any], *overrides: str) -> list[Tensor]:
    """Without a graph, with rates in tensors of float32, as a captured update reads them."""
    experiment, state = assembled(config, *overrides)
    assert prepare(state.optimizer) is None
    return trained((experiment, state))


def captured(assembled: Assembled, config: dict[str, Any], *overrides: str) -> tuple[list[Tensor], Recorded, list[str]]:
    experiment, state = assembled(config, *overrides)
    graph, told = Recorded(state), list[str]()
    return trained((replace(experiment, graph=lambda: graph, tell=told.append), state)), graph, told


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("size", [20, 40, 96])
def test_a_captured_training_is_an_eager_one(assembled: Assembled, optimizer: str, size: int) -> None:
    config = {**CONFIG, "optimizer": {"type": optimizer, "lr": 0.02}}
    found, graph, told = captured(assembled, config, f"data.batch_size={size}")
    assert same(found, eager(assembled, config, f"data.batch_size={size}"))
    assert graph.replays == 3 * (96 // size) - WARM_UP
    assert told == []


FROZEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the learning rate": lambda patch: patch.setattr(engine, "set_learning_rate", _number_in_place_of_a_tensor),
    "the batch": lambda patch: patch.setattr(engine, "_gather_and_step", _first_batch_only),
}


def _number_in_place_of_a_tensor(optimizer: torch.optim.Optimizer, factor: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return 0.0


def _first_batch_only(state: TrainState, experiment: Experiment, batch: Tensor) -> Tensor:
    chosen = torch.tensor(batch.tolist())  # by way of the host
    train = experiment.data.train
    return engine.train_step(state, experiment, train.x.index_select(0, chosen), train.y.index_select(0, chosen))


@pytest.mark.parametrize("what", FROZEN)
def test_what_goes_by_way_of_the_host_shows(what: str, assembled: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = eager(assembled, CONFIG)
    FROZEN[what](monkeypatch)
    assert not same(captured(assembled, CONFIG)[0], reference)


class Refusing(Recorded):  # type: ignore[no-untyped-call]
    def capture(self, work: Callable[[], None]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def test_a_step_that_cannot_be_captured_is_done_eagerly_and_the_reason_told(assembled: Assembled) -> None:
    experiment, state = assembled(CONFIG)
    told = list[str]()
    found = trained((replace(experiment, graph=partial(Refusing, state), tell=told.append), state))
    assert same(found, eager(assembled, CONFIG))
    (message,) = told
    assert "one by one" in message
    assert "(operation not permitted when stream is capturing)" in message


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_can_be_captured_or_says_why_not(name: str, assembled: Assembled) -> None:
    """On the CPU only the fused updates take rates from tensors; the others are tried on a GPU, below."""
    optimizer = build(torch.nn.Linear(2, 2), OPTIMIZERS.make(name))
    reason = prepare(optimizer)
    if reason is not None:
        assert type(optimizer).__name__ in reason
        found, graph, told = captured(assembled, {**CONFIG, "optimizer": name})
        assert graph.replays == 0
        assert told == [f"the kernels of a step are launched one by one: {reason}"]
        assert found[0].isfinite().all()
    assert (reason is None) == (name not in {"lion", "muon"})


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_on_a_gpu_a_captured_training_is_an_eager_one(name: str, assembled: Assembled) -> None:
    """The same kernels on the same numbers; the eager one is prepared alike, so that rates are rounded alike."""
    results = []
    for graph in (None, CudaGraph):
        experiment, state = assembled({**CONFIG, "optimizer": name}, device="cuda")
        if graph is None:
            prepare(state.optimizer)
        told = list[str]()
        results.append(trained((replace(experiment, graph=graph, tell=told.append), state)))
        assert not told or name in {"lion", "muon", "adagrad"}, told
    assert same(*results)
