"""What is proven of dlf/loggers.py: what the readers of TensorBoard and MLflow find is metrics.jsonl, also after a run
was stopped and went on; and whatever is wrong with a logger is a warning, and changes no byte of what is trained.

Those packages are extras (`pip install 'dlf[tensorboard,mlflow]'`): the tests that need one are skipped without it.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Train

from dlf import loggers
from dlf.api import Silent, resume
from dlf.commands.train import TrainResult
from dlf.config import loads
from dlf.errors import ConfigError, DivergedError
from dlf.loggers import LOGGERS, Logger, Loggers, Row, Training, numbers, settings
from dlf.run import Record, RunDirectory

IRIS: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 16},
    "model": {"layers": [{"type": "linear", "units": 4}]},
    "metrics": [{"type": "f1", "average": "none"}, "confusion_matrix"],
    "train": {"epochs": 3},
}
CLASSES = 3


class Told(Silent):
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)

    @property
    def warnings(self) -> list[str]:
        return [text for text in self.said if text.startswith("warning")]


def records(result: TrainResult) -> list[Record]:
    return RunDirectory(Path(result.path)).read_metrics()


# --- what every logger is given -------------------------------------------------------------------------------------


def test_numbers_of_a_record() -> None:
    record = {"epoch": 2, "step": 20, "val_f1_none": [0.5, None], "val_loss": None, "val_table": [[1, 0], [0, 1]]}
    found = numbers(record)
    assert list(found) == ["step", "val_f1_none/0", "val_f1_none/1", "val_loss"]
    assert (found["step"], found["val_f1_none/0"]) == (20.0, 0.5)
    assert math.isnan(found["val_f1_none/1"])
    assert math.isnan(found["val_loss"])


def test_settings_of_a_configuration() -> None:
    config = {"seed": 3, "loss": None, "layers": [{"units": 4, "bias": True}, {"type": "dropout"}], "empty": []}
    assert settings(config) == {
        "seed": 3,
        "loss": "null",
        "layers.0.units": 4,
        "layers.0.bias": True,
        "layers.1.type": "dropout",
    }


def training(rows: list[Row]) -> Training:
    return Training("iris-1", Path("runs/iris-1"), {"seed": 1}, started=1000.0, rows=rows)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Registers the loggers `broken` and `whole`: what they were asked for is listed, and `broken` fails where said."""
    monkeypatch.setattr(LOGGERS, "_entries", dict(LOGGERS._entries))
    asked: list[str] = []

    def make(failing: str) -> list[str]:
        def logger(name: str, fails: str) -> Callable[[Training], Logger]:
            def act(what: str) -> None:
                asked.append(f"{name} {what}")
                if what == fails:
                    raise OSError(errno.ENOSPC, "No space left on device")

            def opened(told: Training) -> Logger:
                """A logger of these tests."""
                act("open")
                return Logger(lambda row: act(f"write {row.epoch}"), lambda status: act(f"close {status}"))

            return opened

        LOGGERS.register("broken", modules=())(logger("broken", failing))
        LOGGERS.register("whole", modules=())(logger("whole", ""))
        return asked

    return make


WHOLE = ["whole open", *(f"whole write {epoch}" for epoch in (1, 2, 3)), "whole close completed"]


@pytest.mark.fault("P5")
@pytest.mark.parametrize(
    ("failing", "asked_before"),
    [
        ("open", ["open"]),
        ("write 1", ["open", "write 1", "close failed"]),
        ("write 3", ["open", "write 1", "write 2", "write 3", "close failed"]),
        ("close completed", ["open", "write 1", "write 2", "write 3", "close completed", "close failed"]),
    ],
)
def test_a_logger_that_fails_is_one_warning(
    train: Train, broken: Callable[..., list[str]], failing: str, asked_before: list[str]
) -> None:
    told, asked = Told(), broken(failing)
    result = train({**IRIS, "logging": ["broken", "whole"]}, display=told)
    assert (result.status, result.epochs) == ("completed", 3)
    warning = "warning: the logger broken (logging.0) failed, and training goes on without it: [Errno 28] No space left"
    assert [text.startswith(warning) for text in told.warnings] == [True]
    assert [text for text in asked if text.startswith("broken")] == [f"broken {what}" for what in asked_before]
    assert [text for text in asked if text.startswith("whole")] == WHOLE
    assert warning in (Path(result.path) / "train.log").read_text()


