"""Loggers: where the records of a training are also written, besides metrics.jsonl.

A logger is `f(training, *, ...) -> Logger`: it opens what it writes to, brings the epochs in there that the run has
already, and returns what to do with each further one and with the end. The fact `modules` names what it imports, which
comes with `pip install 'dlf[NAME]'`. Epochs are the horizontal axis.

A run that goes on rewrites its course: what a logger was told of epochs that a checkpoint did not keep is superseded,
and what it missed is brought in. A logger that fails is given up with a warning; nothing of it reaches the training.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dlf import yaml12
from dlf.registry import Component, Flaw, InvalidError, Registry
from dlf.run import Record, Status


class Row(NamedTuple):
    """One epoch: its columns as plain numbers, and when it was done, in seconds since 1970."""

    epoch: int
    time: float
    numbers: dict[str, float]


class Logger(NamedTuple):
    """What to do with each further epoch, and with the end."""

    write: Callable[[Row], None]
    close: Callable[[Status], None]


LOGGERS: Registry[Callable[..., Logger]] = Registry("logger")


@dataclass(frozen=True)
class Training:
    """What a logger is told of a run: its id and directory, its configuration, when it began, its epochs so far."""

    id: str
    folder: Path
    config: Mapping[str, Any]
    started: float
    rows: Sequence[Row] = ()


def numbers(record: Record) -> dict[str, float]:
    """Every number of a record but the epoch, by its column; a list of numbers as column/0, column/1, ..., null as NaN.

    Tables are left out: the confusion matrix of 100 classes would be 10,000 curves.
    """
    found: dict[str, float] = {}
    for column, value in record.items():
        entries = {f"{column}/{index}": item for index, item in enumerate(value)} if isinstance(value, list) else {}
        for name, item in (entries or {column: value}).items():
            if name != "epoch" and (item is None or isinstance(item, int | float)):
                found[name] = float("nan") if item is None else float(item)
    return found


def settings(config: object, path: str = "") -> dict[str, bool | int | float | str]:
    """The settings of a configuration by their dotted keys: optimizer.lr, model.layers.0.units; null as text."""
    if isinstance(config, Mapping):
        items: Any = config.items()
    elif isinstance(config, list | tuple):
        items = enumerate(config)
    else:
        return {path: config if isinstance(config, bool | int | float | str) else "null"}
    found: dict[str, bool | int | float | str] = {}
    for key, value in items:
        found |= settings(value, f"{path}.{key}" if path else str(key))
    return found


def check(chosen: Sequence[Component]) -> None:
    """InvalidError for each logger that is not installed, with the command that installs it, or is listed twice."""
    found = []
    for index, component in enumerate(chosen):
        absent = [name for name in LOGGERS.get(component.type).facts["modules"] if find_spec(name) is None]
        if absent:
            advice = f"Install it with: pip install 'dlf[{component.type}]'; or leave it out"
            found.append(Flaw(("logging", index), f"{component.type} needs {' and '.join(absent)}. {advice}"))
        if component in chosen[:index]:
            found.append(Flaw(("logging", index), f"{component.type} is listed twice with the same settings"))
    if found:
        raise InvalidError(found)


class Loggers:
    """The loggers of one training. A failure of one is told once, as a warning, and ends that one."""

    def __init__(
        self, chosen: Sequence[Component], training: Training, history: Sequence[Record], tell: Callable[[str], None]
    ) -> None:
        self._time = training.started
        self._tell = tell
        self._open: dict[str, Logger] = {}
        rows = [self._row(record) for record in history] if chosen else []
        for index, component in enumerate(chosen):
            name = f"{component.type} (logging.{index})"
            told = Training(training.id, training.folder, training.config, training.started, rows)
            with self._guarded(name):
                self._open[name] = LOGGERS.build(component, told)

    def write(self, record: Record) -> None:
        """Hand on an epoch."""
        if not self._open:
            return
        row = self._row(record)
        for name, logger in list(self._open.items()):
            with self._guarded(name):
                logger.write(row)

    def close(self, status: Status) -> None:
        """Training is over, in this way."""
        for name, logger in list(self._open.items()):
            with self._guarded(name):
                logger.close(status)
        self._open.clear()

    def _row(self, record: Record) -> Row:
        """Time is what was trained: the hours between a stop and a resume are no part of a curve."""
        self._time += record["seconds"]
        return Row(record["epoch"], self._time, numbers(record))

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # no logger is worth a training, whatever is wrong with it
            failed = self._open.pop(name, None)
            with suppress(Exception):
                if failed is not None:
                    failed.close("failed")
            reason = str(error).strip().partition("\n")[0][:300] or repr(error)
            self._tell(f"warning: the logger {name} failed, and training goes on without it: {reason}")


# --- TensorBoard ----------------------------------------------------------------------------------------------------


@LOGGERS.register("tensorboard", modules=("tensorboard",))
def tensorboard(training: Training, *, folder: str | None = None) -> Logger:
    """Event files for TensorBoard: a scalar a column, the configuration as text and as hyperparameters.

    They are in the folder `tensorboard` of the run, or in a folder of the run's id below `folder`. Each start writes
    a file of its own with all epochs of the run; its first entry says that it restarts at 0, by which TensorBoard
    drops what older files said. Scalars are float32. No TensorFlow is needed, and none is imported.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.record_writer import RecordWriter

    place = Path(folder) / training.id if folder is not None else training.folder / "tensorboard"
    place.mkdir(parents=True, exist_ok=True)
    file = _next_event_file(place).open("xb")
    writer = RecordWriter(file)

    def add(at: float, step: int, **content: Any) -> None:
        writer.write(Event(wall_time=at, step=step, **content).SerializeToString())

    def write(row: Row) -> None:
        add(row.time, row.epoch, summary=_scalars(row.numbers))
        file.flush()

    def close(status: Status) -> None:
        with file:
            add(time.time(), 0, summary=_session_end(status))

    try:
        add(training.started, 0, file_version="brain.Event:2")
        add(training.started, 0, session_log=SessionLog(status=SessionLog.START))
        add(training.started, 0, summary=_text("config", f"```yaml\n{yaml12.dump(dict(training.config))}```"))
        add(training.started, 0, summary=_session_start(training))
        for row in training.rows:
            write(row)
        file.flush()
    except BaseException:
        with suppress(OSError):
            file.close()
        raise
    return Logger(write, close)


