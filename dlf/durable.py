"""Bytes that survive: a file or a folder is either the old one or the new one, whole, whatever stops the process.

The only file of dlf that writes to a run directory. The order is always the same: write beside the target, sync the
bytes, close with the error checked, rename, sync the folder that holds the name. A rename without the first sync can
leave an empty file after a power loss, one without the last sync can lose the name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from dlf.errors import MachineError, RunError


@contextlib.contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Turn what the operating system says into one message: which file, what failed, what to do."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"cannot {action} {path}: {error.strerror or error}. "
            "What was saved before is intact; free space or mend the folder, then resume."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable; a no-op where the system cannot open folders (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_and_sync(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`: readers see the old bytes or the new ones, never a part."""
    part = path.with_name(f".{path.name}.part")
    with _explained("write", path):
        part.unlink(missing_ok=True)
        _write_and_sync(part, data, os.O_EXCL)
        part.replace(path)
        sync_folder(path.parent)


def append(path: Path, line: bytes) -> int:
    """Add one line and sync it; the size of the file in bytes afterwards."""
    assert line.endswith(b"\n"), "a record is one whole line"
    with _explained("write", path):
        _write_and_sync(path, line, os.O_APPEND)
        return path.stat().st_size


def make_folder(folder: Path) -> None:
    """Create `folder`, which must not exist yet: of two processes that try, one gets FileExistsError."""
    folder.mkdir()
    with _explained("create", folder):
        sync_folder(folder.parent)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace `folder` by one that holds exactly `files`, written in their order.

    The old folder is moved aside before the new one takes its name and removed after that, so at every instant one
    of the two is complete on disk: as `folder`, or as the `.old` beside it, which `recover_folder` brings back.
    """
    part = folder.with_name(f".{folder.name}.part")
    old = folder.with_name(f".{folder.name}.old")
    with _explained("write", folder):
        recover_folder(folder)
        _remove(part)
        part.mkdir()
        for name, data in files.items():
            _write_and_sync(part / name, data, os.O_EXCL)
        sync_folder(part)
        if folder.is_symlink():
            raise RunError(f"{folder} is a symbolic link; nothing is written through it")
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        sync_folder(folder.parent)
        _remove(old)


def recover_folder(folder: Path) -> None:
    """Finish a replacement that was cut off between its two renames: bring the old folder back."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not old.is_symlink():
        if folder.exists():
            _remove(old)
        else:
            old.rename(folder)
            sync_folder(folder.parent)


def _remove(folder: Path) -> None:
    """Remove a folder of plain files; links inside are removed, never followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