def test_a_logger_hears_how_training_ended(train: Train, broken: Callable[..., list[str]]) -> None:
    asked = broken("")
    with pytest.raises(DivergedError):
        train({**IRIS, "optimizer": {"type": "sgd", "lr": 1e30}, "logging": ["whole"]})
    assert asked[-1] == "whole close diverged"


def test_a_logger_that_is_stopped_stops_the_training(broken: Callable[..., list[str]]) -> None:
    """Ctrl-C is no failure of a logger."""
    broken("")

    def interrupt(row: Row) -> None:
        raise KeyboardInterrupt

    made = Loggers([LOGGERS.make("whole")], training([]), [], pytest.fail)
    made._open = {"whole": Logger(interrupt, lambda status: None)}
    with pytest.raises(KeyboardInterrupt):
        made.write({"epoch": 1, "seconds": 1.0})


@pytest.mark.parametrize("name", LOGGERS.names())
def test_a_logger_that_is_not_installed_is_refused_before_training(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    with pytest.raises(ConfigError) as caught:
        train({**IRIS, "logging": [name]})
    assert caught.value.problems[0].key == "logging.0"
    assert f"{name} needs {name}. Install it with: pip install 'dlf[{name}]'" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_logger_listed_twice_is_refused(train: Train, broken: Callable[..., list[str]]) -> None:
    broken("")
    with pytest.raises(ConfigError, match="whole is listed twice"):
        train({**IRIS, "logging": ["whole", "whole"]})


def test_an_unknown_logger_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'tensorbord' is not a logger\. Did you mean 'tensorboard'"):
        loads("data: iris\nlogging: [tensorbord]\n", "f.yaml")


# --- read back by those who will read it ----------------------------------------------------------------------------

Points = dict[int, dict[str, Any]]  # epoch -> column -> value


def tensorboard_points(folder: Path) -> tuple[Points, Any]:
    """The scalars by epoch, and the reader, for what else is there; a point that is there twice fails."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    points: Points = {}
    for tag in reader.Tags()["scalars"]:
        for event in reader.Scalars(tag):
            assert tag not in points.setdefault(event.step, {}), f"{tag} of epoch {event.step} twice"
            points[event.step][tag] = event.value
    return points, reader


def mlflow_points(folder: Path) -> tuple[Points, Any]:
    """The metrics of the one run of MLflow by epoch, and that run; a point that is there twice fails."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dlf")
    [run] = client.search_runs([experiment.experiment_id], f"tags.`dlf.run` = '{folder.name}'")
    points: Points = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            assert name not in points.setdefault(metric.step, {}), f"{name} of epoch {metric.step} twice"
            points[metric.step][name] = metric.value
    return points, run


def points_of(name: str, run: Path) -> tuple[Points, Any]:
    return tensorboard_points(run / "tensorboard") if name == "tensorboard" else mlflow_points(run)


def expected(history: list[Record], relative: float) -> Points:
    """The same from metrics.jsonl; TensorBoard's numbers are float32, so each is right to half a unit of 24 bits."""
    return {
        record["epoch"]: {
            name: pytest.approx(value, rel=relative, abs=0, nan_ok=True) for name, value in numbers(record).items()
        }
        for record in history
    }


RELATIVE = {"tensorboard": 2.0**-24, "mlflow": 0.0}


@pytest.fixture(params=LOGGERS.names())
def logger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each logger that is installed; what is not its own is looked up in no environment."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed: pip install 'dlf[{request.param}]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return str(request.param)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def test_what_was_logged_is_metrics_jsonl(train: Train, logger: str) -> None:
    result = train({**IRIS, "logging": [logger]})
    points, _ = points_of(logger, Path(result.path))
    assert points == expected(records(result), RELATIVE[logger])
    assert {"train_loss", "val_loss", "lr", "seconds", f"val_f1_none/{CLASSES - 1}"} <= points[1].keys()


def test_the_configuration_is_there_too(train: Train, logger: str) -> None:
    result = train({**IRIS, "logging": [logger], "optimizer": {"type": "sgd", "lr": 0.25}})
    _, found = points_of(logger, Path(result.path))
    if logger == "mlflow":
        assert found.data.params["optimizer.lr"] == "0.25"
        assert found.data.params["model.layers.0.units"] == "4"
        assert (found.info.run_name, found.info.status) == (result.run, "FINISHED")
        return
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    [event] = found.Tensors("config")
    text = event.tensor_proto.string_val[0].decode()
    assert loads(text.removeprefix("```yaml\n").removesuffix("```"), "config").config.optimizer.parameters["lr"] == 0.25
    content = found.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    given = parse_session_start_info_plugin_data(content).hparams
    assert (given["optimizer.lr"].number_value, given["optimizer.type"].string_value) == (0.25, "sgd")


