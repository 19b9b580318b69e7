"""The MNIST family and CIFAR-10 agree with torchvision's readers; rot, strangers and hostile archives are refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as vision
from dataset_files import (
    MNIST_FILES,
    Array,
    cifar_files,
    emnist_files,
    idx_bytes,
    images,
    labels,
    md5,
    mnist_like,
    packed,
    qmnist_files,
    sha256,
    write,
)

from dlf.datasets import DATASETS, Dataset, Source
from dlf.datasets.idx import read_idx
from dlf.datasets.mnist import _published, _published_archive
from dlf.errors import DataError, DataMissingError

FAMILY = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}
SPLITS = {"balanced": 47, "byclass": 62, "bymerge": 47, "letters": 26, "digits": 10, "mnist": 10}


def load(name: str, root: Path, *, download: bool = False, **parameters: Any) -> Dataset:
    dataset: Dataset = DATASETS.build(DATASETS.make(name, **parameters), Source(root, download=download))
    return dataset


@pytest.fixture
def any_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny files pass for MNIST, whose real ones are known by hash."""
    known = dict(zip(MNIST_FILES, map(sha256, mnist_bytes().values()), strict=True))
    monkeypatch.setattr("dlf.datasets.mnist._MNIST_SHA256", known)


def mnist_bytes() -> dict[str, bytes]:
    parts = [idx_bytes(part) for part in (images(20), labels(20), images(10, seed=1), labels(10))]
    return dict(zip(MNIST_FILES, parts, strict=True))


def files_of(name: str) -> dict[str, bytes]:
    return qmnist_files() if name == "qmnist" else mnist_bytes()


def agrees(dataset: Dataset, train: Any, test: Any) -> bool:
    """Whether images and labels are those of two torchvision data sets."""
    assert dataset.test is not None
    pairs = ((dataset.train, train), (dataset.test, test))
    same_images = all(np.array_equal(ours.x[:, 0], theirs.data.numpy()) for ours, theirs in pairs)
    first = [theirs.targets if theirs.targets.ndim == 1 else theirs.targets[:, 0] for _, theirs in pairs]
    return same_images and all(np.array_equal(ours.y, y.numpy()) for (ours, _), y in zip(pairs, first, strict=True))


# --- torchvision is the reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_agrees_with_torchvision(name: str, tmp_path: Path, any_mnist: None) -> None:
    write(tmp_path / FAMILY[name] / "raw", files_of(name))
    dataset = load(name, tmp_path)
    reader = getattr(vision, FAMILY[name])
    train, test = reader(tmp_path, train=True), reader(tmp_path, train=False)
    assert agrees(dataset, train, test)
    assert not agrees(dataset, test, train)
    assert dataset.files == {file: sha256(data) for file, data in files_of(name).items()}
    words = [text.removeprefix(f"{k} - ") for k, text in enumerate(reader.classes)]  # "0 - zero" in two of them
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert dataset.classes == tuple(str(digits.index(word)) if word in digits else word for word in words)


@pytest.mark.parametrize("split", SPLITS)
def test_emnist_is_torchvisions_turned_upright(split: str, tmp_path: Path) -> None:
    first = 1 if split == "letters" else 0
    write(tmp_path / "EMNIST" / "raw", emnist_files(split, SPLITS[split], first))
    dataset = load("emnist", tmp_path, split=split)
    theirs = vision.EMNIST(tmp_path, split=split, train=True)
    assert np.array_equal(dataset.train.x[:, 0], theirs.data.transpose(1, 2).numpy())
    assert not np.array_equal(dataset.train.x[:, 0], theirs.data.numpy())
    assert np.array_equal(dataset.train.y, theirs.targets.numpy() - first)
    assert dataset.classes == tuple(vision.EMNIST.classes_split_dict[split])[first:]
    assert dataset.train.x.flags.c_contiguous


HERE = Path(os.environ.get("DLF_DATA", ""))
needs_mnist = pytest.mark.skipif(
    not (HERE / "MNIST" / "raw" / MNIST_FILES[0]).is_file() or "DLF_DATA" not in os.environ,
    reason="no MNIST in DLF_DATA",
)


@pytest.mark.mnist
@needs_mnist
def test_the_real_mnist() -> None:
    dataset = load("mnist", HERE)
    assert agrees(dataset, vision.MNIST(HERE, train=True), vision.MNIST(HERE, train=False))
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    # the mean and standard deviation that everybody quotes, to the four places in which they are quoted
    assert f"{dataset.train.x.mean() / 255:.4f} {dataset.train.x.std() / 255:.4f}" == "0.1307 0.3081"
    assert dataset.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # torchvision's documentation shows 5, 0, 4


