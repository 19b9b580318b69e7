"""Where two trainings of the same experiment part: the first loss, record and tensor without equal bits, and why."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlf.engine import TrainState
from dlf.run import Record

_TIMES = {"seconds", "samples_per_second"}


@dataclass(frozen=True)
class LossDifference:
    """The first step, counted from 1, whose loss has other bits.

    `ulps` counts the float32 numbers from one loss to the other, `relative` is |now - then| / |then|; null where one
    of them is no finite number.
    """

    step: int
    epoch: int
    then: float
    now: float
    ulps: int | None
    relative: float | None


@dataclass(frozen=True)
class RecordDifference:
    """The first record of metrics.jsonl that says something else, times aside: its first such entry, and the others."""

    epoch: int
    name: str
    then: Any
    now: Any
    others: list[str]


@dataclass(frozen=True)
class TensorDifference:
    """The first tensor of a checkpoint with other bits, and the place in it where the two lie furthest apart.

    `then` and `now` are null where only one of the two has such a tensor: another torch may remember other things.
    """

    checkpoint: str
    epoch: int
    step: int
    tensor: str
    shape: list[int]
    elements: int
    differing: int
    index: list[int]
    then: float | None
    now: float | None


@dataclass(frozen=True)
class Change:
    """Something that a result depends on and that is not what it was; `since_step` is where the run recorded it."""

    what: str
    then: Any
    now: Any
    since_step: int
    why: str


# --- numbers --------------------------------------------------------------------------------------------------------


def first_loss(then: Tensor, now: Tensor, steps_per_epoch: int) -> LossDifference | None:
    """Compare the losses of the steps that both have, float32 (steps,)."""
    both = min(len(then), len(now))
    differing = _other_bits(then[:both], now[:both]).nonzero()
    if not len(differing):
        return None
    index = int(differing[0])
    a, b = float(then[index]), float(now[index])
    finite = bool(torch.isfinite(then[index]) & torch.isfinite(now[index]))
    return LossDifference(
        step=index + 1,
        epoch=index // steps_per_epoch + 1,
        then=a,
        now=b,
        ulps=abs(_ordered(a) - _ordered(b)) if finite else None,
        relative=abs(b - a) / abs(a) if finite and a else None,
    )


def _ordered(value: float) -> int:
    """The place of a float32 among all of them: neighbours are 1 apart, and both zeros are 0."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return int(bits) if bits >= 0 else -(int(bits) & 0x7FFFFFFF)


def first_entry(then: Record, now: Record) -> RecordDifference | None:
    """Compare two records of one epoch as they are written, so that 0.0 is not -0.0."""
    names = [name for name in {**then, **now} if name not in _TIMES]
    differing = [name for name in names if _written(then, name) != _written(now, name)]
    if not differing:
        return None
    first, *others = differing
    return RecordDifference(now["epoch"], first, then.get(first), now.get(first), others)


def _written(record: Record, name: str) -> str | None:
    return json.dumps(record[name]) if name in record else None


def tensors(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of a checkpoint but the losses, by name: the network's first, then what is remembered of each."""
    found = dict(state.network.state_dict())
    for name, parameter in state.network.named_parameters():
        memory = state.optimizer.state.get(parameter, {})
        found |= {f"optimizer.{key} of {name}": value for key, value in memory.items() if isinstance(value, Tensor)}
    return {**found, "the sums of the epoch": state.sums}


def first_tensor(checkpoint: str, then: TrainState, now: TrainState) -> TensorDifference | None:
    """Compare all tensors of two states, the order being the network's."""
    before, after = tensors(then), tensors(now)
    for name in {**before, **after}:
        a, b = before.get(name), after.get(name)
        known = a if a is not None else b
        assert known is not None
        place = (checkpoint, then.epoch, then.step, name, list(known.shape), known.numel())
        if a is None or b is None or a.shape != b.shape:
            return TensorDifference(*place, known.numel(), [], None, None)
        mask = _other_bits(a, b)
        if mask.any():
            flat = _furthest(a, b, mask)
            index = [int(i) for i in torch.unravel_index(torch.tensor(flat), a.shape)] if a.ndim else []
            values = (float(tensor.reshape(-1)[flat]) for tensor in (a, b))
            return TensorDifference(*place, int(mask.sum()), index, *values)
    return None


def _furthest(then: Tensor, now: Tensor, mask: Tensor) -> int:
    """The flat index of the largest difference among those of the mask; what is not finite is furthest."""
    distance = (now.detach().cpu().double() - then.detach().cpu().double()).abs().reshape(-1)
    distance = distance.nan_to_num(nan=torch.inf, posinf=torch.inf)
    return int(torch.where(mask, distance, -1.0).argmax())


def _other_bits(then: Tensor, now: Tensor) -> Tensor:
    """Whether each element, in one row, has other bits: a NaN equals itself, and 0.0 is not -0.0."""
    assert then.shape == now.shape
    assert then.dtype == now.dtype
    return (_bytes(then) != _bytes(now)).any(1)


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).reshape(len(flat), tensor.element_size())


# --- what explains it -----------------------------------------------------------------------------------------------

_WHY = {
    "seed": "config.yaml was edited: initial weights, order and dropout follow from the seed",
    "precision": "products in another precision are rounded elsewhere",
    "device": "another device has other kernels, which sum in another order",
    "device_name": "another processor may get other kernels, which sum in another order",
    "cpu_capability": "another instruction set rounds differently: its vectors have another width",
    "kernels": "dlf's compiled kernels and torch's sum in different orders, and round at different places",
    "threads": "another number of threads changes the order of sums",
    "torch": "another torch may compute the same operation differently",
    "numpy": "another numpy may compute statistics and metrics differently",
    "scikit-learn": "it brings data sets and metrics; the data themselves are the same, by their hash",
    "dlf": "another dlf may compute the same experiment differently",
    "git_commit": "another commit is another code of dlf",
    "platform": "another system brings other mathematical libraries",
    "python": "rarely matters: tensors are not computed by Python",
    "pydantic": "hardly matters: it only reads the configuration",
    "safetensors": "hardly matters: it only stores tensors",
}


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What a part of a run recorded and what is now, where they differ, the likeliest reason first."""
    before, after = ({**entries, **entries.get("packages", {})} for entries in (then, now))
    return [
        Change(name, before[name], after[name], then.get("step", 0), why)
        for name, why in _WHY.items()
        if name in before and name in after and before[name] != after[name]
    ]


def distinct(found: Iterable[Change]) -> list[Change]:
    """Each change once, where several parts of a run recorded the same."""
    first: dict[tuple[str, str], Change] = {}
    for change in found:
        first.setdefault((change.what, json.dumps(change.then)), change)
    return list(first.values())


def conclusion(differs: bool, found: Sequence[Change], device: str) -> str:
    """What the environment says about the outcome, in a sentence or two."""
    if not differs:
        return "What differs from then changed no bit." if found else "Nothing that was recorded differs from then."
    if found:
        return "Each of these can explain it; only with all of them as they were is the same result to be expected."
    if device != "cpu":
        return (
            "Nothing that was recorded differs from then. Some CUDA kernels sum in an order that changes from run to "
            "run: then this run is not deterministic. Otherwise its files were changed."
        )
    return "Nothing that was recorded differs from then: the run was not deterministic, or its files were changed."
