"""Every reader of files that others made, as one function of bytes, and the law for all of them.

The law: whatever the bytes, there is a result, or the one error that belongs to such a file, with a message of bounded
length; no other exception, no warning. Where there is a writer, what it writes is read back equal.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage  # noqa: F401 -- which a reader imports when first used, and whose memory is not the file's
import torch
from numpy.lib import format as npy_format
from PIL import Image

from dlf import checkpoint, data, yaml12
from dlf.config import load, loads
from dlf.datasets import DATASETS, Column, Source
from dlf.datasets.idx import gunzip, read_idx
from dlf.datasets.rows import read_rows
from dlf.engine import TrainState
from dlf.errors import ConfigError, DataError, RunError
from dlf.experiment import assemble
from dlf.pictures import Framing, read_picture
from dlf.run import RunDirectory, to_json

ROOT = Path(__file__).parents[2]
FOUND = Path(__file__).parent / "found"
LONGEST_MESSAGE = 20_000  # characters: 20 problems, each with a short piece of the file

Read = Callable[[bytes, Path], None]


class Reader(NamedTuple):
    """`read` takes the bytes of a file and an empty folder to put it in; `refuses` is the error that it may raise."""

    read: Read
    refuses: type[Exception]
    seeds: Callable[[], list[bytes]]


READERS: dict[str, Reader] = {}


def reader(refuses: type[Exception], seeds: Callable[[], list[bytes]]) -> Callable[[Read], Read]:
    """Add the decorated function to READERS, under its name."""

    def add(read: Read) -> Read:
        READERS[read.__name__] = Reader(read, refuses, seeds)
        return read

    return add


def attempt(name: str, content: bytes) -> bool:
    """Read the bytes as a file of that reader, under the law; whether they were accepted."""
    chosen = READERS[name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            chosen.read(content, Path(folder))
        except chosen.refuses as error:
            message = str(error)
            assert 0 < len(message) < LONGEST_MESSAGE, f"a message of {len(message)} characters"
            return False
    return True


def found(name: str) -> list[Path]:
    """The files on which this reader once failed."""
    return sorted(FOUND.glob(f"{name}-*"))


# --- configuration --------------------------------------------------------------------------------------------------


def _configs() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))]


@reader(ConfigError, _configs)
def config(content: bytes, folder: Path) -> None:
    """An experiment file; one that is taken means the same once its defaults are written out."""
    (folder / "f.yaml").write_bytes(content)
    taken = load(folder / "f.yaml").config
    assert loads(taken.to_yaml(), "config.yaml").config == taken


@reader(yaml12.YamlError, _configs)
def yaml(content: bytes, folder: Path) -> None:
    """A YAML file; what is taken is read back equal once it is written."""
    (folder / "f.yaml").write_bytes(content)
    taken = yaml12.parse(yaml12.read(folder / "f.yaml")).data
    assert repr(yaml12.parse(yaml12.dump(taken)).data) == repr(taken)  # 1, 1.0 and True differ, NaN does not


@reader(ConfigError, lambda: [b"optimizer.lr=1e-3", b"model.layers.0.units=[1, {a: 2}]", b"data={type: csv, path: a}"])
def override(content: bytes, folder: Path) -> None:
    """One KEY=VALUE of the command line."""
    loads("data: iris\n", "f.yaml", [content.decode(errors="surrogateescape")])


# --- data -----------------------------------------------------------------------------------------------------------


def _idx() -> list[bytes]:
    shapes = [(3,), (2, 3), (2, 2, 2), (1, 2, 1, 2)]
    types = {0x08: "u1", 0x0C: ">i4", 0x0E: ">f8"}
    return [
        struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape) + np.ones(shape, dtype).tobytes()
        for shape in shapes
        for code, dtype in types.items()
    ]


@reader(DataError, _idx)
def idx(content: bytes, folder: Path) -> None:
    """An IDX file, once its few bytes are unpacked."""
    read_idx(content, "f-ubyte")


@reader(DataError, lambda: [gzip.compress(content, mtime=0) for content in _idx()])
def idx_gz(content: bytes, folder: Path) -> None:
    """An IDX file as it is downloaded; of a bomb no more than the limit is unpacked."""
    read_idx(gunzip(content, "f-ubyte.gz", 2**16), "f-ubyte")


_TABLES = (
    "a,b,kind\n1,2.5,yes\n2,,no\n",
    "a;b\n1;2\n",
    '\ufeffsize,town,kind\r\n1e3,"Ulm, ""old""\n",1\r\n2,Bonn,2.0\r\n-inf,nan,3\r\n',
    "a,b,kind\n" + "1,x,0\n2,y,1\n3,z,0\n" * 4,
)


@reader(DataError, lambda: [table.encode() for table in _TABLES])
def csv(content: bytes, folder: Path) -> None:
    """A table of one's own, alone and as its own test file."""
    (folder / "t.csv").write_bytes(content)
    read = DATASETS.get("csv").function
    taken = read(Source(folder), path=str(folder / "t.csv"))
    assert np.isfinite(taken.train.x).all()
    read(Source(folder), path=str(folder / "t.csv"), test_path=str(folder / "t.csv"))


