"""Tables: a CSV file whose first line names the columns.

A column whose cells are all numbers is numeric. A column in which no cell is a number is text; it becomes one column
of 0 and 1 for each of its values, in sorted order. Anything between the two is refused, with the lines, because it is a
slip more often than not; `categorical` says that it is meant.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, Strict

from dlf.datasets import DATASETS, Array, Column, Dataset, Samples, Source
from dlf.datasets.local import existing, listed, read_bytes
from dlf.errors import DataError
from dlf.memory import available_bytes
from dlf.registry import did_you_mean, shown


def _delimiter(text: str) -> str:
    if len(text) != 1 or text in '"\r\n\0':
        raise ValueError(f"expected the one character between cells, such as ',', ';' or \"\\t\", got {shown(text)}")
    return text


Names = Annotated[tuple[str, ...], Strict(False)]
Character = Annotated[str, AfterValidator(_delimiter), Field(json_schema_extra={"pattern": r'^[^"\r\n\0]$'})]

_MAX_CLASSES_GUESSED = 20
_MAX_CATEGORIES = 1000
_MAX_NAME = 100  # characters of a column's name: messages, tables and plots show it


@dataclass(frozen=True)
class Table:
    """Columns of stripped text cells by name; `lines` has the file and the line of each row, for messages."""

    name: str
    columns: Mapping[str, Sequence[str]]
    lines: list[tuple[str, int]]

    def where(self, row: int, column: str) -> str:
        """The place of a cell, as messages begin with it."""
        return "{}:{}".format(*self.lines[row]) + f"  column {column!r}"


@DATASETS.register("csv")
def csv_table(
    source: Source,
    *,
    path: str,
    target: str | None = None,
    task: Literal["auto", "classification", "regression"] = "auto",
    delimiter: Character = ",",
    categorical: Names = (),
    drop: Names = (),
    test_path: str | None = None,
) -> Dataset:
    """A table of your own: a CSV file in UTF-8 whose first line names the columns.

    x float32 (n, features); y int64 (n,) or float32 (n, 1). `target` is the column to predict, the last one unless
    named; `drop` names columns to leave out. With task auto a target of text, or of whole numbers with at most 20
    distinct values, is classes; any other is a number to predict. Text columns, and the columns in `categorical`, are
    one-hot coded: their categories are a vocabulary, taken from every row that is there and never counted, so the test
    rows leak nothing. `test_path` is a second file with the same columns, the official test set. Raises DataError with
    the line and the column.
    """
    table, hashes = _read(path, delimiter)
    count = len(table.lines)
    if test_path is not None:
        test, test_hashes = _read(test_path, delimiter)
        table, hashes = _append(table, test), hashes | test_hashes
    target = _target(table, target, drop, categorical)
    names = [name for name in table.columns if name != target and name not in drop]
    if not names:
        raise DataError(f"{table.name} has no column left to predict {target!r} from.")
    numbers = _numbers(table, [*names, target], {*categorical, *([target] if task == "classification" else [])})
    words = {name: _vocabulary(table, name) for name in names if name not in numbers}
    columns = tuple(Column(name, words.get(name), name in names) for name in table.columns)
    x, features, one_hot = coded(table, columns, numbers)
    y, classes = _labels(table, target, numbers.get(target), task, count)
    train, held_out = Samples(x[:count], y[:count]), Samples(x[count:], y[count:])
    return Dataset(train, held_out if test_path is not None else None, classes, features, one_hot, hashes, columns)


# --- reading --------------------------------------------------------------------------------------------------------


def _read(path: str, delimiter: str) -> tuple[Table, dict[str, str]]:
    found = existing(path)
    data = read_bytes(found)
    return parse(data, str(found), delimiter), {path: hashlib.sha256(data).hexdigest()}


def parse(data: bytes, name: str, delimiter: str, least: int = 2) -> Table:
    """The cells of a table of at least so many columns; DataError, with the line, for what is not one.

    The csv module bounds each cell to 128 KiB, so a quote left open cannot swallow the file.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}:{line}  is not UTF-8 (byte {data[error.start]:#x}); save the table as UTF-8."
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if row:  # not an empty line
                rows.append(row)
                lines.append((name, reader.line_num))
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}  is not CSV: {error}. Is a quote left open?") from None
    if not rows:
        raise DataError(f"{name} is empty; expected a line that names the columns, then one line a sample.")
    header = [cell.strip() for cell in rows[0]]
    _check_header(header, name, delimiter, least)
    if len(rows) == 1:
        raise DataError(f"{name} has a header and no row.")
    ragged = [
        f"{name}:{line}  has {len(row)} cells, the header has {len(header)}"
        for row, (_, line) in zip(rows, lines, strict=True)
        if len(row) != len(header)
    ]
    if ragged:
        raise DataError(listed(f"{name} is ragged:", ragged, "Every line needs the same number of cells."))
    columns = {column: [row[index].strip() for row in rows[1:]] for index, column in enumerate(header)}
    return Table(name, columns, lines[1:])


def _check_header(header: Sequence[str], name: str, delimiter: str, least: int) -> None:
    if len(header) < least:
        raise DataError(f"{name} has the one column {header[0]!r}. Is {delimiter!r} the right data.delimiter?")
    unnamed = [index for index, column in enumerate(header, 1) if not column]
    if unnamed:
        raise DataError(f"{name} has no name for column {_some(unnamed)}; the first line must name every column.")
    longest = max(header, key=len)
    if len(longest) > _MAX_NAME:
        raise DataError(
            f"{name} has a column whose name has {len(longest):,} characters, {shown(longest)}; at most {_MAX_NAME}. "
            "Is the first line the names?"
        )
    twice = sorted(column for column, count in Counter(header).items() if count > 1)
    if twice:
        raise DataError(f"{name} has more than one column named {_some(twice)}; names must differ.")
    if all(map(is_number, header)):
        raise DataError(f"{name} starts with numbers; the first line must name the columns.")


def _some(names: Sequence[object]) -> str:
    """The first names of a list that may be long, as a message shows them."""
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(map(repr, names[:20])) + more


def _append(table: Table, test: Table) -> Table:
    if list(table.columns) != list(test.columns):
        theirs, ours = _some(list(test.columns)), _some(list(table.columns))
        raise DataError(f"{test.name} has the columns {theirs}; expected those of {table.name}: {ours}.")
    columns = {column: [*cells, *test.columns[column]] for column, cells in table.columns.items()}
    return Table(table.name, columns, table.lines + test.lines)


def _target(table: Table, target: str | None, drop: Sequence[str], categorical: Sequence[str]) -> str:
    """The column to predict, once every name in the experiment is one of the table's."""
    named = {"target": [] if target is None else [target], "drop": drop, "categorical": categorical}
    unknown = [
        f"data.{key}: there is no column {column!r}.{did_you_mean(column, table.columns)}"
        for key, names in named.items()
        for column in names
        if column not in table.columns
    ]
    if unknown:
        raise DataError(
            listed(f"{table.name} does not fit the experiment:", unknown, f"Its columns: {_some(list(table.columns))}")
        )
    left = [column for column in table.columns if column not in drop]
    if target is None and left:
        target = left[-1]
    if target is None or target in drop:
        raise DataError(f"data.drop takes the target away from {table.name}; leave {target or 'one column'} in.")
    if target in categorical:
        raise DataError(f"data.categorical names the target {target!r} of {table.name}; set data.task: classification.")
    return target


# --- cells ----------------------------------------------------------------------------------------------------------


def is_number(cell: str) -> bool:
    """Whether a cell is a number, or the word for none: nan, inf. Python's 1_000 is not a number in a table."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _numbers(table: Table, names: Sequence[str], as_text: set[str]) -> dict[str, Array]:
    """The numeric columns as float64 (n,); DataError with every cell that is empty, mixed in, or not finite."""
    numbers: dict[str, Array] = {}
    problems: list[str] = []
    for name in names:
        cells = table.columns[name]
        empty = [row for row, cell in enumerate(cells) if not cell]
        problems += [f"{table.where(row, name)}  is empty" for row in empty]
        if not empty and name not in as_text:
            values = _column(cells)
            if isinstance(values, list):
                problems += _odd_ones(table, name, values)
            elif values is not None:
                bad = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
                problems += [
                    f"{table.where(row, name)}  {shown(cells[row])} is not finite in float32" for row in bad.tolist()
                ]
                numbers[name] = values
    if problems:
        advice = (
            "Correct or remove these lines. A column of words that look like numbers belongs in data.categorical, one "
            "that is not needed in data.drop, classes named by numbers and words need data.task: classification."
        )
        raise DataError(listed(f"{table.name} has cells that cannot be used:", problems, advice))
    return numbers


def _odd_ones(table: Table, name: str, words: Sequence[int]) -> list[str]:
    """The cells of a mixed column that are fewer: the words among numbers, or the numbers among words."""
    cells = table.columns[name]
    if 2 * len(words) <= len(cells):
        return [f"{table.where(row, name)}  {shown(cells[row])} is not a number" for row in words]
    numbers = sorted(set(range(len(cells))) - set(words))
    return [f"{table.where(row, name)}  {shown(cells[row])} is a number among words" for row in numbers]


def _column(cells: Sequence[str]) -> Array | list[int] | None:
    """The numbers of a column; None for a column of text; the rows without a number where the two are mixed."""
    try:
        if "_" not in "".join(cells):
            return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    words = [row for row, cell in enumerate(cells) if not is_number(cell)]
    return None if len(words) == len(cells) else words


def coded(
    table: Table, columns: Sequence[Column], numbers: Mapping[str, Array]
) -> tuple[Array, tuple[str, ...], Array]:
    """x float32 (n, features), the features' names, and True (features,) where one is one-hot coded."""
    used = [column for column in columns if column.used]
    features = tuple(f"{name}={word}" if word else name for name, words, _ in used for word in words or [""])
    needed, available = 4 * len(table.lines) * len(features), available_bytes()
    if needed > available:
        raise DataError(
            f"{table.name}: {len(table.lines):,} rows of {len(features):,} features need {needed / 1e9:.1f} GB, "
            f"{available / 1e9:.1f} GB are free. One-hot coded words are most of them: put columns into data.drop."
        )
    x = np.zeros((len(table.lines), len(features)), np.float32)
    one_hot = np.zeros(len(features), np.bool_)
    at = 0
    for name, words, _ in used:
        if words is not None:
            x[np.arange(len(x)), at + _codes(table.columns[name], words)] = 1
            one_hot[at : at + len(words)] = True
            at += len(words)
        else:
            x[:, at] = numbers[name]
            at += 1
    return x, features, one_hot


def _vocabulary(table: Table, name: str) -> tuple[str, ...]:
    """The distinct words of a column, sorted."""
    words = sorted(set(table.columns[name]))
    if len(words) > _MAX_CATEGORIES:
        raise DataError(
            f"{table.name}: column {name!r} has {len(words):,} distinct words, at most {_MAX_CATEGORIES:,} "
            "are one-hot coded. If it only tells rows apart (a name, an id, a date), put it in data.drop."
        )
    return tuple(words)


def _codes(cells: Sequence[str], values: Sequence[str]) -> Array:
    index = {value: code for code, value in enumerate(values)}
    return np.fromiter(map(index.__getitem__, cells), np.int64, len(cells))


# --- the target -----------------------------------------------------------------------------------------------------


def _labels(
    table: Table, target: str, values: Array | None, task: str, count: int
) -> tuple[Array, tuple[str, ...] | None]:
    """Labels and class names, or numbers and None; the task is judged by the first `count` rows, the training file."""
    if task == "auto":
        few = values is None or _are_few_whole_numbers(values[:count])
        task = "classification" if few else "regression"
    if task == "regression":
        if values is None:
            raise DataError(
                f"{table.name}: the target {target!r} holds words such as {shown(table.columns[target][0])}; "
                "data.task: regression needs numbers."
            )
        return values.astype(np.float32)[:, None], None
    cells = table.columns[target]
    if all(map(_is_exact, cells)):  # 1 and 1.0 are one class, and 10 comes after 9
        cells = [_number_name(float(cell)) for cell in cells]
        classes = sorted(set(cells[:count]), key=float)
    else:
        classes = sorted(set(cells[:count]))
    _check_classes(table, target, classes, cells, count)
    return _codes(cells, classes), tuple(classes)


def _are_few_whole_numbers(values: Array) -> bool:
    return bool(np.all(values == np.round(values))) and len(np.unique(values)) <= _MAX_CLASSES_GUESSED


def _is_exact(cell: str) -> bool:
    """Whether a cell is a number that float64 tells from its neighbours; beyond 2^53 an id would become another."""
    return is_number(cell) and abs(float(cell)) < 2**53


def _number_name(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _check_classes(table: Table, target: str, classes: Sequence[str], cells: Sequence[str], count: int) -> None:
    if len(classes) < 2:
        only = shown(classes[0])
        raise DataError(f"{table.name}: every row has {only} in the target {target!r}; two classes are needed.")
    if len(classes) > _MAX_CATEGORIES:
        raise DataError(
            f"{table.name}: the target {target!r} has {len(classes):,} distinct values, too many for classes. "
            "Is it the right column? For numbers use data.task: regression."
        )
    known = set(classes)
    unknown = [row for row in range(count, len(cells)) if cells[row] not in known]
    if unknown:
        new = [f"{table.where(row, target)}  {shown(cells[row])}" for row in unknown]
        advice = f"Every label must be one of the training file's: {', '.join(map(shown, classes[:20]))}."
        raise DataError(listed(f"{table.name}: labels of the test file that no training row has:", new, advice))
