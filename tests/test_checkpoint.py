"""A checkpoint gives back every bit, and one that is not exactly what was saved is refused, whatever was done to it."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Assembled, Tried
from safetensors.torch import save as tensors_to_bytes

from dlf import checkpoint, durable
from dlf.data import load
from dlf.engine import Experiment, TrainState, fit, reserve
from dlf.errors import RunError
from dlf.optimizers import OPTIMIZERS
from dlf.run import Written, to_json

SMALL: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 32, "limit": 60},
    "model": {"layers": [{"type": "linear", "units": 5}, {"type": "dropout", "rate": 0.3}]},
    "schedule": "cosine",
    "train": {"epochs": 4},
}
TINY: dict[str, Any] = {"data": {"type": "xor", "samples": 100, "batch_size": 50}, "model": {"layers": []}}
FILES = ("model.safetensors", "optimizer.safetensors", "progress.safetensors", "state.json", "MANIFEST.json")


def advance(state: TrainState, experiment: Experiment, epochs: int, history: list[Any]) -> None:
    for record in fit(state, experiment, epochs=epochs, history=history):
        history.append(record)


def bits(state: TrainState, folder: Path) -> dict[str, bytes]:
    """Everything that a checkpoint holds; the clock apart."""
    state.seconds = 0.0
    checkpoint.save(folder, state)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def tiny(assembled: Assembled, tmp_path: Path) -> tuple[Path, TrainState]:
    """A checkpoint of a network with 6 weights after one epoch, and a state that it fits."""
    experiment, state = assembled(TINY)
    advance(state, experiment, 1, [])
    checkpoint.save(tmp_path / "last", state)
    return tmp_path / "last", assembled(TINY)[1]


# --- round trip -----------------------------------------------------------------------------------------------------

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in OPTIMIZERS.names()),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    ("adam", {"amsgrad": True, "weight_decay": 1e-3}),
    ("rmsprop", {"momentum": 0.5, "centered": True}),
]


@pytest.mark.fault("R2")
@pytest.mark.parametrize(("name", "parameters"), VARIANTS)
def test_to_go_on_from_a_checkpoint_is_not_to_have_stopped(
    name: str, parameters: dict[str, Any], assembled: Assembled, tmp_path: Path
) -> None:
    config = {**SMALL, "optimizer": {"type": name, **parameters}}
    experiment, through = assembled(config)
    history: list[Any] = []
    advance(through, experiment, 2, history)
    checkpoint.save(tmp_path / "half", through)
    kept = list(history)
    advance(through, experiment, 4, history)

    experiment, resumed = assembled(config, "train.epochs=4")
    checkpoint.load(tmp_path / "half", resumed)
    assert (resumed.epoch, resumed.step) == (2, through.step // 2)
    advance(resumed, experiment, 4, kept)
    assert bits(resumed, tmp_path / "a") == bits(through, tmp_path / "b")


def test_a_checkpoint_without_the_optimizers_memory_would_show(assembled: Assembled, tmp_path: Path) -> None:
    experiment, through = assembled(SMALL)
    history: list[Any] = []
    advance(through, experiment, 1, history)
    checkpoint.save(tmp_path / "half", through)
    experiment, forgetful = assembled(SMALL)
    checkpoint.load(tmp_path / "half", forgetful)
    forgetful.optimizer.state.clear()
    advance(forgetful, experiment, 2, list(history))
    advance(through, experiment, 2, history)
    assert bits(forgetful, tmp_path / "a")["model.safetensors"] != bits(through, tmp_path / "b")["model.safetensors"]


def test_saved_loaded_saved_is_the_same(tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    before = {name: (folder / name).read_bytes() for name in FILES}
    checkpoint.load(folder, state)
    checkpoint.save(folder, state)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_sums_and_position_in_the_middle_of_an_epoch(assembled: Assembled, tmp_path: Path) -> None:
    state = assembled(SMALL)[1]
    state.sums.copy_(torch.tensor([0.1 + 0.2, 1e-300], dtype=torch.float64))
    reserve(state, 9)
    state.losses[:7] = torch.rand(7)
    state.step, state.seconds = 7, 0.1
    checkpoint.save(tmp_path / "last", state)
    other = assembled(SMALL)[1]
    checkpoint.load(tmp_path / "last", other)
    assert torch.equal(other.sums, state.sums)
    assert torch.equal(other.losses, state.losses[:7]), "room is not saved"
    assert torch.equal(checkpoint.losses(checkpoint.read(tmp_path / "last")), state.losses[:7])
    assert (other.epoch, other.step, other.seconds) == (0, 7, 0.1)


def test_load_network_is_enough_to_evaluate(tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    assert checkpoint.load_network(folder, state.network) == 1
    saved = checkpoint.read(folder).files["model.safetensors"]
    assert tensors_to_bytes(dict(state.network.state_dict())) == saved


# --- damage ---------------------------------------------------------------------------------------------------------


def refused(folder: Path) -> bool:
    try:
        checkpoint.read(folder)
    except RunError as error:
        return str(folder) in str(error)
    return False


def flips(folder: Path, name: str) -> Iterator[None]:
    """The file with one bit of each of its bytes flipped, one after the other: the first bit, the second, and so on."""
    whole = (folder / name).read_bytes()
    damaged = bytearray(whole)
    for index in range(len(whole)):
        damaged[index] ^= 1 << index % 8
        (folder / name).write_bytes(damaged)
        damaged[index] = whole[index]
        yield
    (folder / name).write_bytes(whole)


# at least so many bytes
SIZES = {"model.safetensors": 400, "optimizer.safetensors": 400, "progress.safetensors": 140}
SIZES |= {"state.json": 200, "MANIFEST.json": 700}
EVERY_BYTE = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.fault("K1", cases=SIZES[name])) for name in FILES]
)


@EVERY_BYTE
def test_every_flipped_byte_is_found(name: str, tiny: tuple[Path, TrainState], tried: Tried) -> None:
    folder, _ = tiny
    for n, _ in enumerate(flips(folder, name)):
        assert refused(folder), n
        tried()
    assert not refused(folder)


@EVERY_BYTE
def test_every_truncation_is_found(name: str, tiny: tuple[Path, TrainState], tried: Tried) -> None:
    folder, _ = tiny
    whole = (folder / name).read_bytes()
    for other in [*(whole[:length] for length in range(len(whole))), whole + b"\0", whole + b"\n"]:
        (folder / name).write_bytes(other)
        assert refused(folder), len(other)
        tried()
    (folder / name).unlink()
    assert refused(folder)


@pytest.mark.fault("K1")
def test_sizes_alone_would_let_flips_pass(tiny: tuple[Path, TrainState], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = tiny

    def by_size(files: dict[str, bytes], written: Written) -> bytes:
        entries = {name: {"bytes": len(data)} for name, data in files.items()}
        return json.dumps({"format": checkpoint.FORMAT, "files": entries, "metrics": written.model_dump()}).encode()

    monkeypatch.setattr(checkpoint, "_manifest", by_size)
    files = {name: (folder / name).read_bytes() for name in FILES[:-1]}
    (folder / "MANIFEST.json").write_bytes(by_size(files, Written()))
    assert any(not refused(folder) for _ in flips(folder, "model.safetensors"))


@pytest.mark.fault("K1")
def test_files_of_two_checkpoints_mixed(assembled: Assembled, tmp_path: Path) -> None:
    experiment, state = assembled(TINY)
    for epoch in (1, 2):
        advance(state, experiment, epoch, [])
        checkpoint.save(tmp_path / str(epoch), state)
    for count in (1, 2, 3):
        for names in itertools.combinations(FILES, count):
            mixed = tmp_path / "-".join(names)
            shutil.copytree(tmp_path / "1", mixed)
            for name in names:
                shutil.copy(tmp_path / "2" / name, mixed)
            assert refused(mixed), names


def test_nothing_there(tmp_path: Path) -> None:
    assert not checkpoint.exists(tmp_path / "last")
    with pytest.raises(RunError, match="there is no complete checkpoint"):
        checkpoint.read(tmp_path / "last")


# --- hostile files --------------------------------------------------------------------------------------------------


def forge(folder: Path, **files: bytes) -> None:
    """Replace files and write the manifest that belongs to them; underscores stand for points."""
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    (folder / "MANIFEST.json").write_bytes(
        checkpoint._manifest({name: (folder / name).read_bytes() for name in FILES[:-1]}, Written())
    )


def peak_memory(action: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Bomb:
    """What a pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.fault("K2")
