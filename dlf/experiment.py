"""Assembly: the only place where configuration becomes running objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlf import precision
from dlf.capture import CudaGraph
from dlf.config import ExperimentConfig, check_device, nested
from dlf.data import Data
from dlf.engine import Experiment, TrainState
from dlf.errors import MachineError, UsageError
from dlf.layers import multiply_adds
from dlf.losses import LOSSES, BoundLoss, Task, balanced, probabilities
from dlf.memory import available_bytes
from dlf.metrics import METRICS, Predictions, column
from dlf.model import Blueprint, Network, draw, realize
from dlf.optimizers import build as build_optimizer
from dlf.optimizers import state_bytes_per_parameter
from dlf.registry import Component, Flaw, InvalidError
from dlf.regularizers import REGULARIZERS, weights_of
from dlf.schedules import factor

# --- devices and memory ---------------------------------------------------------------------------------------------


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda[:N]` means; UsageError for other words, MachineError if absent."""
    try:
        check_device(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = f"this machine has {count} CUDA devices" if count else "torch sees no CUDA device here"
        raise MachineError(f"no device {name}: {there}. Use --device cpu, or auto.")
    return device


def check_memory(blueprint: Blueprint, optimizer: Component, device: torch.device) -> None:
    """InvalidError before anything is allocated, when weights, gradients and optimizer state cannot fit."""
    weights = list(blueprint.layers.parameters())
    parameters = sum(weight.numel() for weight in weights)
    needed = sum(w.numel() * (4 + 4 + state_bytes_per_parameter(optimizer, w.ndim)) for w in weights)
    available = _available_memory(device)
    if needed > available:
        reason = (
            f"the network has {parameters:,} parameters: weights, gradients and {optimizer.type}'s state need "
            f"{needed / 2**30:,.1f} GiB, and {available / 2**30:,.1f} GiB are free on {device}. Use smaller layers"
        )
        raise InvalidError([Flaw(("model", "layers"), reason)])


def _available_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


# --- everything together --------------------------------------------------------------------------------------------


def assemble(
    config: ExperimentConfig, data: Data, device: torch.device, tell: Callable[[str], None] = lambda message: None
) -> tuple[Experiment, TrainState, ExperimentConfig]:
    """The running objects, and the configuration with what followed from data and machine filled in."""
    blueprint = draw(config, data.spec)
    _check_sizes(config, data)
    check_memory(blueprint, config.optimizer, device)
    network = realize(blueprint, data, config.seed, device)
    chosen, reason = choose_precision(config, blueprint, device)
    precision.apply(network, chosen)
    try:
        optimizer = build_optimizer(network, config.optimizer)
    except InvalidError as error:
        raise error.below("optimizer") from None
    losses, sums = torch.empty(0, device=device), torch.zeros(2, dtype=torch.float64, device=device)
    state = TrainState(network, optimizer, losses=losses, sums=sums)
    steps = -(-len(data.train) // config.data_section.batch_size)
    experiment = Experiment(
        data=data,
        task=blueprint.task,
        loss=bind_loss(blueprint.loss, data, device),
        learning_rate_factor=partial(_factor, config.schedule, steps, config.train.epochs),
        seed=config.seed,
        batch_size=config.data_section.batch_size,
        metrics=_measure(config.metrics, blueprint, data),
        precision=chosen,
        precision_reason=reason,
        graph=CudaGraph if device.type == "cuda" and config.train.cuda_graphs else None,
        tell=tell,
        **_regularizers(config, network),
    )
    train = config.train.model_copy(update={"precision": chosen})
    return experiment, state, config.model_copy(update={"loss": blueprint.loss, "train": train})


def choose_precision(
    config: ExperimentConfig, blueprint: Blueprint, device: torch.device
) -> tuple[precision.Precision, str]:
    """The precision of the products and the reason for it."""
    products = sum(multiply_adds(row.module, row.output) for row in blueprint.rows) * config.data_section.batch_size
    try:
        return precision.choose(config.train.precision, device, products)
    except InvalidError as error:
        raise error.below("train", "precision") from None


def bind_loss(loss: Component, data: Data, device: torch.device) -> BoundLoss:
    """The loss with its parameters; class weights become a tensor once."""
    parameters = loss.parameters
    weights = parameters.get("class_weights")
    if weights == "balanced":
        weights = balanced(torch.bincount(data.train.y, minlength=len(data.classes or ())).tolist())
    if weights is not None:
        parameters["class_weights"] = torch.tensor(weights, dtype=torch.float32, device=device)
    return BoundLoss(loss.type, parameters)


def _factor(schedule: Component, steps: int, epochs: int, step: int, history: Sequence[Mapping[str, Any]]) -> float:
    return factor(schedule, step, steps, epochs, history)


def _regularizers(config: ExperimentConfig, network: Network) -> dict[str, list[Callable[[], Any]]]:
    """The regularizers by the moment in which they act, bound to the parameters that they act on."""
    bound: dict[str, list[Callable[[], Any]]] = {"penalties": [], "clips": [], "limits": []}
    moments = {"penalty": "penalties", "gradient": "clips", "weights": "limits"}
    for component in config.regularizers:
        entry = REGULARIZERS.get(component.type)
        everything = list(network.parameters())
        parameters = everything if entry.facts["acts"] == "gradient" else weights_of(network)
        bound[moments[entry.facts["acts"]]].append(partial(entry.function, parameters, **component.parameters))
    return bound


def _measure(
    metrics: Sequence[Component], blueprint: Blueprint, data: Data
) -> Callable[[Tensor, Tensor], Mapping[str, Any]]:
    """The configured metrics as a function of the network's output (in the data's units) and what is true."""
    for index, metric in enumerate(metrics):
        tasks = METRICS.get(metric.type).facts["tasks"]
        if blueprint.task not in tasks:
            message = f"{metric.type} measures {' and '.join(tasks)}; this experiment is {blueprint.task}"
            raise InvalidError([Flaw(("metrics", index), message)])

    def measure(output: Tensor, target: Tensor) -> Mapping[str, Any]:
        if not metrics:
            return {}
        seen = predictions(output, target, blueprint.task, blueprint.loss.type, data.classes)
        return {column(metric): METRICS.build(metric, seen) for metric in metrics}

    return measure


def predictions(output: Tensor, target: Tensor, task: Task, loss: str, classes: tuple[str, ...] | None) -> Predictions:
    """What metrics look at: probabilities for classes, values in the data's units for regression, as numpy arrays."""
    regression = task == "regression"
    takes = LOSSES.get(loss).facts["takes"]
    probability = None if regression else probabilities(output.double(), takes, task).cpu().numpy()
    values = output.double().cpu().numpy() if regression else None
    true = target.double().cpu().numpy() if regression else target.cpu().numpy()
    return Predictions(task=task, target=true, probability=probability, output=values, classes=classes)


def _check_sizes(config: ExperimentConfig, data: Data) -> None:
    """What only the number of samples shows."""
    size, n = config.data_section.batch_size, len(data.train)
    uses_batch_norm = any(layer.type == "batch_norm" for layer in nested(config.model.layers))
    if uses_batch_norm and n % size == 1:
        advice = "batch_norm cannot measure the spread of one sample: choose another batch_size or validation"
        raise InvalidError([Flaw(("data", "batch_size"), f"{n} training samples leave a last batch of one: {advice}")])
