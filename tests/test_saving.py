"""How often one saves changes nothing: whatever the rules and wherever it is killed, a run ends with the same bytes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Train, Tried
from disk import Disk, Hook, Killed, dies, fails, nothing
from test_resume import SMALL as TWO_EPOCHS
from test_resume import Told, go_on, outcome

from dlf import checkpoint
from dlf.api import Silent
from dlf.commands import saving
from dlf.commands.resume import resume
from dlf.commands.saving import Timetable
from dlf.config import CheckpointSection
from dlf.engine import TrainState
from dlf.errors import MachineError, RunError, UsageError
from dlf.run import RunDirectory

SMALL: dict[str, Any] = {**TWO_EPOCHS, "train": {"epochs": 3}}  # 4 steps an epoch; every epoch is better than the last
ALWAYS = 1e-9  # minutes: it is always time

# the steps after which each saves checkpoints/last
RULES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "default": ({}, [4, 8, 12]),
    "every second epoch": ({"every_epochs": 2}, [8, 12]),
    "at the end only": ({"every_epochs": 50}, [12]),
    "every step": ({"every_steps": 1}, list(range(1, 13))),
    "every third step": ({"every_steps": 3, "every_epochs": 50}, [3, 6, 9, 12]),
    "every eighth step": ({"every_steps": 8, "every_epochs": 50}, [8, 12]),
    "all the time": ({"every_minutes": ALWAYS}, list(range(1, 13))),
    "once an hour": ({"every_minutes": 60}, [4, 8, 12]),
    "three kept": ({"every_steps": 3, "keep": 3}, [3, 4, 6, 8, 9, 12]),
}


def ruled(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {**SMALL, "checkpoint": dict(rules)}


def result(run: Path) -> dict[str, Any]:
    """What a run came to, but for its rules and the older checkpoints that they keep."""
    return {name: data for name, data in outcome(run).items() if "step-" not in name and name != "config.yaml"}


def kept(run: RunDirectory) -> list[int]:
    """The steps of all checkpoints but best, each of them whole."""
    folders = [run.last, *map(run.older_folder, run.older_steps())]
    return sorted(checkpoint.read(folder).position.step for folder in folders)


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process to ask git for the commit costs more than all the training here."""
    monkeypatch.setattr("dlf.environment._commit", lambda: None)


@pytest.fixture
def plain(train: Train, tmp_path: Path) -> Path:
    """A run that saved as it does by default and was never stopped."""
    return Path(train(SMALL).path).rename(tmp_path / "plain")


