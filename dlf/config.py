"""The experiment file: its sections, and the one loader that every command uses.

A file is read as YAML 1.2 (dlf/yaml12.py), overrides are laid over it, and the result is validated against the
sections below, whose components come from the registries. Every problem is reported at once, with its place.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from dlf import yaml12
from dlf.activations import ACTIVATIONS
from dlf.datasets import DATASETS, DataSection
from dlf.errors import ConfigError, Problem
from dlf.inits import INITS
from dlf.layers import LAYERS
from dlf.losses import LOSSES
from dlf.metrics import METRICS, column
from dlf.optimizers import OPTIMIZERS
from dlf.registry import Component, Flaw, InvalidError, Registry, Section, did_you_mean, flaws, one_of, shown
from dlf.registry import Path as KeyPath
from dlf.regularizers import REGULARIZERS
from dlf.run import check_name
from dlf.schedules import SCHEDULES

REGISTRIES: tuple[Registry[Any], ...] = (
    DATASETS,
    LAYERS,
    ACTIVATIONS,
    INITS,
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    REGULARIZERS,
    METRICS,
)


class ModelSection(Section):
    """The network: hidden layers in order; the output layer follows from the data and the loss."""

    activation: Annotated[Component, one_of(lambda: ACTIVATIONS)] = ACTIVATIONS.make("relu")
    """Activation of every hidden layer that names none."""
    init: Annotated[Component, one_of(lambda: INITS)] = INITS.make("auto")
    """Initialiser of every layer that names none; auto picks by the activation."""
    layers: list[Annotated[Component, one_of(lambda: LAYERS)]] = [LAYERS.make("linear", units=128)]
    """The layers, from the input on."""
    output: Literal["auto", "none"] = "auto"
    """auto adds the output layer, 10 logits for 10 classes, 1 unit for two classes or a number; none: the last of `layers`."""


class EarlyStopping(Section):
    """Stop when the monitored metric has not improved for `patience` epochs."""

    monitor: str = "val_loss"
    """A column of metrics.jsonl that is not measured on the test set."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether less or more is better; auto: by the metric."""
    patience: PositiveInt = 5
    """Epochs without improvement after which training stops."""
    min_delta: NonNegativeFloat = 0.0
    """What counts as an improvement: more than this."""
    start_from_epoch: NonNegativeInt = 0
    """Epochs that are not judged, from the start."""
    restore_best: bool = True
    """Whether the run's result is the best epoch's network; else the last one's."""


class TrainSection(Section):
    """How long, on what, and what counts as best."""

    epochs: PositiveInt = 10
    """Passes over the training part."""
    monitor: str | None = None
    """Metric that chooses checkpoints/best; default: early stopping's, else val_loss, train_loss without validation."""
    early_stopping: EarlyStopping | None = None
    """When to stop before `epochs`; default: never."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto takes CUDA when there is one."""
    precision: Literal["float32"] = "float32"
    """Arithmetic of the matrix products."""
    threads: PositiveInt | None = None
    """Threads of the CPU's arithmetic; default: one a core. Another number changes the last bits of the result."""


class ExperimentConfig(Section):
    """One experiment, complete: every setting has a value."""

    name: Annotated[str, AfterValidator(check_name)] = "experiment"
    """Beginning of the run's id; default: the file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of initial weights, sample order and dropout."""
    data: Annotated[Component, one_of(lambda: DATASETS)]
    """The data set, its split and its batches."""
    model: ModelSection = ModelSection()
    """The network."""
    loss: Annotated[Component, one_of(lambda: LOSSES)] | None = None
    """What is minimized; default: cross_entropy, binary_cross_entropy or mse, by the data."""
    optimizer: Annotated[Component, one_of(lambda: OPTIMIZERS)] = OPTIMIZERS.make("adam")
    """How gradients become updates."""
    schedule: Annotated[Component, one_of(lambda: SCHEDULES)] = SCHEDULES.make("constant")
    """How the learning rate changes in the course of training."""
    regularizers: list[Annotated[Component, one_of(lambda: REGULARIZERS)]] = []
    """Penalties, gradient clipping and limits on weights, applied in this order."""
    metrics: list[Annotated[Component, one_of(lambda: METRICS)]] = []
    """What is measured on the validation part every epoch, beyond loss and accuracy."""
    train: TrainSection = TrainSection()
    """How long, on what, and what counts as best."""

    @property
    def data_section(self) -> DataSection:
        """The data section with its type."""
        assert isinstance(self.data, DataSection)
        return self.data

    @property
    def monitor(self) -> str:
        """The column of metrics.jsonl that chooses the best checkpoint."""
        if self.train.monitor is not None:
            return self.train.monitor
        if self.train.early_stopping is not None:
            return self.train.early_stopping.monitor
        return "val_loss" if self.data_section.validation else "train_loss"

    def dump(self) -> dict[str, Any]:
        """Plain data that loads to an equal configuration."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved file, every default filled in."""
        return yaml12.dump(self.dump())


