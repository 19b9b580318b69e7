"""Whatever file operation fails, and wherever the process dies: the old or the new bytes are there, whole.

The operations of the os module are counted and the n-th one fails, for every n until a write passes undisturbed.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dlf import durable
from dlf.errors import MachineError, RunError

OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")
OLD = {"weights": b"old" * 50, "state": b"{}"}
NEW = {"weights": b"newer" * 50, "state": b"{1}", "more": b""}


class Killed(BaseException):
    """The process ends here."""


class Faults:
    """Counts the operations of the os module, records their names, and lets the n-th fail.

    error: the number that the failing call raises; None kills the process instead, so that nothing after it happens.
    """

    def __init__(self, at: int, error: int | None = errno.ENOSPC) -> None:
        self.at, self.error = at, error
        self.trace: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(os, name, self._counted(name, getattr(os, name)))
            yield

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.trace.append(name)
            fails = len(self.trace) == self.at
            dead = self.error is None and len(self.trace) >= self.at
            if name == "close":
                real(*arguments, **options)  # the system closes the files of a dead process, and after an error too
            if dead:
                raise Killed
            if fails:
                assert self.error is not None
                raise OSError(self.error, os.strerror(self.error))
            return None if name == "close" else real(*arguments, **options)

        return operation

    @property
    def struck(self) -> bool:
        return len(self.trace) >= self.at


def content(folder: Path) -> dict[str, bytes] | None:
    """What a reader finds."""
    place, which = durable.locate(folder)
    return {path.name: path.read_bytes() for path in place.iterdir()} if which is not None else None


def write_naively(folder: Path, files: dict[str, bytes]) -> None:
    """A wrong variant: the old folder is removed before the new one takes its place."""
    part = folder.with_name("part")
    durable._remove(part)
    part.mkdir()
    for name, data in files.items():
        durable.write(part / name, data)
    durable._remove(folder)
    part.rename(folder)


def losses(write: Callable[[Path, dict[str, bytes]], None], tmp_path: Path, error: int | None) -> list[int]:
    """For which n the n-th failing operation leaves neither the old nor the new content."""
    lost = []
    for n in itertools.count(1):
        folder = tmp_path / f"{n}" / "last"
        folder.parent.mkdir()
        durable.write_folder(folder, OLD)
        faults = Faults(n, error)
        try:
            with faults():
                write(folder, NEW)
        except (MachineError, OSError, Killed):
            assert faults.struck
        if content(folder) not in (OLD, NEW):
            lost.append(n)
        if not faults.struck:
            assert content(folder) == NEW
            return lost
        if write is durable.write_folder:  # and the next save succeeds, and leaves nothing beside
            durable.write_folder(folder, NEW)
            assert content(folder) == NEW
            assert [path.name for path in folder.parent.iterdir()] == ["last"]
    raise AssertionError


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES, None])
def test_a_folder_is_old_or_new_whatever_fails(error: int | None, tmp_path: Path) -> None:
    assert losses(durable.write_folder, tmp_path, error) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, None])
def test_removing_before_renaming_would_lose(error: int | None, tmp_path: Path) -> None:
    assert losses(write_naively, tmp_path, error) != []


def test_dying_twice_loses_nothing(tmp_path: Path) -> None:
    """Killed at operation n of one save and at operation m of the next: all pairs."""
    for n in itertools.count(1):
        for m in itertools.count(1):
            folder = tmp_path / f"{n}-{m}" / "last"
            folder.parent.mkdir()
            durable.write_folder(folder, OLD)
            deaths = [Faults(n, None), Faults(m, None)]
            for faults in deaths:
                try:
                    with faults():
                        durable.write_folder(folder, NEW)
                except Killed:
                    pass
                assert content(folder) in (OLD, NEW), (n, m)
            if not deaths[1].struck:
                break
        if not deaths[0].struck:
            return


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, None])
def test_a_file_is_old_or_new_whatever_fails(error: int | None, tmp_path: Path) -> None:
    for n in itertools.count(1):
        path = tmp_path / f"{n}.json"
        durable.write(path, b"old")
        faults = Faults(n, error)
        try:
            with faults():
                durable.write(path, b"newer")
        except (MachineError, Killed) as failure:
            message = f"cannot write {path}: {os.strerror(error)}." if error else ""
            assert str(failure).startswith(message)  # noqa: PT017 -- only some of the n fail
        assert path.read_bytes() in (b"old", b"newer")
        if not faults.struck:
            assert n > 8, "unlink, open, write, fsync, close, replace, open, fsync, close"
            return
        durable.write(path, b"newest")
        assert path.read_bytes() == b"newest"


def test_a_line_is_appended_whole_or_fails(tmp_path: Path) -> None:
    for n in itertools.count(1):
        path = tmp_path / f"{n}.jsonl"
        durable.append(path, b"one\n")
        faults = Faults(n)
        try:
            with faults():
                durable.append(path, b"two\n")
        except MachineError:
            assert path.read_bytes() in (b"one\n", b"one\ntwo\n")
        if not faults.struck:
            assert path.read_bytes() == b"one\ntwo\n"
            return


def trace_of(action: Callable[[], Any]) -> list[str]:
    faults = Faults(at=-1)
    with faults():
        action()
    return faults.trace


def test_everything_is_synced_in_order(tmp_path: Path) -> None:
    """A removed fsync shows here: bytes before the name that makes them seen, names before what they replace goes."""
    one_file, folder_sync = ["open", "write", "fsync", "close"], ["open", "fsync", "close"]
    file = tmp_path / "file"
    assert trace_of(lambda: durable.write(file, b"x")) == ["unlink", *one_file, "replace", *folder_sync]
    assert trace_of(lambda: durable.append(file, b"x\n")) == one_file
    assert trace_of(lambda: durable.make_folder(tmp_path / "new")) == ["mkdir", *folder_sync]
    last, files = tmp_path / "last", {"a": b"1", "b": b"2"}
    first = ["mkdir", *one_file, *one_file, *folder_sync, "rename", *folder_sync]
    assert trace_of(lambda: durable.write_folder(last, files)) == first
    again = trace_of(lambda: durable.write_folder(last, files))
    aside = [*folder_sync, "rename"]  # before `old` could be removed, the name of what replaced it is durable
    removed = ["unlink", "unlink", "rmdir"]
    assert again == [*first[:12], *aside, "rename", *folder_sync, *removed]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))
    durable.write(tmp_path / "file", b"0123456789")
    durable.append(tmp_path / "file", b"abcdefg\n")
    assert (tmp_path / "file").read_bytes() == b"0123456789abcdefg\n"


def test_links_are_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"kept")
    inside = tmp_path / "run" / "checkpoints"
    inside.mkdir(parents=True)

    for name in ("last", ".last.part", ".last.old"):
        (inside / name).symlink_to(outside, target_is_directory=True)
    with pytest.raises(RunError, match="symbolic link"):
        durable.write_folder(inside / "last", NEW)
    (inside / "last").unlink()
    durable.write_folder(inside / "last", OLD)
    durable.write_folder(inside / "last", NEW)
    assert content(inside / "last") == NEW

    linked = tmp_path / "run" / "linked"
    linked.symlink_to(outside, target_is_directory=True)
    with pytest.raises(RunError, match="symbolic link"):
        durable.write_folder(linked / "last", NEW)

    (inside / "log").symlink_to(outside / "precious")
    with pytest.raises(MachineError, match="cannot write"):
        durable.append(inside / "log", b"x\n")
    assert not durable.note(inside / "log", "x\n")
    durable.write(inside / "log", b"replaced")
    assert not (inside / "log").is_symlink()
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_bytes() == b"kept"


def test_two_processes_cannot_make_the_same_folder(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "run")
    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "run")


def test_a_note_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    assert durable.note(tmp_path / "log", "one\n")
    assert durable.note(tmp_path / "log", "\ud800 no character\n")
    assert (tmp_path / "log").read_bytes() == b"one\n? no character\n"
    assert not durable.note(tmp_path / "missing" / "log", "x\n")


def test_a_reader_never_sees_a_gap(tmp_path: Path) -> None:
    """While one thread replaces the folder again and again, another always finds one that is complete."""
    folder = tmp_path / "last"
    durable.write_folder(folder, OLD)
    done = threading.Event()

    def replace() -> None:
        for _ in range(100):
            durable.write_folder(folder, NEW)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    gaps = 0
    while not done.is_set():
        gaps += durable.locate(folder)[1] is None
    writer.join()
    assert gaps == 0


# --- the lock -------------------------------------------------------------------------------------------------------

HOLD = "import sys; from dlf import durable; from pathlib import Path\n"
HOLD += "with durable.locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks on Windows")
def test_one_writer_at_a_time_and_none_after_death(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=rf"{tmp_path} is in use by process {holder.pid} on "), durable.locked(lock):
            pass
        holder.send_signal(signal.SIGKILL)
    with durable.locked(lock), pytest.raises(RunError, match=f"process {os.getpid()}"), durable.locked(lock):
        pass
    with durable.locked(lock):
        pass


def test_a_lock_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match="cannot lock"), durable.locked(tmp_path / "missing" / ".lock"):
        pass
    if sys.platform != "win32":
        import fcntl

        def refuse(number: int) -> Callable[..., None]:
            def flock(*_: Any) -> None:
                raise OSError(number, os.strerror(number))

            return flock

        monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
        with pytest.raises(MachineError, match="cannot lock"), durable.locked(tmp_path / ".lock"):
            pass
        monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))  # a file system without locks
        with durable.locked(tmp_path / ".lock"):
            pass
