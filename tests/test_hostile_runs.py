"""A run whose run.json or metrics.jsonl somebody edited: every command goes its way or ends with exit code 4."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Train, Tried
from test_resume import SMALL, StopAt

from dlf.api import Silent
from dlf.commands.evaluate import evaluate_run
from dlf.commands.reproduce import reproduce
from dlf.commands.resume import resume
from dlf.commands.stopping import StoppedError
from dlf.errors import RunError
from dlf.run import RunDirectory

VALUES: list[Any] = [
    *(5, -1, 1.5, True, None, "x", "", 10**400, "\0", "\ud800"),
    *([], [5], [[]], [{"x": 1}], [{"epoch": "1"}], {}, {"x": 1}, {"x": [{}]}),
]
COMMANDS: dict[str, Callable[[RunDirectory], Any]] = {
    "resume": lambda run: resume(run, display=Silent()),
    "evaluate": lambda run: evaluate_run(run, split="val"),
    "reproduce": lambda run: reproduce(run, display=Silent()),
}


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlf.environment._commit", lambda: None)


@pytest.fixture
def runs(train: Train, tmp_path: Path) -> list[RunDirectory]:
    """One that is finished, one that was stopped in its second epoch, went on, and was stopped again."""
    finished = RunDirectory(Path(train({**SMALL, "train": {"epochs": 1}}).path))
    with pytest.raises(StoppedError):
        train(SMALL, display=StopAt(6))
    (path,) = set((tmp_path / "runs").iterdir()) - {finished.path}
    stopped = RunDirectory(path)
    with pytest.raises(StoppedError):
        resume(stopped, display=StopAt(7))
    return [finished, stopped]


def attempt(run: RunDirectory, command: str, scratch: Path, **files: bytes) -> bool:
    """Whether the command took a copy of the run with these files, and did not refuse it in one line."""
    copy = scratch / run.id
    shutil.copytree(run.path, copy)
    for name, data in files.items():
        (copy / name.replace("_", ".")).write_bytes(data)
    refused = None
    try:
        COMMANDS[command](RunDirectory(copy))
    except RunError as error:
        refused = str(error)
    shutil.rmtree(copy)
    assert refused is None or (len(refused.splitlines()), len(refused) < 1000) == (1, True)
    return refused is None


def edited(entries: Mapping[str, Any], count: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Each entry in turn is gone (...), and has some of the values, the next ones each time."""
    values = itertools.cycle(VALUES)
    for name in entries:
        yield name, ..., {key: value for key, value in entries.items() if key != name}
        for value in itertools.islice(values, count):
            yield name, value, {**entries, name: value}


# what some command acts on, and which no list, mapping or null can be
READ = {"status", "started", "data_sha256", "split_sha256", "task", "result", "planned_epochs", "epochs", "threads"}


@pytest.mark.fault("K1", cases=100)
@pytest.mark.parametrize("command", COMMANDS)
def test_any_entry_of_run_json(command: str, runs: list[RunDirectory], tmp_path: Path, tried: Tried) -> None:
    for run in runs if command == "resume" else runs[1:]:
        assert attempt(run, command, tmp_path / "copy")
        for name, value, info in edited(run.read_info(), 2):
            taken = attempt(run, command, tmp_path / "copy", run_json=json.dumps(info).encode())
            tried()
            assert not taken or name not in READ or value is ... or isinstance(value, int | str), (name, value)


@pytest.mark.fault("K1", cases=100)
@pytest.mark.parametrize("command", ["resume", "reproduce"])
def test_any_entry_of_a_record(command: str, runs: list[RunDirectory], tmp_path: Path, tried: Tried) -> None:
    """metrics.jsonl of a run that goes on is compared with its checkpoint; a finished one is believed, if it can be."""
    for run in runs:
        (record, *_) = run.read_metrics()
        for name, value, other in edited(record, 4):
            changed = json.dumps(other).encode() + b"\n"
            taken = attempt(run, command, tmp_path / "copy", metrics_jsonl=changed)
            tried()
            assert not taken or (command, run) == ("resume", runs[0]), (name, value)
