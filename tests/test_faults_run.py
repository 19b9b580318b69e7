"""A whole training, of which any file operation fails, is the last, or is followed by a power loss: what was saved is
there and whole, and the run goes on from it to the bytes of one that nothing happened to."""

from __future__ import annotations

import errno
import functools
import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tried
from disk import Bytes, Disk, Hook, State, found, put
from test_resume import outcome

from dlf import checkpoint, environment, yaml12
from dlf.api import Silent
from dlf.commands.resume import resume
from dlf.commands.train import train as train_experiment
from dlf.config import loads
from dlf.errors import DlfError, MachineError, RunError
from dlf.run import Record, RunDirectory

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"type": "iris", "batch_size": 60},
    "model": {"layers": [{"type": "linear", "units": 2}, "batch_norm", {"type": "dropout", "rate": 0.3}]},
    "schedule": "cosine",
    "train": {"epochs": 2, "device": "cpu"},
}
UNIMPORTANT = ("train.log", ".lock")  # nothing depends on what is in them
LOOKS = "layers.jsonl"
UNHARMING = ("train.log", ".lock", ".info.lock", LOOKS)  # training goes on where an operation on one of these fails

# what a system answers to each operation, in turn
ERRORS = {
    "open": (errno.EACCES, errno.ENOSPC, errno.EIO, errno.EROFS),
    "mkdir": (errno.EACCES, errno.ENOSPC, errno.EIO, errno.EROFS),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "close": (errno.EIO, errno.ENOSPC),
}
OTHERWISE = (errno.EIO, errno.EACCES, errno.ENOSPC)


class Noting(Silent):
    """Notes how many operations were done when an epoch was reported as saved."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.saved_at: list[int] = []

    def epoch(self, record: Record, best: bool) -> None:
        self.saved_at.append(len(self.disk.log))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at the machine and to read YAML costs more than to train here; the same bytes are read once."""
    monkeypatch.setattr(environment, "_commit", lambda: None)
    here = environment.describe(torch.device("cpu"))
    monkeypatch.setattr(environment, "describe", lambda device: here)
    once = functools.cache(loads)
    monkeypatch.setattr(
        "dlf.commands.resume.load", lambda path, given=(): once(path.read_text(), path.name, tuple(given))
    )


LOADED = loads(yaml12.dump(TINY), "the test")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory, where the system has one: these tests make and remove files by the ten thousand."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def train(root: Path, display: Silent | None = None) -> None:
    train_experiment(LOADED, runs=root / "runs", display=display or Silent())


def run_below(root: Path) -> RunDirectory:
    return RunDirectory.find("latest", root / "runs")


def go_on(root: Path) -> dict[str, Any]:
    """Resume the run, or start where there is none, and what comes of it."""
    try:
        resume(run_below(root), display=Silent())
    except RunError as error:
        if "there are no runs" not in str(error):
            raise
        train(root)
    assert run_below(root).read_info()["status"] == "completed"
    return outcome(run_below(root).path)


def but_for_looks(came_to: dict[str, Any]) -> dict[str, Any]:
    """All but layers.jsonl, which is not synced: no training depends on it, and what cannot be noted there is lost."""
    return {name: kept for name, kept in came_to.items() if name != LOOKS}


@pytest.fixture
def undisturbed(scratch: Path) -> dict[str, Any]:
    train(scratch / "undisturbed")
    return outcome(run_below(scratch / "undisturbed").path)


@pytest.fixture
def watched(scratch: Path) -> tuple[Disk, Noting]:
    """A training that nothing disturbs, and all that it does to its files."""
    root = scratch / "watched"
    root.mkdir()
    disk = Disk(root)
    display = Noting(disk)
    with disk:
        train(root, display)
    assert disk.left(len(disk.log)) == found(root), "everything that was written is in the log"
    return disk, display


# --- operation n fails ----------------------------------------------------------------------------------------------


def fails_once(at: int) -> Hook:
    """Operation `at` fails, with one of the errors that it may have."""

    def hook(number: int, name: str) -> None:
        if number == at:
            errors = ERRORS.get(name, OTHERWISE)
            raise OSError(errors[at % len(errors)], "on purpose")

    return hook


