"""Lightning's Trainer.

Chosen for speed: logger, checkpoints, progress bar and model summary off; samples resident and already normalized; a
sampler that hands out whole batches of indices, so that the DataLoader makes one gather a batch instead of one a sample
(PyTorch's documentation, "Disable automatic batching"); no worker processes, which would copy what is in memory;
fused Adam. The test set is measured by hand after each epoch, outside of the epoch's seconds.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.data import normalized, read
from benchmarks.peers.torch_resident import accuracy, network
from benchmarks.task import Task, Watch, perform


class Model(lightning.LightningModule):
    """The network, its step and its watch."""

    def __init__(self, task: Task, watch: Watch, test: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__()
        self.model = network(task.shape.widths)
        self.watch = watch
        self.test = test
        self.steps = 0
        self.began = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Fused Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        """The loss of a batch."""
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def on_train_batch_end(self, *_: Any) -> None:
        """Only the first is of interest."""
        self.watch.stepped()

    def on_train_epoch_start(self) -> None:
        """The epoch's clock starts."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """The epoch's clock stops, and the test set is measured."""
        self.watch.epochs.append(time.perf_counter() - self.began)
        self.watch.tested(accuracy(self.model, *self.test))


def train(task: Task, watch: Watch) -> None:
    """Train and test, epoch by epoch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    torch.manual_seed(task.seed)
    data = read(task.data, task.samples)
    samples = TensorDataset(torch.from_numpy(normalized(data.x)), torch.from_numpy(data.y))
    sampler = BatchSampler(RandomSampler(samples), task.shape.batch, drop_last=False)
    loader: DataLoader[Any] = DataLoader(samples, sampler=sampler, batch_size=None)
    test = torch.from_numpy(normalized(data.x_test)), torch.from_numpy(data.y_test)
    trainer = lightning.Trainer(
        max_epochs=task.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=task.scratch,
    )
    trainer.fit(Model(task, watch, test), loader)


if __name__ == "__main__":
    perform(train, "lightning", "torch")