def test_a_pickle_is_not_even_looked_into(tiny: tuple[Path, TrainState], tmp_path: Path) -> None:
    folder, state = tiny
    for name in ("model_safetensors", "optimizer_safetensors", "progress_safetensors", "state_json"):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        forge(folder, **{name: pickle.dumps(Bomb(tmp_path / "executed"))})
        with pytest.raises(RunError, match=r"is no safetensors file|is not what dlf writes"):
            checkpoint.load(folder, state)
        durable.write_folder(folder, before)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists(), "the bomb is a real one"


HEADERS = {
    "a header of a terabyte": (2**40).to_bytes(8, "little") + b"{}",
    "a header of all there is": b"\xff" * 8 + b"{}",
    "no header": b"\x01\x00",
    "a tensor of a terabyte": b'{"w":{"dtype":"F32","shape":[1000000,250000],"data_offsets":[0,1000000000000]}}',
    "tensors over each other": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],'
    b'"data_offsets":[0,4]}}',
    "a shape that overflows": b'{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
    "nested": b"[" * 20_000,
    "a tensor nested": b'{"w":{"dtype":"F32","shape":' + b"[" * 20_000 + b"]" * 20_000 + b',"data_offsets":[0,4]}}',
    "notes nested": b'{"__metadata__":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
    "a header of 2^62 bytes": (2**62).to_bytes(8, "little") + b"{}",
    "offsets behind the end": b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    "offsets backwards": b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
    "offsets below zero": b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
    "offsets beyond every word": b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}}',
    "a hole between tensors": b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}',
    "an unknown type": b'{"w":{"dtype":"PICKLE","shape":[1],"data_offsets":[0,4]}}',
    "a size that is a fraction": b'{"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
    "a size that is NaN": b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}',
    "a name twice": b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],'
    b'"data_offsets":[0,4]}}',
    "20,000 dimensions": b'{"w":{"dtype":"F32","shape":[' + b"1," * 20_000 + b'1],"data_offsets":[0,4]}}',
    "no JSON": b"{'w': 1}",
}


