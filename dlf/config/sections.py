"""What an experiment file can set: its sections, their defaults, and their JSON Schema."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dlf import yaml12
from dlf.activations import ACTIVATIONS
from dlf.datasets import DATASETS, DataSection
from dlf.inits import INITS
from dlf.layers import LAYERS
from dlf.loggers import LOGGERS
from dlf.losses import LOSSES
from dlf.metrics import METRICS
from dlf.optimizers import OPTIMIZERS
from dlf.precision import Precision
from dlf.registry import Component, Registry, Section, one_of, schema_of, shown
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
    LOGGERS,
)


_DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"


def check_device(name: str) -> str:
    """The name, if it is one that a device can have; ValueError otherwise. Whether it is there is not asked."""
    if not re.match(_DEVICE, name):
        raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {shown(name)}")
    return name


class ModelSection(Section):
    """The network: hidden layers in order; the output layer follows from the data and the loss."""

    activation: Annotated[Component, one_of(lambda: ACTIVATIONS)] = ACTIVATIONS.make("relu")
    """Activation of every hidden layer that names none."""
    init: Annotated[Component, one_of(lambda: INITS)] = INITS.make("auto")
    """Initialiser of every layer that names none; auto picks by the activation."""
    layers: list[Annotated[Component, one_of(lambda: LAYERS)]] = [LAYERS.make("linear", units=128)]
    """The layers, from the input on."""
    output: Literal["auto", "none"] = "auto"
    """auto adds the output layer, 10 logits for 10 classes, 1 unit for two classes or a number; none: it is written."""


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
    device: Annotated[str, AfterValidator(check_device), Field(json_schema_extra={"pattern": _DEVICE})] = "auto"
    """auto takes CUDA when there is one."""
    precision: Precision = "auto"
    """Numbers of the matrix products; auto takes bfloat16 where the hardware has it and the network is large enough."""
    cuda_graphs: bool = True
    """On a GPU, capture the step once and replay it, where it can be captured; false: launch its kernels one by one."""
    observe: bool = True
    """Note after epochs what goes on inside (layers.jsonl), for `dlf report` and the doctor; it changes nothing."""
    observe_every_steps: PositiveInt | None = None
    """Steps, counted from the start, after which the same is also noted within an epoch; default: it is not."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads of the CPU's arithmetic; default: one a core. Another number changes the last bits of the result."""


class CheckpointSection(Section):
    """When the state is saved to checkpoints/last; it changes nothing of what is trained."""

    every_epochs: PositiveInt = 1
    """Epochs from one save to the next; the last epoch is always saved, and checkpoints/best after every best epoch."""
    every_steps: PositiveInt | None = None
    """Steps, counted from the start, after which the state is also saved within an epoch; default: it is not."""
    every_minutes: PositiveFloat | None = None
    """Minutes after which the state is also saved, wherever it is; default: they are not counted."""
    keep: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How many saves to keep: the newest is checkpoints/last, those before it checkpoints/step-N."""


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
    """The length of the training, the machine, and what counts as best."""
    checkpoint: CheckpointSection = CheckpointSection()
    """When the state is saved, and how many saves are kept."""
    logging: list[Annotated[Component, one_of(lambda: LOGGERS)]] = []
    """Where the records of every epoch are also written, besides metrics.jsonl; it changes nothing that is trained."""

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


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an experiment file."""
    schema = schema_of(ExperimentConfig)
    definitions = schema["$defs"]
    for registry in REGISTRIES:
        own = registry.json_schema()
        definitions.update(own.pop("$defs"))
        definitions[registry.kind] = own
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dlf experiment", **schema}
