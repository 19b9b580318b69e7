"""PyTorch as its tutorials write it: torchvision's MNIST with transforms, a DataLoader, a loop.

This is the peer for the way of working, not for the last second: an image at a time through ToTensor and Normalize. No
worker processes, since they were measured to be slower for images this small on few cores; fused Adam as elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from benchmarks.data import MEAN, STD
from benchmarks.peers.torch_resident import network
from benchmarks.task import Task, Watch, perform


def train(task: Task, watch: Watch) -> None:
    """Train and test, epoch by epoch."""
    torch.manual_seed(task.seed)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,)), torch.flatten])
    samples = Subset(datasets.MNIST(task.data, train=True, transform=steps), range(task.samples))
    loader = DataLoader(samples, batch_size=task.shape.batch, shuffle=True)
    test_loader = DataLoader(datasets.MNIST(task.data, train=False, transform=steps), batch_size=1000)
    model = network(task.shape.widths)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(task.epochs):
        with watch.epoch():
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                watch.stepped()
        with torch.no_grad():
            right = sum(int((model(x).argmax(1) == y).sum()) for x, y in test_loader)
        watch.tested(right / len(test_loader.dataset))  # type: ignore[arg-type]


if __name__ == "__main__":
    perform(train, "torch", "torchvision")