@pytest.mark.fault("K2")
@pytest.mark.parametrize("case", HEADERS)
def test_hostile_safetensors(case: str, tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    data = HEADERS[case]
    if data[:1] in b"{[":
        data = len(data).to_bytes(8, "little") + data + b"\0" * 4
    for name in ("model_safetensors", "optimizer_safetensors", "progress_safetensors"):
        forge(folder, **{name: data})

        def attempt() -> None:
            with pytest.raises(RunError):
                checkpoint.load(folder, state)

        assert peak_memory(attempt) < 2**20


@pytest.mark.fault("K2")
@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 60_000,
        b'{"format": 2}',
        b'{"format": 2, "files": []}',
        b'{"format": 2, "files": {"model.safetensors": {"bytes": 1e999}}}',
        b'{"format": 2, "files": {"model.safetensors": {"bytes": "12"}}}',
        b"\xff\xfe{",
    ],
)
def test_manifests_that_are_none(manifest: bytes, tiny: tuple[Path, TrainState]) -> None:
    folder, _ = tiny
    (folder / "MANIFEST.json").write_bytes(manifest)
    with pytest.raises(RunError, match=r"MANIFEST.json is damaged"):
        checkpoint.read(folder)


@pytest.mark.fault("K2")
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_terabyte_is_not_read(name: str, tiny: tuple[Path, TrainState]) -> None:
    folder, _ = tiny
    with (folder / name).open("r+b") as file:
        file.truncate(2**40)  # a hole: it needs no disk
    assert peak_memory(lambda: refused(folder)) < 2**20
    assert refused(folder)


@pytest.mark.fault("K2")
def test_a_manifest_that_promises_a_terabyte(tiny: tuple[Path, TrainState]) -> None:
    folder, _ = tiny
    manifest = json.loads((folder / "MANIFEST.json").read_bytes())
    manifest["files"]["model.safetensors"]["bytes"] = 2**40
    (folder / "MANIFEST.json").write_bytes(json.dumps(manifest).encode())
    assert peak_memory(lambda: refused(folder)) < 2**20
    assert refused(folder)


