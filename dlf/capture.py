"""A training step as one CUDA graph: captured once, replayed for every full batch.

A small network's step is about eighty kernels of a few microseconds each, and launching one from Python takes longer
than running it. A graph launches all of them at once: gather, normalize, forward, backward, clip, update. What
changes from step to step comes to it through memory that stays in place: the indices of the batch, the learning rates,
the generator's seed.
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]

WARM_UP = 3  # steps made before capturing: libraries choose their kernels and allocate in their first calls


class Graph(Protocol):
    """What captures work and repeats it."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work as it will be captured."""

    def capture(self, work: Callable[[], None]) -> None:
        """Record the work without doing it."""

    def replay(self) -> None:
        """Do what was recorded, on the memory that it was recorded with."""


class CudaGraph:
    """Torch's, on the current device; warm-ups run on a stream of their own, as captures do."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm_up(self, work: Callable[[], None]) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, work: Callable[[], None]) -> None:
        with torch.cuda.graph(self.graph, stream=self.stream):
            work()

    def replay(self) -> None:
        self.graph.replay()


class Captured:
    """`step(batch)` for index batches of one size: eager `WARM_UP` times, then captured once and replayed.

    `step` finds everything it needs on the device, changes only tensors that stay, and returns a 0-dim result. Where it
    cannot be captured it is done eagerly for good, and `tell` is told why.
    """

    def __init__(self, step: Step, size: int, graph: Graph, device: torch.device, tell: Callable[[str], None]) -> None:
        self.step = step
        self.graph = graph
        self.tell = tell
        self.batch = torch.zeros(size, dtype=torch.int64, device=device)
        self.result = torch.zeros((), device=device)
        self.done = 0
        self.refused = False

    def __call__(self, batch: Tensor) -> Tensor:
        """One step on these samples; a batch of another size, the last of an epoch, is done eagerly."""
        if self.refused or len(batch) != len(self.batch):
            return self.step(batch)
        self.batch.copy_(batch)
        if self.done == WARM_UP:
            self._capture()
        if self.done < WARM_UP:
            self.graph.warm_up(self._work)
        elif self.refused:
            self._work()
        else:
            self.graph.replay()
        self.done += 1
        return self.result

    def _work(self) -> None:
        self.result.copy_(self.step(self.batch))

    def _capture(self) -> None:
        try:
            self.graph.capture(self._work)
        except (RuntimeError, TypeError) as error:  # work that waits for the host, or a rate that must be a number
            self.refused = True
            reason = str(error).strip().splitlines()[0]
            self.tell(f"{_EAGERLY}: this one cannot be captured as a CUDA graph ({reason})")


def captured(
    step: Step,
    optimizer: torch.optim.Optimizer,
    *,
    size: int,
    graph: Callable[[], Graph],
    device: torch.device,
    tell: Callable[[str], None],
) -> Step:
    """The step, captured where the optimizer's update can be; else as it is, and `tell` is told why."""
    reason = prepare(optimizer)
    if reason is not None:
        tell(f"{_EAGERLY}: {reason}")
        return step
    return Captured(step, size, graph(), device, tell)


def prepare(optimizer: torch.optim.Optimizer) -> str | None:
    """Make the optimizer's update one that can be captured; the reason where it has none.

    Its learning rates become float32 tensors on the device, to be filled before each step; its counters move there.
    """
    if any(not group.get("fused") and "capturable" not in group for group in optimizer.param_groups):
        return f"{type(optimizer).__name__} computes a part of its update on the host"
    for group in optimizer.param_groups:
        device = group["params"][0].device
        if "capturable" in group and device.type == "cuda":
            group["capturable"] = True
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                state["step"] = state["step"].to(device)
    return None


_EAGERLY = "the kernels of a step are launched one by one"
