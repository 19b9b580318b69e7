"""A run that was stopped, at whatever step, ends with the bytes of one that never was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Train
from disk import Killed

from dlf import checkpoint
from dlf.api import Silent
from dlf.commands.resume import resume
from dlf.commands.stopping import StoppedError
from dlf.commands.train import TrainResult
from dlf.engine import TrainState
from dlf.errors import ConfigError, DataMissingError, DivergedError, RunError, UsageError
from dlf.run import RunDirectory

# 4 steps an epoch, the last on a smaller batch; everything that could be forgotten: dropout, running means of
# batch_norm, adam's memory, a schedule over the whole training, two checkpoints
SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"type": "iris", "batch_size": 30},
    "model": {"layers": [{"type": "linear", "units": 6}, "batch_norm", {"type": "dropout", "rate": 0.3}]},
    "schedule": {"type": "cosine", "warmup_epochs": 0.5},
    "regularizers": ["l2", "clip_norm"],
    "train": {"epochs": 2, "observe_every_steps": 3},  # and at the ends of epochs, every fourth
}
STEPS = range(1, 9)


class StopAt(Silent):
    """Sends this process a signal after each of these steps."""

    def __init__(self, *steps: int, number: int = signal.SIGTERM) -> None:
        self.steps, self.number = steps, number

    def step(self, state: TrainState) -> None:
        if state.step in self.steps:
            os.kill(os.getpid(), self.number)


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    @property
    def warnings(self) -> list[str]:
        return [text for text in self.messages if text.startswith("warning: ")]


def outcome(run: Path) -> dict[str, Any]:
    """All that a run came to, times aside: checkpoints, metrics, what was seen inside, the resolved experiment."""
    files = {str(path.relative_to(run)): path.read_bytes() for path in run.glob("checkpoints/[!.]*/*")}
    for name, data in files.items():
        if name.endswith("MANIFEST.json"):  # the records that it describes hold times
            manifest = json.loads(data)
            files[name] = json.dumps([manifest["files"], manifest["metrics"]["records"]]).encode()
    files |= {name: (run / name).read_bytes() for name in ("config.yaml", "layers.jsonl") if (run / name).exists()}
    records = RunDirectory(run).read_metrics()
    timed = ("seconds", "samples_per_second")
    return {**files, "metrics": [{k: v for k, v in record.items() if k not in timed} for record in records]}


def everything(run: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its time of change."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process to ask git for the commit costs more than all the training here."""
    monkeypatch.setattr("dlf.environment._commit", lambda: None)


@pytest.fixture
def stopped(train: Train, tmp_path: Path) -> Callable[..., RunDirectory]:
    """`stopped(k, ...)`: a run that a signal stopped after step k."""

    def made(*steps: int, config: Mapping[str, Any] = SMALL, number: int = signal.SIGTERM) -> RunDirectory:
        with pytest.raises(StoppedError) as error:
            train(config, display=StopAt(*steps, number=number))
        assert error.value.exit_code == 128 + number
        (path,) = (tmp_path / "runs").iterdir()
        assert f"dlf train --resume {path}" in str(error.value)
        return RunDirectory(path)

    return made


def go_on(run: RunDirectory, *overrides: str, display: Any = None) -> TrainResult:
    return resume(run, overrides, display=display or Silent())


# --- any step -------------------------------------------------------------------------------------------------------


@pytest.fixture
def uninterrupted(train: Train, tmp_path: Path) -> Path:
    result = train(SMALL)
    assert result.last["step"] == STEPS[-1]
    return Path(result.path).rename(tmp_path / "uninterrupted")