@pytest.mark.fault("K2")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", -1),
        ("epoch", "1"),
        ("epoch", 1.5),
        ("step", None),
        ("step", 3),
        ("optimizer", {}),
        ("optimizer", {"type": "Adam", "rates": [], "groups": []}),
        ("optimizer", {"type": "Adam", "rates": ["x"], "groups": [{}]}),
        ("surprise", 1),
    ],
)
def test_states_that_are_none(key: str, value: Any, tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    position = json.loads((folder / "state.json").read_bytes())
    forge(folder, state_json=to_json({**position, key: value}))
    with pytest.raises(RunError, match=str(folder)):
        checkpoint.load(folder, state)


STATES = {
    "nested": b'{"dlf":' + b"[" * 10_000,
    "nested and closed": b'{"dlf":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "two documents": b"{}{}",
    "a list": b"[]",
    "nothing": b"",
}


VALUES = {  # what JSON, or Python's reader of it, takes and a state cannot hold
    "NaN": ("epoch", b"NaN"),
    "NaN seconds": ("seconds", b"NaN"),
    "an endless exponent": ("seconds", b"1e999999999"),
    "a million digits": ("epoch", b"9" * 1_000_000),
    "half a character": ("dlf", b'"\\ud800"'),
    "not UTF-8": ("dlf", b'"\xff"'),
    "a deep value": ("dlf", b"[" * 10_000 + b"]" * 10_000),
}


@pytest.mark.fault("K2")
@pytest.mark.parametrize("case", [*STATES, *VALUES])
def test_hostile_states(case: str, tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    if case in VALUES:
        key, value = VALUES[case]
        position = json.loads((folder / "state.json").read_bytes())
        forge(folder, state_json=to_json({**position, key: "HERE"}).replace(b'"HERE"', value))
    else:
        forge(folder, state_json=STATES[case])

    def attempt() -> None:
        with pytest.raises(RunError, match=r"state\.json is not what dlf writes"):
            checkpoint.load(folder, state)

    assert peak_memory(attempt) < 2**23


@pytest.mark.fault("K1")
@pytest.mark.parametrize("change", [(b'"epoch":', b'"epoch": 7, "epoch":'), (b", ", b",  "), (b"}\n", b"}")])
def test_a_state_that_dlf_would_write_otherwise(change: tuple[bytes, bytes], tiny: tuple[Path, TrainState]) -> None:
    """The same values, and a manifest that fits: a key that is there twice reads as its last value."""
    folder, _ = tiny
    written = (folder / "state.json").read_bytes()
    forge(folder, state_json=written)
    checkpoint.read(folder)
    changed = written.replace(*change, 1)
    assert changed != written
    assert json.loads(changed) == json.loads(written)
    forge(folder, state_json=changed)
    with pytest.raises(RunError, match=r"state\.json is not what dlf writes: its bytes differ"):
        checkpoint.read(folder)


@pytest.mark.fault("K4")
@pytest.mark.parametrize("other", [1, 3])
def test_another_format_is_named_and_left_alone(other: int, tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    (folder / "MANIFEST.json").write_bytes(json.dumps({"format": other, "files": {"model.bin": 1}}).encode())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunError, match=rf"has checkpoint format {other}; dlf \S+ reads 2"):
        checkpoint.load(folder, state)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --- of something else ----------------------------------------------------------------------------------------------


@pytest.mark.fault("K3")
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"type": "linear", "units": 6}], r"\.weight is \(5, 4\) float32 in the checkpoint and \(6, 4\) float32 in"),
        ([{"type": "linear", "units": 5}] * 2, r"\.weight is \(3, 5\) float32 .* and \(5, 5\) float32"),
        ([], r"\.weight is \(5, 4\) float32 in the checkpoint and \(3, 4\) float32 in the network"),
    ],
)
def test_another_architecture_is_named_by_tensor_and_shapes(
    layers: list[Any], message: str, assembled: Assembled, tmp_path: Path
) -> None:
    config = {**SMALL, "model": {"layers": [{"type": "linear", "units": 5}]}}
    checkpoint.save(tmp_path / "last", assembled(config)[1])
    with pytest.raises(RunError, match=message):
        checkpoint.load(tmp_path / "last", assembled({**SMALL, "model": {"layers": layers}})[1])


