"""A checkpoint: everything that changes while training, in a folder of four files, written whole or not at all.

model.safetensors       weights and preprocessing statistics
optimizer.safetensors   the optimizer's tensors, named INDEX OF THE PARAMETER.NAME
state.json              position (epoch, step), partial sums of the epoch, the optimizer's rules
MANIFEST.json           size and sha256 of the other three; written last

Tensors are safetensors and everything else is JSON: nothing is ever unpickled, so a checkpoint cannot run code.
Loading hashes the bytes that it parses, and accepts a manifest only when it is, byte for byte, that of these files.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from dlf import __version__, durable
from dlf.engine import TrainState
from dlf.errors import RunError
from dlf.model import Network
from dlf.registry import Section
from dlf.run import to_json

FORMAT = 1
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_MANIFEST_LIMIT = 64 * 1024
# how an update is computed, and at which rate, belongs to the machine and the moment, not to the rule
_NOT_RULES = {"params", "lr", "fused", "foreach", "capturable", "differentiable"}


class Rules(Section):
    """What an optimizer does, without what it remembers: its class, its rates now, the settings of each group."""

    type: str
    rates: list[NonNegativeFloat]
    groups: list[dict[str, Any]]


class Position(Section):
    """What state.json holds."""

    dlf: str
    epoch: NonNegativeInt
    step: NonNegativeInt
    sums: Annotated[list[float], Field(min_length=1, max_length=16)]
    seconds: NonNegativeFloat
    optimizer: Rules


class Contents(NamedTuple):
    """A checkpoint in memory, every byte compared with its manifest."""

    folder: Path
    model: bytes
    optimizer: bytes
    position: Position


def save(folder: Path, state: TrainState) -> None:
    """Write the state to `folder`, replacing the checkpoint that is there once the new one is durable."""
    write(folder, pack(state))


def pack(state: TrainState) -> dict[str, bytes]:
    """The files of a checkpoint of this state, by name, in the order in which they are written."""
    entries = state.optimizer.state_dict()["state"]
    memory = {f"{index}.{name}": value for index, entry in entries.items() for name, value in entry.items()}
    position = Position(
        dlf=__version__,
        epoch=state.epoch,
        step=state.step,
        sums=state.sums.tolist(),
        seconds=state.seconds,
        optimizer=_rules(state.optimizer),
    )
    files = {
        "model.safetensors": tensors_to_bytes(_plain(state.network.state_dict())),
        "optimizer.safetensors": tensors_to_bytes(_plain(memory)),
        "state.json": to_json(position.model_dump()),
    }
    return {**files, "MANIFEST.json": _manifest(files)}


def write(folder: Path, packed: Mapping[str, bytes]) -> None:
    """Replace the checkpoint in `folder` by the packed one."""
    durable.write_folder(folder, packed)


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint in `folder`, be it whole or not."""
    return durable.locate(folder)[1] is not None


def load(folder: Path, state: TrainState) -> None:
    """Put the checkpoint into `state`; RunError where it is damaged, or of another network or optimizer."""
    contents = read(folder)
    _fill_network(contents, state.network)
    _fill_optimizer(contents, state.optimizer)
    position = contents.position
    if len(position.sums) != len(state.sums):
        raise RunError(f"{folder} has {len(position.sums)} sums of the epoch under way; {len(state.sums)} are expected")
    state.epoch, state.step, state.seconds = position.epoch, position.step, position.seconds
    state.sums.copy_(torch.tensor(position.sums, dtype=torch.float64))


def load_network(folder: Path, network: Network) -> int:
    """Put the weights and statistics of the checkpoint into the network; the epoch that they are of."""
    contents = read(folder)
    _fill_network(contents, network)
    return contents.position.epoch


# --- bytes ----------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Contents:
    """The files of a checkpoint after comparing every byte; RunError says which differs.

    A training that goes on may replace the checkpoint while it is read: then it is read again.
    """
    while True:
        found = durable.locate(folder)
        try:
            return _read(found[0])
        except RunError:
            if durable.locate(folder) == found:
                raise


def _read(folder: Path) -> Contents:
    manifest = _read_file(folder / "MANIFEST.json", _MANIFEST_LIMIT)
    sizes = _sizes(folder, manifest)
    files = {name: _read_file(folder / name, size) for name, size in sizes.items()}
    if _manifest(files) != manifest:
        raise RunError(f"{folder} is damaged: its bytes are not those that were saved. {_OTHER}")
    try:
        position = Position.model_validate_json(files["state.json"])
    except ValidationError as error:
        raise RunError(f"{folder / 'state.json'} is not what dlf writes: {error.errors()[0]['msg']}") from None
    return Contents(folder, files["model.safetensors"], files["optimizer.safetensors"], position)