class Kill(Silent):
    """The process ends after this step, before anything that follows it."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, state: TrainState) -> None:
        if state.step == self.at:
            raise Killed


@pytest.fixture
def killed(train: Train, tmp_path: Path) -> Callable[..., RunDirectory]:
    """`killed(k, rules)`: a run whose process ended after step k."""

    def made(step: int, rules: Mapping[str, Any]) -> RunDirectory:
        before = set((tmp_path / "runs").glob("*"))
        with pytest.raises(Killed):
            train(ruled(rules), display=Kill(step))
        (path,) = set((tmp_path / "runs").iterdir()) - before
        return RunDirectory(path)

    return made


# --- when it is time ------------------------------------------------------------------------------------------------


def saves(rules: Mapping[str, Any], times: list[float], steps_per_epoch: int = 4) -> list[int]:
    """The steps after which it is time, when step n is done at times[n - 1] seconds."""
    now = [0.0]
    table = Timetable(CheckpointSection(**rules), steps_per_epoch, clock=lambda: now[0])
    found = []
    for step, second in enumerate(times, start=1):
        now[0] = second
        ends = step % steps_per_epoch == 0
        assert not (ends and table.after_step(step)), "the last step of an epoch is left to the epoch's end"
        if table.after_epoch(step // steps_per_epoch, step) if ends else table.after_step(step):
            table.saved()
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, [4, 8, 12]),
        ({"every_epochs": 2}, [8]),
        ({"every_steps": 5}, [4, 5, 8, 10, 12]),
        ({"every_epochs": 9, "every_steps": 6}, [6, 12]),
        # a step lasts 20 seconds: 3 of them a minute, counted from the last save
        ({"every_epochs": 9, "every_minutes": 1.0}, [3, 6, 9, 12]),
        ({"every_minutes": 1.0}, [3, 4, 7, 8, 11, 12]),
        ({"every_epochs": 9, "every_minutes": 1.0, "every_steps": 2}, [2, 4, 6, 8, 10, 12]),
        ({"every_epochs": 9, "every_minutes": 4.1}, []),
    ],
)
def test_when_it_is_time(rules: dict[str, Any], expected: list[int]) -> None:
    assert saves(rules, [20.0 * step for step in range(1, 13)]) == expected


def test_a_clock_is_not_asked_where_minutes_do_not_count() -> None:
    times = iter([0.0])  # once, at the start
    table = Timetable(CheckpointSection(every_steps=2), 4, clock=lambda: next(times))
    assert [step for step in range(1, 9) if table.after_step(step)] == [2, 6]


# --- the same bytes -------------------------------------------------------------------------------------------------


@pytest.mark.fault("R3")
@pytest.mark.parametrize("name", RULES)
def test_r3_how_often_one_saves_changes_nothing(
    name: str, train: Train, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, expected = RULES[name]
    steps: list[int] = []
    real = saving.commit

    def spy(run: RunDirectory, files: Mapping[str, bytes], step: int, keep: int) -> None:
        steps.append(step)
        real(run, files, step, keep)

    monkeypatch.setattr(saving, "commit", spy)
    run = RunDirectory(Path(train(ruled(rules)).path))
    assert steps == expected
    assert result(run.path) == result(plain)
    assert kept(run) == expected[-rules.get("keep", 1) :]


def test_minutes_count_from_the_last_save(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step lasts 20 seconds, as in the table above."""

    class Slow(Silent):
        seconds = 0.0

        def step(self, state: TrainState) -> None:
            self.seconds = 20.0 * state.step

    slow, steps = Slow(), []
    monkeypatch.setattr("dlf.commands.train.Timetable", partial(Timetable, clock=lambda: slow.seconds))
    monkeypatch.setattr(saving, "commit", lambda run, files, step, keep: steps.append(step))
    train(ruled({"every_minutes": 1.0}), display=slow)
    assert steps == [3, 4, 7, 8, 11, 12]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.fault("P2", cases=12 if len(saved) < 12 else 4))
        for name, (_, saved) in RULES.items()
    ],
)
def test_killed_after_any_step_it_goes_on_from_the_last_save(
    name: str, killed: Callable[..., RunDirectory], plain: Path, tried: Tried
) -> None:
    """Of best and last the later one counts: every epoch is best here, so its end is never lost."""
    rules, saved = RULES[name]
    for step in range(1, 13) if len(saved) < 12 else (1, 4, 7, 12):
        run = killed(step, rules)
        go_on(run)
        # the kill comes before the save of its own step
        expected = max([0, *(s for s in {*saved, 4, 8} if s < step)])
        assert run.read_info()["resumed"][0]["step"] == expected, step
        assert result(run.path) == result(plain), step
        assert kept(run) == saved[-rules.get("keep", 1) :] or rules.get("keep", 1) > 1
        shutil.rmtree(run.path)
        tried()


