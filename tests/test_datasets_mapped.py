"""Data that stay in their files: what is read is what would have been loaded, to the bit, in little memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Train
from dataset_files import Array

from dlf import data as data_module
from dlf.api import Silent, evaluate
from dlf.commands.resume import resume
from dlf.commands.stopping import StoppedError
from dlf.commands.train import TrainResult
from dlf.data import Part, batches, order, prepare
from dlf.datasets import DATASETS, DataSection, Dataset, Source, files
from dlf.datasets.files import FileArray, OpenFile, chunks
from dlf.engine import TrainState
from dlf.errors import DataError, RunError
from dlf.run import RunDirectory, to_json
from dlf.streamed import Streamed

pytestmark = pytest.mark.skipif(not files.CAN_STAY, reason="this system has no pread: arrays are loaded")

CPU = torch.device("cpu")
ROWS = np.random.default_rng(1).integers(0, 256, (60, 3, 5), np.uint8)
LABELS = np.arange(60) % 3
NUMBERS = np.random.default_rng(2).standard_normal((60, 7)) * [1, 2, 3, 0, 5, 6, 7]


def file_array(folder: Path, values: Array = ROWS, header: bytes = b"a header of 21 bytes.") -> FileArray:
    (folder / "rows").write_bytes(header + values.tobytes())
    with (folder / "rows").open("rb") as file:
        opened = OpenFile(file, "the rows")
    return FileArray(opened, len(header), len(values), values.shape[1:], values.dtype)


WANTED: dict[str, Any] = {
    "all": slice(None),
    "a middle": slice(10, 20),
    "beyond the end": slice(55, 99),
    "a stride": slice(0, 60, 7),
    "nothing": slice(5, 5),
    "no index": np.array([], np.int64),
    "far apart": np.array([59, 0, 30]),
    "close, in order": np.array([3, 4, 5]),
    "close, with a gap": np.array([3, 5]),
    "backwards": np.array([5, 4, 3]),
    "one twice": np.array([8, 8, 9]),
    "one": np.array([0]),
}


@pytest.mark.parametrize("case", WANTED)
def test_indexing_reads_what_indexing_an_array_gives(case: str, tmp_path: Path) -> None:
    wanted = WANTED[case]
    for values in (ROWS, NUMBERS, NUMBERS.astype(">f4")):
        array = file_array(tmp_path, values)
        assert (array.shape, array.dtype, array.ndim, array.nbytes) == (
            values.shape,
            values.dtype,
            values.ndim,
            values.nbytes,
        )
        assert array[wanted].tobytes() == values[wanted].tobytes()
        assert array[wanted].shape == values[wanted].shape
        some = np.array([2, 50, 51, 3, 52, *range(20, 60)])
        assert array.take(some)[wanted if isinstance(wanted, slice) else wanted // 2].tobytes() == (
            values[some][wanted if isinstance(wanted, slice) else wanted // 2].tobytes()
        )
        assert array.take(some).take(np.array([1, 0]))[:].tobytes() == values[[50, 2]].tobytes()


def test_a_read_that_is_longer_than_the_system_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LONGEST", 40)  # and not 15 bytes of a row; 900 are no multiple
    assert np.array_equal(file_array(tmp_path)[:], ROWS)
    monkeypatch.setattr(files, "_LONGEST", 4)
    assert np.array_equal(file_array(tmp_path)[np.array([0, 30, 59])], ROWS[[0, 30, 59]])


def test_chunks_are_all_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 100)  # 6 rows of 15 values
    for rows in (ROWS, file_array(tmp_path)):
        found = list(chunks(rows))
        assert [len(chunk) for chunk in found] == [6] * 10
        assert np.array_equal(np.concatenate(found), ROWS)


# --- a mapped set is a loaded one -----------------------------------------------------------------------------------

ARRAYS: dict[str, tuple[Array, Array]] = {
    "grey images": (ROWS, LABELS),
    "channels last": (np.random.default_rng(3).integers(0, 256, (60, 4, 5, 3), np.uint8), LABELS),
    "channels first": (np.random.default_rng(3).integers(0, 256, (60, 3, 4, 5), np.uint8), LABELS),
    "float32": (NUMBERS.astype(np.float32), LABELS),
    "float64": (NUMBERS, NUMBERS[:, :2]),
    "big-endian": (NUMBERS.astype(">f8"), LABELS),
    "integers": ((NUMBERS * 9).astype(np.int16), LABELS),
    "booleans": (NUMBERS > 0, LABELS > 0),
}


def npz(folder: Path, memory: str, **arrays: Any) -> dict[str, Any]:
    np.savez(folder / "a.npz", **arrays)
    return {"type": "npz", "path": str(folder / "a.npz"), "memory": memory}


def npy(folder: Path, memory: str, **arrays: Any) -> dict[str, Any]:
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return {"type": "npy", **{name: str(folder / f"{name}.npy") for name in arrays}, "memory": memory}


def experiment(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "mapped",
        "data": {**data, "batch_size": 7},
        "model": {"layers": [{"type": "linear", "units": 5}, {"type": "dropout", "rate": 0.3}]},
        "train": {"epochs": 2},
    }


def state_of(run: str) -> dict[str, Any]:
    """Everything that a run says, but for seconds."""
    folder = RunDirectory(Path(run))
    info = folder.read_info()
    return {
        "records": [{k: v for k, v in r.items() if "second" not in k} for r in folder.read_metrics()],
        "hashes": (info["data_sha256"], info["split_sha256"], info["files"]),
        **{path.name: path.read_bytes() for path in folder.last.glob("*.safetensors")},
    }


@pytest.mark.parametrize("section", [npz, npy])
@pytest.mark.parametrize("case", ARRAYS)
def test_equal_bits(
    case: str, section: Callable[..., dict[str, Any]], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 64)  # several chunks, whatever is measured
    x, y = ARRAYS[case]
    arrays = {"x": x[:48], "y": y[:48], "x_test": x[48:], "y_test": y[48:]}
    loaded = train(experiment(section(tmp_path, "load", **arrays)))
    mapped = train(experiment(section(tmp_path, "map", **arrays)))
    assert state_of(mapped.path) == state_of(loaded.path)
    assert len(state_of(mapped.path)) == 2 + 3
    # as it is kept: a curve begins at a threshold that is NaN, which equals nothing
    scores = [to_json({**evaluate(result.path), "run": ""}) for result in (loaded, mapped)]
    assert scores[0] == scores[1]
    arrays["x"] = arrays["x"].copy()
    arrays["x"][5] = arrays["x"][6]
    assert state_of(train(experiment(section(tmp_path, "map", **arrays))).path) != state_of(loaded.path)


def test_a_mapped_set_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = DATASETS.make("iris")
    assert isinstance(section, DataSection)
    data = prepare(read(npz(tmp_path, "map", x=ROWS, y=LABELS)), section, CPU)
    assert isinstance(data.train.x, Streamed)
    assert (len(data.train), data.spec.shape) == (43, (1, 3, 5))
    largest = 0
    plain = OpenFile.read

    def noted(file: OpenFile, offsets: list[int], size: int) -> bytearray:
        nonlocal largest
        largest = max(largest, len(offsets) * size)
        return plain(file, offsets, size)

    monkeypatch.setattr(OpenFile, "read", noted)
    for x, y in batches(data.train, order(43, 0, 0), 4, 0):
        assert len(x) == len(y) <= 4
    assert 4 * 15 <= largest <= 2 * 4 * 15  # rows next to each other may come in one piece, with what is between


def test_samples_that_do_not_fit_on_the_device_stay_in_memory(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = npz(tmp_path, "load", x=ROWS, y=LABELS)
    resident = train(experiment(data))
    monkeypatch.setattr(data_module, "_fits", lambda x, device: False)
    assert state_of(train(experiment(data)).path) == state_of(resident.path)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["map", "load"])
def test_samples_come_to_a_gpu_batch_by_batch(
    memory: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = train(experiment(npz(tmp_path, "load", x=ROWS, y=LABELS)), "train.device=cuda")
    monkeypatch.setattr(data_module, "_fits", lambda x, device: False)
    streamed = train(experiment(npz(tmp_path, memory, x=ROWS, y=LABELS)), "train.device=cuda")
    assert state_of(streamed.path) == state_of(resident.path)


def test_streamed_samples_are_told_of_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next batch, and nothing beyond the epoch."""
    told: list[list[int]] = []
    monkeypatch.setattr(FileArray, "announce", lambda self, wanted: told.append(wanted.tolist()))
    part = Part(Streamed(file_array(tmp_path), CPU), torch.from_numpy(LABELS))
    visited = order(60, 0, 0)
    assert [len(x) for x, _ in batches(part, visited, 25, 1)] == [25, 10]
    assert told == [visited[50:].tolist(), []]