def test_what_lies_unpacked_is_read_into_memory_that_may_be_written_to(tmp_path: Path) -> None:
    """So that it becomes a tensor without a copy."""
    mnist_like(tmp_path, "KMNIST")
    x = load("kmnist", tmp_path).train.x
    assert isinstance(x, np.ndarray)
    assert x.flags.writeable
    file = tmp_path / "KMNIST" / "raw" / MNIST_FILES[0]
    assert not read_idx(file.read_bytes(), file).flags.writeable  # as it was


# --- packed, and from the network -----------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name is the base class's
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def publish(name: str, address: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's class name these files, at this address."""
    reader = getattr(vision, FAMILY[name])
    known = [(file, md5(data)) for file, data in files.items()]
    if name == "qmnist":
        whole = [(address + file, digest) for file, digest in known]
        monkeypatch.setattr(reader, "resources", {"train": whole[:2], "test": whole[2:]})
    else:
        monkeypatch.setattr(reader, "mirrors", [address + "gone/", address])
        monkeypatch.setattr(reader, "resources", known)


@pytest.mark.parametrize("name", FAMILY)
def test_downloaded_unpacked_and_read_again_without_the_network(
    name: str, tmp_path: Path, site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, any_mnist: None
) -> None:
    folder, address = site
    files = packed(files_of(name))
    write(folder, files)
    publish(name, address, files, monkeypatch)
    first = load(name, tmp_path / "data", download=True)
    raw = tmp_path / "data" / FAMILY[name] / "raw"
    notes = [f"{file}.sha256" for file in files_of(name)]
    assert sorted(entry.name for entry in raw.iterdir()) == sorted([*files, *files_of(name), *notes])
    for file in files:  # the unpacked ones are enough
        (raw / file).unlink()
    second = load(name, tmp_path / "data")
    assert np.array_equal(first.train.x, second.train.x)
    assert first.files == second.files


def test_a_packed_file_is_enough_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = packed(mnist_bytes())
    write(tmp_path / "KMNIST" / "raw", files)
    publish("kmnist", "http://127.0.0.1:1/", files, monkeypatch)

    def refuse(*args: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "replace", refuse)
    assert len(load("kmnist", tmp_path).train) == 20


@pytest.mark.fault("D3")
def test_a_packed_file_with_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "KMNIST" / "raw", packed(mnist_bytes()))  # torchvision knows the md5 of the real ones
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged: md5 .* Delete it") as caught:
        load("kmnist", tmp_path)
    assert dict(vision.KMNIST.resources)["train-images-idx3-ubyte.gz"] in str(caught.value)


@pytest.mark.fault("D5")
def test_a_bomb_with_the_right_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlf.datasets.mnist._MAX_BYTES", 100_000)
    files = packed(mnist_bytes()) | {f"{MNIST_FILES[0]}.gz": gzip.compress(bytes(1_000_000))}
    write(tmp_path / "KMNIST" / "raw", files)
    publish("kmnist", "http://127.0.0.1:1/", files, monkeypatch)
    with pytest.raises(DataError, match="more than the 100,000 bytes"):
        load("kmnist", tmp_path)


@pytest.mark.fault("D1")
@pytest.mark.parametrize("name", [*FAMILY, "emnist", "cifar10"])
def test_what_is_missing_is_said_with_the_place_for_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataMissingError) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    assert "data.download is false" in message
    assert "data.fallback: digits" in message
    assert str(tmp_path) in message
    wanted = {"emnist": "or gzip.zip", "cifar10": "cifar-10-binary.tar.gz", "qmnist": "qmnist-test-labels-idx2-int"}
    assert wanted.get(name, "t10k-labels-idx1-ubyte") in message


@pytest.mark.parametrize("name", FAMILY)
def test_every_file_has_an_address_and_a_hash(name: str) -> None:
    for file in files_of(name):
        urls, digest = _published(FAMILY[name], f"{file}.gz")
        assert urls
        assert all(url.startswith("http") and url.endswith(f"/{file}.gz") for url in urls)
        assert len(digest) == 32
    assert _published_archive()[0].startswith("https://")


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("D3")
@pytest.mark.parametrize("file", MNIST_FILES)
def test_a_file_that_rotted_is_found_by_its_hash(file: str, tmp_path: Path, any_mnist: None) -> None:
    files = mnist_like(tmp_path, "MNIST")
    path = tmp_path / "MNIST" / "raw" / file
    assert load("mnist", tmp_path).files[file] == sha256(files[file])
    rotten = bytearray(files[file])
    rotten[-1] ^= 1
    path.write_bytes(rotten)
    with pytest.raises(DataError) as caught:
        load("mnist", tmp_path)
    for part in (str(path), sha256(bytes(rotten)), sha256(files[file]), "Delete it"):
        assert part in str(caught.value)