# --- loading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A validated experiment and where each of its settings was written."""

    config: ExperimentConfig
    source: str
    text: str
    document: yaml12.Document
    overrides: Mapping[KeyPath, str]

    @contextlib.contextmanager
    def places(self) -> Iterator[None]:
        """Turn flaws that only show while the experiment is assembled into a ConfigError that says where."""
        try:
            yield
        except InvalidError as error:
            raise located(self.source, self.document, self.overrides, error.flaws) from None


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read, override and validate an experiment file; ConfigError with every problem of it."""
    try:
        text = yaml12.read(path)
    except yaml12.YamlError as error:
        raise ConfigError(str(path), [Problem(str(path), "", message) for _, message in error.problems]) from None
    return loads(text, str(path), overrides, default_name=path.stem)


def loads(text: str, source: str, overrides: Sequence[str] = (), default_name: str = "experiment") -> Loaded:
    """The same for the text of a file; `source` is how messages call it."""
    try:
        document = yaml12.parse(text)
    except yaml12.YamlError as error:
        problems = [Problem(f"{source}:{p.line}:{p.column}" if p else source, "", m) for p, m in error.problems]
        raise ConfigError(source, problems) from None
    if not isinstance(document.data, dict):
        message = f"expected a mapping of sections such as `data: mnist`, got {shown(document.data)}"
        raise ConfigError(source, [Problem(f"{source}:1:1", "", message)])
    data, applied = _override(document.data, overrides)
    if "name" not in data:
        data = {"name": _name_from(default_name), **data}
    try:
        config = ExperimentConfig.model_validate(data)
        check(config)
    except ValidationError as error:
        found = [_with_home(flaw) for flaw in flaws(error, ExperimentConfig)]
        raise located(source, document, applied, found) from None
    except InvalidError as error:
        raise located(source, document, applied, error.flaws) from None
    return Loaded(config, source, text, document, applied)


def located(
    source: str, document: yaml12.Document, overrides: Mapping[KeyPath, str], found: Sequence[Flaw]
) -> ConfigError:
    """A ConfigError that gives every flaw its place: the override that set it, or line and column of the file."""
    problems = []
    for path, message, at_key in found:
        override = next((text for key, text in overrides.items() if path[: len(key)] == key), None)
        if override is not None:
            place = f"override {override!r}"
        else:
            line, column = document.place(path, at_key)
            place = f"{source}:{line}:{column}"
        problems.append(Problem(place, ".".join(map(str, path)), message))
    return ConfigError(source, problems)


def _name_from(stem: str) -> str:
    """A run's name from a file's: what cannot be in it becomes a dash."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100]
    try:
        return check_name(name)
    except ValueError:
        return "experiment"


# --- overrides ------------------------------------------------------------------------------------------------------


def _override(data: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The data with each `key.path=value` laid over it, and which override set which path."""
    problems, applied = [], {}
    for text in overrides:
        try:
            path, value = _split(text)
            data = _set(data, path, value, ())
            applied[path] = text
        except ValueError as error:
            problems.append(Problem(f"override {text!r}", "", str(error)))
    if problems:
        raise ConfigError("the command line", problems)
    return data, applied


def _split(text: str) -> tuple[KeyPath, Any]:
    key, equals, value = text.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise ValueError("expected key.path=value, such as optimizer.lr=0.01 or model.layers.0.units=64")
    try:
        return tuple(int(step) if step.isdigit() else step for step in steps), yaml12.parse_value(value)
    except yaml12.YamlError as error:
        raise ValueError("; ".join(message for _, message in error.problems)) from None


def _set(node: Any, path: KeyPath, value: Any, walked: KeyPath) -> Any:
    """A copy of `node` in which `path` is `value`; a component written as its name becomes a mapping on the way."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(node, list):
        if not isinstance(step, int) or step >= len(node):
            raise ValueError(f"{_dotted(walked)} is a list of {len(node)}: expected a number from 0 to {len(node) - 1}")
        return [*node[:step], _set(node[step], rest, value, (*walked, step)), *node[step + 1 :]]
    if isinstance(node, str) and walked:
        node = {"type": node}
    if node is None:
        node = _default(walked)
    if not isinstance(node, dict):
        raise ValueError(f"{_dotted(walked)} is {shown(node)}: it has no key {step!r}")
    key = str(step)
    return {**node, key: _set(node.get(key), rest, value, (*walked, key))}


def _default(path: KeyPath) -> Any:
    """What stands at `path` when the file says nothing, so that one key of a default can be overridden."""
    defaults = {name: field.default for name, field in ExperimentConfig.model_fields.items() if name != "data"}
    node: Any = ExperimentConfig.model_construct(**defaults).model_dump(mode="json", exclude={"data"})
    for step in path:
        node = node.get(step) if isinstance(node, dict) else None
    return (
        node if isinstance(node, list) else {"type": node["type"]} if isinstance(node, dict) and "type" in node else {}
    )


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path)) or "the file"


