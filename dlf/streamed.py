"""Samples too large for the device: left in their file, or in main memory, and brought there batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlf.datasets.files import FileArray, Rows


@dataclass(frozen=True)
class Streamed:
    """Samples (n, *shape) that are somewhere else; what is asked for becomes a tensor on `device`.

    A slice and `index_select` mean what they mean for a tensor; indices are on the CPU.
    """

    rows: Rows
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: slice) -> Tensor:
        return torch.tensor(self.rows[wanted], device=self.device)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape)."""
        return tuple(self.rows.shape)

    def index_select(self, axis: int, indices: Tensor) -> Tensor:
        """The samples of these indices; `axis` is 0."""
        assert axis == 0
        return torch.from_numpy(self.rows[indices.numpy()]).to(self.device)

    def announce(self, indices: Tensor) -> None:
        """Say that these samples are wanted soon: what is in a file is fetched meanwhile."""
        if isinstance(self.rows, FileArray):
            self.rows.announce(indices.numpy())