def test_a_save_that_forgets_the_sums_would_show(
    killed: Callable[..., RunDirectory], plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.fill

    def forgetful(contents: checkpoint.Contents, state: TrainState) -> None:
        real(contents, state)
        state.sums.zero_()

    run = killed(7, {"every_steps": 3})
    monkeypatch.setattr(checkpoint, "fill", forgetful)
    go_on(run)
    assert result(run.path) != result(plain)


class Failing(Silent):
    """From step 7 on the disk behaves as the hook says, until `trace` is asked for."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def start(self, run: RunDirectory, config: Any, experiment: Any, state: TrainState) -> None:
        self.run = run

    def step(self, state: TrainState) -> None:
        if state.step == 7:
            self.disk = Disk(self.run.path.absolute(), self.hook)
            self.disk.__enter__()

    def trace(self) -> list[str]:
        self.disk.__exit__()
        return self.disk.trace


# what changes names or bytes; nothing differs before and after the others
CHANGING = {"write", "mkdir", "rename", "replace", "unlink", "rmdir"}


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(errno.ENOSPC, marks=pytest.mark.fault("F1", cases=10), id="disk full"),
        pytest.param(None, marks=pytest.mark.fault("P2", cases=40), id="killed"),
    ],
)
def test_any_file_operation_while_older_ones_are_kept(error: int | None, train: Train, tried: Tried) -> None:
    """One operation after step 7 of 8 fails, or is the process's last: never fewer are kept, and all are whole."""
    config = {**TWO_EPOCHS, "checkpoint": {"every_steps": 3, "keep": 2}}
    undisturbed = Failing(nothing)
    expected = result(Path(train(config, display=undisturbed).path))
    places = [n for n, name in enumerate(undisturbed.trace()) if name in CHANGING]
    assert len(places) > 30
    for n in places if error is None else places[::4]:
        display = Failing(dies(n) if error is None else fails(n, error))
        with suppress(MachineError, Killed):
            train(config, display=display)
        display.trace()
        run = display.run
        whole = {checkpoint.read(folder).position.step for folder in (run.last, *run.last.parent.glob("step-*"))}
        assert len(whole) >= 2, "nothing half removed, and no older one before the new one is there"
        go_on(run)
        assert result(run.path) == expected, n
        assert kept(run) == [6, 8], n
        assert [path.name for path in run.last.parent.glob("*step*")] == ["step-00000006"]
        shutil.rmtree(run.path)
        tried()


def test_best_is_gone_on_from_where_it_is_newer(killed: Callable[..., RunDirectory], plain: Path) -> None:
    run, told = killed(11, {"every_epochs": 2, "every_steps": 5}), Told()
    assert [checkpoint.read(folder).position.step for folder in (run.last, run.best)] == [10, 8]
    shutil.rmtree(run.last)
    checkpoint.write(run.last, checkpoint.read(run.best).files)
    run = killed(11, {"every_epochs": 50})
    assert not checkpoint.exists(run.last)
    go_on(run, display=told)
    assert told.messages[0] == f"going on from {run.best} (epoch 2, step 8)"
    assert result(run.path) == result(plain)


def test_best_of_a_course_that_was_left_is_not_gone_on_from(train: Train, plain: Path) -> None:
    """Back to epoch 1 by name, then killed: best is of epoch 3 still, but its records are gone."""
    run = RunDirectory(Path(train(ruled({"keep": 3})).path))
    with pytest.raises(Killed):
        resume(run, start="step-4", display=Kill(6))
    assert checkpoint.read(run.best).position.epoch == 3
    go_on(run)
    assert [entry["step"] for entry in run.read_info()["resumed"]] == [4, 4]
    assert result(run.path) == result(plain)


# --- back to an older one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["step-4", "step-00000008", "last", "best"])
@pytest.mark.parametrize("stop", [None, 6], ids=["finished", "killed"])
def test_going_back_by_name_ends_the_same(
    name: str, stop: int | None, train: Train, killed: Callable[..., RunDirectory], plain: Path
) -> None:
    run = RunDirectory(Path(train(ruled({"keep": 3})).path))
    assert kept(run) == [4, 8, 12]
    if stop is not None and name == "step-4":
        with pytest.raises(Killed):
            resume(run, start=name, display=Kill(stop))
        assert len(run.read_metrics()) == 1
        assert kept(run) == [4], "what was trained after it is left"
        go_on(run)
    else:
        resume(run, start=name, display=Silent())
    assert result(run.path) == result(plain)
    assert kept(run) == [4, 8, 12]


@pytest.mark.parametrize("name", ["", "step-5", "latest", "../last", "step-", "best/", ".step-4.part", "step-٤"])
def test_names_of_no_checkpoint(name: str, train: Train) -> None:
    run = RunDirectory(Path(train(ruled({"keep": 3})).path))
    with pytest.raises(UsageError, match=r"has no checkpoint .*; it has best, last, step-00000004, step-00000008"):
        resume(run, start=name, display=Silent())


@pytest.mark.fault("K5")
def test_k5_damage_is_answered_with_what_is_whole(killed: Callable[..., RunDirectory], plain: Path) -> None:
    run = killed(10, {"every_steps": 3, "keep": 3})
    for folder in (run.last, run.older_folder(6)):
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"last is damaged") as error:
        go_on(run)
    assert str(error.value).endswith(
        f"Whole: best (epoch 2, step 8), step-00000008 (epoch 2, step 8). "
        f"Go on with: dlf train --resume {run.path} --from best"
    )
    resume(run, start="step-8", display=Silent())
    assert result(run.path) == result(plain)
    assert kept(run) == [8, 9, 12]


@pytest.mark.fault("K5")
def test_k5_nothing_is_whole(killed: Callable[..., RunDirectory]) -> None:
    run = killed(10, {})
    for folder in (run.last, run.best):
        (folder / "state.json").unlink()
    with pytest.raises(RunError, match=r"No other checkpoint is whole. To start anew: dlf train \S+config.yaml"):
        go_on(run)


@pytest.mark.fault("K5")
def test_a_damaged_best_does_not_hinder_a_whole_last(killed: Callable[..., RunDirectory], plain: Path) -> None:
    run = killed(10, {})
    (run.best / "state.json").unlink()
    go_on(run)
    assert result(run.path) == result(plain)


def test_epochs_before_the_one_that_is_gone_back_to(train: Train) -> None:
    run = RunDirectory(Path(train(ruled({"keep": 3})).path))
    before = outcome(run.path)
    with pytest.raises(UsageError, match=r"has 2 epochs already; train\.epochs=1 is in its past"):
        resume(run, ["train.epochs=1"], start="step-8", display=Silent())
    assert outcome(run.path) == before
