"""What stops a training, in processes of their own: signals, a second Ctrl-C, no memory; the last save is whole."""

from __future__ import annotations

import errno
import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train
from test_cli_processes import LONG, Ended, ended, process, weights_and_metrics
from test_resume import SMALL, go_on, outcome
from test_saving import result

from dlf import api, checkpoint, durable, engine
from dlf.api import Silent
from dlf.engine import TrainState
from dlf.errors import DivergedError, MachineError
from dlf.run import RunDirectory

SHORT = "{data: {type: digits, batch_size: 128}, model: {layers: [{type: linear, units: 8}]}, train: {epochs: 3}}"


def stopped_in(folder: Path, found: Ended) -> RunDirectory:
    """The run, after what every stop has in common: one message with the command that goes on, and no traceback."""
    (path,) = (folder / "runs").iterdir()
    assert f"dlf train --resume runs/{path.name}" in found.err
    assert "Traceback" not in found.err
    assert found.out == ""
    return RunDirectory(path)


def ends_as_if_never_stopped(run: RunDirectory, config: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    epochs = f"train.epochs={len(run.read_metrics()) + 1}"
    api.resume(str(run.path), epochs)
    straight = api.train(config, epochs, "train.threads=1", "train.device=cpu", runs="straight")
    assert weights_and_metrics(run.path) == weights_and_metrics(Path(straight.path))


@pytest.mark.fault("P1")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_p1_a_terminal_that_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    running = process("train", "long.yaml", "train.device=cpu", "--json", cwd=tmp_path)
    assert running.stderr is not None
    assert any(re.match(r"epoch +2/", line) for line in running.stderr)  # read until then
    running.send_signal(signal.SIGHUP)
    found = ended(running)
    assert found.code == 129
    run = stopped_in(tmp_path, found)
    assert run.read_info()["status"] == "interrupted"
    ends_as_if_never_stopped(run, "long.yaml", tmp_path, monkeypatch)


# two interrupts in the same step, so that the first had no time to be acted on
TWICE = """
import signal
from dlf import engine
from dlf.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
real = engine.train_step

def step(state, *others):
    if state.step == 20:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    return real(state, *others)

engine.train_step = step
main()
"""


@pytest.mark.fault("P1")
def test_p1_a_second_interrupt_acts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short.yaml").write_text(SHORT)
    words = ("train", "short.yaml", "train.threads=1", "train.device=cpu", "--quiet", "--json")
    found = ended(process(*words, code=TWICE, cwd=tmp_path))
    assert found.code == 130
    run = stopped_in(tmp_path, found)
    assert "warning: stopped at once, without saving. Go on from the last save: " in found.err
    saved = checkpoint.read(run.last).position
    assert 0 < saved.step == saved.epoch * (saved.step // saved.epoch) < 20, "the end of the epoch before"
    ends_as_if_never_stopped(run, "short.yaml", tmp_path, monkeypatch)


# --- the first error is the one to show ----------------------------------------------------------------------------


class Spoilt(Silent):
    """In step 6 something stops the training, and from then on nothing can be written; keeps what it is told."""

    def __init__(self, stop: Callable[[TrainState, pytest.MonkeyPatch], None], patch: pytest.MonkeyPatch) -> None:
        self.stop, self.patch = stop, patch
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, state: TrainState) -> None:
        if state.step == 6:
            self.patch.setattr(durable, "_write_and_sync", self.full)
            self.stop(state, self.patch)

    def full(self, path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")


def diverge(state: TrainState, _: pytest.MonkeyPatch) -> None:
    next(state.network.parameters()).data.fill_(float("nan"))


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def take_memory(_: TrainState, patch: pytest.MonkeyPatch) -> None:
    def scarce(*_: Any) -> None:
        raise MemoryError

    patch.setattr(engine, "train_step", scarce)


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    ("stop", "first", "words"),
    [
        (diverge, DivergedError, "training diverged: .*Last good checkpoint: "),
        (interrupt, KeyboardInterrupt, None),
        (take_memory, MachineError, "out of memory after step 6"),
        (lambda *_: None, MachineError, "cannot write .*(?:metrics.jsonl|last): no space left"),
    ],
    ids=["diverged", "second interrupt", "memory", "disk"],
)
def test_a_disk_that_stays_full_does_not_hide_what_happened_first(
    stop: Any, first: type[BaseException], words: str | None, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        display = Spoilt(stop, patch)
        with pytest.raises(first, match=words):
            train(SMALL, display=display)
    assert re.search(r"warning: cannot write .*run\.json: no space left", display.messages[-1])


@pytest.mark.fault("F1")
def test_a_run_json_that_cannot_say_completed_is_an_error(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    real = durable.write

    def full(path: Path, data: bytes) -> None:
        if b'"completed"' in data:
            raise MachineError(f"cannot write {path}: no space left")
        real(path, data)

    monkeypatch.setattr(durable, "write", full)
    with pytest.raises(MachineError, match=r"run\.json: no space left"):
        train(SMALL)


# --- memory ---------------------------------------------------------------------------------------------------------

# After step 8 the process may grow by 8 MiB; every step needs a mask of 64 MiB, more than malloc ever keeps.
NO_MEMORY = """
import resource
from pathlib import Path
from dlf import engine
from dlf.cli import main

real = engine.train_step

def step(state, *others):
    if state.step == 8:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**23, resource.RLIM_INFINITY))
    return real(state, *others)

engine.train_step = step
main()
"""
WIDE = """
{data: {type: digits, batch_size: 256}, model: {layers: [{type: linear, units: 65536}, {type: dropout, rate: 0.5}]}}
"""


@pytest.mark.fault("P4")
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and a limit of the address space")
def test_p4_a_process_without_memory(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text(WIDE)
    words = ("train", "wide.yaml", "train.threads=1", "train.device=cpu", "--quiet", "--json", "optimizer=sgd")
    found = ended(process(*words, code=NO_MEMORY, cwd=tmp_path))
    assert found.code == 5, found.err
    run = stopped_in(tmp_path, found)
    assert "error: out of memory after step 8: " in found.err
    assert "Train with a smaller data.batch_size or network" in found.err
    info = json.loads((run.path / "run.json").read_text())
    assert (info["status"], info["step"]) == ("failed", 8)
    assert checkpoint.read(run.last).position.step < 8


def allocation_failure() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    return caught.value


@pytest.mark.fault("P4")
@pytest.mark.parametrize("where", ["step", "save"])
@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), allocation_failure()],
    ids=["python", "cuda", "cpu"],
)
def test_p4_no_memory_leaves_the_state_of_the_last_save(
    error: Exception, where: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path(train(SMALL).path).rename(tmp_path / "plain")
    module, name = (engine, "train_step") if where == "step" else (checkpoint, "pack")
    real = getattr(module, name)

    def scarce(state: Any, *others: Any) -> Any:
        if state.step >= 6:
            raise error
        return real(state, *others)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, scarce)
        with pytest.raises(MachineError, match=r"out of memory after step \d: .*What was saved is intact") as failed:
            train(SMALL)
    assert failed.value.exit_code == 5
    (path,) = (tmp_path / "runs").iterdir()
    run = RunDirectory(path)
    assert str(failed.value).endswith(f"go on with: dlf train --resume {path}")
    assert (run.read_info()["status"], checkpoint.read(run.last).position.step) == ("failed", 4)
    go_on(run)
    assert result(run.path) == result(plain)
    assert outcome(run.path) == outcome(plain)


def test_another_runtime_error_is_a_bug(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(engine, "train_step", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(SMALL)
