"""A run that is trained again has equal bits, from whatever it was made; one altered bit is found and named."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Train
from safetensors.torch import load as parse
from safetensors.torch import save as to_bytes
from torch import Tensor

import dlf
from dlf import checkpoint
from dlf.api import Silent
from dlf.cli import main
from dlf.commands import differences
from dlf.commands.differences import first_entry, first_loss
from dlf.commands.evaluate import evaluate_run
from dlf.commands.reproduce import AbandonedError, Reproduction, reproduce
from dlf.commands.resume import resume
from dlf.commands.stopping import StoppedError
from dlf.commands.train import threads
from dlf.engine import TrainState
from dlf.errors import DivergedError, RunError
from dlf.run import RunDirectory, to_json

# 4 steps an epoch; dropout, running means, adam's memory, and a schedule that depends on the number of epochs
SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"type": "iris", "batch_size": 30},
    "model": {"layers": [{"type": "linear", "units": 6}, "batch_norm", {"type": "dropout", "rate": 0.3}]},
    "schedule": {"type": "cosine", "warmup_epochs": 0.5},
    "regularizers": ["l2", "clip_norm"],
    "train": {"epochs": 2},
}
CONVOLUTION: dict[str, Any] = {
    "data": {"type": "digits", "limit": 200, "batch_size": 50},
    "model": {"layers": [{"type": "conv2d", "channels": 4, "kernel": 3}, "batch_norm", "flatten", {"type": "dropout"}]},
    "optimizer": {"type": "sgd", "momentum": 0.9, "lr": 0.01},
    "train": {"epochs": 2},
}
REGRESSION: dict[str, Any] = {
    "data": {"type": "diabetes", "batch_size": 64},
    "model": {"activation": "tanh", "layers": [{"type": "linear", "units": 8}]},
    "optimizer": {"type": "rmsprop", "lr": 0.01},
    "metrics": ["r2"],
    "train": {"epochs": 3, "early_stopping": {"patience": 1, "min_delta": 10.0}},
}
# each step multiplies the error of a plain regression: it is infinite in the second epoch
GROWING: dict[str, Any] = {
    "name": "growing",
    "data": {"type": "diabetes", "batch_size": 64},
    "model": {"layers": []},
    "optimizer": {"type": "sgd", "lr": 1.0e5},
    "train": {"epochs": 4},
}


class Steps(Silent):
    """Counts steps and notes how many threads they had; sends this process a signal, or raises, after one of them."""

    def __init__(self, stop: int = 0, raises: type[BaseException] | None = None) -> None:
        self.starts, self.count, self.stop, self.raises = 0, 0, stop, raises
        self.threads: set[int] = set()

    def start(self, *arguments: Any) -> None:
        self.starts += 1

    def step(self, state: TrainState) -> None:
        self.count += 1
        self.threads.add(torch.get_num_threads())
        if state.step == self.stop and self.raises is not None:
            raise self.raises
        if state.step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No process that asks git for the commit, and temporary folders that can be looked at."""
    monkeypatch.setattr("dlf.environment._commit", lambda: None)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def trained(train: Train) -> Callable[..., RunDirectory]:
    """`trained(config, ...)`: a run."""
    return lambda config=SMALL, *overrides: RunDirectory(Path(train(config, *overrides).path))


@pytest.fixture
def stopped(train: Train, tmp_path: Path) -> Callable[..., RunDirectory]:
    """`stopped(k)`: a run that was stopped after step k."""

    def made(step: int, config: Mapping[str, Any] = SMALL) -> RunDirectory:
        with pytest.raises(StoppedError):
            train(config, display=Steps(step))
        return only_run(tmp_path)

    return made


def only_run(folder: Path) -> RunDirectory:
    (path,) = (folder / "runs").iterdir()
    return RunDirectory(path)


def again(run: RunDirectory, **options: Any) -> Reproduction:
    return reproduce(run, **{"display": Silent(), **options})


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_config(run: RunDirectory, old: str, new: str) -> None:
    text = run.config.read_text()
    assert text.count(old) == 1, text
    run.config.write_text(text.replace(old, new))


