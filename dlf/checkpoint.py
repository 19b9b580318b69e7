"""A checkpoint: everything that changes while training, in a folder of four files, written whole or not at all.

model.safetensors       weights and preprocessing statistics
optimizer.safetensors   the optimizer's tensors
state.json              position (epoch, step), the optimizer's numbers, partial sums
MANIFEST.json           size and sha256 of the other three; written last

Tensors are safetensors and everything else is JSON: nothing is ever unpickled, so a checkpoint cannot run code.
Loading hashes the bytes that it parses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from dlf import __version__, durable
from dlf.engine import TrainState
from dlf.errors import RunError
from dlf.model import Network
from dlf.run import to_json

FORMAT = 1
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def save(folder: Path, state: TrainState, *, epoch_record: Mapping[str, Any] | None = None) -> None:
    """Write the state to `folder`, replacing the checkpoint that is there once the new one is durable."""
    tensors: dict[str, Tensor] = {}
    optimizer = _strip(state.optimizer.state_dict(), "", tensors)
    position = {
        "epoch": state.epoch,
        "step": state.step,
        "sums": state.sums.tolist(),
        "seconds": state.seconds,
        "record": epoch_record,
        "optimizer": optimizer,
    }
    files = {
        "model.safetensors": tensors_to_bytes(_plain(state.network.state_dict())),
        "optimizer.safetensors": tensors_to_bytes(_plain(tensors)),
        "state.json": to_json(position),
    }
    manifest = {
        "format": FORMAT,
        "dlf": __version__,
        "files": {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()},
    }
    durable.write_folder(folder, {**files, "MANIFEST.json": to_json(manifest, indent=2)})


def load(folder: Path, state: TrainState) -> None:
    """Put the checkpoint into `state`, whose network and optimizer must be of the same shapes; RunError otherwise."""
    files = read(folder)
    load_network(folder, state.network, files["model.safetensors"])
    position = json.loads(files["state.json"])
    tensors = _parse(folder / "optimizer.safetensors", files["optimizer.safetensors"])
    try:
        state.optimizer.load_state_dict(_restore(position["optimizer"], tensors))
    except (ValueError, KeyError) as error:
        raise RunError(f"{folder} does not fit the optimizer of this experiment: {error}") from error
    state.epoch, state.step, state.seconds = position["epoch"], position["step"], position["seconds"]
    state.sums.copy_(torch.tensor(position["sums"], dtype=state.sums.dtype))


def load_network(folder: Path, network: Network, data: bytes | None = None) -> None:
    """Put the weights and statistics of the checkpoint into the network; RunError names the first that does not fit."""
    tensors = _parse(folder / "model.safetensors", data if data is not None else read(folder)["model.safetensors"])
    expected = network.state_dict()
    for name in {**expected, **tensors}:
        here = tuple(expected[name].shape) if name in expected else "nothing"
        there = tuple(tensors[name].shape) if name in tensors else "nothing"
        if here != there:
            raise RunError(
                f"{folder} does not fit the network: {name} is {there} in the checkpoint and {here} in the network. "
                "It belongs to another architecture."
            )
    network.load_state_dict(tensors)


def read(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint after comparing every byte with the manifest; RunError says which differs."""
    durable.recover_folder(folder)
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_bytes())
        written, listed = manifest["format"], {name: manifest["files"][name] for name in _FILES}
    except FileNotFoundError as error:
        raise RunError(f"there is no complete checkpoint in {folder}: {Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'MANIFEST.json'} is damaged: {error!r}. {_OTHERS}") from error
    if written != FORMAT:
        raise RunError(f"{folder} has checkpoint format {written} (dlf {manifest.get('dlf')}); this dlf reads {FORMAT}")
    files = {}
    for name, entry in listed.items():
        path = folder / name
        try:
            size = path.stat().st_size
            files[name] = path.read_bytes() if size == entry["bytes"] else b""
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}. {_OTHERS}") from error
        if size != entry["bytes"] or _sha256(files[name]) != entry["sha256"]:
            raise RunError(f"{path} is damaged: its bytes are not those that were saved. {_OTHERS}")
    return files


_OTHERS = "The run's other checkpoint may be whole: see --checkpoint."


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _parse(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return parse_tensors(data)
    except SafetensorError as error:
        raise RunError(f"{path} is no safetensors file: {error}. {_OTHERS}") from error


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The optimizer's state without its tensors, which go to `tensors`: JSON that `_restore` undoes exactly."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, dict):
        return {"items": [[key, _strip(item, f"{path}.{key}".lstrip("."), tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_strip(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]}
    assert value is None or isinstance(value, bool | int | float | str), f"{path} holds a {type(value)}"
    return value


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    make: dict[str, Callable[[Any], Any]] = {
        "tensor": lambda path: tensors[path],
        "items": lambda items: {key: _restore(item, tensors) for key, item in items},
        "list": lambda items: [_restore(item, tensors) for item in items],
        "tuple": lambda items: tuple(_restore(item, tensors) for item in items),
    }
    ((kind, content),) = value.items()
    return make[kind](content)
