"""`dlf explain`: one sample through the network and back, and the step that follows from it, in numbers.

Everything is computed by the chain rule written out (dlf/chain_rule.py), in float64 on the CPU, and compared with
autograd and with differences of the loss. The network is in evaluation mode, for there is one sample and no batch:
batch_norm takes its running values and dropout drops nothing. What follows the gradients happens in the order of
`train_step` in dlf/engine.py: penalties, clips, the optimizer's update, limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlf import checkpoint
from dlf import data as data_module
from dlf.chain_rule import LayerPass, Walk, walk
from dlf.commands.summarize import find_source
from dlf.commands.units import Unit, Weights, chosen_units, flat
from dlf.config import ExperimentConfig, Loaded, load
from dlf.data import Data
from dlf.derivatives import Quantity
from dlf.engine import Experiment, TrainState, set_learning_rate
from dlf.errors import UsageError
from dlf.experiment import assemble
from dlf.gradient_check import WHOLE, Comparison, beside_autograd, beside_differences
from dlf.losses import LOSSES, probabilities
from dlf.optimizers import OPTIMIZERS
from dlf.registry import Component, Entry
from dlf.regularizers import REGULARIZERS
from dlf.run import RunDirectory

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Numbers:
    """A quantity: its symbol, how it is computed, the shape, |.| = sqrt(sum of squares), and its range.

    `entries`, nested lists of that shape, are there for networks of at most 2,000 parameters, else None.
    """

    symbol: str
    formula: str
    shape: tuple[int, ...]
    norm: float
    least: float
    mean: float
    greatest: float
    entries: Any = None


@dataclass(frozen=True)
class Change:
    """What the step does to one parameter.

    `gradient` is that of the loss. `adjusted` holds what penalties add to it ("+ l2") and what clips leave of it
    ("after clip_norm"), in their order; `memory` what the optimizer remembers after the step; `limited` what limits on
    the weights leave of them ("after max_norm").
    """

    name: str
    symbol: str
    before: Numbers
    gradient: Numbers
    adjusted: tuple[Numbers, ...]
    memory: tuple[Numbers, ...]
    step: Numbers
    limited: tuple[Numbers, ...]
    after: Numbers


@dataclass(frozen=True)
class Layer:
    """One layer: from x to its output, from dL/d(output) to dL/dx, its parameters; `inner` of a residual block.

    `unit` is one neuron of it, where it has weights: the one that was asked for, else the one with the largest |dL/dz|.
    """

    layer: str
    type: str
    forward: tuple[Numbers, ...]
    backward: tuple[Numbers, ...]
    parameters: tuple[Change, ...]
    unit: Unit | None
    inner: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Update:
    """The optimizer's rule, for the parameter p and its gradient g: formula, what its letters mean, its settings."""

    type: str
    formula: str
    meaning: str
    settings: dict[str, Any]
    learning_rate: float
    schedule: str


@dataclass(frozen=True)
class Explanation:
    """What `dlf explain --json` prints.

    `step` is the number of the update, from 1. `weights` says which they are: "initial", or the run's checkpoint.
    `answers` are the probabilities of the classes, or the predicted values in the data's units; `truth` is the class's
    name, or the true values. `loss_after` is the loss of the same sample once the step is made.
    """

    name: str
    weights: str
    run: str | None
    step: int
    data: str
    task: str
    sample: int
    samples: int
    parameters: int
    features: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    truth: Any
    answers: tuple[float, ...]
    notes: tuple[str, ...]
    input: Numbers
    normalized: Numbers
    target: Any
    layers: tuple[Layer, ...]
    output: Numbers
    loss_name: str
    loss: Numbers
    loss_gradient: Numbers
    loss_after: float
    update: Update
    comparisons: tuple[Comparison, ...]