def fails_from(at: int) -> Hook:
    """From operation `at` on the disk takes nothing any more."""

    def hook(number: int, name: str) -> None:
        if number >= at and name != "close":
            raise OSError(errno.EROFS, "on purpose")

    return hook


def is_cut_short(at: int) -> Hook:
    """If operation `at` is a write it writes a part; then the disk is full, until something is removed."""

    def hook(number: int, name: str) -> int | None:
        if name == "write" and number == at:
            return 1
        if name == "write" and number == at + 1:
            raise OSError(errno.ENOSPC, "on purpose")
        return None

    return hook


@pytest.mark.parametrize(
    ("fault", "name", "stride"),
    [
        pytest.param(fails_once, "", 1, marks=pytest.mark.fault("F1", cases=200), id="once"),
        pytest.param(fails_from, "", 4, marks=pytest.mark.fault("F1", cases=50), id="from then on"),
        pytest.param(is_cut_short, "write", 1, marks=pytest.mark.fault("F1", cases=34), id="cut short"),
    ],
)
def test_any_operation_fails(
    fault: Callable[[int], Hook],
    name: str,
    stride: int,
    watched: tuple[Disk, Noting],
    undisturbed: dict[str, Any],
    scratch: Path,
    tried: Tried,
) -> None:
    """Training ends with exit code 5 and one message, or goes on where nothing depends on what failed."""
    numbers = [n for n, operation in enumerate(watched[0].trace) if name in operation][::stride]
    for n in numbers:
        root = scratch / f"{n}"
        root.mkdir()
        display = Noting(Disk(root, fault(n)))
        failure = None
        try:
            with display.disk:
                train(root, display)
        except DlfError as error:
            failure = error
        touched = watched[0].touched[n]
        assert failure is not None or touched in UNHARMING, (n, touched)
        assert failure is None or (failure.exit_code, len(str(failure).splitlines())) == (5, 1), n
        assert failure is None or "on purpose" in str(failure)
        check(root, len(display.saved_at))
        left_out = but_for_looks if touched == LOOKS else dict
        assert left_out(go_on(root)) == left_out(undisturbed), n
        tried()


def check(root: Path, saved: int) -> None:
    """What is there can be read, is of one moment, and holds the epochs that were reported as saved."""
    try:
        run = run_below(root)
    except RunError:
        assert saved == 0
        return
    run.read_info()
    assert run.config.exists()
    records = run.read_metrics()
    epochs = checkpoint.read(run.last).position.epoch if checkpoint.exists(run.last) else 0
    best = checkpoint.read(run.best).position.epoch if checkpoint.exists(run.best) else 0
    assert saved <= epochs <= saved + 1
    assert epochs <= len(records) <= epochs + 1
    assert (epochs > 0) <= (best > 0)
    assert best <= len(records)
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))


# --- killed, and the power goes -------------------------------------------------------------------------------------


class States:
    """What is there before operation n, each in a folder of its own, with the epochs that were saved by then."""

    def __init__(self, display: Noting, folder: Path) -> None:
        self.display, self.folder = display, folder
        self.seen: set[Any] = set()

    def __call__(self, n: int, states: Iterable[State]) -> Iterator[tuple[Path, int]]:
        """Those that were not yet seen with as many saved epochs."""
        saved = sum(at <= n for at in self.display.saved_at)
        for state in states:
            key = (saved, *((name, data) for name, data in state.items() if not name.endswith(UNIMPORTANT)))
            if key not in self.seen:
                self.seen.add(key)
                yield put(state, self.folder / f"{len(self.seen)}"), saved


@pytest.mark.fault("P2", cases=86)
def test_killed_at_any_operation(
    watched: tuple[Disk, Noting], undisturbed: dict[str, Any], scratch: Path, tried: Tried
) -> None:
    disk, display = watched
    new = States(display, scratch / "states")
    for n in range(len(disk.log) + 1):
        for root, saved in new(n, [disk.left(n)]):
            check(root, saved)
            assert go_on(root) == undisturbed, n
            tried()
            assert not [path for path in run_below(root).path.rglob(".*") if not path.name.endswith(".lock")]