def _read_file(path: Path, limit: int) -> bytes:
    """The file's bytes. One that is longer than `limit` is not even read; a limit that is too high costs no memory."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= limit else b""
    except OSError as error:
        raise RunError(f"there is no complete checkpoint: {path} cannot be read: {error.strerror}. {_OTHER}") from None
    if size > limit:
        raise RunError(f"{path} is damaged: it has {size:,} bytes, at most {limit:,} were saved. {_OTHER}")
    return data


def _sizes(folder: Path, manifest: bytes) -> dict[str, int]:
    """The size of each file as the manifest has it, once its format is known to be ours."""
    try:
        parsed = json.loads(manifest)
        written = parsed["format"]
        if written == FORMAT:
            return {name: max(0, operator.index(parsed["files"][name]["bytes"])) for name in _FILES}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{folder / 'MANIFEST.json'} is damaged: {error!r}. {_OTHER}") from None
    raise RunError(f"{folder} has checkpoint format {written}; dlf {__version__} reads {FORMAT}. Use the dlf it is of.")


def _manifest(files: Mapping[str, bytes]) -> bytes:
    """A function of the files alone, so that no byte of a manifest can change unseen."""
    entries = {name: {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()} for name in _FILES}
    return to_json({"format": FORMAT, "files": entries}, indent=2)


_OTHER = "The run's other checkpoint (checkpoints/best or last) may be whole: copied to this place it can be resumed."


# --- tensors --------------------------------------------------------------------------------------------------------


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _parse(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return parse_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{path} is no safetensors file: {error}. {_OTHER}") from None


def _fill_network(contents: Contents, network: Network) -> None:
    tensors = _parse(contents.folder / "model.safetensors", contents.model)
    expected = network.state_dict()
    for name in {**expected, **tensors}:
        here, there = _described(expected.get(name)), _described(tensors.get(name))
        if here != there:
            raise RunError(
                f"{contents.folder} does not fit the network: {name} is {there} in the checkpoint and {here} in the "
                "network. It belongs to another architecture."
            )
    network.load_state_dict(tensors)


def _described(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _rules(optimizer: torch.optim.Optimizer) -> Rules:
    groups = [{key: value for key, value in group.items() if key not in _NOT_RULES} for group in optimizer.param_groups]
    return Rules(
        type=type(optimizer).__name__,
        rates=[float(group["lr"]) for group in optimizer.param_groups],
        groups=json.loads(to_json(groups)),  # as they will be read back: a tuple is a list
    )


def _fill_optimizer(contents: Contents, optimizer: torch.optim.Optimizer) -> None:
    """The optimizer stays as this experiment built it; the checkpoint gives its memory and the rates of the moment."""
    here, there = _rules(optimizer), contents.position.optimizer
    if found := _differences(here, there):
        what, mine, saved = found[0]
        raise RunError(
            f"{contents.folder} does not fit the optimizer: {what} is {saved} in the checkpoint and {mine} in the "
            "experiment. A run goes on with the settings that it was started with."
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    memory: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _parse(contents.folder / "optimizer.safetensors", contents.optimizer).items():
        index, _, key = name.partition(".")
        known = index.isdecimal() and int(index) < len(parameters)
        if not known or tensor.shape not in (parameters[int(index)].shape, torch.Size()):
            raise RunError(
                f"{contents.folder} does not fit the optimizer: it remembers {name} of shape {tuple(tensor.shape)}"
            )
        memory.setdefault(int(index), {})[key] = tensor
    for group, rate in zip(optimizer.param_groups, there.rates, strict=True):
        group["lr"] = rate
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})


def _differences(here: Rules, there: Rules) -> list[tuple[str, Any, Any]]:
    """What the two do differently; settings that only one torch knows are left out."""
    found: list[tuple[str, Any, Any]] = [("the rule", here.type, there.type)]
    found += [("the number of groups", len(here.groups), len(there.groups))]
    found += [("the number of rates", len(here.rates), len(there.rates))]
    for index, (mine, saved) in enumerate(zip(here.groups, there.groups, strict=False)):
        found += [(f"{key} of group {index}", mine[key], saved[key]) for key in mine if key in saved]
    return [difference for difference in found if difference[1] != difference[2]]