def _npz() -> list[bytes]:
    y = np.array([0, 1, 0, 1])
    tables = [
        {"x": np.eye(4, dtype=np.float32), "y": y},
        {"x": np.zeros((4, 2, 2, 3), np.uint8), "y": y, "classes": np.array(["a", "b"])},
        {"x_train": np.ones((4, 1)), "y_train": y / 2, "x_test": np.ones((4, 1)), "y_test": y / 2},
    ]
    files = []
    for table in tables:
        for save in (np.savez, np.savez_compressed):
            save(file := io.BytesIO(), **table)  # type: ignore[arg-type]
            files.append(file.getvalue())
    return files


@reader(DataError, _npz)
def npz(content: bytes, folder: Path) -> None:
    """Arrays of one's own."""
    (folder / "a.npz").write_bytes(content)
    taken = DATASETS.get("npz").function(Source(folder), path=str(folder / "a.npz"))
    assert len(taken.train.x) == len(taken.train.y)


def _npy() -> list[bytes]:
    files = []
    for array in (np.eye(4), np.zeros((4, 2), np.uint8, "F"), np.array([[1], [2]], "<i2"), np.array([["a"]])):
        for version in ((1, 0), (2, 0)):
            npy_format.write_array(file := io.BytesIO(), array, version)
            files.append(file.getvalue())
    return files


@reader(DataError, _npy)
def npy(content: bytes, folder: Path) -> None:
    """An array in a file of its own, loaded and left in its file; and in an archive whose checksums are right."""
    (folder / "x.npy").write_bytes(content)
    (folder / "y.npy").write_bytes(_npy()[0])
    read = DATASETS.get("npy").function
    paths = {name: str(folder / f"{name}.npy") for name in ("x", "y")}
    loaded = read(Source(folder), **paths, memory="load")
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for name, path in paths.items():
            archive.write(path, f"{name}.npy")
    npz(packed.getvalue(), folder)
    assert np.array_equal(read(Source(folder), **paths, memory="map").train.x[:], loaded.train.x)


def _images() -> list[bytes]:
    files = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        for kind in ("PNG", "BMP", "JPEG"):
            if (kind, mode) not in {("BMP", "LA"), ("JPEG", "LA"), ("JPEG", "P"), ("JPEG", "RGBA")}:
                exif = Image.Exif()
                exif[0x0112] = 6  # turned by a quarter
                Image.new(mode, (3, 2)).save(file := io.BytesIO(), kind, exif=exif)
                files.append(file.getvalue())
    return files


def _pictures() -> list[bytes]:
    files = _images()
    for mode, kind, kept in (("P", "GIF", {"transparency": 0}), ("RGBA", "WEBP", {}), ("I;16", "PNG", {})):
        drawn = Image.new(mode, (5, 4))
        drawn.putpixel((2, 2), (200,) * 4 if mode == "RGBA" else 200)
        drawn.save(file := io.BytesIO(), kind, **kept)
        files.append(file.getvalue())
    return files


@reader(DataError, _pictures)
def picture(content: bytes, folder: Path) -> None:
    """A picture for `dlf predict`, in every number of channels, and framed."""
    framing = Framing(extent=6, by_mass=True, centre=(4.0, 4.0), light=False)
    for channels in (1, 3, 4):
        assert read_picture(content, "a.png", (channels, 8, 8), None).pixels.shape == (channels, 8, 8)
    read_picture(content, "a.png", (1, 8, 8), framing)