def edit_tensor(folder: Path, file: str, name: str, edit: Callable[[Tensor], None]) -> None:
    """Alter a tensor of a checkpoint, and write the manifest that belongs to it."""
    contents = checkpoint.read(folder)
    tensors = parse(contents.files[file])
    edit(tensors[name])
    files = {**contents.files, file: to_bytes(tensors)}
    del files["MANIFEST.json"]
    checkpoint.write(folder, {**files, "MANIFEST.json": checkpoint._manifest(files, contents.written)})


def flip_last_bit(*index: int) -> Callable[[Tensor], None]:
    def flip(tensor: Tensor) -> None:
        tensor.view(torch.int32)[index] ^= 1

    return flip


# --- identical ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("R1")
@pytest.mark.parametrize("config", [SMALL, CONVOLUTION, REGRESSION], ids=["mlp", "convolution", "regression"])
def test_the_same_run_again(config: dict[str, Any], trained: Callable[..., RunDirectory], tmp_path: Path) -> None:
    run = trained(config)
    before = files_of(run.path)
    result = again(run)
    history = run.read_metrics()
    assert result.identical
    assert (result.steps, result.records) == (history[-1]["step"], len(history))
    assert result.then == result.now
    assert {compared.checkpoint for compared in result.checkpoints} == {"best", "last"}
    assert result.changes == []
    assert files_of(run.path) == before, "the run itself was touched"
    assert list((tmp_path / "temporary").iterdir()) == []
    assert len(list((tmp_path / "runs").iterdir())) == 1


def state_of(run: RunDirectory) -> TrainState:
    """A state of the run's experiment."""
    from dlf import data
    from dlf.config import load
    from dlf.experiment import assemble

    config = load(run.config).config
    return assemble(config, data.load(config.data_section, torch.device("cpu"), print)[0], torch.device("cpu"))[1]


