"""A disk that fails and loses power: what is done to the files below a folder is counted, recorded, and can be refused.

The operations really happen. Beside them a log is kept of what each changed and what was synced, and from the log
follows what may be there after a power loss:

- Of a file's bytes: what was there when it was synced; of each later write all, nothing, a first part, or its end with
  zeros in the place of its beginning.
- Of a folder's names: what was there when the folder was synced; of the later changes (a file created, a folder made,
  a rename, a removal) any selection, in whatever order they were made. A rename is one change.

That is what POSIX promises and no more: a synced file may lose its name, a rename may overtake the bytes that it shows.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dlf import durable

State = Mapping[str, bytes | None]
"""What a folder holds: bytes of files by their paths below it; None for folders."""

Hook = Callable[[int, str], int | None]
"""Called before operation n, which has this name. It may raise what the operation shall raise; a number that it returns
is how many bytes of a write are written."""

OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")


class Killed(BaseException):
    """The process ends here."""


def fails(at: int, error: int) -> Hook:
    """Operation `at` fails with this error number."""

    def hook(number: int, name: str) -> None:
        if number == at:
            raise OSError(error, os.strerror(error))

    return hook


def dies(at: int) -> Hook:
    """The process is killed before operation `at`: nothing happens any more."""

    def hook(number: int, name: str) -> None:
        if number >= at:
            raise Killed

    return hook


class Names(NamedTuple):
    """A change of a folder: the inode that each of these names has now, None where it has gone."""

    inode: int
    changes: Mapping[str, int | None]


class Bytes(NamedTuple):
    """A change of a file: these bytes at this place."""

    inode: int
    offset: int
    data: bytes


class Size(NamedTuple):
    """A change of a file: its length."""

    inode: int
    size: int


class Synced(NamedTuple):
    """All changes so far of this inode are on the disk. `site`: the lines of durable.py that asked for it."""

    inode: int
    site: tuple[int, ...]


Change = Names | Bytes | Size
Choice = Mapping[int, Change | None]
"""For changes that were not synced, by their place in the log: what came of them; those without an entry came whole."""


def nothing(number: int, name: str) -> None:
    """The hook that lets every operation happen."""


class Disk:
    """The folder `root` while the context is entered; what is there before counts as synced.

    trace: the names of the operations so far. touched: the name of the file or folder of each. log: what each of them
    changed or synced, None for nothing.
    """

    def __init__(self, root: Path, hook: Hook = nothing) -> None:
        self.root, self.hook = root, hook
        self.trace: list[str] = []
        self.touched: list[str] = []
        self.log: list[Change | Synced | None] = []
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, int]] = {}
        self._numbers = itertools.count()
        self._enter(root)
        self._names = {inode: dict(names) for inode, names in self._folders.items()}  # as they are now
        self._descriptors: dict[int, int] = {}
        self._opened: dict[int, str] = {}  # the name by which a descriptor was opened
        self._patch = pytest.MonkeyPatch()

    def _enter(self, path: Path) -> int:
        inode = next(self._numbers)
        if path.is_dir():
            self._folders[inode] = {entry.name: self._enter(entry) for entry in sorted(path.iterdir())}
        else:
            self._files[inode] = path.read_bytes()
        return inode

    def __enter__(self) -> Disk:
        for name in OPERATIONS:
            self._patch.setattr(os, name, self._watched(name, getattr(os, name)))
        self._patch.setattr(durable, "_sync", os.fsync)  # also on macOS
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    # --- watching ---------------------------------------------------------------------------------------------------

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(first: Any, *others: Any, **options: Any) -> Any:
            mine = first in self._descriptors if isinstance(first, int) else self._is_below(first)
            if not mine:
                return real(first, *others, **options)
            self.touched.append(self._opened[first] if isinstance(first, int) else Path(first).name)
            if name == "close":  # the system closes the files of a dead process, and after an error too
                real(first)
                del self._descriptors[first]
            self.trace.append(name)
            self.log.append(None)
            number = len(self.log) - 1
            limit = self.hook(number, name)
            if name == "write" and limit is not None:
                others = (bytes(others[0])[:limit],)
            if name == "close":
                return None
            change = getattr(self, f"_{name}")(first, *others)
            result = real(first, *others, **options)
            if name == "open":
                self._descriptors[result] = self._find(first) if change is None else change.changes[Path(first).name]
                self._opened[result] = Path(first).name
            self.log[number] = change
            if isinstance(change, Names):
                _apply(self._names[change.inode], change)
            return result

        return operation

    def _is_below(self, path: Any) -> bool:
        return Path(path).absolute().is_relative_to(self.root)

    def _find(self, path: Any) -> int:
        inode = 0
        for part in Path(path).absolute().relative_to(self.root).parts:
            inode = self._names[inode][part]
        return inode

    def _named(self, path: Any, inode: int | None) -> Names:
        return Names(self._find(Path(path).parent), {Path(path).name: inode})

    def _open(self, path: Any, flags: int, *_: Any) -> Names | None:
        assert not flags & os.O_TRUNC, "not recorded"
        if os.path.lexists(path) or not flags & os.O_CREAT:
            return None
        inode = next(self._numbers)
        self._files[inode] = b""
        return self._named(path, inode)

    def _write(self, descriptor: int, data: Any) -> Bytes:
        # every file here is written from its beginning or at its end
        return Bytes(self._descriptors[descriptor], os.fstat(descriptor).st_size, bytes(data))

    def _ftruncate(self, descriptor: int, size: int) -> Size:
        return Size(self._descriptors[descriptor], size)

    def _fsync(self, descriptor: int) -> Synced:
        site, frame = [], sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code.co_filename == durable.__file__:
                site.append(frame.f_lineno)
        return Synced(self._descriptors[descriptor], tuple(site))

    def _mkdir(self, path: Any, *_: Any) -> Names | None:
        if os.path.lexists(path) or not os.path.lexists(Path(path).parent):
            return None  # it will fail
        inode = next(self._numbers)
        self._folders[inode], self._names[inode] = {}, {}
        return self._named(path, inode)

    def _rename(self, old: Any, new: Any) -> Names:
        assert Path(old).parent == Path(new).parent, "not recorded"
        return Names(self._find(Path(old).parent), {Path(old).name: None, Path(new).name: self._find(old)})

    _replace = _rename

    def _unlink(self, path: Any) -> Names | None:
        return self._named(path, None) if os.path.lexists(path) else None

    _rmdir = _unlink

    # --- what is left -----------------------------------------------------------------------------------------------

    def left(self, n: int, choice: Choice | None = None) -> State:
        """What is there when the process ends before operation n; with a choice, when the power went as well."""
        files = {inode: bytearray(data) for inode, data in self._files.items()}
        folders = {inode: dict(names) for inode, names in self._folders.items()}
        for index, whole in enumerate(self.log[:n]):
            change = choice.get(index, whole) if choice else whole
            if isinstance(change, Names):
                _apply(folders[change.inode], change)
            elif isinstance(change, Bytes):
                file = files[change.inode]
                file.extend(bytes(max(0, change.offset - len(file))))  # a hole
                file[change.offset : change.offset + len(change.data)] = change.data
            elif isinstance(change, Size):
                del files[change.inode][change.size :]
        return dict(_walk(0, "", folders, files))

    def unsynced(self, n: int, ignored: Collection[int] = ()) -> dict[int, Change]:
        """The changes before operation n that nothing makes durable; `ignored` fsyncs do nothing."""
        pending: dict[int, Change] = {}
        for index, entry in enumerate(self.log[:n]):
            if isinstance(entry, Synced):
                if index not in ignored:
                    pending = {i: change for i, change in pending.items() if change.inode != entry.inode}
            elif entry is not None:
                pending[index] = entry
        return pending

    def choices(self, n: int, most: int, ignored: Collection[int] = ()) -> Iterator[Choice]:
        """What a power loss before operation n makes of the changes that were not synced.

        All there is, where that is at most `most`; else everything, nothing, each change alone, all but each, and
        random ones.
        """
        pending = self.unsynced(n, ignored)
        fates: dict[int, list[Change | None]] = {index: [change, *_fates(change)] for index, change in pending.items()}
        if math.prod(map(len, fates.values())) <= most:
            for combination in itertools.product(*fates.values()):
                yield dict(zip(fates, combination, strict=True))
            return
        whole: dict[int, Change | None] = dict(pending)
        lost: dict[int, Change | None] = dict.fromkeys(pending)
        yield from (whole, lost)
        for index, options in fates.items():
            yield {**lost, index: pending[index]}
            for option in options[1:]:
                yield {**whole, index: option}
        chance = random.Random(n)
        for _ in range(most - 2 - sum(map(len, fates.values()))):
            yield {index: chance.choice(options) for index, options in fates.items()}

    def after_power_loss(self, n: int, most: int, ignored: Collection[int] = ()) -> Iterator[State]:
        """What may be there when the power went before operation n."""
        return (self.left(n, choice) for choice in self.choices(n, most, ignored))


def _apply(names: dict[str, int], change: Names) -> None:
    for name, inode in change.changes.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _walk(
    inode: int, path: str, folders: Mapping[int, Mapping[str, int]], files: Mapping[int, bytearray]
) -> Iterator[tuple[str, bytes | None]]:
    for name, child in sorted(folders[inode].items()):
        below = f"{path}/{name}" if path else name
        if child in folders:
            yield below, None
            yield from _walk(child, below, folders, files)
        else:
            yield below, bytes(files[child])


def _fates(change: Change) -> Iterator[Change | None]:
    """What a power loss makes of a change, besides leaving it whole."""
    yield None
    if isinstance(change, Bytes) and len(change.data) > 1:
        half = len(change.data) // 2
        yield change._replace(data=change.data[:half])
        yield change._replace(data=bytes(half) + change.data[half:])


def put(state: State, folder: Path) -> Path:
    """Make `folder` hold this state."""
    folder.mkdir(parents=True)
    for name, data in state.items():
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)
    return folder


def found(folder: Path) -> State:
    """What the folder holds."""
    entries = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in entries}
