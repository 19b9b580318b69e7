"""Precision: in which numbers matrix products are computed.

float32: as they are. bfloat16: both factors are rounded to 8 significant bits, the products are summed in float32 and
the sum is rounded again; forward and backward. tf32: a GPU rounds the factors to 11 significant bits and sums in
float32. Weights, activations, losses, gradients' sums and updates stay float32 in any case, so the small steps of late
training are not lost. Micikevicius et al., 2018; Kalamkar et al., 2019; NVIDIA's A100 whitepaper, 2020, for tf32.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from dlf.modules import Dropout, Linear, Weighted
from dlf.registry import Flaw, InvalidError

Precision = Literal["auto", "float32", "tf32", "bfloat16"]

# Rounding the factors costs a few operations a layer, whatever their size: below this many multiply-adds a step it
# costs more than the products save (benchmarks/README.md).
PAYS_FROM = 20_000_000


def choose(wanted: Precision, device: torch.device, multiply_adds: int) -> tuple[Precision, str]:
    """What `auto` stands for on this device with so many multiply-adds a step, and why; other settings stay.

    InvalidError where the device cannot compute what is wanted.
    """
    if wanted == "tf32" and not (device.type == "cuda" and _fast_bfloat16(device)):
        advice = "take float32, bfloat16 or auto"
        raise InvalidError(
            [Flaw((), f"tf32 is computed by GPUs from NVIDIA's Ampere on, not by this {device}: {advice}")]
        )
    if wanted != "auto":
        return wanted, "as the experiment asks"
    if not _fast_bfloat16(device):
        return "float32", f"this {device} is not fast at bfloat16"
    if multiply_adds < PAYS_FROM:
        return "float32", f"{multiply_adds / 1e6:.1f} million multiply-adds a step are too few for bfloat16 to pay"
    return (
        "bfloat16",
        f"this {device} is fast at it; {multiply_adds / 1e6:.0f} million multiply-adds a step",
    )


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def apply(network: nn.Module, precision: Precision) -> None:
    """Make every layer with a weight compute its products in this precision.

    Between two linear layers, with at most dropout between them, bfloat16 stays bfloat16: the activation in between is
    rounded to it either way, and two conversions are saved. On a GPU, where single precision means tf32 in some
    libraries' products and not in others', it means what is said here, for the whole process.
    """
    assert precision != "auto", "choose first"
    if any(parameter.is_cuda for parameter in network.parameters()):
        in_float32 = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = in_float32
        torch.backends.cudnn.conv.fp32_precision = in_float32  # type: ignore[attr-defined]
    for module in network.modules():
        if isinstance(module, Weighted):
            module.products = torch.bfloat16 if precision == "bfloat16" else None
        if isinstance(module, nn.Sequential):
            chain = [child for child in module if not isinstance(child, Dropout)]
            for child, following in pairwise(chain):
                if isinstance(child, Weighted):
                    child.hand_on = precision == "bfloat16" and isinstance(following, Linear)