# --- what is chosen -------------------------------------------------------------------------------------------------


def read(section: Mapping[str, Any], told: list[str] | None = None) -> Dataset:
    say = print if told is None else told.append
    parameters = {key: value for key, value in section.items() if key != "type"}
    dataset: Dataset = DATASETS.build(DATASETS.make(section["type"], **parameters), Source(Path("/"), tell=say))
    return dataset


def test_auto_maps_what_is_larger_than_a_quarter_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 128 + ROWS.nbytes  # with the header
    for available, mapped in ((4 * size, False), (4 * size - 1, True)):
        monkeypatch.setattr("dlf.datasets.stored.available_bytes", lambda available=available: available)
        for section in (npz, npy):
            told: list[str] = []
            dataset = read(section(tmp_path, "auto", x=ROWS, y=LABELS), told)
            assert isinstance(dataset.train.x, FileArray) is mapped
            assert [("stays in its file" in line, "memory: map" in line) for line in told] == [(True, True)] * mapped


def test_what_cannot_stay_is_loaded_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "c.npz", x=NUMBERS, y=LABELS)
    compressed = {"type": "npz", "path": str(tmp_path / "c.npz")}
    by_column = npy(tmp_path, "map", x=np.asfortranarray(NUMBERS), y=LABELS)
    for section, words in ((compressed, "is compressed, and can only be loaded"), (by_column, "ascontiguousarray")):
        with pytest.raises(DataError, match=words):
            read({**section, "memory": "map"})
        assert np.array_equal(read({**section, "memory": "auto"}).train.x, NUMBERS.astype(np.float32))
        with monkeypatch.context() as patch:
            patch.setattr("dlf.datasets.stored.available_bytes", lambda: 1000)
            with pytest.raises(DataError, match=rf"1,000 are available.*{words}"):
                read({**section, "memory": "auto"})
    monkeypatch.setattr("dlf.datasets.stored.CAN_STAY", False)
    with pytest.raises(DataError, match="On this system"):
        read(npy(tmp_path, "map", x=NUMBERS, y=LABELS))


