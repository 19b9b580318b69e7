"""Every prediction of a split as a file: CSV for spreadsheets and data frames, npz for numpy."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dlf import durable
from dlf.errors import MachineError, UsageError
from dlf.metrics import Predictions


def check_target(path: Path, *, force: bool) -> None:
    """UsageError unless predictions can be written there: a known ending, and no file that is not to be replaced."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"--predictions: expected a file that ends in {' or '.join(_FORMATS)}, got {str(path)!r}")
    if path.is_dir():
        raise UsageError(f"--predictions: {path} is a folder; name a file")
    if not force and (path.exists() or path.is_symlink()):
        raise UsageError(f"--predictions: {path} is there already and stays as it is; --force replaces it")
    if not path.parent.is_dir():
        raise MachineError(f"cannot write {path}: there is no folder {path.parent}. Make it, or name another place.")


def write_predictions(path: Path, predictions: Predictions, *, force: bool = False) -> None:
    """Write index, true, predicted, and the probabilities where there are classes; the whole file or nothing.

    .csv: a row for each sample, classes by name, numbers so that they are read back bit by bit. .npz: `index` int64
    (n,); with classes `true` and `predicted` int64 (n,), `probabilities` float64 (n, classes) and `classes`, their
    names; for regression `true` and `predicted` float64 (n, targets).
    """
    check_target(path, force=force)
    durable.write(path, _FORMATS[path.suffix.lower()](predictions))


def _csv(predictions: Predictions) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(_rows(predictions))
    return text.getvalue().encode()


def _rows(predictions: Predictions) -> Iterator[list[Any]]:
    """The header and a row for each sample."""
    if predictions.output is not None:
        ends = [""] if predictions.target.shape[1] == 1 else [f"_{i}" for i in range(predictions.target.shape[1])]
        yield ["index", *(f"true{end}" for end in ends), *(f"predicted{end}" for end in ends)]
        for index, (true, said) in enumerate(
            zip(predictions.target.tolist(), predictions.output.tolist(), strict=True)
        ):
            yield [index, *true, *said]
        return
    names = predictions.classes
    assert names is not None, "classes have names"
    yield ["index", "true", "predicted", *(f"probability_{name}" for name in names)]
    columns = (predictions.target.tolist(), predictions.label.tolist(), predictions.scores.tolist())
    for index, (true, said, probabilities) in enumerate(zip(*columns, strict=True)):
        yield [index, names[true], names[said], *probabilities]


def _npz(predictions: Predictions) -> bytes:
    arrays: dict[str, Any] = {"index": np.arange(len(predictions.target)), "true": predictions.target}
    if predictions.output is not None:
        arrays["predicted"] = predictions.output
    else:
        arrays |= {"predicted": predictions.label, "probabilities": predictions.scores}
        arrays["classes"] = np.array(predictions.classes, dtype=np.str_)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


_FORMATS: dict[str, Callable[[Predictions], bytes]] = {".csv": _csv, ".npz": _npz}
