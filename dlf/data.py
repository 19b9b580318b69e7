"""From a data set to tensors: the split, the statistics, the order of the batches.

Everything random here is a function of a seed and a position, never of how often somebody asked. Samples stay as they
were read (bytes for images) and are normalized batch by batch, on the device: they are resident there unless they are
too large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dlf.datasets import DATASETS, Array, Column, DataSection, Dataset, DataSpec, Samples, Source
from dlf.datasets.download import data_root
from dlf.datasets.files import FileArray, Rows, chunks
from dlf.errors import DataError, DataMissingError, RunError
from dlf.streamed import Streamed

SORTED_AT_ONCE = 2**20  # samples, in whole batches: sorting takes several times the memory of what is sorted


@dataclass(frozen=True)
class Part:
    """Samples of one split on the device: x (n, *shape) as read, y int64 (n,) or float32 (n, targets).

    x is streamed where it does not fit; of a tensor and of streamed samples, slices and index_select mean the same.
    """

    x: Tensor | Streamed
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Normalization:
    """x -> (x - mean) / std, shaped so that it broadcasts over a batch; measured on the training part alone."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Data:
    """One data set, split: what training and evaluation read.

    `inputs` and `targets` are the normalizations of x and, for regression, of y; `constant` names features that never
    vary. `sha256` is the hash of every sample before the split, `split_sha256` that of the split's indices. `columns`
    are those of a table's file.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...] | None
    features: tuple[str, ...] | None
    inputs: Normalization
    targets: Normalization
    constant: tuple[str, ...]
    files: Mapping[str, str]
    sha256: str
    split_sha256: str
    columns: tuple[Column, ...] = ()

    @property
    def spec(self) -> DataSpec:
        """Shape of one sample, classes, number of targets."""
        targets = 1 if self.classes is not None else self.train.y.shape[1]
        return DataSpec(tuple(self.train.x.shape[1:]), self.classes, targets)

    def part(self, split: str) -> Part:
        """The samples of `train`, `val` or `test`."""
        return {"train": self.train, "val": self.validation, "test": self.test}[split]


def known_spec(section: DataSection) -> DataSpec | None:
    """Shape and classes of a data set where they are known without reading it."""
    spec = DATASETS.get(section.type).facts.get("spec")
    return spec(**section.parameters) if callable(spec) else spec


def load(
    section: DataSection,
    device: torch.device,
    tell: Callable[[str], None],
    fell_back: Callable[[str], None] = lambda _: None,
) -> tuple[Data, DataSection]:
    """Read, split and measure; also the section that was used, which is `section.fallback` when that had to step in.

    `fell_back` is told why. Raises DataError (missing without a fallback, damaged, too few samples).
    """
    try:
        dataset = read(section, tell)
    except DataMissingError as error:
        if not isinstance(section.fallback, DataSection):
            raise
        fell_back(str(error))
        return load(section.fallback, device, tell, fell_back)
    return prepare(dataset, section, device), section


def reload(section: DataSection, device: torch.device, tell: Callable[[str], None], *, sha256: str, split: str) -> Data:
    """The data of a run once more, without a fallback; RunError, with both hashes, where they are no longer the same.

    `sha256` is the hash of the samples and `split` that of the split, as the run recorded them.
    """
    data, _ = load(section.model_copy(update={"fallback": None}), device, tell)
    if (data.sha256, data.split_sha256) != (sha256, split):
        what, then, now = (
            ("data", sha256, data.sha256) if data.sha256 != sha256 else ("split", split, data.split_sha256)
        )
        raise RunError(
            f"the {what} of {section.type} changed since this run was started: sha256 {then} then, {now} now. "
            "Bring the old data back, or train a new run."
        )
    return data


def read(section: DataSection, tell: Callable[[str], None]) -> Dataset:
    """The data set itself, unsplit."""
    source = Source(data_root(section.root), download=section.download, tell=tell)
    dataset: Dataset = DATASETS.build(section, source)
    return dataset


def prepare(dataset: Dataset, section: DataSection, device: torch.device) -> Data:
    """Split, measure the normalization on the training part, and move to the device what fits."""
    arrays = _arrays(dataset)
    with ThreadPoolExecutor(1) as beside:
        sha256 = beside.submit(_hash, *arrays)
        if any(isinstance(array, FileArray) for array in arrays):
            sha256.result()  # first: whoever goes through a file has a part of it in memory
        return _prepared(dataset, section, device, sha256)


def _prepared(dataset: Dataset, section: DataSection, device: torch.device, sha256: Future[str]) -> Data:
    train, validation, test = split(dataset, section)
    held_out = dataset.test if dataset.test is not None else _take(dataset.train, test)
    samples = _take(dataset.train, train)
    inputs, constant = measure_inputs(samples.x, section.normalize, dataset)
    return Data(
        name=section.type,
        train=_part(samples, device),
        validation=_part(_take(dataset.train, validation), device),
        test=_part(held_out, device),
        classes=dataset.classes,
        features=dataset.features,
        inputs=_to(inputs, device),
        targets=_to(measure_targets(samples.y), device),
        constant=constant,
        files=dataset.files,
        sha256=sha256.result(),
        split_sha256=_hash(train, validation, test),
        columns=dataset.columns,
    )


# --- the split ------------------------------------------------------------------------------------------------------


def split(dataset: Dataset, section: DataSection) -> tuple[Array, Array, Array]:
    """Indices into dataset.train of the training, validation and test part, each in rising order.

    Classes keep their shares in every part (stratified), and one that has a single sample is trained on. With an
    official test set the third part is empty.
    """
    n = len(dataset.train)
    generator = np.random.default_rng([section.split_seed, 0x5B117])
    pool = np.arange(n)
    if section.limit is not None and section.limit < n:
        pool = np.sort(generator.permutation(n)[: section.limit])
    labels = dataset.train.y if dataset.classes is not None else None
    test_count = 0 if dataset.test is not None else _count(section.test, len(pool))
    validation_count = _count(section.validation, len(pool) - test_count)
    if len(pool) - test_count - validation_count < 1:
        raise DataError(
            f"{section.type} has {len(pool)} samples: {test_count} for the test and {validation_count} for validation "
            "leave none to train on. Lower data.validation or data.test."
        )
    test = _draw(pool, labels, test_count, generator)
    rest = np.setdiff1d(pool, test, assume_unique=True)
    validation = _draw(rest, labels, validation_count, generator)
    return np.setdiff1d(rest, validation, assume_unique=True), validation, test


def _count(amount: float, n: int) -> int:
    """A share that is not 0 is one sample at least: a part that was asked for is there to be measured."""
    if isinstance(amount, int):
        return amount
    return max(1, round(amount * n)) if amount > 0 else 0


def _draw(pool: Array, labels: Array | None, count: int, generator: np.random.Generator) -> Array:
    """`count` of the indices in `pool`, sorted; the classes in proportion, by largest remainder."""
    if labels is None:
        return np.sort(generator.permutation(pool)[:count])
    classes, sizes = np.unique(labels[pool], return_counts=True)
    take, remainder = np.divmod(count * sizes, len(pool))
    # the last sample of a class is the last to go, so that the other part keeps one of each
    for index in np.lexsort((-remainder, take + 1 == sizes))[: count - take.sum()]:
        take[index] += 1
    drawn = [generator.permutation(pool[labels[pool] == c])[:k] for c, k in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(drawn))


def _take(samples: Samples, indices: Array) -> Samples:
    if len(indices) == len(samples):  # everything, in order: no copy
        return samples
    x = samples.x.take(indices) if isinstance(samples.x, FileArray) else samples.x[indices]
    return Samples(x, samples.y[indices])


# --- normalization --------------------------------------------------------------------------------------------------


def measure_inputs(x: Rows, kind: str, dataset: Dataset) -> tuple[Normalization, tuple[str, ...]]:
    """Mean and standard deviation for x: per channel for images, per column otherwise; and the columns without spread.

    A column that never varies is only shifted (std 1), so it becomes 0 and stays finite. One-hot columns stay 0 and 1.
    """
    image = x.dtype == np.uint8 and x.ndim == 4
    shape = (x.shape[1], 1, 1) if image else x.shape[1:]
    mean, std = np.zeros(shape, np.float64), np.ones(shape, np.float64)
    if kind == "unit":
        std[:] = 255.0 if x.dtype == np.uint8 else 1.0
    elif kind == "standard":
        mean, std = _byte_statistics(x) if image else _column_statistics(x)
    constant = (std == 0).reshape(-1)
    std = np.where(std == 0, 1.0, std)
    if dataset.categorical is not None:
        mean, std = np.where(dataset.categorical, 0.0, mean), np.where(dataset.categorical, 1.0, std)
        constant &= ~dataset.categorical
    names = dataset.features or tuple(f"{'channel' if image else 'column'} {i}" for i in range(constant.size))
    return _normalization(mean, std), tuple(np.array(names, object)[constant])


def _byte_statistics(x: Rows) -> tuple[Array, Array]:
    """Exact mean and standard deviation of each channel, from the whole numbers that are the sums of bytes and squares.

    They are summed in blocks of 256 in float32, where no sum is rounded: 256 * 255^2 < 2^24. Counting each of the 256
    values takes four times as long.
    """
    sums, squares = [0] * x.shape[1], [0] * x.shape[1]
    for chunk in chunks(x):
        for channel in range(x.shape[1]):
            values = chunk[:, channel].reshape(-1)
            whole = len(values) // 256 * 256
            for block in (values[:whole].reshape(-1, 256), values[None, whole:]):
                numbers = block.astype(np.float32)
                sums[channel] += int(numbers.sum(1).sum(dtype=np.float64))
                squares[channel] += int(np.einsum("ij,ij->i", numbers, numbers).sum(dtype=np.float64))
    count = len(x) * int(np.prod(x.shape[2:]))
    means = [total / count for total in sums]
    variances = [(count * square - total**2) / count**2 for total, square in zip(sums, squares, strict=True)]
    return np.array(means)[:, None, None], np.sqrt(variances)[:, None, None]


def _column_statistics(x: Rows) -> tuple[Array, Array]:
    """Mean and standard deviation of each column in float64, chunk by chunk; Chan, Golub and LeVeque, 1979.

    The float64 sums of a column of float32 that never varies are exact, and so is every chunk's mean: its spread is 0.
    """
    count, mean, squares = 0, np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for chunk in chunks(x):
        own = chunk.mean(0, dtype=np.float64)
        total, shift = count + len(chunk), own - mean
        squares += np.square(chunk - own).sum(0) + shift**2 * (count * len(chunk) / total)
        mean = mean + shift * (len(chunk) / total)
        count = total
    std = np.sqrt(squares / count)
    return mean, np.where(std < np.finfo(np.float32).tiny, 0.0, std)


def measure_targets(y: Array) -> Normalization:
    """Mean and standard deviation of regression targets, so that a loss of 1 is the spread of the data; labels stay."""
    if y.ndim == 1:
        return _normalization(np.zeros(1), np.ones(1))
    std = y.std(0, dtype=np.float64)
    return _normalization(y.mean(0, dtype=np.float64), np.where(std == 0, 1.0, std))


def _normalization(mean: Array, std: Array) -> Normalization:
    return Normalization(torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32)))


# --- batches --------------------------------------------------------------------------------------------------------


def order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch (counted from 0) visits n samples: a permutation by (seed, epoch), on the CPU."""
    # negative positions: those from 0 on are the steps', whose dropout must not repeat this stream
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, -1 - epoch)))


