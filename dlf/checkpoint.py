"""A checkpoint: everything that changes while training, in a folder of five files, written whole or not at all.

model.safetensors       weights and preprocessing statistics
optimizer.safetensors   the optimizer's tensors, named INDEX OF THE PARAMETER.NAME
progress.safetensors    the loss of every step since the start; partial sums of the epoch under way
state.json              position (epoch, step), seconds of the epoch under way, the optimizer's rules
MANIFEST.json           size and sha256 of the other four, and of the records of metrics.jsonl so far; written last

Tensors are safetensors and everything else is JSON: nothing is ever unpickled, so a checkpoint cannot run code.
Loading hashes the bytes that it parses, and accepts a manifest only when it is, byte for byte, that of these files.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from dlf import __version__, durable
from dlf.engine import TrainState
from dlf.errors import RunError
from dlf.model import Network
from dlf.registry import Section
from dlf.run import Written, to_json

FORMAT = 2
_FILES = ("model.safetensors", "optimizer.safetensors", "progress.safetensors", "state.json")
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
    seconds: NonNegativeFloat
    optimizer: Rules


class Contents(NamedTuple):
    """A checkpoint in memory, every byte compared with its manifest."""

    folder: Path
    files: Mapping[str, bytes]
    position: Position
    written: Written


def save(folder: Path, state: TrainState) -> None:
    """Write the state to `folder`, replacing the checkpoint that is there once the new one is durable."""
    write(folder, pack(state))


def pack(state: TrainState, written: Written = Written()) -> dict[str, bytes]:  # noqa: B008 -- it never changes
    """The files of a checkpoint of this state, by name, in the order in which they are written.

    `written` describes the records of metrics.jsonl that belong to the state: those of its finished epochs.
    """
    entries = state.optimizer.state_dict()["state"]
    memory = {f"{index}.{name}": value for index, entry in entries.items() for name, value in entry.items()}
    position = Position(
        dlf=__version__,
        epoch=state.epoch,
        step=state.step,
        seconds=state.seconds,
        optimizer=_rules(state.optimizer),
    )
    files = {
        "model.safetensors": tensors_to_bytes(_plain(state.network.state_dict())),
        "optimizer.safetensors": tensors_to_bytes(_plain(memory)),
        "progress.safetensors": tensors_to_bytes(_plain({"losses": state.losses[: state.step], "sums": state.sums})),
        "state.json": to_json(position.model_dump()),
    }
    return {**files, "MANIFEST.json": _manifest(files, written)}


def write(folder: Path, packed: Mapping[str, bytes]) -> None:
    """Replace the checkpoint in `folder` by the packed one."""
    durable.write_folder(folder, packed)


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint in `folder`, be it whole or not."""
    return durable.locate(folder)[1] is not None


def load(folder: Path, state: TrainState) -> None:
    """Put the checkpoint into `state`; RunError where it is damaged, or of another network or optimizer."""
    fill(read(folder), state)


def fill(contents: Contents, state: TrainState) -> None:
    """Put what was read of a checkpoint into `state`; RunError where it is of another network or optimizer."""
    progress = _progress(contents)
    _fill_network(contents, state.network)
    _fill_optimizer(contents, state.optimizer)
    position = contents.position
    state.epoch, state.step, state.seconds = position.epoch, position.step, position.seconds
    state.losses = progress["losses"].to(state.losses.device)
    state.sums.copy_(progress["sums"])


def losses(contents: Contents) -> Tensor:
    """The loss of every step since the start, (step,) float32 on the CPU: the mean over the batch, penalties apart."""
    return _progress(contents)["losses"]


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
            return _read(found[0])._replace(folder=folder)
        except RunError:
            if durable.locate(folder) == found:
                raise


def _read(folder: Path) -> Contents:
    manifest = _read_file(folder / "MANIFEST.json", _MANIFEST_LIMIT)
    sizes, written = _parse_manifest(folder, manifest)
    files = {name: _read_file(folder / name, size) for name, size in sizes.items()}
    if _manifest(files, written) != manifest:
        raise RunError(f"{folder} is damaged: its bytes are not those that were saved. {ELSEWHERE}")
    try:
        position = Position.model_validate_json(files["state.json"])
    except ValidationError as error:
        raise RunError(f"{folder / 'state.json'} is not what dlf writes: {error.errors()[0]['msg']}") from None
    if to_json(position.model_dump()) != files["state.json"]:  # a key that is there twice, say
        raise RunError(f"{folder / 'state.json'} is not what dlf writes: its bytes differ. {ELSEWHERE}")
    return Contents(folder, {**files, "MANIFEST.json": manifest}, position, written)


def _read_file(path: Path, limit: int) -> bytes:
    """The file's bytes. One that is longer than `limit` is not even read; a limit that is too high costs no memory."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= limit else b""
    except OSError as error:
        raise RunError(f"there is no complete checkpoint: cannot read {path}: {error.strerror}. {ELSEWHERE}") from None
    if size > limit:
        raise RunError(f"{path} is damaged: it has {size:,} bytes, at most {limit:,} were saved. {ELSEWHERE}")
    return data


def _parse_manifest(folder: Path, manifest: bytes) -> tuple[dict[str, int], Written]:
    """The size of each file and the records of metrics.jsonl as the manifest has them, once its format is ours."""
    try:
        parsed = json.loads(manifest)
        format_ = parsed["format"]
        if format_ == FORMAT:
            sizes = {name: max(0, operator.index(parsed["files"][name]["bytes"])) for name in _FILES}
            return sizes, Written.model_validate(parsed["metrics"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{folder / 'MANIFEST.json'} is damaged: {_first_line(error)}. {ELSEWHERE}") from None
    raise RunError(f"{folder} has checkpoint format {format_}; dlf {__version__} reads {FORMAT}. Use the dlf it is of.")


def _first_line(error: Exception) -> str:
    return repr(error).splitlines()[0]


def _manifest(files: Mapping[str, bytes], written: Written) -> bytes:
    """A function of the files and what was written alone, with its own hash: no byte of a manifest changes unseen."""
    entries = {name: {"bytes": len(files[name]), "sha256": _sha256(files[name])} for name in _FILES}
    body = {"format": FORMAT, "files": entries, "metrics": written.model_dump()}
    return to_json({**body, "sha256": _sha256(to_json(body))}, indent=2)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


ELSEWHERE = "Another (best, last, step-N) may be whole: `dlf train --resume` takes --from, `dlf evaluate` --checkpoint."


# --- tensors --------------------------------------------------------------------------------------------------------


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _parse(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return parse_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{path} is no safetensors file: {error}. {ELSEWHERE}") from None


def _tensors(contents: Contents, name: str) -> dict[str, Tensor]:
    return _parse(contents.folder / name, contents.files[name])


def _progress(contents: Contents) -> dict[str, Tensor]:
    tensors = _tensors(contents, "progress.safetensors")
    expected = {"losses": f"({contents.position.step},) float32", "sums": "(2,) float64"}
    there = {name: _described(tensor) for name, tensor in tensors.items()}
    if there != expected:
        raise RunError(f"{contents.folder / 'progress.safetensors'} holds {there}; {expected} is expected")
    return tensors


def _fill_network(contents: Contents, network: Network) -> None:
    tensors = _tensors(contents, "model.safetensors")
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
    for name, tensor in _tensors(contents, "optimizer.safetensors").items():
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
