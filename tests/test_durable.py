"""Whatever file operation fails, and wherever the process dies: the old or the new bytes are there, whole.

The operations on files are counted and the n-th one fails, for every n until a write passes undisturbed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Tried
from disk import Disk, Hook, Killed, dies, fails

from dlf import durable
from dlf.errors import MachineError, RunError

OLD = {"weights": b"old" * 50, "state": b"{}"}
NEW = {"weights": b"newer" * 50, "state": b"{1}", "more": b""}


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


def losses(write: Callable[[Path, dict[str, bytes]], None], tmp_path: Path, hook: Callable[[int], Hook]) -> list[int]:
    """For which n the hook at operation n leaves neither the old nor the new content."""
    lost = []
    for n in itertools.count():
        folder = tmp_path / f"{n}" / "last"
        folder.parent.mkdir()
        durable.write_folder(folder, OLD)
        disk = Disk(folder.parent, hook(n))
        try:
            with disk:
                write(folder, NEW)
        except (MachineError, OSError, Killed):
            assert len(disk.trace) > n
        if content(folder) not in (OLD, NEW):
            lost.append(n)
        if len(disk.trace) <= n:
            assert content(folder) == NEW
            return lost
        if write is durable.write_folder:  # and the next save succeeds, and leaves nothing beside
            durable.write_folder(folder, NEW)
            assert content(folder) == NEW
            assert [path.name for path in folder.parent.iterdir()] == ["last"]
    raise AssertionError


HOOKS = {os.strerror(error): partial(fails, error=error) for error in (errno.ENOSPC, errno.EIO, errno.EACCES)}
each_hook = pytest.mark.parametrize("hook", [*HOOKS.values(), dies], ids=[*HOOKS, "killed"])


@pytest.mark.fault("F1")
@each_hook
def test_a_folder_is_old_or_new_whatever_fails(hook: Callable[[int], Hook], tmp_path: Path) -> None:
    assert losses(durable.write_folder, tmp_path, hook) == []


@each_hook
def test_removing_before_renaming_would_lose(hook: Callable[[int], Hook], tmp_path: Path) -> None:
    assert losses(write_naively, tmp_path, hook) != []


@pytest.mark.fault("P2", cases=700)
def test_dying_twice_loses_nothing(tmp_path: Path, tried: Tried) -> None:
    """Killed at operation n of one save and at operation m of the next: all pairs."""
    for n in itertools.count():
        for m in itertools.count():
            folder = tmp_path / f"{n}-{m}" / "last"
            folder.parent.mkdir()
            durable.write_folder(folder, OLD)
            struck = []
            for at in (n, m):
                disk = Disk(folder.parent, dies(at))
                with contextlib.suppress(Killed), disk:
                    durable.write_folder(folder, NEW)
                assert content(folder) in (OLD, NEW), (n, m)
                struck.append(len(disk.trace) > at)
            tried()
            if not struck[1]:
                break
        if not struck[0]:
            return


@pytest.mark.fault("F1")
@each_hook
def test_a_file_is_old_or_new_whatever_fails(hook: Callable[[int], Hook], tmp_path: Path) -> None:
    for n in itertools.count():
        path = tmp_path / f"{n}" / "file.json"
        path.parent.mkdir()
        durable.write(path, b"old")
        disk = Disk(path.parent, hook(n))
        try:
            with disk:
                durable.write(path, b"newer")
        except MachineError as error:
            assert str(error).startswith(f"cannot write {path}: ")  # noqa: PT017 -- only some of the n fail
        except Killed:
            pass
        assert path.read_bytes() in (b"old", b"newer")
        if len(disk.trace) <= n:
            assert n > 7, "unlink, open, write, fsync, close, replace, open, fsync, close"
            return
        durable.write(path, b"newest")
        assert path.read_bytes() == b"newest"


@pytest.mark.fault("F1")
def test_a_line_is_appended_whole_or_fails(tmp_path: Path) -> None:
    for n in itertools.count():
        path = tmp_path / f"{n}" / "lines"
        path.parent.mkdir()
        durable.append(path, b"one\n")
        disk = Disk(path.parent, fails(n, errno.ENOSPC))
        try:
            with disk:
                durable.append(path, b"two\n")
        except MachineError:
            assert path.read_bytes() in (b"one\n", b"one\ntwo\n")
        if len(disk.trace) <= n:
            assert path.read_bytes() == b"one\ntwo\n"
            return


def test_macos_is_asked_for_more_than_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There fsync leaves the bytes in the drive's cache; where a file system knows no more, fsync has to do."""
    fcntl = pytest.importorskip("fcntl", reason="no such calls on Windows")
    asked: list[Any] = []

    def knows(descriptor: int, command: int) -> None:
        asked.append(command)

    def knows_not(descriptor: int, command: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append("fsync"))
    for call, expected in ((knows, [51, 51]), (knows_not, ["fsync", "fsync"])):
        monkeypatch.setattr(fcntl, "fcntl", call)
        asked.clear()
        durable.write(tmp_path / "file", b"x")
        assert asked == expected, "the file, the folder"


@pytest.mark.fault("F1")
def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))
    durable.write(tmp_path / "file", b"0123456789")
    durable.append(tmp_path / "file", b"abcdefg\n")
    assert (tmp_path / "file").read_bytes() == b"0123456789abcdefg\n"


@pytest.mark.fault("F3")
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


@pytest.mark.fault("F5")
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


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks on Windows")
def test_who_is_patient_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with durable.locked(lock):
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(30)
    with pytest.raises(RunError, match="is in use"), durable.locked(lock, patience_seconds=0.02):
        pass
    threading.Timer(0.05, leave.set).start()
    with durable.locked(lock, patience_seconds=30):
        assert leave.is_set()
    holder.join()


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
