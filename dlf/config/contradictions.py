"""Settings that are right by themselves and wrong together, as far as the file alone shows it.

What only the data show is checked where the network is drawn (dlf/model.py) and assembled (dlf/experiment.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlf.config.sections import ExperimentConfig
from dlf.datasets import DataSection
from dlf.metrics import METRICS, best, column
from dlf.registry import Component, Flaw, InvalidError, did_you_mean
from dlf.registry import Path as KeyPath
from dlf.schedules import ScheduleSection, lower_is_better


def check(config: ExperimentConfig) -> None:
    """Refuse settings that contradict each other; InvalidError with all of them."""
    checks = (check_monitors, _check_modes, _check_metrics, _check_times, _check_batches, _check_momentum)
    found = [flaw for find in checks for flaw in find(config)]
    if found:
        raise InvalidError(found)


# --- monitors -------------------------------------------------------------------------------------------------------


def measured(config: ExperimentConfig, headline: str | None = None) -> list[str]:
    """The columns of metrics.jsonl that can be monitored: those that hold one number, of which more or less is better.

    `headline` is what is measured everywhere, "accuracy" of classes or "mae" of numbers; both while the data are
    unknown.
    """
    everywhere = ["loss", headline] if headline else ["loss", "accuracy", "mae"]
    columns = [f"train_{name}" for name in everywhere]
    if _without_validation(config) is None:
        further = [column(metric) for metric in config.metrics if best(metric) is not None]
        columns += [f"val_{name}" for name in dict.fromkeys([*everywhere, *further])]
    return columns


def check_monitors(config: ExperimentConfig, headline: str | None = None) -> Iterator[Flaw]:
    """A flaw for each monitor that `measured` does not list, with the reason."""
    known = measured(config, headline)
    for path, monitor in _monitors(config):
        if monitor not in known:
            yield Flaw(path, _why_not(monitor, config, known))


def _monitors(config: ExperimentConfig) -> Iterator[tuple[KeyPath, str]]:
    train = config.train
    if train.monitor is not None:
        yield ("train", "monitor"), train.monitor
    if train.early_stopping is not None:
        yield ("train", "early_stopping", "monitor"), train.early_stopping.monitor
    if "monitor" in config.schedule.parameters:
        yield ("schedule", "monitor"), config.schedule.parameters["monitor"]


def _why_not(monitor: str, config: ExperimentConfig, known: Sequence[str]) -> str:
    name = monitor.removeprefix("val_")
    if monitor.startswith("test"):
        instead = ", ".join(name for name in known if name.startswith("val_")) or ", ".join(known)
        return f"{monitor!r} is of the test set, which chooses nothing: it would no longer be one. Choose by {instead}"
    if name != monitor and (key := _without_validation(config)):
        return f"{monitor!r} is not measured: {key} is 0"
    if name != monitor and name in map(column, config.metrics):
        return f"{monitor!r} is more than one number: none is better than another. Measured: {', '.join(known)}"
    addable = f" Add {name} to metrics." if name != monitor and name in METRICS.names() else ""
    return f"{monitor!r} is not measured.{addable or did_you_mean(monitor, known)} Measured: {', '.join(known)}"


def _check_modes(config: ExperimentConfig) -> Iterator[Flaw]:
    stopping = config.train.early_stopping
    modes: list[tuple[KeyPath, str, str]] = []
    if stopping is not None:
        modes.append((("train", "early_stopping", "mode"), stopping.mode, stopping.monitor))
    if {"mode", "monitor"} <= config.schedule.parameters.keys():
        given = config.schedule.parameters
        modes.append((("schedule", "mode"), given["mode"], given["monitor"]))
    for path, mode, monitor in modes:
        right, better = ("min", "less") if lower_is_better(monitor) else ("max", "more")
        if mode not in ("auto", right):
            yield Flaw(path, f"{better} {monitor} is better: expected {right}, or auto, which knows it; got {mode}")


def _check_metrics(config: ExperimentConfig) -> Iterator[Flaw]:
    columns = [column(metric) for metric in config.metrics]
    for index, name in enumerate(columns):
        if name in columns[:index]:
            yield Flaw(("metrics", index), f"{name} is listed twice: keep one, or give them different settings")


# --- data and times -------------------------------------------------------------------------------------------------


def _data_sections(config: ExperimentConfig) -> Iterator[tuple[KeyPath, DataSection]]:
    """The data section, then what may stand in for it."""
    path: KeyPath = ("data",)
    section: Component | None = config.data
    while isinstance(section, DataSection):
        yield path, section
        path, section = (*path, "fallback"), section.fallback


def _without_validation(config: ExperimentConfig) -> str | None:
    """The first setting by which there may be nothing to validate on, dotted; None where there always is."""
    empty = (path for path, data in _data_sections(config) if not data.validation)
    return next((".".join(map(str, (*path, "validation"))) for path in empty), None)


def _check_times(config: ExperimentConfig) -> Iterator[Flaw]:
    assert isinstance(config.schedule, ScheduleSection)
    times: dict[KeyPath, float] = {("schedule", "warmup_epochs"): config.schedule.warmup_epochs}
    if config.train.early_stopping is not None:
        times["train", "early_stopping", "start_from_epoch"] = config.train.early_stopping.start_from_epoch
    for path, time in times.items():
        if time >= config.train.epochs:
            yield Flaw(path, f"must be less than train.epochs, which is {config.train.epochs}; got {time}")


def _check_batches(config: ExperimentConfig) -> Iterator[Flaw]:
    if not any(layer.type == "batch_norm" for layer in nested(config.model.layers)):
        return
    for path, data in _data_sections(config):
        if data.batch_size == 1:
            reason = "batch_norm measures the spread of a batch, and one sample has none: set 2 or more, or layer_norm"
            yield Flaw((*path, "batch_size"), reason)


def _check_momentum(config: ExperimentConfig) -> Iterator[Flaw]:
    given = config.optimizer.parameters
    if given.get("nesterov") and not given.get("momentum"):
        reason = "looks ahead along the momentum, and momentum is 0: set momentum (0.9 is usual) or leave nesterov out"
        yield Flaw(("optimizer", "nesterov"), reason)


def nested(layers: Sequence[Component]) -> Iterator[Component]:
    """The layers in order, with those inside of residual blocks."""
    for layer in layers:
        yield layer
        yield from nested(getattr(layer, "layers", ()))
