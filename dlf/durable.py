"""Bytes that survive: a file or a folder is either the old one or the new one, whole, whatever stops the process.

The only file of dlf that writes to a run directory. The order is always the same: write beside the target, sync the
bytes, close with the error checked, rename, sync the folder that holds the name. A rename without the first sync can
leave an empty file after a power loss, one without the last sync can lose the name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from dlf.errors import MachineError, RunError

_HIDDEN = ".removed"  # end of a hidden folder's name
_NOT_THROUGH_LINKS = getattr(os, "O_NOFOLLOW", 0)


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


def _sync(descriptor: int) -> None:
    """Wait until what the file holds is on the disk, also on macOS, where fsync ends at the drive's own cache."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # a file system that cannot: fsync then says what is wrong, if anything is
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable; a no-op where the system cannot open folders (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _write_and_sync(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags | _NOT_THROUGH_LINKS, 0o666)
    try:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        _sync(descriptor)
    finally:
        os.close(descriptor)


# --- files ----------------------------------------------------------------------------------------------------------


def write(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`: readers see the old bytes or the new ones, never a part."""
    part = path.with_name(f".{path.name}.part")
    with _explained("write", path):
        part.unlink(missing_ok=True)
        _write_and_sync(part, data, os.O_EXCL)
        part.replace(path)
        sync_folder(path.parent)


def append(path: Path, line: bytes) -> None:
    """Add one line and sync it.

    What is left of it when the process ends meanwhile is a line without its end, and after a power loss perhaps one
    with holes; readers leave out both.
    """
    assert line.endswith(b"\n"), "a record is one whole line"
    with _explained("write", path):
        is_new = not path.exists()
        _write_and_sync(path, line, os.O_APPEND)
        if is_new:
            sync_folder(path.parent)


def note(path: Path, text: str) -> bool:
    """Add lines to a log that nothing depends on, unsynced; whether the machine let us, instead of an error."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOT_THROUGH_LINKS, 0o666)
        try:
            os.write(descriptor, text.encode(errors="replace"))
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


# --- folders --------------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Create `folder`, which must not exist yet: of two processes that try, one gets FileExistsError."""
    folder.mkdir()
    with _explained("create", folder):
        sync_folder(folder.parent)


def ensure_folder(folder: Path) -> None:
    """Create `folder`, and those above it, where they are missing."""
    if not folder.exists():
        ensure_folder(folder.parent)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            make_folder(folder)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace `folder` by one that holds exactly `files`, written in their order.

    The old folder is moved aside before the new one takes its name and removed after that, so at every instant one
    of the two is complete on disk: as `folder`, or as the one beside it that `locate` knows.
    """
    part, old = _part(folder), _aside(folder)
    for path in (folder, folder.parent):
        if path.is_symlink():
            raise RunError(f"{path} is a symbolic link; nothing is written through it. Put a real folder in its place.")
    with _explained("write", folder):
        _mend(folder)
        part.mkdir()
        for name, data in files.items():
            _write_and_sync(part / name, data, os.O_EXCL)
        sync_folder(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        sync_folder(folder.parent)
        _remove(old)


def remove_folder(folder: Path) -> None:
    """Remove a folder of plain files, and what was left of it where that was cut off. Its name goes first, whole."""
    with _explained("remove", folder):
        _mend(folder)
        if folder.exists():
            sync_folder(folder.parent)  # an emptied old one whose removal is not on the disk would take its place
            folder.rename(_part(folder))
            sync_folder(folder.parent)
            _remove(_part(folder))


def mend_folder(folder: Path) -> None:
    """Clear away what a replacement or a removal that was cut off has left beside `folder`."""
    with _explained("mend", folder):
        _mend(folder)


def _mend(folder: Path) -> None:
    """The folder as `locate` finds it, under its own name and with nothing beside it."""
    part, old = _part(folder), _aside(folder)
    if not (os.path.lexists(part) or os.path.lexists(old)):
        return
    if not folder.exists() and old.is_dir() and not old.is_symlink():
        old.rename(folder)
    # the renames that were cut off may not be on the disk: what goes must have no other name there
    sync_folder(folder.parent)
    _remove(part)
    _remove(old)


def locate(folder: Path) -> tuple[Path, tuple[int, int] | None]:
    """Where the content of a folder that `write_folder` replaces is now, and which it is; None where there is none."""
    for path in (folder, _aside(folder), folder):  # again: it may have come back between the two looks
        with contextlib.suppress(OSError):
            found = path.stat()
            return path, (found.st_ino, found.st_mtime_ns)
    return folder, None


def _part(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _remove(folder: Path) -> None:
    """Remove a folder of plain files; links are removed, never followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


def hide(folder: Path) -> Path:
    """Give a folder, whatever it holds, a hidden name, under which `remove_hidden` removes it; the new path."""
    gone = folder.with_name(f".{folder.name}{_HIDDEN}")
    with _explained("remove", folder):
        if gone.exists():  # of an earlier folder of this name, whose removal was cut off
            shutil.rmtree(gone)
        folder.rename(gone)
        sync_folder(folder.parent)
    return gone


def remove_hidden(gone: Path) -> None:
    """Remove what `hide` gave: files, folders, and links, which are not followed."""
    try:
        shutil.rmtree(gone)
    except FileNotFoundError:  # somebody else is at it too
        pass
    except OSError as error:
        raise MachineError(
            f"cannot remove all of {gone}: {error.strerror or error}. It is no run any more; remove the rest by hand."
        ) from error


def hidden(parent: Path) -> list[Path]:
    """The folders that `hide` gave and whose removal was cut off."""
    found = sorted(parent.glob(f".*{_HIDDEN}"))
    return [path for path in found if path.is_dir() and not path.is_symlink()]


# --- one writer -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; RunError, with who holds it, where somebody else does for longer than the patience.

    The system lets go of it when the process ends, however it ends, so there are no stale locks to take over. Where
    the system or the file system has no such locks, nothing is held.
    """
    with _explained("lock", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOT_THROUGH_LINKS, 0o666)
        try:
            until = time.monotonic() + patience_seconds
            while not _lock(descriptor):
                if time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                raise RunError(f"{path.parent} is in use by {holder}. Wait until it ends, or stop it; then try again.")
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # nothing that was written there matters any more
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file `path` now; False where there are no locks, or no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NOT_THROUGH_LINKS)
    except OSError:
        return False
    try:
        return not _lock(descriptor, shared=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)  # which lets go of it


def _lock(descriptor: int, shared: bool = False) -> bool:
    """Whether this process holds the file now."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True