def by_class(order: Tensor, labels: Tensor, size: int, classes: int) -> Tensor:
    """The same batches of `size` samples, in each of which those of a class follow each other.

    A step is the same but for its roundings. What is 0 in one sample, a pixel or a unit, is then more often 0 in its
    neighbours too, and dlf's own products leave out what is 0 in four of them (dlf/native/product.c).
    """
    labels = labels.to(order.device)
    batch = torch.arange(min(len(order), max(size, SORTED_AT_ONCE // size * size)), device=order.device) // size
    parts = torch.split(order, len(batch))
    return torch.cat([part[(batch[: len(part)] * classes + labels[part]).argsort(stable=True)] for part in parts])


def batches(part: Part, order: Tensor, size: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """x and y of the batches of an epoch, from number `first` on; `order` holds the indices of all its samples."""
    if isinstance(part.x, Tensor):
        for batch in torch.split(order, size)[first:]:
            yield part.x.index_select(0, batch), part.y.index_select(0, batch)
        return
    for start in range(first * size, len(order), size):
        batch = order[start : start + size]
        x, y = part.x.index_select(0, batch), part.y.index_select(0, batch.to(part.y.device))
        part.x.announce(order[start + size : start + 2 * size])  # is fetched while this one is trained on
        yield x, y


def mix(seed: int, position: int) -> int:
    """A 63-bit seed for one position of a run; the finalizer of splitmix64 (Steele, Lea, Flood 2014)."""
    z = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) >> 1


# --- tensors and hashes ---------------------------------------------------------------------------------------------


def _part(samples: Samples, device: torch.device) -> Part:
    y = _tensor(samples.y).to(device)
    if isinstance(samples.x, FileArray) or not _fits(samples.x, device):
        return Part(Streamed(samples.x, device), y)
    return Part(_tensor(samples.x).to(device), y)


def _fits(x: Array, device: torch.device) -> bool:
    """Whether half of the memory that is free on the device holds x: the other half is for the network and its work."""
    return device.type != "cuda" or 2 * x.nbytes <= torch.cuda.mem_get_info(device)[0]


def _tensor(array: Array) -> Tensor:
    """Without a copy where the array may be written to; torch has no read-only tensors."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _to(normalization: Normalization, device: torch.device) -> Normalization:
    return Normalization(normalization.mean.to(device), normalization.std.to(device))


def _arrays(dataset: Dataset) -> list[Rows]:
    parts = [dataset.train] + ([dataset.test] if dataset.test is not None else [])
    return [array for samples in parts for array in (samples.x, samples.y)]


def _hash(*arrays: Rows) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for chunk in chunks(array):
            digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()