@pytest.mark.fault("R3")
def test_logging_changes_no_byte(train: Train, logger: str) -> None:
    plain, logged = train(IRIS), train({**IRIS, "logging": [logger]})

    def trained(result: TrainResult) -> Mapping[str, bytes]:
        last = Path(result.path) / "checkpoints" / "last"
        return {path.name: path.read_bytes() for path in last.glob("*.safetensors")}

    def measured(result: TrainResult) -> list[dict[str, Any]]:
        times = ("seconds", "samples_per_second")
        return [{key: value for key, value in record.items() if key not in times} for record in records(result)]

    assert trained(plain) == trained(logged)
    assert len(trained(plain)) == 3
    assert measured(plain) == measured(logged)


def test_a_run_that_goes_on_has_each_epoch_once(train: Train, tmp_path: Path, logger: str) -> None:
    result = train({**IRIS, "logging": [logger]})
    longer = resume(result.run, "train.epochs=5", runs=tmp_path / "runs")
    points, _ = points_of(logger, Path(result.path))
    assert sorted(points) == [1, 2, 3, 4, 5]
    assert points == expected(records(longer), RELATIVE[logger])


def test_what_no_checkpoint_kept_is_superseded(train: Train, tmp_path: Path, logger: str) -> None:
    """Back to the first save: the epochs behind it are trained anew, with other seconds, and those are what counts."""
    result = train({**IRIS, "logging": [logger], "checkpoint": {"keep": 3}})
    before = records(result)
    [steps] = {record["step"] for record in before[:1]}
    again = resume(result.run, start=f"step-{steps}", runs=tmp_path / "runs")
    after = records(again)
    assert [record["seconds"] for record in before[1:]] != [record["seconds"] for record in after[1:]]
    points, _ = points_of(logger, Path(result.path))
    assert points == expected(after, RELATIVE[logger])


def test_what_a_logger_missed_is_brought_in(train: Train, tmp_path: Path, logger: str) -> None:
    """The logger was not there at first: a run that goes on with it logs all of its course."""
    result = train(IRIS)
    config = Path(result.path) / "config.yaml"
    config.write_text(re.sub(r"logging: \[\]", f"logging: [{logger}]", config.read_text()))
    longer = resume(result.run, "train.epochs=4", runs=tmp_path / "runs")
    points, _ = points_of(logger, Path(result.path))
    assert points == expected(records(longer), RELATIVE[logger])


@pytest.mark.fault("P5")
def test_a_place_that_cannot_be_written_is_a_warning(train: Train, tmp_path: Path, logger: str) -> None:
    (tmp_path / "file").write_text("no folder")
    wrong = {
        "tensorboard": {"type": "tensorboard", "folder": str(tmp_path / "file")},
        "mlflow": {"type": "mlflow", "tracking_uri": "http://127.0.0.1:9"},  # the port that discards: nobody listens
    }
    told = Told()
    result = train({**IRIS, "logging": [wrong[logger]]}, display=told)
    assert result.status == "completed"
    assert len(told.warnings) == 1
    assert f"the logger {logger} (logging.0) failed" in told.warnings[0]


def test_a_folder_of_ones_own_holds_a_folder_a_run(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'dlf[tensorboard]'")
    result = train({**IRIS, "logging": [{"type": "tensorboard", "folder": str(tmp_path / "all")}]})
    points, _ = tensorboard_points(tmp_path / "all" / result.run)
    assert points == expected(records(result), RELATIVE["tensorboard"])
    assert not (Path(result.path) / "tensorboard").exists()


def test_a_new_event_file_sorts_behind_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "time", SimpleNamespace(time=lambda: 1000.5))
    names = []
    for host in ("z", "a", "m"):  # three machines within a second; a clock that stands still
        monkeypatch.setattr(loggers, "socket", SimpleNamespace(gethostname=lambda host=host: host))
        path = loggers._next_event_file(tmp_path)
        path.touch()
        names.append(path.name)
    assert names == sorted(names)
    assert len(set(names)) == 3


def test_mlflow_works_under_our_settings_and_leaves_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with loggers._mlflow_settings():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    assert logging.root.manager.disable == 0


def test_the_configuration_of_a_logger_is_plain_data() -> None:
    config = loads("data: iris\nlogging: [{type: mlflow, experiment: mine}]\n", "f.yaml").config
    assert json.loads(json.dumps(config.dump()))["logging"] == [
        {"type": "mlflow", "tracking_uri": None, "experiment": "mine"}
    ]