def plant_packed(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the packed files of a data set below `root`, let them be unpacked, and give the folder of the unpacked."""
    if name == "cifar10":
        monkeypatch.setattr("dlf.datasets.cifar._RECORDS", 4)
        members = {f"cifar-10-batches-bin/{file}": data for file, data in cifar_files().items()}
        plant_tar(root, tar_bytes(members), monkeypatch)
    elif name == "emnist":
        plant_zip(root, {f"gzip/{file}": data for file, data in packed(emnist_files()).items()}, monkeypatch)
    else:
        files = packed(qmnist_files() if name == "qmnist" else mnist_bytes())
        write(root / FAMILY[name] / "raw", files)
        publish(name, "http://127.0.0.1:1/", files, monkeypatch)
    load(name, root)
    return root / {**FAMILY, "emnist": "EMNIST", "cifar10": "cifar-10-batches-bin"}[name]


@pytest.mark.fault("D3")
@pytest.mark.parametrize("name", [*FAMILY, "emnist", "cifar10"])
def test_what_was_unpacked_and_rotted_is_found(
    name: str, tmp_path: Path, any_mnist: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of the last pixel: no check of sizes and labels would see it."""
    for note in sorted(plant_packed(name, tmp_path, monkeypatch).rglob("*.sha256")):
        path = note.with_suffix("")
        whole = path.read_bytes()
        if "label" in path.name:
            continue
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match=rf"{path} is damaged: sha256 .* expected sha256 {sha256(whole)}"):
            load(name, tmp_path)
        path.unlink()
        load(name, tmp_path)  # as the message advises
        assert path.read_bytes() == whole
        if name != "mnist":  # without the note nobody could tell
            note.unlink()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            load(name, tmp_path)


STRANGERS: dict[str, tuple[int, Array, str]] = {
    "small images": (0, np.zeros((20, 8, 8), np.uint8), r"uint8 values of shape \(20, 8, 8\)"),
    "float images": (0, np.zeros((20, 28, 28), np.float32), "float32"),
    "flat images": (0, np.zeros((20, 784), np.uint8), r"\(20, 784\)"),
    "too few labels": (1, labels(19), "20 images, but .* 19 labels"),
    "label 10": (1, labels(20, 11), "labels from 0 to 10; expected 0 to 9"),
    "float labels": (1, np.zeros(20, np.float32), "one whole number an image"),
    "negative labels": (1, -np.ones(20, np.int8), "labels from -1 to -1"),
    "cubes of labels": (1, np.zeros((20, 2, 2), np.uint8), "one whole number an image"),
    "test label": (3, labels(10) + 5, "labels from 5 to 14"),
}


@pytest.mark.fault("D4")
@pytest.mark.parametrize("case", STRANGERS)
def test_files_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    index, values, words = STRANGERS[case]
    mnist_like(tmp_path, "KMNIST")
    write(tmp_path / "KMNIST" / "raw", {MNIST_FILES[index]: idx_bytes(values)})
    with pytest.raises(DataError, match=words):
        load("kmnist", tmp_path)


@pytest.mark.fault("D4")
def test_a_file_far_too_large_is_not_even_read(tmp_path: Path) -> None:
    mnist_like(tmp_path, "KMNIST")
    with (tmp_path / "KMNIST" / "raw" / MNIST_FILES[0]).open("r+b") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(DataError, match=r"1,099,511,627,776 bytes, but at most 548,800,016"):
        load("kmnist", tmp_path)


# --- EMNIST's archive -----------------------------------------------------------------------------------------------


