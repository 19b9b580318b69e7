"""Rows of a table without their target: samples for a network that was trained on such a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlf.datasets import Array, Column
from dlf.datasets.local import listed
from dlf.datasets.tables import Table, coded, is_number, parse
from dlf.errors import DataError
from dlf.registry import shown


def read_rows(data: bytes, name: str, columns: Sequence[Column], delimiter: str = ",") -> Array:
    """x float32 (n, features) of a CSV file with these columns in any order, coded as in training.

    Columns that training had but did not use, the target among them, may be there. DataError with every column that is
    missing or unknown, else with the line and column of every cell that is no finite number or no word of training.
    """
    table = parse(data, name, delimiter, least=1)
    used = [column for column in columns if column.used]
    missing = [column.name for column in used if column.name not in table.columns]
    unknown = [found for found in table.columns if found not in {column.name for column in columns}]
    if missing or unknown:
        problems = [f"column {column!r} is missing" for column in missing]
        problems += [f"column {column!r} is unknown" for column in unknown]
        advice = f"Expected, in any order: {', '.join(repr(column.name) for column in used)}."
        raise DataError(listed(f"{name} has not the columns of training:", problems, advice, most=20))
    problems = [problem for column in used for problem in _problems(table, column)]
    if problems:
        raise DataError(listed(f"{name} has cells that cannot be used:", problems, "Correct or remove these lines."))
    numbers = {c.name: np.array([float(cell) for cell in table.columns[c.name]]) for c in used if c.words is None}
    return coded(table, used, numbers)[0]


def _problems(table: Table, column: Column) -> list[str]:
    """What is wrong with the cells of one column."""
    cells = enumerate(table.columns[column.name])
    if column.words is not None:
        known, first = set(column.words), ", ".join(map(shown, column.words[:10]))
        more = f" and {len(column.words) - 10:,} more" if len(column.words) > 10 else ""
        return [
            f"{table.where(row, column.name)}  {shown(cell)} is no word of training; expected one of {first}{more}"
            for row, cell in cells
            if cell not in known
        ]
    most = float(np.finfo(np.float32).max)
    return [
        f"{table.where(row, column.name)}  {shown(cell)} is not a number that is finite in float32"
        for row, cell in cells
        if not is_number(cell) or not abs(float(cell)) <= most
    ]