# --- settings that contradict each other ----------------------------------------------------------------------------


def check(config: ExperimentConfig) -> None:
    """Refuse settings that contradict each other and can be seen to without the data; InvalidError with all of them."""
    found = [*_check_monitors(config), *_check_times(config), *_check_batches(config)]
    if found:
        raise InvalidError(found)


def _check_monitors(config: ExperimentConfig) -> Iterator[Flaw]:
    stopping = config.train.early_stopping
    named: dict[KeyPath, str | None] = {("train", "monitor"): config.train.monitor}
    if stopping is not None:
        named["train", "early_stopping", "monitor"] = stopping.monitor
    if config.schedule.type == "plateau":
        named["schedule", "monitor"] = config.schedule.parameters["monitor"]
    known = measured(config)
    for path, monitor in named.items():
        if monitor is None or monitor in known:
            continue
        if monitor.startswith("test"):
            yield Flaw(
                path, f"{monitor!r} is measured on the test set, which chooses nothing: it would no longer be one"
            )
        elif monitor.startswith("val_") and not config.data_section.validation:
            yield Flaw(path, f"{monitor!r} is not measured: data.validation is 0")
        else:
            yield Flaw(path, f"{monitor!r} is not measured.{did_you_mean(monitor, known)} Measured: {', '.join(known)}")


def measured(config: ExperimentConfig) -> list[str]:
    """The columns of metrics.jsonl that can be monitored; headline is accuracy or mae, whichever the task has."""
    columns = ["train_loss", "train_accuracy", "train_mae", "penalty"]
    if config.data_section.validation:
        columns += ["val_loss", "val_accuracy", "val_mae", *(f"val_{column(metric)}" for metric in config.metrics)]
    return columns


def _check_times(config: ExperimentConfig) -> Iterator[Flaw]:
    warmup = getattr(config.schedule, "warmup_epochs", 0)
    if warmup >= config.train.epochs and warmup > 0:
        yield Flaw(
            ("schedule", "warmup_epochs"), f"must be less than train.epochs ({config.train.epochs}), got {warmup}"
        )


def _check_batches(config: ExperimentConfig) -> Iterator[Flaw]:
    if config.data_section.batch_size == 1 and any(layer.type == "batch_norm" for layer in nested(config.model.layers)):
        reason = "batch_norm measures a batch's spread, and one sample has none: set at least 2, or use layer_norm"
        yield Flaw(("data", "batch_size"), reason)


def nested(layers: Sequence[Component]) -> Iterator[Component]:
    """The layers in order, with those inside of residual blocks."""
    for layer in layers:
        yield layer
        yield from nested(getattr(layer, "layers", ()))


# --- the schema -----------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an experiment file."""
    schema = ExperimentConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions = schema.setdefault("$defs", {})
    for registry in REGISTRIES:
        own = registry.json_schema()
        definitions.update(own.pop("$defs"))
        definitions[registry.kind] = own
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dlf experiment",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _homes() -> dict[str, list[str]]:
    """For every key below the top, the sections that know it: where a misplaced key belongs."""
    homes: dict[str, list[str]] = {}
    sections: dict[str, type[Section]] = {
        "model": ModelSection,
        "train": TrainSection,
        "train.early_stopping": EarlyStopping,
        "data": DataSection,
    }
    for name, section in sections.items():
        for key in section.model_fields:
            homes.setdefault(key, []).append(name)
    owners: dict[str, Registry[Any]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "loss": LOSSES}
    for name, registry in owners.items():
        for key in {key for entry in registry.names() for key in registry.get(entry).model.model_fields}:
            homes.setdefault(key, []).append(name)
    for key in ExperimentConfig.model_fields:
        homes.setdefault(key, []).append("")
    homes.pop("type", None)
    return homes


def _with_home(flaw: Flaw) -> Flaw:
    """An unknown key that another section knows: name that section instead of the nearest name."""
    homes = _homes().get(str(flaw.path[-1])) if flaw.at_key and flaw.path else None
    if not homes:
        return flaw
    where = " or ".join(home or "the top of the file" for home in homes)
    return flaw._replace(message=f"unknown key here: {flaw.path[-1]!r} belongs to {where}")