def plant_zip(root: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = root / "EMNIST" / "raw" / "gzip.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    monkeypatch.setattr(vision.EMNIST, "md5", md5(path.read_bytes()))
    return path


@pytest.mark.fault("D5")
def test_emnist_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = packed(emnist_files())
    plant_zip(tmp_path, {f"gzip/{name}": data for name, data in files.items()} | {"../evil": b"x"}, monkeypatch)
    assert len(load("emnist", tmp_path).train) == 94
    unpacked = [*emnist_files(), *(f"{name}.sha256" for name in emnist_files())]
    assert sorted(p.name for p in (tmp_path / "EMNIST" / "raw").iterdir()) == sorted([*unpacked, "gzip.zip"])
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.fault("D5")
def test_hostile_archives_of_emnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(iter(emnist_files()))
    plant_zip(tmp_path / "none", {"gzip/other": b""}, monkeypatch)
    with pytest.raises(DataError, match=r"gzip\.zip does not give gzip/emnist"):
        load("emnist", tmp_path / "none")
    monkeypatch.setattr("dlf.datasets.mnist._MAX_BYTES", 50_000)
    plant_zip(tmp_path / "bomb", {f"gzip/{first}.gz": gzip.compress(bytes(1_000_000))}, monkeypatch)
    with pytest.raises(DataError, match="more than the 50,000 bytes"):
        load("emnist", tmp_path / "bomb")
    path = plant_zip(tmp_path / "rot", {f"gzip/{first}.gz": b""}, monkeypatch)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(DataError, match=r"gzip\.zip is damaged: md5"):
        load("emnist", tmp_path / "rot")


# --- CIFAR-10 -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlf.datasets.cifar._RECORDS", 4)


def tar_bytes(members: dict[str, bytes], link: str | None = None) -> bytes:
    """A .tar.gz; `link` is a member that is a link to /etc/hostname."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name == link:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/hostname", 0
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def plant_tar(root: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, {"cifar-10-binary.tar.gz": data})
    monkeypatch.setattr("dlf.datasets.cifar._MD5", md5(data))


def test_cifar_reads_label_and_planes(tmp_path: Path, small_cifar: None) -> None:
    """The page of the data set: one byte of label, then 1024 bytes each of red, green and blue, row by row."""
    files = cifar_files()
    write(tmp_path / "cifar-10-batches-bin", files)
    dataset = load("cifar10", tmp_path)
    data = files["data_batch_2.bin"]  # its record 1 is training sample 5
    pixels = dataset.train.x[5]
    assert dataset.train.y[5] == data[3073]
    assert [pixels[c, 3, 7] for c in range(3)] == [data[3073 + 1 + 1024 * c + 32 * 3 + 7] for c in range(3)]
    assert pixels[0, 7, 3] != data[3073 + 1 + 32 * 3 + 7]  # rows before columns
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.test)) == (20, 4)
    assert dataset.test.y[0] == files["test_batch.bin"][0]


@pytest.mark.fault("D5")
def test_cifar_from_its_archive(
    tmp_path: Path, site: tuple[Path, str], small_cifar: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = site
    members = {f"cifar-10-batches-bin/{name}": data for name, data in cifar_files().items()}
    plant_tar(folder, tar_bytes({"../evil": b"x", "/tmp/evil": b"x", **members}), monkeypatch)
    monkeypatch.setattr("dlf.datasets.cifar._URL", f"{address}cifar-10-binary.tar.gz")
    root = tmp_path / "data"
    first = load("cifar10", root, download=True)
    assert not list(tmp_path.rglob("evil"))
    (root / "cifar-10-binary.tar.gz").unlink()
    second = load("cifar10", root)
    assert np.array_equal(first.train.x, second.train.x)
    assert first.files == second.files == {name: sha256(data) for name, data in cifar_files().items()}


@pytest.mark.fault("D5")
def test_hostile_archives_of_cifar(tmp_path: Path, small_cifar: None, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"cifar-10-batches-bin/{name}": data for name, data in cifar_files().items()}
    last = "cifar-10-batches-bin/test_batch.bin"
    cases = {
        "lacks test_batch.bin": tar_bytes({name: data for name, data in members.items() if name != last}),
        "test_batch.bin is a link": tar_bytes(members, link=last),
        "test_batch.bin is 1,000,000 bytes; expected 12,292": tar_bytes(members | {last: bytes(1_000_000)}),
        "holds label 255": tar_bytes(members | {last: b"\xff" * 12_292}),
        "not an intact archive": tar_bytes(members)[:5000],
        "not an intact archive ": b"<html>no</html>",
    }
    for words, data in cases.items():
        root = tmp_path / md5(data)
        plant_tar(root, data, monkeypatch)
        with pytest.raises(DataError, match=words.strip()):
            load("cifar10", root)
    (root / "cifar-10-binary.tar.gz").write_bytes(tar_bytes(members))
    with pytest.raises(DataError, match="is damaged: md5"):
        load("cifar10", root)


@pytest.mark.fault("D2")
def test_a_short_file_of_cifar(tmp_path: Path, small_cifar: None) -> None:
    write(tmp_path / "cifar-10-batches-bin", cifar_files() | {"data_batch_3.bin": b"123"})
    with pytest.raises(DataError, match=r"data_batch_3\.bin has 3 bytes; expected 12,292"):
        load("cifar10", tmp_path)