def test_every_kind_of_tensor_is_compared(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    state = state_of(run)
    checkpoint.load(run.last, state)
    names = set(differences.tensors(state))
    contents = checkpoint.read(run.last)
    count = {file: len(parse(data)) for file, data in contents.files.items() if file.endswith(".safetensors")}
    # of progress.safetensors the sums; the losses are compared apart
    assert len(names) == count["model.safetensors"] + count["optimizer.safetensors"] + 1
    assert "layers.1.running_mean" in names
    assert "optimizer.exp_avg_sq of layers.0.weight" in names


@pytest.mark.parametrize("step", [1, 4, 6])
def test_an_interrupted_run_to_where_it_stands(step: int, stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(step)
    display = Steps()
    result = again(run, display=display)
    assert result.identical
    assert (result.now.step, result.steps, display.count) == (step, step, step)
    assert result.records == (step - 1) // 4
    assert [compared.step for compared in result.checkpoints if compared.checkpoint == "last"] == [step]


def test_a_resumed_run_is_one_training(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(3)
    resume(run, display=Silent())
    display = Steps()
    assert again(run, display=display).identical
    assert (display.starts, display.count) == (1, 8)


def test_an_extended_run_with_the_epochs_of_each_part(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    resume(run, ["train.epochs=4"], display=Silent())
    display = Steps()
    result = again(run, display=display)
    assert result.identical
    assert (result.steps, result.records, display.count, display.starts) == (16, 4, 16, 2)
    # what config.yaml alone says: a cosine over 4 epochs from the first step on. Its warm-up is the same, half an
    # epoch; the rate of step 3 is the first that depends on the number of epochs, and the loss of step 4 shows it
    run.write_info(planned_epochs=4)
    wrong = again(run)
    assert not wrong.identical
    assert wrong.loss is not None
    assert wrong.loss.step == 5


def test_a_run_that_went_back(trained: Callable[..., RunDirectory]) -> None:
    run = trained({**SMALL, "checkpoint": {"every_steps": 3, "keep": 3}}, "train.epochs=3")
    resume(run, ["train.epochs=4"], start="step-8", display=Silent())
    assert [(entry["step"], entry["epochs"]) for entry in run.read_info()["resumed"]] == [(8, 4)]
    display = Steps()
    assert again(run, display=display).identical
    assert display.count == 16


def test_what_lies_beyond_where_a_run_went_back_to(trained: Callable[..., RunDirectory]) -> None:
    run = trained({**SMALL, "checkpoint": {"every_steps": 3, "keep": 3}}, "train.epochs=3")
    assert checkpoint.read(run.best).position.step == 12
    with pytest.raises(StoppedError):
        resume(run, ["train.epochs=4"], start="step-8", display=Steps(10))
    result = again(run)
    assert result.identical
    assert result.then.step == 10
    assert "best" not in {compared.checkpoint for compared in result.checkpoints}


def test_checkpoints_within_an_epoch_and_older_ones(train: Train, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(
            {**SMALL, "checkpoint": {"every_steps": 3, "every_epochs": 9, "keep": 2}},
            display=Steps(7, KeyboardInterrupt),
        )
    run = only_run(tmp_path)
    display = Steps()
    result = again(run, display=display)
    assert result.identical
    assert display.count == 6  # two steps into the second epoch; the first was the best
    found = [(compared.checkpoint, compared.epoch, compared.step) for compared in result.checkpoints]
    assert found == [("step-00000003", 0, 3), ("best", 1, 4), ("last", 1, 6)]
    edit_tensor(run.older_folder(3), "model.safetensors", "layers.0.weight", flip_last_bit(0, 0))
    altered = again(run).tensor
    assert altered is not None
    assert (altered.checkpoint, altered.epoch, altered.step, altered.index) == ("step-00000003", 0, 3, [0, 0])


def test_what_was_trained_and_thrown_away_is_not_repeated(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    with pytest.raises(KeyboardInterrupt):
        resume(run, ["train.epochs=3"], display=Steps(9, KeyboardInterrupt))
    assert again(run).identical  # as it stands: the two epochs
    resume(run, ["train.epochs=5"], display=Silent())
    assert [entry["epochs"] for entry in run.read_info()["resumed"]] == [3, 5]
    display = Steps()
    assert again(run, display=display).identical
    assert display.count == 20


@pytest.mark.parametrize(("rate", "checkpoints"), [("5.0", 2), ("1.0e+30", 0)])
def test_a_diverged_run_diverges_again(rate: str, checkpoints: int, train: Train, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        train(GROWING, f"optimizer.lr={rate}")
    run = only_run(tmp_path)
    result = again(run)
    assert result.identical
    assert result.then.diverged
    assert result.then.step == run.read_info()["step"]
    assert len(result.checkpoints) == checkpoints


def test_one_that_diverges_at_another_step_of_the_epoch_is_different(train: Train, tmp_path: Path) -> None:
    """A weight of 1e30 gives a loss that is no float32 one step later, one of 1e15 a step after that; none is saved."""
    with pytest.raises(DivergedError):
        train(GROWING, "optimizer.lr=1.0e+30")
    run = only_run(tmp_path)
    edit_config(run, "lr: 1.0e+30", "lr: 1000000000000000.0")
    result = again(run)
    assert not result.identical
    assert (result.then.diverged_at, result.now.diverged_at) == (2, 3)
    assert result.then.step == result.now.step, "found at the end of the same epoch"


def test_one_of_a_dlf_that_did_not_record_where_it_diverged(train: Train, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        train(GROWING, "optimizer.lr=1.0e+30")
    run = only_run(tmp_path)
    info = {name: value for name, value in run.read_info().items() if name != "diverged_at"}
    (run.path / "run.json").write_bytes(to_json(info))
    assert again(run).identical


def test_one_that_no_longer_diverges_is_different(train: Train, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        train(GROWING, "optimizer.lr=1.0e+30")
    run = only_run(tmp_path)
    edit_config(run, "lr: 1.0e+30", "lr: 1.0e-3")
    result = again(run)
    assert not result.identical
    assert (result.then.diverged, result.now.diverged) == (True, False)


def test_one_that_diverges_only_now_is_different(trained: Callable[..., RunDirectory]) -> None:
    run = trained(SMALL, "train.epochs=1")
    edit_config(run, "max_norm: 1.0", "max_norm: 1.0e+38")
    edit_config(run, "weight: 0.0001", "weight: 1.0e+38")
    result = again(run)
    assert not result.identical
    assert (result.then.diverged, result.now.diverged) == (False, True)
    assert result.loss is not None
    assert result.loss.step == 2  # the first loss is that of the same weights


# --- different ------------------------------------------------------------------------------------------------------

ALTERED = [
    ("last", "model.safetensors", "layers.0.weight", (3, 2), "layers.0.weight"),
    ("last", "optimizer.safetensors", "0.exp_avg", (5, 1), "optimizer.exp_avg of layers.0.weight"),
    ("best", "model.safetensors", "layers.1.running_var", (4,), "layers.1.running_var"),
]


@pytest.mark.parametrize(("which", "file", "name", "index", "shown"), ALTERED)
def test_one_bit_of_a_checkpoint(
    which: str, file: str, name: str, index: tuple[int, ...], shown: str, trained: Callable[..., RunDirectory]
) -> None:
    run = trained()
    edit_tensor(run.path / "checkpoints" / which, file, name, flip_last_bit(*index))
    found = again(run)
    assert not found.identical
    assert (found.loss, found.record) == (None, None)
    assert found.tensor is not None
    assert (found.tensor.checkpoint, found.tensor.tensor) == (which, shown)
    assert (found.tensor.differing, found.tensor.index) == (1, list(index))
    assert found.tensor.then != found.tensor.now
    assert found.conclusion.endswith("the run was not deterministic, or its files were changed.")


def test_a_comparison_that_is_nearly_right_would_miss_it(
    trained: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong variant: numbers that are close instead of bits that are equal."""
    run = trained()
    edit_tensor(run.last, "model.safetensors", "layers.0.weight", flip_last_bit(3, 2))
    monkeypatch.setattr(differences, "_other_bits", lambda a, b: ~torch.isclose(a, b).reshape(-1))
    assert again(run).identical


@pytest.mark.parametrize(("which", "step"), [("last", 1), ("last", 6), ("best", 6)])
def test_the_loss_of_one_step(which: str, step: int, trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    edit_tensor(run.path / "checkpoints" / which, "progress.safetensors", "losses", flip_last_bit(step - 1))
    result = again(run)
    assert not result.identical
    assert result.loss is not None
    assert (result.loss.step, result.loss.epoch, result.loss.ulps) == (step, (step + 3) // 4, 1)
    assert (result.record, result.tensor) == (None, None)


def test_a_record_of_the_metrics(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    text = run.metrics.read_text()
    record = json.loads(text.splitlines()[1])
    changed = text.replace(repr(record["val_loss"]), repr(float(np.nextafter(record["val_loss"], 9))))
    run.metrics.write_text(changed)
    with pytest.raises(RunError, match="was changed"):
        again(run)
    for folder in (run.best, run.last):
        files = dict(checkpoint.read(folder).files)
        whole = RunDirectory(run.path)
        for line in changed.splitlines(keepends=True):
            whole._count(line.encode(), records=1)
        del files["MANIFEST.json"]
        checkpoint.write(folder, {**files, "MANIFEST.json": checkpoint._manifest(files, whole.written)})
    result = again(run)
    assert not result.identical
    assert (result.loss, result.tensor) == (None, None)
    assert result.record is not None
    assert (result.record.epoch, result.record.name, result.record.others) == (2, "val_loss", [])
    assert result.record.now == record["val_loss"]


def test_another_seed_is_found_at_once_and_explained(trained: Callable[..., RunDirectory]) -> None:
    run = trained(SMALL, "train.epochs=6")
    edit_config(run, "\nseed: 0", "\nseed: 1")
    display = Steps()
    result = again(run, display=display)
    assert not result.identical
    assert result.loss is not None
    assert (result.loss.step, result.loss.epoch) == (1, 1)
    assert result.record is not None
    assert result.record.epoch == 1
    assert result.tensor is not None
    assert result.tensor.tensor == "layers.0.weight"
    assert [(change.what, change.then, change.now) for change in result.changes] == [("seed", 0, 1)]
    # no further than to the first checkpoint
    assert display.count == result.tensor.step == checkpoint.read(run.best).position.step


def test_it_ends_where_the_difference_is_known(trained: Callable[..., RunDirectory]) -> None:
    config = {**SMALL, "model": {"layers": []}, "optimizer": {"type": "sgd", "lr": 1e-30}}  # no epoch beats the first
    run = trained(config, "train.epochs=6")
    assert checkpoint.read(run.best).position.epoch == 1
    edit_config(run, "\nseed: 0", "\nseed: 1")
    display = Steps()
    result = again(run, display=display)
    assert display.count == 4
    assert (result.then.step, result.now.step) == (24, 4)
    assert [compared.checkpoint for compared in result.checkpoints] == ["best"]


def test_a_training_that_ends_elsewhere(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    run.write_info(planned_epochs=1)
    assert not again(run).identical


def test_other_batches(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    edit_config(run, "batch_size: 30", "batch_size: 60")
    result = again(run)
    assert not result.identical
    assert result.loss is not None


# --- what explains it -----------------------------------------------------------------------------------------------


def test_it_uses_the_recorded_threads(trained: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch) -> None:
    with threads(2):
        run = trained()
    display = Steps()
    result = again(run, display=display)
    assert result.identical
    assert display.threads == {2}
    assert torch.get_num_threads() == 1
    # a wrong variant: the threads of the moment
    monkeypatch.setattr("dlf.commands.reproduce.threads", lambda count: nullcontext())
    assert [(change.what, change.then, change.now) for change in again(run).changes] == [("threads", 2, 1)]


def test_threads_that_the_machine_does_not_give_are_said(
    trained: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    run.write_info(threads=64)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    result = again(run)
    (change,) = result.changes
    assert (change.what, change.then, change.now) == ("threads", 64, 1)
    assert "order of sums" in change.why
    assert result.identical  # of tiny layers every sum is one thread's
    assert result.conclusion == "What differs from then changed no bit."


def test_what_is_not_as_it_was_is_said(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    packages = {**run.read_info()["packages"], "torch": "2.0.0"}
    run.write_info(packages=packages, cpu_capability="AVX2", python="3.11.0")
    edit_tensor(run.last, "model.safetensors", "layers.0.bias", flip_last_bit(0))
    result = again(run)
    assert not result.identical
    assert [change.what for change in result.changes] == ["cpu_capability", "torch", "python"]
    assert all(change.why for change in result.changes)
    assert "files were changed" not in result.conclusion


@pytest.mark.fault("R4")
def test_a_later_part_on_another_machine(stopped: Callable[..., RunDirectory]) -> None:
    run = stopped(3)
    with threads(2):
        resume(run, display=Silent())
    (resumed,) = run.read_info()["resumed"]
    run.write_info(resumed=[{**resumed, "cpu_capability": "AVX2"}])
    display = Steps()
    result = again(run, display=display)
    assert result.identical
    assert display.threads == {1, 2}
    assert [(change.what, change.since_step) for change in result.changes] == [("cpu_capability", 3)]


@pytest.mark.fault("R4")
def test_every_recorded_thing_has_its_reason(trained: Callable[..., RunDirectory]) -> None:
    from dlf import environment

    here = environment.describe(torch.device("cpu"))
    known = {*here, *here["packages"]} - {"packages", "command"}
    assert known <= set(differences._WHY)


# --- what cannot be compared ----------------------------------------------------------------------------------------


def test_other_data_are_refused_before_training(trained: Callable[..., RunDirectory], tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    run = trained({"data": {"type": "csv", "path": str(table), "target": "y"}, "train": {"epochs": 1}})
    then = run.read_info()["data_sha256"]
    assert again(run).identical
    table.write_text(table.read_text().replace("7,1", "8,1"))
    display = Steps()
    with pytest.raises(RunError, match=f"changed since this run was started: sha256 {then} then, [0-9a-f]{{64}} now"):
        again(run, display=display)
    assert display.count == 0
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_damaged_run_is_refused(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    weights = run.best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(RunError, match="is damaged"):
        again(run)


def test_a_run_without_a_checkpoint_is_refused(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    for folder in (run.best, run.last):
        folder.rename(run.path / folder.name)
    with pytest.raises(RunError, match="no checkpoint"):
        again(run)


def test_another_network_is_refused_before_training(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    edit_config(run, "units: 6", "units: 7")
    display = Steps()
    with pytest.raises(RunError, match="another architecture"):
        again(run, display=display)
    assert display.count == 0


def test_a_signal_ends_it(trained: Callable[..., RunDirectory], tmp_path: Path) -> None:
    run = trained()
    before = files_of(run.path)
    with pytest.raises(AbandonedError, match="stopped by SIGTERM") as caught:
        again(run, display=Steps(3))
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert files_of(run.path) == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_is_kept_is_a_run(trained: Callable[..., RunDirectory], tmp_path: Path) -> None:
    run = trained()
    result = dlf.reproduce(run.id, keep=True, runs=tmp_path / "runs")
    assert result.identical
    assert result.path is not None
    kept = RunDirectory(Path(result.path))
    assert kept.path.parent == run.path.parent
    assert kept.read_info()["reproduces"] == run.id
    assert kept.read_info()["status"] == "completed"
    assert {**evaluate_run(kept), "run": ""} == {**evaluate_run(run), "run": ""}
    assert again(kept).identical


def test_what_is_kept_has_the_same_parts(trained: Callable[..., RunDirectory]) -> None:
    run = trained()
    resume(run, ["train.epochs=3"], display=Silent())
    path = again(run, keep=True).path
    assert path is not None
    assert again(RunDirectory(Path(path))).identical


# --- bits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.0, -1.0, 0.1, 3.4e38, 1e-45, 2.0**-126])
def test_neighbours_are_one_unit_apart(value: float) -> None:
    a = np.float32(value)
    b = np.nextafter(a, np.float32(0))
    found = first_loss(torch.tensor([1.0, a]), torch.tensor([1.0, b]), 1)
    assert found is not None
    assert (found.step, found.epoch, found.ulps) == (2, 2, 1)
    assert found.relative == abs(float(b) - float(a)) / abs(float(a))


def test_units_are_counted_across_zero() -> None:
    least = np.nextafter(np.float32(0), np.float32(1))
    found = first_loss(torch.tensor([-least]), torch.tensor([least]), 1)
    assert found is not None
    assert found.ulps == 2


def test_zeros_of_both_signs_differ_and_a_nan_equals_itself() -> None:
    found = first_loss(torch.tensor([torch.nan, 0.0]), torch.tensor([torch.nan, -0.0]), 1)
    assert found is not None
    assert (found.step, found.ulps, found.relative) == (2, 0, None)
    assert first_loss(torch.tensor([torch.nan]), torch.tensor([torch.nan]), 1) is None
    broken = first_loss(torch.tensor([1.0]), torch.tensor([torch.inf]), 1)
    assert broken is not None
    assert broken.ulps is None


def test_times_of_a_record_do_not_count() -> None:
    then = {"epoch": 1, "a": 0.0, "b": None, "seconds": 1.0, "samples_per_second": 3}
    assert first_entry(then, {**then, "seconds": 2.0, "samples_per_second": 4}) is None
    found = first_entry(then, {**then, "a": -0.0, "b": 1.0})
    assert found is not None
    assert (found.name, found.others) == ("a", ["b"])
    assert first_entry(then, {**then, "c": None}) is not None


# --- the command ----------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_the_command_says_identical(trained: Callable[..., RunDirectory], capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    code, out, err = command(capsys, "reproduce", run.path)
    assert code == 0
    assert out.startswith(f"{run.id}: identical\n")
    assert "the losses of 8 steps, 2 records of metrics.jsonl" in out
    assert "epoch 2/2" in err
    code, out, err = command(capsys, "reproduce", run.path, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out) == asdict(again(run))


def test_the_command_says_what_differs(
    trained: Callable[..., RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained()
    edit_config(run, "\nseed: 0", "\nseed: 1")
    code, out, _ = command(capsys, "reproduce", run.path, "--quiet")
    assert code == 1
    assert out.startswith(f"{run.id}: different\n")
    assert "first differs at step 1 (epoch 1)" in out
    assert "seed: 0 then, 1 now" in out
    code, out, _ = command(capsys, "reproduce", run.path, "--quiet", "--json")
    assert code == 1
    assert json.loads(out)["changes"][0]["what"] == "seed"


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nothing"], 4), (["latest", "--device", "gpu"], 2), ([], 2), (["latest", "--device", "cuda:9"], 5)],
)
def test_the_command_refuses(
    words: list[str],
    code: int,
    trained: Callable[..., RunDirectory],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained()
    ended, out, err = command(capsys, "reproduce", *words, "--runs-dir", tmp_path / "runs")
    assert (ended, out) == (code, "")
    assert "error: " in err
