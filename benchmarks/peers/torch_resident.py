"""A PyTorch loop and nothing else: what the work costs when nobody looks after it.

Chosen for speed: all samples resident and already normalized, so that a batch is one gather; fused Adam; ReLU in place;
no metrics. torch.compile was measured to be slower on such networks, before the seconds that it takes to compile. The
variant is the argument of set_float32_matmul_precision: `medium` allows bfloat16 products.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.data import normalized, read
from benchmarks.task import Task, Watch, perform


def network(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The share of samples that are right, in large batches."""
    right = [
        (model(part).argmax(1) == true).sum()
        for part, true in zip(torch.split(x, 2048), torch.split(y, 2048), strict=True)
    ]
    return int(sum(right)) / len(x)


def train(task: Task, watch: Watch) -> None:
    """Train and test, epoch by epoch."""
    torch.manual_seed(task.seed)
    torch.set_float32_matmul_precision(task.variant or "highest")
    data = read(task.data, task.samples)
    arrays = normalized(data.x), data.y, normalized(data.x_test), data.y_test
    x, y, x_test, y_test = (torch.from_numpy(array).to(task.device) for array in arrays)
    model = network(task.shape.widths).to(task.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(task.epochs):
        with watch.epoch():
            for batch in torch.split(torch.randperm(len(x), device=task.device), task.shape.batch):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                watch.stepped()
            loss.item()  # a GPU is waited for
        watch.tested(accuracy(model, x_test, y_test))


if __name__ == "__main__":
    perform(train, "torch")
