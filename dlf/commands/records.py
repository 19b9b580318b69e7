"""`dlf records`: the epochs of a run, as its metrics.jsonl has them, and as CSV for every other program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from dlf.errors import MachineError, UsageError
from dlf.history import best_index
from dlf.run import Record


def best_of(records: Sequence[Record], monitor: str) -> int | None:
    """The index of the epoch that was best by `monitor`; None where none was, or the column is not there."""
    return best_index(records, monitor) if all(monitor in record for record in records) else None


def to_csv(records: Sequence[Record]) -> str:
    """A header and a line an epoch as RFC 4180 has them; "" without records.

    Every column is there. Numbers are written as in metrics.jsonl and so read back equal; a null, which is a NaN, is
    an empty field, and a list or a table its JSON.
    """
    columns = list(dict.fromkeys(name for record in records for name in record))
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\r\n")
    if columns:
        writer.writerow(columns)
    writer.writerows([_field(record.get(name)) for name in columns] for record in records)
    return written.getvalue()


def _field(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def write_csv(records: Sequence[Record], path: Path, *, force: bool = False) -> None:
    """Write `to_csv` to a file, in UTF-8. UsageError where it is there already, unless `force` replaces it.

    MachineError where it cannot be written.
    """
    try:
        with path.open("wb" if force else "xb") as file:
            file.write(to_csv(records).encode())
    except FileExistsError:
        raise UsageError(f"{path} is there already: name another file, or replace it with --force") from None
    except OSError as error:
        advice = "Name a file in a folder that exists and may be written, or - for stdout."
        raise MachineError(f"cannot write {path}: {error.strerror or error}. {advice}") from error
