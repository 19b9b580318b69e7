"""Every registered data set keeps the contract of dlf/datasets/__init__.py, and knows its shape before it is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import PLANT

from dlf.datasets import DATASETS, Dataset, DataSpec, Samples, Source

NO_SPEC = {"csv", "npz", "npy", "image_folder"}  # files of the user: nothing is known before they are read


def build(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, DataSpec | None]:
    """A data set from tiny files, and what was said of it before it was read. KeyError where no files are known."""
    component = DATASETS.make(name, **PLANT[name](root, monkeypatch))
    spec = DATASETS.get(name).facts.get("spec")
    known = spec(**component.parameters) if callable(spec) else spec
    source = Source(root, download=False)
    return DATASETS.build(component, source), known


def breaches(dataset: Dataset, spec: DataSpec | None) -> list[str]:
    """What a data set does against the contract; empty when it keeps it."""
    found = []
    for part in [dataset.train] if dataset.test is None else [dataset.train, dataset.test]:
        image = part.x.dtype == np.uint8 and part.x.ndim == 4 and part.x.shape[1] in (1, 3, 4)
        table = part.x.dtype == np.float32 and part.x.ndim == 2 and bool(np.isfinite(part.x).all())
        labels = part.y.dtype == np.int64 and part.y.ndim == 1 and dataset.classes is not None
        numbers = part.y.dtype == np.float32 and part.y.ndim == 2 and dataset.classes is None
        rules = {
            "x": image or table,
            "y": labels or numbers,
            "length": len(part.x) == len(part.y) == len(part) > 0,
            "features": dataset.features is None or (table and len(dataset.features) == part.x.shape[1]),
            "categorical": dataset.categorical is None or dataset.categorical.shape == part.x.shape[1:],
            "shape": spec is None or part.x.shape[1:] == spec.shape,
            "targets": spec is None or labels or part.y.shape[1:] == (spec.targets,),
        }
        if labels and dataset.classes is not None:
            rules["range"] = part.y.min() >= 0 and part.y.max() < len(dataset.classes)
        found += [name for name, kept in rules.items() if not kept]
    if dataset.classes is not None and set(dataset.train.y.tolist()) != set(range(len(dataset.classes))):
        found.append("a class without samples")
    if spec is not None and spec.classes != dataset.classes:
        found.append("classes")
    if not all(len(digest) == 64 and int(digest, 16) >= 0 for digest in dataset.files.values()):
        found.append("files")
    return found


@pytest.mark.parametrize("name", DATASETS.names())
def test_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, spec = build(name, tmp_path, monkeypatch)
    assert breaches(dataset, spec) == []
    assert (spec is None) == (name in NO_SPEC)


@pytest.mark.parametrize("name", DATASETS.names())
def test_reading_twice_gives_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = build(name, tmp_path, monkeypatch)
    second, _ = build(name, tmp_path, monkeypatch)
    assert np.array_equal(first.train.x, second.train.x)
    assert np.array_equal(first.train.y, second.train.y)


@pytest.mark.parametrize("name", DATASETS.names())
def test_first_line_stands_alone(name: str) -> None:
    assert DATASETS.get(name).summary.endswith(".")
    assert len(DATASETS.get(name).summary) <= 120


GOOD = Dataset(Samples(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])), classes=("a", "b"), features=("p", "q"))
GOOD_SPEC = DataSpec((2,), ("a", "b"))
WRONG = {
    "x": replace(GOOD, train=Samples(GOOD.train.x.astype(np.float64), GOOD.train.y)),
    "y": replace(GOOD, train=Samples(GOOD.train.x, GOOD.train.y.astype(np.int32))),
    "length": replace(GOOD, train=Samples(GOOD.train.x[:3], GOOD.train.y)),
    "range": replace(GOOD, train=Samples(GOOD.train.x, np.array([0, 1, 0, 2]))),
    "features": replace(GOOD, features=("p",)),
    "categorical": replace(GOOD, categorical=np.zeros(3, bool)),
    "a class without samples": replace(GOOD, train=Samples(GOOD.train.x, np.zeros(4, np.int64))),
    "classes": replace(GOOD, classes=("a", "c")),
    "shape": replace(GOOD, train=Samples(np.zeros((4, 3), np.float32), GOOD.train.y), features=None),
    "files": replace(GOOD, files={"f": "beef"}),
}


def test_the_contract_accepts_a_right_one() -> None:
    assert breaches(GOOD, GOOD_SPEC) == []


@pytest.mark.parametrize("breach", WRONG)
def test_the_contract_rejects(breach: str) -> None:
    assert breach in breaches(WRONG[breach], GOOD_SPEC)