def explain_what(
    what: str,
    overrides: Sequence[str],
    runs: Path,
    *,
    sample: int = 0,
    unit: str | None = None,
    which: str | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> Explanation:
    """The next step of what CONFIG|RUN means; UsageError for settings of a run or a checkpoint of an experiment."""
    source = find_source(what, runs)
    if isinstance(source, RunDirectory):
        if overrides:
            raise UsageError(f"{source.id} is a run and keeps its settings; explain {source.config} with overrides")
        return explain(start_of_run(source, which), sample=sample, unit=unit)
    if which is not None:
        raise UsageError(f"--checkpoint {which}: {what} is an experiment, and only a run has checkpoints")
    return explain(start_of_experiment(load(source, overrides), tell), sample=sample, unit=unit)


# --- where the step starts --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """A network and its optimizer before a step, in float64 on the CPU, and what the step depends on."""

    config: ExperimentConfig
    data: Data
    experiment: Experiment
    state: TrainState
    weights: str
    run: str | None = None
    history: Sequence[Mapping[str, Any]] = ()


def start_of_experiment(loaded: Loaded, tell: Callable[[str], None] = lambda message: None) -> Start:
    """The first step of training: initial weights, the learning rate of step 0."""
    reasons: list[str] = []
    data, section = data_module.load(loaded.config.data_section, CPU, tell, reasons.append)
    if reasons:
        tell(f"ATTENTION: this is about {data.name}, not {loaded.config.data.type}: {reasons[0]}")
    config = loaded.config.model_copy(update={"data": section})
    with loaded.places():
        experiment, state, config = assemble(_exactly(config), data, CPU)
    return Start(config, data, experiment, _in_float64(state), f"initial (seed {config.seed})")


def start_of_run(run: RunDirectory, which: str | None = None) -> Start:
    """The step that would come next after a checkpoint of a run; by default that of its result."""
    info, loaded = run.read_info(), load(run.config)
    sha256, split = info["data_sha256"], info["split_sha256"]
    data = data_module.reload(loaded.config.data_section, CPU, lambda message: None, sha256=sha256, split=split)
    with loaded.places():
        experiment, state, config = assemble(_exactly(loaded.config), data, CPU)
    name = which or info["result"]
    checkpoint.load(run.checkpoint(name), state)
    weights = f"checkpoint {name} (epoch {state.epoch})"
    return Start(config, data, experiment, _in_float64(state), weights, run.id, run.read_metrics())


def _exactly(config: ExperimentConfig) -> ExperimentConfig:
    return config.model_copy(
        update={"train": config.train.model_copy(update={"device": "cpu", "precision": "float32"})}
    )


def _in_float64(state: TrainState) -> TrainState:
    """The same tensors, widened in place: optimizer and regularizers hold on to them."""
    state.network.double().eval()
    for memory in state.optimizer.state.values():
        for name, tensor in memory.items():
            if name != "step":  # a counter, which torch's kernels want in float32
                memory[name] = tensor.double()
    return state


# --- the step ---------------------------------------------------------------------------------------------------------


def explain(start: Start, *, sample: int = 0, unit: str | None = None) -> Explanation:
    """Take sample number `sample` of the training part through the network and back, and make the step.

    `unit` is "layer:index", as "0:3", or "2:5,0,7" for a pixel of channel 5. UsageError where there is no such sample
    or unit, or where the derivative of a layer, activation or loss is not written out.
    """
    network, experiment, train = start.state.network, start.experiment, start.data.train
    if not 0 <= sample < len(train):
        raise UsageError(f"--sample {sample}: the training part has {len(train):,} samples, 0 to {len(train) - 1}")
    x, y = train.x[sample : sample + 1], train.y[sample : sample + 1]
    y = y.double() if y.is_floating_point() else y
    walked = walk(network, x, y, experiment.loss)
    comparisons = (
        beside_autograd(network, x, y, experiment.loss, walked.gradients),
        beside_differences(network, x, y, experiment.loss, walked.gradients),
    )
    count = sum(parameter.numel() for parameter in network.parameters())
    show = _Shown(whole=count <= WHOLE)
    weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    update = _update(start)
    changes, steps = _step(start, walked, show)
    units = chosen_units(network, walked.layers, Weights(weights, steps), unit, start.data.features)
    with torch.no_grad():
        after = experiment.loss(network(x), walked.target).item()
    return Explanation(
        name=start.config.name,
        weights=start.weights,
        run=start.run,
        step=start.state.step + 1,
        data=start.data.name,
        task=experiment.task,
        sample=sample,
        samples=len(train),
        parameters=count,
        features=start.data.features,
        classes=start.data.classes,
        truth=_truth(start, y),
        answers=_answers(start, walked),
        notes=tuple(_notes(start)),
        input=show("input", "as the data set holds it", x[0]),
        normalized=show(walked.normalized.symbol, walked.normalized.formula, walked.normalized.value[0]),
        target=walked.target[0].tolist(),
        layers=tuple(_layer(each, changes, units, show) for each in walked.layers),
        output=show("o", "the output of the last layer", walked.output[0]),
        loss_name=experiment.loss.name,
        loss=show.quantity(walked.loss),
        loss_gradient=show.quantity(walked.loss_gradient),
        loss_after=after,
        update=update,
        comparisons=comparisons,
    )


@dataclass(frozen=True)
class _Shown:
    """Tensors as numbers, with all their entries or without."""

    whole: bool

    def __call__(self, symbol: str, formula: str, value: Tensor) -> Numbers:
        value = value.detach().double()
        return Numbers(
            symbol=symbol,
            formula=formula,
            shape=tuple(value.shape),
            norm=float(value.norm()),
            least=float(value.min()),
            mean=float(value.mean()),
            greatest=float(value.max()),
            entries=value.tolist() if self.whole else None,
        )

    def quantity(self, quantity: Quantity) -> Numbers:
        batched = not quantity.parameter and quantity.value.ndim > 1  # the batch is one sample
        return self(quantity.symbol, quantity.formula, quantity.value[0] if batched else quantity.value)


def _layer(passed: LayerPass, changes: Mapping[str, Change], units: Mapping[str, Unit], show: _Shown) -> Layer:
    own = [quantity.parameter for quantity in passed.backward if quantity.parameter]
    return Layer(
        layer=passed.layer,
        type=passed.type,
        forward=tuple(map(show.quantity, passed.forward)),
        backward=tuple(map(show.quantity, passed.backward)),
        parameters=tuple(changes[name] for name in own),
        unit=units.get(passed.layer),
        inner=tuple(_layer(each, changes, units, show) for each in passed.inner),
    )


# the names under which torch's optimizers and ours keep what dlf/optimizers.py writes with one letter
_LETTERS = {
    "exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "largest v", "momentum_buffer": "m", "square_avg": "v",
    "grad_avg": "mean of g", "sum": "v", "acc_delta": "u",
}  # fmt: skip


@torch.no_grad()
def _step(start: Start, walked: Walk, show: _Shown) -> tuple[dict[str, Change], dict[str, Tensor]]:
    """The step with our gradients, as the engine makes it: what it does to each parameter, and by how much."""
    gradients, symbols = walked.gradients, _symbols(walked)
    parameters = dict(start.state.network.named_parameters())
    adjusted: dict[str, list[Numbers]] = {name: [] for name in parameters}
    limited: dict[str, list[Numbers]] = {name: [] for name in parameters}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()

    def kept() -> dict[str, Tensor]:
        return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}

    for entry, penalize in zip(_acting(start, "penalty"), start.experiment.penalties, strict=True):
        before = kept()
        penalize()
        for name, gradient in kept().items():
            if not torch.equal(gradient, before[name]):
                adjusted[name].append(show(f"+ {entry.name}", formula_of(entry), gradient - before[name]))
    for entry, clip in zip(_acting(start, "gradient"), start.experiment.clips, strict=True):
        clip()
        for name, gradient in kept().items():
            adjusted[name].append(show(f"after {entry.name}", formula_of(entry), gradient))
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    start.state.update()
    steps = {name: parameter - before[name] for name, parameter in parameters.items()}
    for entry, limit in zip(_acting(start, "weights"), start.experiment.limits, strict=True):
        earlier = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        limit()
        for name, parameter in parameters.items():
            if not torch.equal(parameter, earlier[name]):
                limited[name].append(show(f"after {entry.name}", formula_of(entry), parameter))
    return {
        name: Change(
            name=name,
            symbol=symbols[name],
            before=show(symbols[name], "before the step", before[name]),
            gradient=show("g", "dL/dp", gradients[name]),
            adjusted=tuple(adjusted[name]),
            memory=tuple(
                show(_LETTERS.get(key, key), "what the optimizer remembers", tensor)
                for key, tensor in start.state.optimizer.state.get(parameter, {}).items()
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape and key != "step"
            ),
            step=show("step", "what the optimizer adds", steps[name]),
            limited=tuple(limited[name]),
            after=show(symbols[name], "after the step", parameter),
        )
        for name, parameter in parameters.items()
    }, steps


