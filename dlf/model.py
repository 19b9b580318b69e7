"""The network: drawn from the configuration by shape inference, counted, then given memory and initial values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlf.config import ExperimentConfig
from dlf.data import Data, Normalization, mix
from dlf.datasets import DataSpec
from dlf.fitting import default_loss, refuses, task_of
from dlf.layers import LAYERS, Residual, Row, Shape, fill_defaults, initialise, multiply_adds, stack
from dlf.losses import LOSSES, Task, outputs
from dlf.optimizers import state_bytes_per_parameter
from dlf.registry import Component, Flaw, InvalidError

WEIGHTS_STREAM = -(2**40)  # the position that mix() takes for initial weights: below every epoch's, which are negative


class Network(nn.Module):
    """Raw samples in, what the loss takes out: normalization, then the layers.

    x is (batch, *shape) as the data set holds it (bytes for images), the output (batch, units). The statistics are
    buffers, so weights and preprocessing travel in one file.
    """

    inputs_mean: Tensor
    inputs_std: Tensor
    targets_mean: Tensor
    targets_std: Tensor

    def __init__(self, layers: nn.Sequential, inputs: Normalization, targets: Normalization) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("inputs_mean", inputs.mean)
        self.register_buffer("inputs_std", inputs.std)
        self.register_buffer("targets_mean", targets.mean)
        self.register_buffer("targets_std", targets.std)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(self.normalize(x))
        return output

    def normalize(self, x: Tensor) -> Tensor:
        """(x - mean) / std, in a new tensor: x may be a view of the data set."""
        return x.to(self.inputs_mean.dtype, copy=True).sub_(self.inputs_mean).div_(self.inputs_std)

    def scaled(self, y: Tensor) -> Tensor:
        """Regression targets as the loss sees them, (y - mean) / std; labels as they are."""
        return torch.sub(y, self.targets_mean).div_(self.targets_std) if y.is_floating_point() else y

    def in_units(self, output: Tensor) -> Tensor:
        """Regression outputs in the units of the data, output * std + mean; other outputs as they are."""
        return output * self.targets_std + self.targets_mean


@dataclass(frozen=True)
class Blueprint:
    """A network before it has memory: what follows from the configuration and the shape of the data alone."""

    task: Task
    loss: Component
    rows: list[Row]

    @property
    def layers(self) -> nn.Sequential:
        """The modules, still without memory."""
        return nn.Sequential(*(row.module for row in self.rows))


def draw(config: ExperimentConfig, spec: DataSpec) -> Blueprint:
    """Infer task, loss, shapes and the output layer; nothing is allocated. InvalidError with every contradiction."""
    classes = None if spec.classes is None else len(spec.classes)
    task, loss = _task_and_loss(config, classes)
    units = outputs(task, classes, spec.targets)
    model = config.model
    hidden = fill_defaults(model.layers, model.activation, model.init)
    takes = LOSSES.get(loss.type).facts["takes"]
    added = [] if model.output == "none" else _output_layers(config, units, takes)
    with torch.device("meta"):
        rows = _stack(spec.shape, [*hidden, *added], len(hidden))
    found = _check_output(config, rows, units, loss)
    if found:
        raise InvalidError(found)
    return Blueprint(task, loss, rows)


def _task_and_loss(config: ExperimentConfig, classes: int | None) -> tuple[Task, Component]:
    if config.loss is None:
        task: Task = "regression" if classes is None else "binary" if classes == 2 else "classification"
        return task, LOSSES.make(default_loss(task))
    try:
        return task_of(config.loss, classes), config.loss
    except InvalidError as error:
        raise error.below("loss") from None


def _output_layers(config: ExperimentConfig, units: int, takes: str) -> list[Component]:
    """What stands behind the last hidden layer: a linear layer, and log_softmax where the loss wants its output."""
    identity = {"type": "log_softmax"} if takes == "log_probabilities" else {"type": "identity"}
    output = LAYERS.make("linear", units=units, activation=identity)
    return fill_defaults([output], config.model.activation, config.model.init)


def _stack(shape: Shape, layers: Sequence[Component], written: int) -> list[Row]:
    try:
        return stack(shape, layers)
    except InvalidError as error:
        flaws = [
            flaw._replace(path=("model", "layers", *flaw.path) if flaw.path[:1] < (written,) else ("model", "output"))
            for flaw in error.flaws
        ]
        raise InvalidError(flaws) from None


def _check_output(config: ExperimentConfig, rows: Sequence[Row], units: int, loss: Component) -> list[Flaw]:
    """What the last written layer must be for this loss, with the reason a learner needs."""
    layers = config.model.layers
    if not layers:
        return []
    path = ("model", "layers", len(layers) - 1)
    ending = _ending(layers[-1], config.model.activation)
    if config.model.output == "auto":
        if ending in ("softmax", "log_softmax"):
            advice = f"the output layer ({units} units) is added behind it; drop {ending}, or set model.output: none"
            return [Flaw(path, f"{ending} in the last hidden layer lets its units compete before the output: {advice}")]
        return []
    found = []
    if rows[-1].output != (units,):
        got = rows[-1].output
        found.append(Flaw(path, f"the last layer gives {got} and the data need ({units},): one unit for each output"))
    reason = refuses(LOSSES.get(loss.type), ending)
    if reason is not None:
        found.append(Flaw(path, reason))
    return found


def _ending(layer: Component, default: Component) -> str:
    """The activation that a layer ends in."""
    if layer.type == "activation":
        return str(layer.parameters["function"].type)
    if "activation" not in layer.parameters:
        return "identity"
    return str((layer.parameters["activation"] or default).type)


def _with_memory(layers: nn.Sequential) -> nn.Sequential:
    """Tensors on the CPU, not yet filled, in the place of those on the meta device.

    What `to_empty` does without importing torch's decompositions, which takes a third of a second.
    """
    for module in layers.modules():
        for name, parameter in module.named_parameters(recurse=False):
            memory = torch.empty(tuple(parameter.shape), dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(memory, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(tuple(buffer.shape), dtype=buffer.dtype))
    return layers


def realize(blueprint: Blueprint, data: Data, seed: int, device: torch.device) -> Network:
    """The network with memory on the device and initial weights, which are drawn on the CPU: the same everywhere."""
    layers = _with_memory(blueprint.layers)
    initialise(layers, torch.Generator().manual_seed(mix(seed, WEIGHTS_STREAM)))
    return Network(layers, data.inputs, data.targets).to(device)


# --- what summarize says --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerSummary:
    """One line of the architecture table; `depth` is 1 inside of a residual block, `shape` that of the output.

    `parameters` are trained, `buffers` are measured (running means). `multiply_adds` are for one sample.
    """

    index: str
    type: str
    depth: int
    automatic: bool
    shape: Shape
    activation: str
    init: str
    parameters: int
    buffers: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """The architecture in numbers; bytes are of float32.

    `activation_bytes` counts the input and the outputs of all layers for one batch: what the backward pass needs.
    """

    name: str
    task: Task
    loss: str
    optimizer: str
    input_shape: Shape
    batch_size: int
    layers: tuple[LayerSummary, ...]
    parameters: int
    buffers: int
    multiply_adds: int
    weight_bytes: int
    optimizer_bytes: int
    activation_bytes: int


def summarize(config: ExperimentConfig, spec: DataSpec) -> Summary:
    """Count the network of `config` for such data; nothing is allocated."""
    blueprint = draw(config, spec)
    layers = tuple(_describe(blueprint.rows))
    weights = list(blueprint.layers.parameters())
    batch = config.data_section.batch_size
    kept = sum(_size(layer.shape) for layer in layers if layer.type != "residual") + _size(spec.shape)
    return Summary(
        name=config.name,
        task=blueprint.task,
        loss=blueprint.loss.type,
        optimizer=config.optimizer.type,
        input_shape=spec.shape,
        batch_size=batch,
        layers=layers,
        parameters=sum(weight.numel() for weight in weights),
        buffers=sum(layer.buffers for layer in layers),
        multiply_adds=sum(layer.multiply_adds for layer in layers if layer.depth == 0),
        weight_bytes=4 * sum(weight.numel() for weight in weights),
        optimizer_bytes=sum(w.numel() * state_bytes_per_parameter(config.optimizer, w.ndim) for w in weights),
        activation_bytes=4 * batch * kept,
    )


def _describe(rows: Sequence[Row], prefix: str = "", depth: int = 0) -> Iterator[LayerSummary]:
    for index, row in enumerate(rows):
        parameters = row.component.parameters
        activation = parameters.get("activation") or parameters.get("function")
        yield LayerSummary(
            index=f"{prefix}{index}",
            type=row.component.type,
            depth=depth,
            automatic=row.automatic,
            shape=row.output,
            activation=activation.type if activation else "",
            init=parameters["init"].type if parameters.get("init") else "",
            parameters=sum(p.numel() for p in row.module.parameters()),
            buffers=sum(b.numel() for b in row.module.buffers() if b.is_floating_point()),
            multiply_adds=multiply_adds(row.module, row.output),
        )
        if isinstance(row.module, Residual):
            yield from _describe(row.module.rows, f"{prefix}{index}.", depth + 1)


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())