@pytest.mark.fault("P2", cases=200)
def test_killed_at_any_byte(
    watched: tuple[Disk, Noting], undisturbed: dict[str, Any], scratch: Path, tried: Tried
) -> None:
    """Every byte of a short write, some of a long one, can be the last; the run is then read, and some are resumed."""
    disk, display = watched
    new, chance = States(display, scratch / "states"), random.Random(0)
    for n, change in enumerate(disk.log):
        if isinstance(change, Bytes):
            size = len(change.data)
            lengths = range(size) if size < 64 else sorted(chance.sample(range(size), 8))
            torn = (disk.left(n + 1, {n: change._replace(data=change.data[:length])}) for length in lengths)
            for root, saved in new(n, torn):
                check(root, saved)
                tried()
                if len(new.seen) % 8 == 0:
                    assert go_on(root) == undisturbed, n


@pytest.mark.fault("P3", cases=600)
def test_the_power_goes_at_any_operation(
    watched: tuple[Disk, Noting], undisturbed: dict[str, Any], scratch: Path, tried: Tried
) -> None:
    disk, display = watched
    new = States(display, scratch / "states")
    for n in range(len(disk.log) + 1):
        for root, saved in new(n, disk.after_power_loss(n, 32)):
            check(root, saved)
            tried()
            if len(new.seen) % 6 == 0:
                assert but_for_looks(go_on(root)) == but_for_looks(undisturbed), n


# --- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F3", cases=24)
def test_f3_nothing_is_written_or_removed_through_a_link(
    undisturbed: dict[str, Any], scratch: Path, tried: Tried
) -> None:
    """Each file and folder of a run in turn is a link to the real one elsewhere; then the run is trained further."""
    train(scratch / "whole")
    run = run_below(scratch / "whole").path
    names = [str(path.relative_to(run)) for path in sorted(run.rglob("*"))]
    refused = []
    for number, name in enumerate([*names, "checkpoints/.last.part", "checkpoints/.last.old", ".run.json.part"]):
        copy, outside = scratch / f"{number}" / run.name, scratch / f"{number}" / "outside" / "it"
        shutil.copytree(run, copy)
        outside.parent.mkdir()
        if name in names:
            (copy / name).rename(outside)
        else:
            outside.mkdir()
            (outside / "precious").write_bytes(b"kept")
        (copy / name).symlink_to(outside)
        before = found(outside.parent)
        try:
            resume(RunDirectory(copy), ["train.epochs=3"], display=Silent())
            assert len(RunDirectory(copy).read_metrics()) == 3, name
        except (RunError, MachineError):
            refused.append(name)
        assert found(outside.parent) == before, name
        tried()
    assert "checkpoints" in refused


# --- 10,000 runs ----------------------------------------------------------------------------------------------------


@pytest.mark.fault("F6")
def test_f6_ten_thousand_runs_are_not_opened(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is looked at twice at most, and none is read; a tenth is junk."""
    names = [f"x-202601{day:02}-{minute:06}-{number:04x}" for number, (day, minute) in enumerate(moments())]
    for number, name in enumerate(names):
        (scratch / name).mkdir()
        if number % 10:
            (scratch / name / "run.json").touch()
    looks = 0
    stat = os.stat

    def counted(*arguments: Any, **options: Any) -> os.stat_result:
        nonlocal looks
        looks += 1
        return stat(*arguments, **options)

    monkeypatch.setattr(os, "stat", counted)
    monkeypatch.setattr(io, "open", lambda *_, **__: pytest.fail("a file was opened"))
    for wanted, expected in (("latest", names[-1]), (names[4321][:-2], names[4321]), (names[1], names[1])):
        looks = 0
        assert RunDirectory.find(wanted, scratch).id == expected
        assert looks <= 2 * len(names) + 10
    with pytest.raises(RunError, match="no run"):
        RunDirectory.find(names[10], scratch)


def moments() -> Iterator[tuple[int, int]]:
    """10,000 days and times."""
    return ((day, hour * 10_000 + minute) for day in range(1, 21) for hour in range(10) for minute in range(50))