def test_npy_names_its_classes_and_wants_both_files_of_a_test(tmp_path: Path) -> None:
    section = npy(tmp_path, "map", x=ROWS, y=LABELS)
    assert read({**section, "classes": ["a", "b", "c"]}).classes == ("a", "b", "c")
    with pytest.raises(DataError, match=r"labels up to 2, but data\.classes names only 2"):
        read({**section, "classes": ["a", "b"]})
    with pytest.raises(DataError, match="belong together"):
        read({**section, "x_test": section["x"]})
    with pytest.raises(DataError, match=r"Did you mean 'x\.npy'"):
        read({**section, "x": str(tmp_path / "xx.npy")})


# --- damage and change ----------------------------------------------------------------------------------------------


def damaged(path: Path, at: int, values: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(values)


def test_a_flipped_bit_of_an_archive_is_found_before_training(tmp_path: Path) -> None:
    x = np.tile(NUMBERS, (1, 20))  # more than zipfile reads at once: the header alone does not find it
    section = npz(tmp_path, "map", x=x, y=LABELS)
    path = tmp_path / "a.npz"
    damaged(path, path.read_bytes().index(x[40].tobytes()) + 3, bytes([x[40].tobytes()[3] ^ 1]))
    with pytest.raises(DataError, match=r"a\.npz is not an intact \.npz file \(Bad CRC-32"):
        read(section)


@pytest.mark.parametrize("cut", [-1, 100, 5])
def test_a_short_npy_is_refused(cut: int, tmp_path: Path) -> None:
    section = npy(tmp_path, "map", x=ROWS, y=LABELS)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"x\.npy is (damaged|not an array)"):
        read(section)


def test_object_arrays_and_flat_ones_are_refused(tmp_path: Path) -> None:
    for values, words in ((np.array([[None]] * 60), "is a pickle"), (np.array(1), r"shape \(\)"), (LABELS, "shape")):
        with pytest.raises(DataError, match=words):
            read(npy(tmp_path, "map", x=values, y=LABELS))


def test_what_is_not_finite_is_found_in_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 64)
    x = NUMBERS.copy()
    x[[41, 55], 2] = np.nan, 1e39
    for memory in ("map", "load"):
        with pytest.raises(DataError, match=r"has 2 values .* in float32, the first in row 41, column 2"):
            read(npy(tmp_path, memory, x=x, y=LABELS))


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def rewritten(path: Path) -> None:
    """Other values of the same size, some time later."""
    damaged(path, 500, b"changed")
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