@reader(DataError, lambda: [b"a,b\n1,x\n", b"kind,b,a\n0,y,2.5\n", b"\xef\xbb\xbfa,b\r\n-1e3,x\r\n"])
def rows(content: bytes, folder: Path) -> None:
    """Rows for `dlf predict`, of a number and of a word."""
    x = read_rows(content, "m.csv", [Column("a"), Column("b", ("x", "y")), Column("kind", used=False)])
    assert np.isfinite(x).all()
    assert (x[:, 1:].sum(1) == 1).all()


@reader(DataError, _images)
def image(content: bytes, folder: Path) -> None:
    """An image of one's own, beside one that is whole."""
    for name, pixels in (("a", content), ("b", _images()[0])):
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes(pixels)
    DATASETS.get("image_folder").function(Source(folder), path=str(folder), size=2, color=True)


# --- runs -----------------------------------------------------------------------------------------------------------


@functools.cache
def _trained() -> tuple[TrainState, dict[str, bytes]]:
    """A small state, and its checkpoint."""
    written = {"data": {"type": "xor", "samples": 100, "batch_size": 50}, "model": {"layers": []}, "optimizer": "adam"}
    config = loads(yaml12.dump(written), "the fuzzer").config
    loaded, _ = data.load(config.data_section, torch.device("cpu"), lambda message: None)
    state = assemble(config, loaded, torch.device("cpu"))[1]
    for parameter in state.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    return state, checkpoint.pack(state)


def _parts() -> list[str]:
    """The files of a checkpoint; the manifest, which is made to fit them, apart."""
    return [name for name in _trained()[1] if name != "MANIFEST.json"]


def _checkpoint() -> list[bytes]:
    """One byte that says which file, then what it holds: of safetensors the header without its length, and the rest."""
    seeds = []
    for index, name in enumerate(_parts()):
        content = _trained()[1][name]
        seeds.append(bytes([index]) + content)
        if name.endswith(".safetensors"):
            length = int.from_bytes(content[:8], "little")
            seeds.append(bytes([index | 0x80]) + content[8:][:length] + b"\0" + content[8:][length:])
    return seeds


def fitted(manifest: bytes, files: dict[str, bytes]) -> bytes:
    """The manifest with the sizes and hashes of these files: what somebody writes who knows the format."""
    entries: dict[str, Any] = json.loads(manifest)
    for name, content in files.items():
        entries["files"][name].update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return to_json(entries, indent=2)


@reader(RunError, _checkpoint)
def checkpoints(content: bytes, folder: Path) -> None:
    """A checkpoint with one file replaced and the manifest made to fit; what is taken is packed as it was."""
    state, packed = _trained()
    which, rest = content[0] if content else 0, content[1:]
    name = _parts()[(which & 0x7F) % len(_parts())]
    if which & 0x80 and name.endswith(".safetensors"):
        header, _, tensors = rest.partition(b"\0")
        rest = len(header).to_bytes(8, "little") + header + tensors
    files = {**packed, name: rest}
    manifest = fitted(packed["MANIFEST.json"], {part: files[part] for part in _parts()})
    checkpoint.write(folder / "last", {**files, "MANIFEST.json": manifest})
    assert checkpoint.read(folder / "last")
    try:
        checkpoint.load(folder / "last", state)
        again = checkpoint.pack(state)
    finally:
        checkpoint.write(folder / "last", packed)
        checkpoint.load(folder / "last", state)
    assert again.keys() == packed.keys()


@reader(RunError, lambda: [_trained()[1]["MANIFEST.json"]])
def manifest(content: bytes, folder: Path) -> None:
    """A manifest that may fit or not."""
    checkpoint.write(folder / "last", {**_trained()[1], "MANIFEST.json": content})
    checkpoint.read(folder / "last")


@reader(RunError, lambda: [b'{"epoch": 1, "val_loss": null}\n', b'{"epoch": 1}\n{"epoch": 2}\n'])
def run(content: bytes, folder: Path) -> None:
    """What a run directory says of itself."""
    (folder / "metrics.jsonl").write_bytes(content)
    RunDirectory(folder).read_metrics()
    (folder / "run.json").write_bytes(content)
    RunDirectory(folder).read_info()
