"""The floor: the matrix products of all steps of an epoch, forward and backward, and the optimizer's update, alone.

No gather, no normalization, no activation, no loss, no Python beyond the calls: no program that computes this network's
products in full, with torch's, can be faster. One that leaves out zeros, as dlf does, can. The products are measured in
float32 and in bfloat16, also where the processor can only imitate the latter: the faster of the two counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.task import Network, Task, Watch, perform

Step = Callable[[], None]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def products(shape: Network, dtype: torch.dtype, device: str = "cpu") -> Step:
    """All matrix products of one step: outputs, gradients of weights, and of inputs but for the first layer's."""
    calls = list(_products(shape, dtype, device))

    def step() -> None:
        for a, b, out in calls:
            torch.mm(a, b, out=out)

    return step


def _products(shape: Network, dtype: torch.dtype, device: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    def some(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=device).to(dtype)

    for index, (inputs, outputs) in enumerate(shape.layers):
        x, weight, gradient = some(shape.batch, inputs), some(outputs, inputs), some(shape.batch, outputs)
        yield x, weight.t(), some(shape.batch, outputs)
        yield gradient.t(), x, some(outputs, inputs)
        if index:
            yield gradient, weight, some(shape.batch, inputs)


def update(shape: Network, device: str = "cpu") -> Step:
    """Fused Adam on weights and biases of this network."""
    sizes = [size for inputs, outputs in shape.layers for size in ((outputs, inputs), (outputs,))]
    parameters = [torch.randn(size, device=device, requires_grad=True) for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=device != "cpu")

    def step() -> None:
        optimizer.step()

    return step


def captured(step: Step) -> Step:
    """The same kernels on a GPU as one CUDA graph, without any Python between them."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):  # what is prepared at the first call must not be part of the graph
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def seconds(step: Step, steps: int) -> float:
    """Seconds of so many steps, after one that does not count."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else int  # int() does nothing
    step()
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return time.perf_counter() - began


def train(task: Task, watch: Watch) -> None:
    """Seconds an epoch of each part, as often as there are epochs."""
    steps = -(-task.samples // task.shape.batch)
    parts = {name: products(task.shape, dtype, task.device) for name, dtype in PRECISIONS.items()}
    parts["update"] = update(task.shape, task.device)
    if task.device != "cpu":
        parts = {name: captured(step) for name, step in parts.items()}
    watch.more["parts"] = {name: [seconds(step, steps) for _ in range(task.epochs)] for name, step in parts.items()}


if __name__ == "__main__":
    perform(train, "torch")