@pytest.mark.fault("K3")
def test_missing_and_surplus_tensors_are_named(tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    tensors = dict(state.network.state_dict())
    name = "inputs_std"
    kept = {key: tensor for key, tensor in tensors.items() if key != name}
    forge(folder, model_safetensors=tensors_to_bytes(kept))
    with pytest.raises(RunError, match=f"{name} is missing in the checkpoint and"):
        checkpoint.load(folder, state)
    forge(folder, model_safetensors=tensors_to_bytes({**tensors, "more": torch.zeros(2)}))
    with pytest.raises(RunError, match=r"more is \(2,\) float32 in the checkpoint and missing in the network"):
        checkpoint.load(folder, state)
    forge(folder, model_safetensors=tensors_to_bytes({**tensors, name: tensors[name].double()}))
    with pytest.raises(RunError, match=r"float64 in the checkpoint and .* float32 in the network"):
        checkpoint.load(folder, state)


@pytest.mark.fault("K3")
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("sgd", "the rule is Adam in the checkpoint and SGD in the experiment"),
        ({"type": "adam", "betas": [0.8, 0.999]}, r"betas of group 0 is \[0.9, 0.999\] .* and \[0.8, 0.999\]"),
        ({"type": "adam", "lr": 0.5}, "initial_lr of group 0 is 0.001 in the checkpoint and 0.5 in the experiment"),
        ({"type": "adam", "weight_decay": 0.1}, "the number of groups is 1 in the checkpoint and 2"),
    ],
)
def test_another_optimizer_is_refused(
    optimizer: Any, message: str, assembled: Assembled, tiny: tuple[Path, TrainState]
) -> None:
    with pytest.raises(RunError, match=message):
        checkpoint.load(tiny[0], assembled({**TINY, "optimizer": optimizer})[1])


@pytest.mark.fault("K3")
@pytest.mark.parametrize("name", ["7.exp_avg", "0.exp_avg", "x.exp_avg", "exp_avg", "-1.step", "٣.step"])
def test_an_optimizers_memory_that_does_not_fit(name: str, tiny: tuple[Path, TrainState]) -> None:
    folder, state = tiny
    forge(folder, optimizer_safetensors=tensors_to_bytes({name: torch.zeros(9)}))
    with pytest.raises(RunError, match=f"it remembers {name} of shape"):
        checkpoint.load(folder, state)


# --- while somebody writes ------------------------------------------------------------------------------------------


def test_reading_while_it_is_replaced_gives_one_or_the_other(assembled: Assembled, tmp_path: Path) -> None:
    """A reader that looked only once would now and then find files of two saves, or none, and call that damage."""
    state = assembled(TINY)[1]
    folder = tmp_path / "last"
    checkpoint.save(folder, state)
    done = threading.Event()

    def write() -> None:
        for step in range(150):
            state.step = step
            checkpoint.save(folder, state)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    steps = []
    while not done.is_set():
        steps.append(checkpoint.read(folder).position.step)
    writer.join()
    assert steps == sorted(steps), "never back to an older one"
    assert len(set(steps)) > 1


@pytest.mark.parametrize("cut", ["first rename", "second rename"])
def test_a_save_that_was_cut_off_is_read_and_mended(cut: str, assembled: Assembled, tmp_path: Path) -> None:
    state = assembled(TINY)[1]
    folder, old = tmp_path / "last", tmp_path / ".last.old"
    checkpoint.save(folder, state)
    shutil.copytree(folder, old) if cut == "second rename" else folder.rename(old)
    assert checkpoint.exists(folder)
    checkpoint.load(folder, state)
    assert old.exists(), "reading changes nothing"
    checkpoint.save(folder, state)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


# --- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.fault("K7")
@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_from_cuda_to_the_cpu_and_back(name: str, assembled: Assembled, tmp_path: Path) -> None:
    from dlf import yaml12
    from dlf.config import loads
    from dlf.experiment import assemble

    config = {**SMALL, "optimizer": name}
    resolved = loads(yaml12.dump(config), "the test").config
    cuda = torch.device("cuda")
    data, _ = load(resolved.data_section, cuda, print)
    experiment, there, _ = assemble(resolved, data, cuda)
    advance(there, experiment, 1, [])
    saved = bits(there, tmp_path / "cuda")
    experiment, here = assembled(config)
    checkpoint.load(tmp_path / "cuda", here)
    assert {tensor.device.type for tensor in here.network.state_dict().values()} == {"cpu"}
    same = bits(here, tmp_path / "cpu")
    assert same["model.safetensors"] == saved["model.safetensors"]
    assert same["optimizer.safetensors"] == saved["optimizer.safetensors"]
    advance(here, experiment, 2, [{}])
    checkpoint.save(tmp_path / "cpu", here)
    checkpoint.load(tmp_path / "cpu", there)
    advance(there, assemble(resolved, data, cuda)[0], 3, [{}, {}])