def _symbols(walked: Walk) -> dict[str, str]:
    """W, b, gain, ... by the name of the parameter."""
    steps = (quantity for each in flat(walked.layers) for quantity in each.backward)
    return {step.parameter: step.symbol.removeprefix("dL/d") for step in steps if step.parameter}


def _acting(start: Start, moment: str) -> list[Entry[Any]]:
    """The configured regularizers that act in this moment, in the order in which the assembly binds them."""
    entries = [REGULARIZERS.get(component.type) for component in start.config.regularizers]
    return [entry for entry in entries if entry.facts["acts"] == moment]


def formula_of(entry: Entry[Any]) -> str:
    """What stands before the colon in the first line of an entry's docstring."""
    return entry.summary.split(": ", 1)[0].rstrip(".")


def _update(start: Start) -> Update:
    """The rule, at the learning rate that the schedule has for this step, which is set."""
    component: Component = start.config.optimizer
    entry = OPTIMIZERS.get(component.type)
    factor = start.experiment.learning_rate_factor(start.state.step, start.history)
    rate = set_learning_rate(start.state.optimizer, factor)
    lines = [line.strip() for line in (entry.function.__doc__ or "").strip().splitlines()]
    return Update(
        type=component.type,
        formula=formula_of(entry),
        meaning=" ".join(line for line in lines[1:] if line),
        settings=dict(component.parameters),
        learning_rate=rate,
        schedule=start.config.schedule.type,
    )


# --- what stands around it --------------------------------------------------------------------------------------------


def _truth(start: Start, y: Tensor) -> Any:
    if start.data.classes is not None:
        return start.data.classes[int(y[0])]
    return y[0].tolist()


def _answers(start: Start, walked: Walk) -> tuple[float, ...]:
    """Probabilities of the classes, or values in the data's units."""
    task, network = start.experiment.task, start.state.network
    if task == "regression":
        return tuple(network.in_units(walked.output)[0].tolist())
    takes = LOSSES.get(start.experiment.loss.name).facts["takes"]
    return tuple(probabilities(walked.output, takes, task)[0].tolist())


def _notes(start: Start) -> list[str]:
    """What differs from a step of training here."""
    notes = []
    kinds = {type(module).__name__ for module in start.state.network.modules()}
    if kinds & {"Dropout", "AlphaDropout"}:
        notes.append("dropout is off: in training it would drop some of these values")
    if kinds & {"BatchNorm1d", "BatchNorm2d"}:
        notes.append("batch_norm takes its running mean and variance: one sample has no spread of its own")
    return notes