@pytest.mark.fault("R2")
@pytest.mark.parametrize("step", STEPS)
def test_stopped_at_any_step(step: int, stopped: Callable[..., RunDirectory], uninterrupted: Path) -> None:
    run = stopped(step)
    info = run.read_info()
    assert (info["status"], info["step"], info["epochs"]) == ("interrupted", step, (step - 1) // 4)
    assert outcome(run.path) != outcome(uninterrupted)
    result = go_on(run)
    assert (result.status, result.epochs) == ("completed", 2)
    assert outcome(run.path) == outcome(uninterrupted)
    assert run.read_info()["status"] == "completed"
    assert run.read_info()["resumed"][0]["step"] == step


@pytest.mark.fault("R2")
def test_stopped_at_every_step(stopped: Callable[..., RunDirectory], uninterrupted: Path) -> None:
    run = stopped(1)
    for step in STEPS[1:]:
        with pytest.raises(StoppedError):
            go_on(run, display=StopAt(step))
    go_on(run)
    assert outcome(run.path) == outcome(uninterrupted)
    assert [entry["step"] for entry in run.read_info()["resumed"]] == list(STEPS)


def test_an_epoch_that_is_begun_anew_would_show(
    stopped: Callable[..., RunDirectory], uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong variant: the checkpoint of step 6 loses its place in the epoch, so its samples are seen twice."""
    run = stopped(6)
    real = checkpoint.fill

    def forgetful(contents: checkpoint.Contents, state: TrainState) -> None:
        real(contents, state)
        state.step = 4
        state.sums.zero_()

    monkeypatch.setattr(checkpoint, "fill", forgetful)
    go_on(run)
    assert outcome(run.path) != outcome(uninterrupted)


@pytest.mark.fault("P1")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.skipif(sys.platform == "win32", reason="a process there cannot send itself signals")
def test_signals_save_the_state(name: str, stopped: Callable[..., RunDirectory]) -> None:
    before = signal.getsignal(getattr(signal, name))
    run = stopped(3, number=getattr(signal, name))
    assert checkpoint.read(run.last).position.step == 3
    assert signal.getsignal(getattr(signal, name)) is before


@pytest.mark.fault("P1")
def test_a_signal_between_two_epochs_stops_there(train: Train, uninterrupted: Path) -> None:
    class Late(Silent):
        def epoch(self, record: Mapping[str, Any], best: bool) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError):
        train(SMALL, display=Late())
    (path,) = (uninterrupted.parent / "runs").iterdir()
    assert RunDirectory(path).read_info()["step"] == 4
    go_on(RunDirectory(path))
    assert outcome(path) == outcome(uninterrupted)


@pytest.mark.fault("P1")
def test_a_second_interrupt_does_not_wait(train: Train, tmp_path: Path) -> None:
    class Impatient(Silent):
        def step(self, state: TrainState) -> None:
            if state.step == 6:
                signal.raise_signal(signal.SIGINT)  # in this thread, so the second does not merge with the first
                signal.raise_signal(signal.SIGINT)

    # a shell starts background jobs with SIGINT ignored, and Python then leaves it so
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, display=Impatient())
    finally:
        signal.signal(signal.SIGINT, before)
    (path,) = (tmp_path / "runs").iterdir()
    assert RunDirectory(path).read_info()["status"] == "failed"
    assert checkpoint.read(RunDirectory(path).last).position.step == 4


@pytest.mark.fault("N1")
def test_what_diverged_is_not_saved_by_a_signal(train: Train, tmp_path: Path) -> None:
    class Poisoned(StopAt):
        def step(self, state: TrainState) -> None:
            if state.step == 6:
                next(state.network.parameters()).data.fill_(float("nan"))
            super().step(state)

    with pytest.raises(DivergedError):
        train(SMALL, display=Poisoned(6))
    (path,) = (tmp_path / "runs").iterdir()
    assert checkpoint.read(RunDirectory(path).last).position.step == 4
    assert RunDirectory(path).read_info()["status"] == "diverged"


# --- what a process that was killed leaves --------------------------------------------------------------------------


def test_a_last_line_that_was_cut_off(stopped: Callable[..., RunDirectory], uninterrupted: Path) -> None:
    run = stopped(6)
    with run.metrics.open("ab") as file:
        file.write(b'{"epoch": 2, "st')
    go_on(run)
    assert outcome(run.path) == outcome(uninterrupted)


def test_an_epoch_that_was_written_but_not_saved(stopped: Callable[..., RunDirectory], uninterrupted: Path) -> None:
    run = stopped(6)
    run.append_metrics({"epoch": 2, "val_loss": -1.0})
    go_on(run)
    assert outcome(run.path) == outcome(uninterrupted)


def test_records_that_are_missing(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(6)
    run.metrics.unlink()
    with pytest.raises(RunError, match="has 0 epochs and the checkpoint 1: records are missing"):
        go_on(run)


def test_records_that_were_altered(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(6)
    good = run.metrics.read_bytes()
    digit = good.index(b'"val_loss": ') + 14
    run.metrics.write_bytes(good[:digit] + bytes([good[digit] ^ 1]) + good[digit + 1 :])
    before = everything(run.path)
    then = hashlib.sha256(good).hexdigest()
    with pytest.raises(RunError, match=rf"was changed: its first 1 records are .* after {len(good)} bytes with {then}"):
        go_on(run)
    assert all(
        everything(run.path)[path] == was for path, was in before.items() if not path.endswith((".log", ".lock"))
    )
    run.metrics.write_bytes(good)
    assert go_on(run).epochs == 2


# --- a run that is over ---------------------------------------------------------------------------------------------


@pytest.mark.fault("K6")
def test_resuming_a_finished_run_changes_nothing(train: Train) -> None:
    result = train(SMALL)
    run, told = RunDirectory(Path(result.path)), Told()
    before = everything(run.path)
    assert go_on(run, display=told) == result
    assert go_on(run, "train.epochs=2") == result
    assert everything(run.path) == before
    assert "is finished: nothing to do. train.epochs=N" in told.messages[0]


@pytest.mark.fault("K6")
def test_more_epochs_are_what_a_longer_run_is(train: Train, tmp_path: Path) -> None:
    config = {**SMALL, "schedule": {"type": "step", "every": 1.0, "gamma": 0.5}}
    long = Path(train({**config, "train": {**SMALL["train"], "epochs": 4}}).path).rename(tmp_path / "long")
    run = RunDirectory(Path(train(config).path))
    told = Told()
    assert go_on(run, "train.epochs=4", display=told).epochs == 4
    assert outcome(run.path) == outcome(long), "config.yaml too: it repeats the whole"
    assert told.warnings == []
    assert go_on(run).epochs == 4


@pytest.mark.fault("K6")
def test_an_extension_that_is_stopped_goes_on(train: Train, tmp_path: Path) -> None:
    config = {**SMALL, "schedule": "constant"}
    long = Path(train({**config, "train": {**SMALL["train"], "epochs": 4}}).path).rename(tmp_path / "long")
    run = RunDirectory(Path(train(config).path))
    with pytest.raises(StoppedError):
        go_on(run, "train.epochs=4", display=StopAt(11))
    go_on(run)
    assert outcome(run.path) == outcome(long)


def test_a_schedule_that_depends_on_the_length_is_warned_of(train: Train) -> None:
    run = RunDirectory(Path(train(SMALL).path))
    told = Told()
    go_on(run, "train.epochs=3", display=told)
    assert told.warnings == [
        "warning: cosine depends on train.epochs: the epochs so far followed the schedule of 2 epochs, "
        "so this run differs from one of 3 at once"
    ]
    assert told.warnings[0] in run.log.read_text()


def test_early_stopping_counts_on(train: Train, tmp_path: Path) -> None:
    """Nothing improves: stopped in the second epoch and resumed, it ends where it would have."""
    config = {
        **SMALL,
        "optimizer": {"type": "sgd", "lr": 1e-30},
        "model": {"layers": [{"type": "linear", "units": 6}]},
        "train": {"epochs": 9, "early_stopping": {"patience": 3}},
    }
    whole = Path(train(config).path).rename(tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(config, display=StopAt(7))
    (path,) = (tmp_path / "runs").iterdir()
    result = go_on(RunDirectory(path))
    assert (result.epochs, result.best["epoch"]) == (4, 1)
    assert outcome(path) == outcome(whole)
    before = everything(path)
    go_on(RunDirectory(path))
    assert everything(path) == before


def test_stopped_after_the_last_step_of_the_last_epoch(stopped: Callable[..., RunDirectory]) -> None:
    """The state is whole but its epoch has no record yet; resuming measures it and completes the run."""
    run = stopped(8)
    assert len(run.read_metrics()) == 1
    assert go_on(run).epochs == 2


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["optimizer.lr=1", "seed=1", "train.epochs.x=1", "epochs=3", "train={epochs: 3}"])
def test_other_settings_cannot_change(override: str, stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(3)
    before = everything(run.path)
    with pytest.raises(UsageError, match=r"a resumed run keeps its settings; only train\.epochs=N can be given, got "):
        go_on(run, override)
    assert everything(run.path) == before


@pytest.mark.parametrize("epochs", ["0", "x", "1.5", ""])
def test_epochs_that_are_none(epochs: str, stopped: Callable[..., RunDirectory]) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        go_on(stopped(3), f"train.epochs={epochs}")


def test_epochs_in_the_past(stopped: Callable[..., RunDirectory], train: Train) -> None:
    run = stopped(3, config={**SMALL, "schedule": "constant"})
    go_on(run)
    with pytest.raises(UsageError, match=r"has 2 epochs already; train\.epochs=1 is in its past"):
        go_on(run, "train.epochs=1")


@pytest.mark.fault("D9")
def test_data_that_changed(tmp_path: Path, stopped: Callable[..., RunDirectory]) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{n % 7},{n % 5},{n % 2}" for n in range(100)]
    table.write_text("\n".join(["a,b,c", *rows]) + "\n")
    run = stopped(2, config={**SMALL, "data": {"type": "csv", "path": str(table), "target": "c", "batch_size": 30}})
    then = run.read_info()["data_sha256"]
    table.write_text("\n".join(["a,b,c", *rows[:-1], "9,9,1"]) + "\n")
    before = everything(run.path)
    with pytest.raises(RunError, match=f"the data of csv changed .*: sha256 {then} then, [0-9a-f]{{64}} now") as error:
        go_on(run)
    assert error.value.exit_code == 4
    assert everything(run.path).keys() == {*before, str(run.path / ".lock")}
    assert all(everything(run.path)[path] == before[path] for path in before if not path.endswith((".log", ".lock")))
    table.unlink()
    with pytest.raises(Exception, match=r"table\.csv"):
        go_on(run)


@pytest.mark.fault("D9")
def test_data_that_are_gone_are_not_replaced_by_the_fallback(
    stopped: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(3, config={**SMALL, "data": {"type": "iris", "batch_size": 30, "fallback": "wine"}})

    def gone(*_: Any) -> None:
        raise DataMissingError("no iris here")

    monkeypatch.setattr("dlf.data.read", gone)
    with pytest.raises(DataMissingError, match="no iris here"):
        go_on(run)


@pytest.mark.fault("D9")
def test_a_split_that_changed(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(3)
    run.config.write_text(run.config.read_text().replace("split_seed: 0", "split_seed: 1"))
    with pytest.raises(RunError, match=r"the split of iris changed .*: sha256 [0-9a-f]{64} then, [0-9a-f]{64} now"):
        go_on(run)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("units: 6", "units: 7", r"does not fit the network: \S+ is \(6, 4\) float32 in the checkpoint and \(7, 4\)"),
        ("lr: 0.001", "lr: 0.1", "initial_lr of group 0 is 0.001 in the checkpoint and 0.1 in the experiment"),
    ],
)
def test_a_config_that_was_edited(old: str, new: str, message: str, stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(3)
    assert old in run.config.read_text()
    run.config.write_text(run.config.read_text().replace(old, new))
    with pytest.raises(RunError, match=message):
        go_on(run)


@pytest.mark.fault("K5")
def test_never_a_silent_fresh_start(stopped: Callable[..., RunDirectory], train: Train, tmp_path: Path) -> None:
    config = {**SMALL, "train": {"epochs": 3}}
    whole = Path(train(config).path).rename(tmp_path / "whole")
    run = stopped(10, config=config)
    model = run.last / "model.safetensors"
    good = model.read_bytes()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    before = everything(run.path)
    with pytest.raises(
        RunError,
        match=r"last is damaged.* Whole: best \(epoch 2, step 8\)\. Go on with: .* --from best",
    ):
        go_on(run)
    shutil.rmtree(run.last)
    with pytest.raises(RunError, match=r"last is gone.* Whole: best \(epoch 2, step 8\).*--from best"):
        go_on(run)
    kept = {path: was for path, was in before.items() if "/last/" not in path and not path.endswith((".log", ".lock"))}
    assert all(everything(run.path)[path] == was for path, was in kept.items()), "nothing is deleted or rewritten"
    resume(run, start="best", display=Silent())  # what the message offers
    assert outcome(run.path) == outcome(whole)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(train: Train, uninterrupted: Path) -> None:
    class Killer(Silent):
        def step(self, state: TrainState) -> None:
            raise Killed

    with pytest.raises(Killed):
        train(SMALL, display=Killer())
    (path,) = (path for path in (uninterrupted.parent / "runs").iterdir())
    told = Told()
    go_on(RunDirectory(path), display=told)
    assert told.messages[:1] == [f"{path.name} was stopped before its first checkpoint: it starts over"]
    assert outcome(path) == outcome(uninterrupted)


@pytest.mark.fault("F5")
def test_a_run_that_somebody_trains(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(3)
    with run.locked(), pytest.raises(RunError, match=f"in use by process {os.getpid()}") as error:
        go_on(run)
    assert error.value.exit_code == 4
    assert run.read_info()["status"] == "interrupted"


@pytest.mark.fault("R4")
@pytest.mark.parametrize(
    ("name", "then"),
    [
        *(("dlf", "0.0"), ("python", "3.9.0"), ("packages", {"torch": "1.0"}), ("device", "cuda:0")),
        *(("device_name", "an abacus"), ("cpu_capability", "DEFAULT"), ("threads", 64)),
    ],
)
def test_another_machine_is_said_and_recorded(
    name: str, then: Any, stopped: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread count, torch or instruction set, and whatever else the bits may depend on."""
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")  # some machines have DEFAULT
    run, told = stopped(3), Told()
    now = run.read_info()[name]
    run.write_info(**{name: then})
    go_on(run, display=told)
    said = f"the last bits may differ from a run that was never stopped: {name} {then} -> {now}"
    assert told.warnings == [f"warning: {said}"]
    assert said in run.log.read_text()
    info = run.read_info()
    assert (info[name], info["resumed"][-1][name]) == (then, now)


def test_the_device_of_a_resume_is_for_once(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(3)
    before = run.config.read_bytes()
    resume(run, device="cpu", display=Silent())
    assert run.config.read_bytes() == before


def test_the_log_goes_on(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(6)
    go_on(run)
    log = run.log.read_text()
    assert (
        log.index("from epoch 0, step 0") < log.index("from epoch 1, step 6, to epoch 2") < log.index("epoch 2  step 8")
    )
    assert json.loads((run.path / "run.json").read_bytes())["status"] == "completed"
