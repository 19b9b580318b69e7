"""The power goes before any operation: what is there afterwards is the old or the new content, and what was reported
as saved is there. Without any one of the fsyncs it would not be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Tried
from disk import Disk, Killed, Synced, dies, put

from dlf import durable


class Step(NamedTuple):
    """Something that is done to a folder, what a reader finds in it when it is done (...: as before); where it dies."""

    act: Callable[[Path], Any]
    value: Any
    dies_at: int | None = None


class Case(NamedTuple):
    """Steps, and the reader: what it finds in a folder."""

    read: Callable[[Path], Any]
    steps: Sequence[Step]


class Done(NamedTuple):
    """The steps were done. promised[n]: what may be found when the power goes before operation n."""

    disk: Disk
    read: Callable[[Path], Any]
    promised: Sequence[Sequence[Any]]


def writing(data: bytes) -> Step:
    return Step(lambda root: durable.write(root / "file", data), data)


def adding(data: bytes, *before: bytes) -> Step:
    return Step(lambda root: durable.append(root / "log", data + b"\n"), [*before, data])


def saving(text: bytes) -> Step:
    files = {"weights": b"w" + text, "state": text}
    return Step(lambda root: durable.write_folder(root / "last", files), files)


def removing() -> Step:
    return Step(lambda root: durable.remove_folder(root / "last"), None)


def file(root: Path) -> Any:
    return (root / "file").read_bytes() if (root / "file").exists() else None


def lines(root: Path) -> Any:
    """The whole lines, and not a last one with a hole: as `RunDirectory.read_metrics` does."""
    whole = (root / "log").read_bytes().split(b"\n")[:-1] if (root / "log").exists() else []
    return (whole[:-1] if whole and b"\0" in whole[-1] else whole) or None


def checkpoint(root: Path) -> Any:
    place, which = durable.locate(root / "last")
    return {path.name: path.read_bytes() for path in place.iterdir()} if which is not None else None


def is_there(root: Path) -> Any:
    return (root / "some" / "folder").is_dir() or None


CASES = {
    "file": Case(file, [writing(b"one"), writing(b"two two"), writing(b"3")]),
    "lines": Case(lines, [adding(b"one"), adding(b"two", b"one"), adding(b"three", b"one", b"two")]),
    "folders": Case(is_there, [Step(lambda root: durable.ensure_folder(root / "some" / "folder"), True)]),
    "checkpoint": Case(checkpoint, [saving(b"one"), saving(b"two two"), saving(b"3")]),
    "removal": Case(checkpoint, [saving(b"one"), saving(b"two"), removing()]),
    "hiding": Case(checkpoint, [saving(b"one"), Step(lambda root: durable.hide(root / "last"), None)]),
}


def done(case: Case, root: Path) -> Done:
    """Do the steps of a case; one that dies is followed by the next, as another process."""
    root.mkdir(parents=True)
    disk = Disk(root)
    promised: list[list[Any]] = [[None]]
    for step in case.steps:
        before, start = promised[-1], len(disk.log)
        disk.hook = dies(at=sys.maxsize if step.dies_at is None else start + step.dies_at)
        try:
            with disk:
                step.act(root)
            after = before if step.value is ... else [step.value]
        except Killed:
            after = [*before, step.value]
        promised += [[*before, step.value]] * (len(disk.log) - start - 1) + [after]
    return Done(disk, case.read, promised)


def broken(done: Done, scratch: Path, ignored: Collection[int] = (), tried: Tried | None = None) -> Iterator[str]:
    """After which power losses something else is found than was promised; `ignored` fsyncs do nothing."""
    known: dict[Any, Any] = {}
    for n, promised in enumerate(done.promised):
        for state in done.disk.after_power_loss(n, 64, ignored):
            key = tuple(state.items())
            if key not in known:
                known[key] = done.read(put(state, scratch / f"{len(known)}"))
                if tried is not None:
                    tried()
            if known[key] not in promised:
                yield f"before operation {n} ({done.disk.trace[:n][-1:]}): {known[key]} instead of one of {promised}"


def syncs(done: Done) -> dict[int, tuple[int, ...]]:
    """The fsyncs by their place in the log: the lines of durable.py that asked for each."""
    return {index: entry.site for index, entry in enumerate(done.disk.log) if isinstance(entry, Synced)}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.fault("P3", cases=cases))
        for name, cases in {
            "file": 14,
            "lines": 11,
            "folders": 3,
            "checkpoint": 80,
            "removal": 36,
            "hiding": 16,
        }.items()
    ],
)
def test_what_was_promised_is_there(name: str, tmp_path: Path, tried: Tried) -> None:
    assert list(broken(done(CASES[name], tmp_path / "root"), tmp_path, tried=tried)) == []


@pytest.mark.parametrize("name", CASES)
def test_each_single_fsync_is_needed(name: str, tmp_path: Path) -> None:
    finished = done(CASES[name], tmp_path / "root")
    for index in syncs(finished):
        violations = broken(finished, tmp_path / f"{index}", {index})
        assert next(violations, None) is not None, (index, finished.disk.trace)


# what is done to a checkpoint of one save, dies at each of its operations, and is followed by another
MEND = Step(lambda root: durable.mend_folder(root / "last"), ...)
TWICE = {
    "save, save": (saving(b"two two"), saving(b"3")),
    "save, removal": (saving(b"two two"), removing()),
    "save, mending": (saving(b"two two"), MEND),
    "removal, save": (removing(), saving(b"3")),
    "removal, removal": (removing(), removing()),
    "removal, mending": (removing(), MEND),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    """Every pair, for every operation at which its first half dies."""
    finished = []
    for first, second in TWICE.values():
        folder = tmp_path_factory.mktemp("killed")
        before = done(Case(checkpoint, [saving(b"one")]), folder / "before")
        whole = done(Case(checkpoint, [saving(b"one"), first]), folder / "whole")
        finished += [
            done(Case(checkpoint, [saving(b"one"), first._replace(dies_at=k), second]), folder / f"{k}")
            for k in range(len(whole.disk.log) - len(before.disk.log))
        ]
    return finished


@pytest.mark.fault("P3", cases=2_500)
def test_what_follows_one_that_died(killed: list[Done], tmp_path: Path, tried: Tried) -> None:
    for k, finished in enumerate(killed):
        assert list(broken(finished, tmp_path / f"{k}", tried=tried)) == []


def test_every_place_that_syncs_is_needed(killed: list[Done], tmp_path: Path) -> None:
    """Also the one that only a save after one that died comes to."""
    everything = [*(done(case, tmp_path / name) for name, case in CASES.items()), *killed]
    needed: set[tuple[int, ...]] = set()
    for number, finished in enumerate(everything):
        sites = syncs(finished)
        for site in set(sites.values()) - needed:
            ignored = {index for index, at in sites.items() if at == site}
            if next(broken(finished, tmp_path / f"{number}-{len(needed)}-{site}", ignored), None) is not None:
                needed.add(site)
    assert needed == {site for finished in everything for site in syncs(finished).values()}
    assert {line for site in needed for line in site} >= asked_for(), "a place in durable.py that no case comes to"


def asked_for() -> set[int]:
    """The lines of durable.py where something is synced."""
    tree = ast.parse(Path(durable.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return {call.lineno for call in calls if call.func.id in ("_sync", "sync_folder", "_write_and_sync")}  # type: ignore[attr-defined]
