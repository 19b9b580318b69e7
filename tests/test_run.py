"""A run directory says what was trained, repeats it to the same bytes, is found by its names, and has one writer."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train

from dlf import durable
from dlf.api import Silent
from dlf.commands.evaluate import evaluate_run
from dlf.commands.train import Display
from dlf.commands.train import train as train_experiment
from dlf.config import ExperimentConfig, load, loads
from dlf.engine import Experiment, TrainState, outputs
from dlf.errors import ConfigError, DataError, DataMissingError, MachineError, RunError, UsageError
from dlf.run import RunDirectory, Written, check_name, to_json

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"type": "iris", "batch_size": 40},
    "model": {"layers": [{"type": "linear", "units": 4}, {"type": "dropout", "rate": 0.2}]},
    "train": {"epochs": 2},
}


def run_of(result: Any) -> RunDirectory:
    return RunDirectory(Path(result.path))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is in it --------------------------------------------------------------------------------------------------


def test_every_file_that_the_design_lists(train: Train) -> None:
    run = run_of(train(SMALL))
    evaluate_run(run)
    names = ("model.safetensors", "optimizer.safetensors", "progress.safetensors", "state.json", "MANIFEST.json")
    checkpoints = {f"checkpoints/{which}/{name}" for which in ("best", "last") for name in names}
    listed = {"config.yaml", "config.source.yaml", "run.json", "metrics.jsonl", "evaluation-test.json", "train.log"}
    listed |= {"layers.jsonl"}
    assert set(files_of(run.path)) == checkpoints | listed | {".lock", ".info.lock"}


@pytest.mark.fault("R4")
def test_run_json_says_what_a_result_depends_on(train: Train) -> None:
    result = train(SMALL, "seed=3", "train.threads=1")
    info = run_of(result).read_info()
    assert info["status"] == result.status == "completed"
    assert (info["id"], info["seed"], info["precision"], info["threads"]) == (result.run, 3, "float32", 1)
    assert (info["epochs"], info["step"], info["result"], info["monitor"]) == (2, 6, "best", "val_loss")
    assert info["samples"] == {"train": 108, "val": 12, "test": 30}
    assert (info["task"], info["classes"]) == ("classification", ["setosa", "versicolor", "virginica"])
    assert torch.__version__.startswith(info["packages"]["torch"])
    assert info["device"] == "cpu"
    assert all(len(info[key]) == 64 for key in ("data_sha256", "split_sha256"))
    assert info["started"] <= info["finished"]
    assert {"dlf", "python", "platform", "device_name", "cpu_capability", "git_commit", "command"} <= set(info)


def test_metrics_have_the_columns_of_the_design(train: Train) -> None:
    result = train(SMALL)
    records = run_of(result).read_metrics()
    columns = ["epoch", "step", "lr", "train_loss", "train_accuracy", "penalty", "val_loss", "val_accuracy"]
    assert [list(record) for record in records] == [[*columns, "seconds", "samples_per_second"]] * 2
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 3), (2, 6)]
    assert result.last == records[-1]
    assert result.best == min(records, key=lambda record: record["val_loss"])


def test_source_is_as_written_and_config_is_complete(tmp_path: Path) -> None:
    text = "# mine\ndata: {type: iris} # short\ntrain: {epochs: 1, device: cpu}\n"
    loaded = loads(text, "the test", ["seed=7", "optimizer.lr=1e-2"])
    run = run_of(train_experiment(loaded, runs=tmp_path, display=Silent()))
    assert run.source.read_text() == f'# override: "seed=7"\n# override: "optimizer.lr=1e-2"\n{text}'
    resolved = load(run.config).config
    assert resolved.loss is not None, "what followed from the data is filled in"
    assert resolved.seed == 7
    assert {"name", "seed", "data", "model", "loss", "optimizer", "schedule", "train"} <= set(resolved.dump())
    assert resolved.train == loaded.config.train.model_copy(update={"precision": "float32"}), (
        "iris is too small for more"
    )
    assert resolved.model_copy(update={"loss": None, "train": loaded.config.train}) == loaded.config


@pytest.mark.fault("R1")
def test_its_config_trains_the_same_network_again(train: Train, tmp_path: Path) -> None:
    first = run_of(train(SMALL, "seed=3"))
    again = run_of(train_experiment(load(first.config), runs=tmp_path / "again", display=Silent()))
    for which in ("best", "last"):
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            path = Path("checkpoints", which, name)
            assert (again.path / path).read_bytes() == (first.path / path).read_bytes(), path
    assert again.config.read_bytes() == first.config.read_bytes()
    other = run_of(train_experiment(load(first.config, ["seed=4"]), runs=tmp_path / "again", display=Silent()))
    assert (other.last / "model.safetensors").read_bytes() != (first.last / "model.safetensors").read_bytes()


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    @property
    def warnings(self) -> list[str]:
        return [text for text in self.messages if text.startswith("warning: ")]


def test_the_fallback_is_said_recorded_and_what_the_config_repeats(train: Train) -> None:
    told = Told()
    data = {"type": "mnist", "root": "/nowhere", "download": False, "fallback": {"type": "iris", "batch_size": 40}}
    result = train({**SMALL, "data": data}, display=told)
    assert (result.data, result.requested_data) == ("iris", "mnist")
    assert "/nowhere" in told.messages[0]
    assert "warning: training on iris instead of mnist, because data.fallback asks for it" in told.messages[1]
    run = run_of(result)
    info = run.read_info()
    assert (info["data"], info["requested_data"], info["fallback_reason"]) == ("iris", "mnist", told.messages[0])
    assert load(run.config).config.data.type == "iris"
    evaluation = evaluate_run(run)
    assert (evaluation["data"], evaluation["requested_data"]) == ("iris", "mnist")
    plain = run_of(train({**SMALL, "data": data["fallback"]}))
    assert (plain.last / "model.safetensors").read_bytes() == (run.last / "model.safetensors").read_bytes()


def test_without_a_fallback_no_run_is_created(train: Train, tmp_path: Path) -> None:
    with pytest.raises(DataMissingError):
        train({**SMALL, "data": {"type": "mnist", "root": "/nowhere", "download": False}})
    assert not (tmp_path / "runs").exists()


def test_constant_columns_are_warned_of(train: Train, tmp_path: Path) -> None:
    rows = "".join(f"{n},5,{n % 2}\n" for n in range(40))
    (tmp_path / "t.csv").write_text("a,b,c\n" + rows)
    told = Told()
    train({**SMALL, "data": {"type": "csv", "path": str(tmp_path / "t.csv"), "target": "c"}}, display=told)
    about = [warning for warning in told.warnings if "columns" in warning]  # the doctor may find more to say
    assert about == ["warning: 1 input columns never vary in the training part and tell nothing: b"]


def test_train_log_has_every_message_and_a_line_an_epoch(train: Train) -> None:
    run = run_of(train(SMALL, "data.type=mnist", "data.root=/nowhere", "data.download=false", "data.fallback=iris"))
    log = run.log.read_text().splitlines()
    assert all(line[4] == "-" and line[10] == "T" for line in log if not line.startswith((" ", "Put", "or train")))
    said = "\n".join(log)
    assert "training on iris instead of mnist" in said
    assert "training from epoch 0, step 0, to epoch 2" in said
    epochs = [line for line in log if " epoch 1  step " in line or " epoch 2  step " in line]
    assert len(epochs) == 2
    assert all("val_loss 0." in line or "val_loss 1." in line for line in epochs)
    assert epochs[0].endswith("best")


@pytest.mark.fault("P5")
def test_a_log_that_fails_does_not_stop_the_training(train: Train) -> None:
    class Spoiler(Silent):
        def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
            run.log.unlink()
            run.log.mkdir()

    assert run_of(train(SMALL, display=Spoiler())).read_info()["status"] == "completed"


@pytest.mark.fault("P5")
@pytest.mark.parametrize("method", ["start", "step", "epoch", "end"])
def test_a_display_that_fails_is_given_up(method: str, train: Train) -> None:
    undisturbed = run_of(train(SMALL))
    calls = []

    def fail(*_: Any) -> None:
        calls.append(method)
        raise BrokenPipeError("nobody looks")

    display: Display = Silent()
    setattr(display, method, fail)
    with pytest.warns(UserWarning, match="the display failed, the training goes on without it.*nobody looks"):
        run = run_of(train(SMALL, display=display))
    assert calls == [method], "and not called again"
    assert "nobody looks" in run.log.read_text()
    assert (run.last / "model.safetensors").read_bytes() == (undisturbed.last / "model.safetensors").read_bytes()


@pytest.mark.fault("N2")
def test_a_validation_without_numbers_has_no_best(train: Train) -> None:
    """An overflow in the validation part alone: 'best' would be a lie, so the last checkpoint is the result."""

    class Overflow(Silent):
        def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
            experiment.data.validation.x[:].fill_(math.inf)

    run = run_of(train(SMALL, display=Overflow()))
    assert [record["val_loss"] for record in run.read_metrics()] == [None, None]
    assert not run.best.exists()
    assert run.read_info()["result"] == "last"
    assert evaluate_run(run)["checkpoint"] == "last"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["train.monitor=val_mae"], "train.monitor"),
        (["train.early_stopping.monitor=train_mae"], "train.early_stopping.monitor"),
        (["schedule.type=plateau", "schedule.monitor=val_mae"], "schedule.monitor"),
    ],
)
def test_what_another_task_measures_is_not_monitored(
    overrides: list[str], key: str, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"{key}\s+'\w+' is not measured. .*Measured: train_loss, train_accuracy,"):
        train(SMALL, *overrides)
    assert not (tmp_path / "runs").exists()


def test_early_stopping_ends_the_run(train: Train) -> None:
    config = {**SMALL, "optimizer": {"type": "sgd", "lr": 1e-30}}  # nothing moves, so nothing improves
    result = train({**config, "train": {"epochs": 9, "early_stopping": {"patience": 2}}})
    assert (result.status, result.epochs, result.best["epoch"]) == ("completed", 3, 1)
    kept = train({**config, "train": {"epochs": 9, "early_stopping": {"patience": 2, "restore_best": False}}})
    assert evaluate_run(run_of(kept))["checkpoint"] == "last"
    assert evaluate_run(run_of(result))["checkpoint"] == "best"


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluate_keeps_its_result(train: Train) -> None:
    run = run_of(train(SMALL))
    for split, samples in {"test": 30, "val": 12, "train": 108}.items():
        found = evaluate_run(run, split=split)  # type: ignore[arg-type]
        assert found["samples"] == samples
        assert json.loads((run.path / f"evaluation-{split}.json").read_bytes()) == json.loads(to_json(found))
    assert sum(map(sum, evaluate_run(run)["confusion_matrix"])) == 30


@pytest.mark.fault("R5")
def test_evaluate_uses_the_threads_of_the_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of threads may add in another order, and would give other last bits than training wrote."""
    run = run_of(train(SMALL, "train.threads=2"))
    seen = []

    def spy(*arguments: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return outputs(*arguments)

    monkeypatch.setattr("dlf.commands.evaluate.outputs", spy)
    evaluate_run(run)
    assert (seen, torch.get_num_threads()) == ([2], 1)


def test_evaluate_refuses_an_empty_split_and_a_missing_checkpoint(train: Train) -> None:
    run = run_of(train({**SMALL, "data": {"type": "iris", "test": 0}}))
    with pytest.raises(DataError, match=r"has no test samples: data.test is 0"):
        evaluate_run(run)
    shutil.rmtree(run.best)
    with pytest.raises(RunError, match=r"there is no complete checkpoint.*last"):
        evaluate_run(run, split="val")
    assert evaluate_run(run, split="val", which="last")["epoch"] == 2


# --- finding --------------------------------------------------------------------------------------------------------


def plant(runs: Path, *names: str) -> None:
    for name in names:
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text("{}")
        (runs / name / "config.source.yaml").write_text("")


def test_find_by_id_prefix_path_and_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = "a-20260101-000000-aaaa", "b-20260102-000000-bbbb", "b-20260101-120000-cccc"
    plant(tmp_path / "runs", second, first, third)
    runs = tmp_path / "runs"
    assert RunDirectory.find(first, runs).id == first
    assert RunDirectory.find("a", runs).id == first
    assert RunDirectory.find("b-20260102", runs).id == second
    assert RunDirectory.find(str(runs / third), tmp_path / "elsewhere").id == third
    monkeypatch.chdir(runs)
    assert RunDirectory.find(f"./{third}", tmp_path / "elsewhere").path == Path(third)
    assert RunDirectory.find("latest", runs).id == second, "by the time in the id, whatever was touched last"
    with pytest.raises(UsageError, match=f"'b-' begins 2 runs: {third}, {second}. Write more of the id") as error:
        RunDirectory.find("b-", runs)
    assert error.value.exit_code == 2


def test_an_id_wins_over_those_that_it_begins(tmp_path: Path) -> None:
    plant(tmp_path, "run", "run-2")
    assert RunDirectory.find("run", tmp_path).id == "run"


def test_latest_within_a_second_is_the_later_one(tmp_path: Path) -> None:
    names = [f"x-20260101-000000-{token}" for token in ("bbbb", "cccc", "aaaa")]
    plant(tmp_path, *names)
    for seconds, name in enumerate(names):
        os.utime(tmp_path / name / "config.source.yaml", (seconds, seconds))
    assert RunDirectory.find("latest", tmp_path).id == names[-1]


@pytest.mark.parametrize(
    "name", ["", "c", "../x", "a/../../x", "\0", "x" * 5000, "runs", ".", "/", "~", "*", "latest2", "a\\b", "é"]
)
def test_what_is_no_run_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plant(tmp_path / "runs", "a-20260101-000000-aaaa")
    with pytest.raises(RunError, match=r"no run .* below .*runs.*a-20260101-000000-aaaa") as error:
        RunDirectory.find(name, tmp_path / "runs")
    assert error.value.exit_code == 4


def test_no_runs_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for runs in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(RunError, match="there are no runs below"):
            RunDirectory.find("latest", runs)


@pytest.mark.fault("F6")
def test_junk_among_the_runs_is_skipped(tmp_path: Path) -> None:
    plant(tmp_path, "good-20260101-000000-aaaa")
    (tmp_path / "file").write_text("junk")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder-2" / "run.json").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "\udcff\n").mkdir()
    assert RunDirectory.find("latest", tmp_path).id == "good-20260101-000000-aaaa"
    for name in ("file", "folder", "loop", "gone"):
        with pytest.raises(RunError, match="no run"):
            RunDirectory.find(name, tmp_path)


# --- names and folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "mnist", "A-1_b.c", "0", "x" * 100, "con-1", "latest-2"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "-a", ".a", "a b", "a\n", "\0", "é", "x" * 101),
        *("con", "CON", "nul.txt", "com1", "LPT9", "latest", "Latest", "aux"),
    ],
)
def test_names_that_would_leave_runs_or_fit_no_system(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a run"):
        check_name(name)


@pytest.mark.fault("F5")
def test_two_processes_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("dlf.run.secrets.token_hex", lambda count: next(tokens))

    class Frozen:
        @staticmethod
        def now() -> Any:
            from datetime import datetime

            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("dlf.run.datetime", Frozen)
    first, second = RunDirectory.create(tmp_path, "x"), RunDirectory.create(tmp_path, "x")
    assert (first.id, second.id) == ("x-20260102-030405-aaaa", "x-20260102-030405-bbbb")


class Never(Silent):
    """Training must not begin."""

    def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
        raise AssertionError


@pytest.mark.fault("F2")
def test_no_place_for_the_run_is_found_out_before_training(train: Train, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(MachineError, match=r"cannot create a run below \S+runs.*--runs-dir") as error:
        train(SMALL, display=Never())
    assert error.value.exit_code == 5


@pytest.mark.fault("F2")
@pytest.mark.parametrize("denied", ["mkdir", "open"])
def test_a_read_only_place_is_found_out_before_training(
    denied: str, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, denied)

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        if "/runs" in str(path):
            raise OSError(30, "Read-only file system")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, denied, refuse)
    with pytest.raises(MachineError, match="Read-only file system"):
        train(SMALL, display=Never())


@pytest.mark.fault("F4")
def test_a_run_that_is_removed_while_it_trains(train: Train) -> None:
    class Remover(Silent):
        run: RunDirectory

        def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
            self.run = run

        def step(self, state: TrainState) -> None:
            shutil.rmtree(self.run.path, ignore_errors=True)

    with pytest.raises(MachineError, match="No such file"):
        train(SMALL, display=Remover())


@pytest.mark.fault("F3")
def test_checkpoints_are_not_written_through_a_link(train: Train, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    class Linker(Silent):
        def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
            (run.path / "checkpoints").rmdir()
            (run.path / "checkpoints").symlink_to(outside, target_is_directory=True)

    with pytest.raises(RunError, match="symbolic link; nothing is written through it"):
        train(SMALL, display=Linker())
    assert list(outside.iterdir()) == []


@pytest.mark.fault("F5")
def test_who_trains_holds_the_run(train: Train) -> None:
    class Rival(Silent):
        refused = False

        def epoch(self, record: Any, best: bool) -> None:
            with pytest.raises(RunError, match=f"in use by process {os.getpid()} on"), self.run.locked():
                pass
            self.refused = True

        def start(self, run: RunDirectory, config: ExperimentConfig, experiment: Experiment, state: TrainState) -> None:
            self.run = run

    rival = Rival()
    run = run_of(train(SMALL, display=rival))
    assert rival.refused
    with run.locked():
        pass


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a": 1}x', "[" * 100_000, "\udcff"])
def test_a_damaged_run_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        RunDirectory(tmp_path).read_info()


def test_an_entry_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run\.json has no 'task'"):
        RunDirectory(tmp_path).read_info()["task"]


def test_a_last_line_that_was_cut_off_is_not_counted(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read_metrics() == []
    run.append_metrics({"epoch": 1})
    first = run.written
    run.append_metrics({"epoch": 2, "val_loss": math.nan})
    whole = run.metrics.read_bytes()
    assert whole == b'{"epoch": 1}\n{"epoch": 2, "val_loss": null}\n'
    for length in range(len(whole)):
        run.metrics.write_bytes(whole[:length])
        assert [record["epoch"] for record in run.read_metrics()] == [1][: length >= 13]
    run.metrics.write_bytes(whole[:-5])
    run.keep_metrics(first)
    assert run.written == first
    run.append_metrics({"epoch": 2})
    assert [record["epoch"] for record in run.read_metrics()] == [1, 2]
    with pytest.raises(RunError, match="has 2 epochs and the checkpoint 3"):
        run.keep_metrics(Written(records=3))


def test_what_was_written_is_the_file_described(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.written == Written(records=0, bytes=0, sha256=hashlib.sha256(b"").hexdigest())
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
        data = run.metrics.read_bytes()
        assert run.written == Written(records=epoch, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    again = RunDirectory(tmp_path)
    again.check_metrics(run.written)
    again.keep_metrics(run.written)
    assert again.append_metrics({"epoch": 4}) == run.append_metrics({"epoch": 4})
    assert again.written == run.written, "it counts on, from what was kept"


@pytest.mark.parametrize("line", ["5", "[]", "{", "\0", "[" * 100_000])
def test_damaged_metrics_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line + "\n{}\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        RunDirectory(tmp_path).read_metrics()


@pytest.mark.fault("N2")
def test_json_has_null_where_there_is_no_number() -> None:
    value = {"a": [math.nan, math.inf, (1, -math.inf)], "b": "ü", "c": 0.1 + 0.2}
    assert to_json(value) == '{"a": [null, null, [1, null]], "b": "ü", "c": 0.30000000000000004}\n'.encode()


def test_a_file_beside_is_never_taken_for_the_run(tmp_path: Path) -> None:
    """What a write leaves when it is killed is hidden, and gone after the next."""
    run = RunDirectory(tmp_path)
    (tmp_path / ".run.json.part").write_bytes(b"{half")
    run.write_info(status="running")
    run.write_info(seed=1)
    assert run.read_info() == {"status": "running", "seed": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", ".info.lock"}
    assert durable.locate(run.last)[1] is None