@pytest.mark.parametrize("change", [shortened, rewritten])
def test_a_file_that_changes_during_a_training_stops_it(
    change: Callable[[Path], None], train: Train, tmp_path: Path
) -> None:
    """A map of the file would have gone on with other samples, or been killed by SIGBUS."""

    class Change(Silent):
        def step(self, state: TrainState) -> None:
            if state.step == 9:
                change(tmp_path / "x.npy")

    with pytest.raises(DataError, match=r"x\.npy was changed while it was in use"):
        train(experiment(npy(tmp_path, "map", x=ROWS, y=LABELS)), display=Change())
    (run,) = (tmp_path / "runs").glob("mapped-*")
    assert RunDirectory(run).read_info()["status"] == "failed"
    assert len(RunDirectory(run).read_metrics()) == 1  # 7 steps an epoch: the first is kept


def test_a_file_that_is_replaced_during_a_training_is_read_to_the_end(train: Train, tmp_path: Path) -> None:
    """The old one stays what it was until nobody has it open."""
    section = npy(tmp_path, "map", x=ROWS, y=LABELS)
    untouched = train(experiment(section))

    class Replace(Silent):
        def step(self, state: TrainState) -> None:
            if state.step == 9:
                np.save(tmp_path / "other.npy", 255 - ROWS)
                (tmp_path / "other.npy").replace(tmp_path / "x.npy")

    assert state_of(train(experiment(section), display=Replace()).path) == state_of(untouched.path)


def stopped(train: Train, section: Mapping[str, Any], step: int) -> RunDirectory:
    class Stop(Silent):
        def step(self, state: TrainState) -> None:
            if state.step == step:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError):
        train(experiment(section), display=Stop())
    return RunDirectory.find("latest", Path(section["x"]).parent / "runs")


def test_resuming_in_the_middle_of_an_epoch(train: Train, tmp_path: Path) -> None:
    section = npy(tmp_path, "map", x=ROWS, y=LABELS)
    whole = train(experiment(section))
    result = resume(stopped(train, section, 9), display=Silent())
    assert isinstance(result, TrainResult)
    assert state_of(result.path) == state_of(whole.path)


def test_a_file_that_changed_before_resuming_is_refused(train: Train, tmp_path: Path) -> None:
    run = stopped(train, npy(tmp_path, "map", x=ROWS, y=LABELS), 9)
    before = run.read_info()["data_sha256"]
    npy(tmp_path, "map", x=255 - ROWS, y=LABELS)
    with pytest.raises(RunError, match=f"the data of npy changed since .* sha256 {before} then, [0-9a-f]{{64}} now"):
        resume(run, display=Silent())


# --- memory ---------------------------------------------------------------------------------------------------------

# trains some steps and evaluates; prints by how many bytes the largest resident memory grew while it did
_MEASURE = """
import sys
from pathlib import Path
import torch
from dlf import yaml12
from dlf.config import loads
from dlf.data import load
from dlf.engine import evaluate, fit
from dlf.experiment import assemble

class Enough(Exception):
    pass

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def on_step(state):
    if state.step == 50:
        raise Enough

torch.set_num_threads(1)
before = peak()
for memory in ("map", "load"):
    data = {"type": "npy", "x": sys.argv[1], "y": sys.argv[2], "memory": memory, "validation": 0.1, "test": 0.1}
    model = {"layers": [{"type": "linear", "units": 8}]}
    config = loads(yaml12.dump({"data": data, "model": model}), "the test", []).config
    device = torch.device("cpu")
    loaded, _ = load(config.data_section, device, lambda message: None)
    experiment, state, _ = assemble(config, loaded, device)
    try:
        list(fit(state, experiment, epochs=1, history=[], on_step=on_step))
    except Enough:
        pass
    evaluate(state.network, experiment, loaded.validation)
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory as Linux tells it")
@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, (64, 64, 3)), (np.float32, (1000,))], ids=["images", "table"])
def test_memory_is_bounded(dtype: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    """300 MB, most of them a hole in the file, which takes no disk."""
    count = 300_000_000 // (np.prod(shape, dtype=int) * np.dtype(dtype).itemsize)
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", dtype, (int(count), *shape))
    np.save(tmp_path / "y.npy", np.arange(count) % 10)
    words = [sys.executable, "-c", _MEASURE, str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    mapped, loaded = map(int, done.stdout.split())
    # at most three arrays of the 2^22 values of a chunk in float64 or int64, and what the first step makes torch load
    assert mapped < 3 * 8 * files.CHUNK + 80_000_000
    assert loaded > 300_000_000