def _next_event_file(folder: Path) -> Path:
    """A name that TensorBoard takes for an event file and that sorts behind those that are there, as it reads them."""
    stamps = (path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*"))
    latest = max((int(stamp) for stamp in stamps if stamp.isdecimal()), default=0)
    return folder / f"events.out.tfevents.{max(int(time.time()), latest + 1):010}.{socket.gethostname()}.{os.getpid()}"


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])


def _text(tag: str, markdown: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _session_start(training: Training) -> Any:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    info = SessionStartInfo(group_name=training.id, start_time_secs=training.started)
    for name, value in settings(training.config).items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, str):
            info.hparams[name].string_value = value
        else:
            info.hparams[name].number_value = value
    return _hyperparameters("session_start_info", HParamsPluginData(session_start_info=info))


def _session_end(status: Status) -> Any:
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    ended = SessionEndInfo(
        status=STATUS_SUCCESS if status == "completed" else STATUS_FAILURE, end_time_secs=time.time()
    )
    return _hyperparameters("session_end_info", HParamsPluginData(session_end_info=ended))


def _hyperparameters(name: str, content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import create_summary_metadata

    metadata = create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=f"_hparams_/{name}", metadata=metadata)])


# --- MLflow ---------------------------------------------------------------------------------------------------------

_MLFLOW_STATUS: dict[Status, str] = {"completed": "FINISHED", "interrupted": "KILLED"}
_MLFLOW_TAG = "dlf.run"


@LOGGERS.register("mlflow", modules=("mlflow",))
def mlflow(training: Training, *, tracking_uri: str | None = None, experiment: str = "dlf") -> Logger:
    """A run of MLflow: a metric a column, the configuration as parameters, and how it ended.

    It goes to `tracking_uri`, else to $MLFLOW_TRACKING_URI, else to the file mlflow.db beside the run directories,
    under the name `experiment`. A run that goes on continues its run there, unless that one holds epochs
    that no checkpoint kept: then it is deleted, as MLflow deletes (restorable), and a new one has the whole course.
    A server has 10 seconds to answer, and two attempts; nothing is sent to MLflow's makers.
    """
    with _mlflow_settings():
        from mlflow import MlflowClient

        own = f"sqlite:///{(training.folder.parent / 'mlflow.db').absolute()}"
        client = MlflowClient(tracking_uri=tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or own)
        found = client.get_experiment_by_name(experiment)
        place = found.experiment_id if found is not None else client.create_experiment(experiment)
        run, known = _mlflow_run(client, place, training)

    def write(row: Row) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, round(1000 * row.time), row.epoch) for name, value in row.numbers.items()]
        with _mlflow_settings():
            for first in range(0, len(metrics), 1000):  # as many as one request may have
                client.log_batch(run, metrics=metrics[first : first + 1000])

    def close(status: Status) -> None:
        with _mlflow_settings():
            client.set_terminated(run, _MLFLOW_STATUS.get(status, "FAILED"))

    for row in training.rows:
        if row.epoch not in known:
            write(row)
    return Logger(write, close)


def _mlflow_run(client: Any, experiment: str, training: Training) -> tuple[str, set[int]]:
    """The run of MLflow that stands for this one, continued or new, and the epochs that it has already."""
    from mlflow.entities import Param

    ours = {(row.epoch, round(1000 * row.time)) for row in training.rows}
    for run in client.search_runs([experiment], f"tags.`{_MLFLOW_TAG}` = '{training.id}'"):
        name = run.info.run_id
        theirs = {(metric.step, metric.timestamp) for metric in client.get_metric_history(name, "seconds")}
        if theirs <= ours and training.rows:
            client.update_run(name, "RUNNING")
            return name, {epoch for epoch, _ in theirs}
        client.delete_run(name)
    tags = {_MLFLOW_TAG: training.id}
    made = client.create_run(experiment, round(1000 * training.started), tags, run_name=training.id).info.run_id
    parameters = [Param(name, str(value)) for name, value in settings(training.config).items()]
    for first in range(0, len(parameters), 100):  # as many as one request may have
        client.log_batch(made, params=parameters[first : first + 100])
    return made, set()


@contextmanager
def _mlflow_settings() -> Iterator[None]:
    """MLflow that gives up soon, tells its makers nothing and prints no progress, as long as it works for us."""
    ours = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # seven, each with twice the wait, would hold a training for minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    added = {name: value for name, value in ours.items() if name not in os.environ}
    before = logging.root.manager.disable
    os.environ.update(added)
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)
        for name in added:
            os.environ.pop(name, None)
