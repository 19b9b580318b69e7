"""Files on this machine: found, read whole, and what is wrong with them in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np

from dlf.errors import DataError
from dlf.registry import did_you_mean


def existing(path: str, *, folder: bool = False) -> Path:
    """The absolute path of a file, or folder, that an experiment names; relative to the current folder, ~ is home.

    Raises DataError with the absolute path and the nearest name that is there.
    """
    kind = "folder" if folder else "file"
    try:
        found = Path(path).expanduser().absolute()
        if found.is_dir() if folder else found.is_file():
            return found
        if found.exists():
            raise DataError(f"{found} is not a {kind}; the data set needs the path of a {kind}.")
        nearest = next(parent for parent in found.parents if parent.is_dir())
        names = [entry.name for entry in nearest.iterdir()]
    except (OSError, RuntimeError) as error:  # a name too long, no permission, ~ of nobody
        raise DataError(f"the {kind} {path!r} cannot be looked up: {error}.") from error
    hint = did_you_mean(found.relative_to(nearest).parts[0], names)
    raise DataError(f"there is no {kind} {found}; {nearest} exists.{hint} A relative path starts at {Path.cwd()}.")


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a file; DataError where it cannot be read or holds more than `limit` bytes."""
    with _opened(path, limit) as (file, _):
        return file.read()


def read_buffer(path: Path, limit: int) -> memoryview:
    """The same in memory that may be written to: what an array is made of that becomes a tensor without a copy."""
    with _opened(path, limit) as (file, size):
        buffer = np.empty(size, np.uint8).data
        return buffer[: file.readinto(buffer)]


@contextmanager
def _opened(path: Path, limit: int | None) -> Iterator[tuple[BufferedReader, int]]:
    """The file and its size."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise DataError(
                    f"{path} has {size:,} bytes, but at most {limit:,} are expected; it is not the file it claims."
                )
            yield file, size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def listed(title: str, problems: Sequence[str], advice: str, most: int = 5) -> str:
    """A message: the title, the first problems, one a line, how many more there are, and what to do."""
    more = [f"... and {len(problems) - most:,} more"] if len(problems) > most else []
    return "\n  ".join([title, *problems[:most], *more]) + f"\n{advice}"
