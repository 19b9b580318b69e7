"""What is noted of a network while it is trained: for `dlf report` and for the verdicts of dlf/doctor. It reads, and
changes nothing of what is trained.

layers.jsonl holds an object for each of the first 5 epochs, from then on for the one that ends next after every 200
steps, so that looking at a small network costs next to nothing, and for the last one; and one after every
`train.observe_every_steps` steps. The same training samples are looked at each time, at most 256, in evaluation mode:

    epoch, step, samples   how far training was (epochs that are finished), and how many samples were looked at
    loss                   their mean loss, without penalties
    most_said              share of the samples that get the most frequent answer; null for regression
    layers                 a list from the input on, one object for each layer but flatten and dropout:
      layer, module        its index as `dlf summarize` counts, "0" or "2.1" within a block; the class of its module
      activation           what follows its weighted sum, or null
      mean, std            of its outputs, over samples and units
      sample_std           of its outputs between samples: the root of the variances of the units' outputs, averaged
      zeros                share of the outputs that are exactly 0
      dead                 share of the units (channels of images) whose output is 0 for every sample
      saturated            share of the outputs within 1 % of an end of the activation's range; null if it has not two
      gradient_norm        Euclidean norm of dL/dp over its parameters p, for the mean loss of these samples
      weight_norm          Euclidean norm of its parameters
      update_ratio         norm of the last update of its parameters, divided by their norm before it

The last three are null for a layer without parameters, gradient_norm is for one that is frozen (requires_grad False); a
number that is not finite is null too.

boundary.jsonl is written for data of two features: what the network says on a grid of 48 x 48 points over the range of
the training samples and a twentieth on each side. One object an epoch, from epoch 100 on every 10th, from 1000 on every
100th: epoch, step, size (48), x and y ([least, greatest] of either feature), and bytes in base64, row after row from
the least y on, x rising within a row. For classes `label` (the most probable one) and `confidence` (its probability,
255 is 1); for numbers `value`, the first target from `low` (0) to `high` (255).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlf.data import Part
from dlf.engine import Experiment, TrainState, outputs
from dlf.layers import Residual
from dlf.losses import LOSSES, Task, predicted, probabilities
from dlf.model import Network
from dlf.modules import Activate, Dropout, Weighted
from dlf.registry import Component
from dlf.run import RunDirectory

SAMPLES = 256
FIRST = 5  # epochs, each of which is looked at
SPACING = 200  # steps: a look takes a small network as long as some ten of them
GRID = 48
_CHUNK = 2**16
_JUDGED = 2**12  # samples from which the loss of the answer 0 is taken: for most losses one would do
_NUMBERS = ("mean", "std", "sample_std", "zeros", "dead", "saturated", "gradient_norm", "weight_norm", "update_ratio")
_NEAR = 0.01  # of the range: where tanh is within 0.02 of an end its slope is below 0.04
_RANGES = {  # of the activations that are flat at both ends
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
}


class Observer:
    """Looks at a training from outside: `step` after each step, `note` after each epoch."""

    def __init__(self, state: TrainState, experiment: Experiment, every_steps: int | None = None) -> None:
        self._state = state
        self._experiment = experiment
        self._every_steps = every_steps
        self._per_epoch = experiment.steps_per_epoch
        part = experiment.data.train
        samples = min(SAMPLES, len(part))
        chosen = torch.arange(samples) * len(part) // samples  # evenly spread: a file may be sorted by class
        self._x = part.x.index_select(0, chosen.to(part.x.device) if isinstance(part.x, Tensor) else chosen)
        self._y = part.y.index_select(0, chosen.to(part.y.device))
        self._layers = list(_layers(state.network.layers))
        self._grid = _Grid(part) if tuple(part.x.shape[1:]) == (2,) else None
        self._before: dict[nn.Parameter, Tensor] = {}
        # the last step that was looked at; a run that goes on was looked at where it stopped, if it was time to
        self._noted = state.step if self._is_looked_at(state.step) else 0
        self._copy()

    def step(self, run: RunDirectory, *, stopping: bool) -> None:
        """After a step: look at the network if it is time to. The end of an epoch is left to `note`, unless training
        stops before that: one that is resumed there no longer knows the weights before its last step."""
        if self._every_steps is None and not stopping and (self._state.step + 1) % self._per_epoch:
            return  # nearly every step: nothing is due, and finding that out must cost nothing
        within = self._state.step % self._per_epoch != 0
        if self._is_looked_at(self._state.step) and (stopping or within):
            self._note_layers(run)
        if within:  # what is kept before the last step of an epoch serves until `note`
            self._copy()

    def note(self, run: RunDirectory, *, last: bool = False) -> None:
        """At the end of an epoch: look at the network if it is time to, as after the `last` one it is."""
        if last or self._is_looked_at(self._state.step):
            self._note_layers(run)
        if self._grid is not None and is_kept(self._state.epoch):
            answers = self._grid.answers(self._state.network, self._experiment)
            run.note_observation(run.boundary, {**self._place(), **answers})
        self._copy()

    def _note_layers(self, run: RunDirectory) -> None:
        if self._state.step > self._noted:
            run.note_observation(run.layers, {**self._place(), **self.layers()})
            self._noted = self._state.step

    def _place(self) -> dict[str, int]:
        return {"epoch": self._state.step // self._per_epoch, "step": self._state.step}

    def _is_looked_at(self, step: int) -> bool:
        """Whether it is time to, whatever epoch will be the last."""
        every, per_epoch = self._every_steps, self._per_epoch
        return (every is not None and step % every == 0) or (step % per_epoch == 0 and is_noted(step, per_epoch))

    def _copy(self) -> None:
        """Keep the weights before a step after which they are looked at: any epoch may be the last."""
        after = self._state.step + 1
        if after % self._per_epoch == 0 or self._is_looked_at(after):
            self._before = {p: p.detach().clone() for p in self._state.network.parameters()}

    def layers(self) -> dict[str, Any]:
        """What layers.jsonl says of the network as it is."""
        output, loss, gradients, seen = self._backward()
        measured = [{"loss": loss, **_of_answers(output, self._experiment.task)}]
        for _, layer in self._layers:
            parameters = list(layer.parameters())
            measured.append({**_of_outputs(layer, seen[layer]), **_of_parameters(parameters, gradients, self._before)})
        values = [value.float() for row in measured for value in row.values()]
        numbers = iter(torch.stack(values).tolist())  # the one synchronization
        (total, *rows) = [{name: next(numbers) for name in row} for row in measured]
        described = [
            {**_description(index, layer), **dict.fromkeys(_NUMBERS), **row}
            for (index, layer), row in zip(self._layers, rows, strict=True)
        ]
        return {"samples": len(self._x), "most_said": None, **total, "layers": described}

    def _backward(self) -> tuple[Tensor, Tensor, dict[nn.Parameter, Tensor], dict[nn.Module, Tensor]]:
        """Output, loss, its gradients, which touch no parameter's `grad`, and the layers' outputs."""
        network, seen = self._state.network, {}
        training, parameters = network.training, [p for p in network.parameters() if p.requires_grad]
        hooks = [
            layer.register_forward_hook(lambda layer, _, output: seen.update({layer: output.detach()}))
            for _, layer in self._layers
        ]
        network.eval()
        try:
            with torch.enable_grad():
                output = network(self._x)
                loss = self._experiment.loss(output, network.scaled(self._y))
                gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        finally:
            network.train(training)
            for hook in hooks:
                hook.remove()
        return output.detach(), loss.detach(), dict(zip(parameters, gradients, strict=True)), seen


def is_noted(step: int, steps_per_epoch: int) -> bool:
    """Whether the epoch that ends with this step is in layers.jsonl, be it the last or not."""
    return step <= FIRST * steps_per_epoch or step // SPACING > (step - steps_per_epoch) // SPACING


def is_kept(epoch: int) -> bool:
    """Whether this epoch is in boundary.jsonl: all up to 100, then every 10th, from 1000 on every 100th, ..."""
    spacing: int = 10 ** max(0, len(str(epoch)) - 2)
    return epoch % spacing == 0


def _layers(modules: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers with their indices, from the input on; those of a block behind it."""
    for index, module in enumerate(modules):
        if isinstance(module, nn.Flatten | Dropout | nn.AlphaDropout):
            continue
        yield f"{prefix}{index}", module
        if isinstance(module, Residual):
            yield from _layers(module.body, f"{prefix}{index}.")


def _description(index: str, layer: nn.Module) -> dict[str, Any]:
    activation = layer.activation.type if isinstance(layer, Weighted | Activate) else None
    return {"layer": index, "module": type(layer).__name__, "activation": activation}


def _of_answers(output: Tensor, task: Task) -> dict[str, Tensor]:
    """What the network says of all the samples together, (samples, units)."""
    if task == "regression":
        return {}
    said = predicted(output, task)
    return {"most_said": (said == said.mode().values).float().mean()}


def _of_outputs(layer: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """Statistics of what a layer gives, (samples, units, ...)."""
    output = output.float()
    is_zero = output == 0
    others = [axis for axis in range(output.ndim) if axis != 1]
    found = {
        "mean": output.mean(),
        "std": output.std(correction=0),
        "sample_std": output.var(0, correction=0).mean().sqrt(),
        "zeros": is_zero.float().mean(),
        "dead": is_zero.all(0).flatten(1).all(1).float().mean() if len(others) > 1 else is_zero.all(0).float().mean(),
    }
    ends = _range(layer.activation) if isinstance(layer, Weighted | Activate) else None
    if ends is not None:
        low, high = ends
        near = _NEAR * (high - low)
        found["saturated"] = ((output <= low + near) | (output >= high - near)).float().mean()
    return found


def _range(activation: Component) -> tuple[float, float] | None:
    """The ends of what the activation gives where it is flat at both; None for the others."""
    if activation.type == "hard_tanh":
        limit = activation.parameters["limit"]
        return -limit, limit
    return _RANGES.get(activation.type)


def _of_parameters(
    parameters: Sequence[nn.Parameter], gradients: Mapping[nn.Parameter, Tensor], before: Mapping[nn.Parameter, Tensor]
) -> dict[str, Tensor]:
    """Norms over all parameters of a layer; nothing for a layer that has none."""
    if not parameters:
        return {}
    found = {"weight_norm": _norm(parameters)}
    if trained := [gradients[p] for p in parameters if p in gradients]:
        found["gradient_norm"] = _norm(trained)
    if before:
        update = _norm([p.detach() - before[p] for p in parameters])
        found["update_ratio"] = update / _norm([before[p] for p in parameters])
    return found


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all the numbers together."""
    norms: list[Tensor] = [torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def constant_answer(network: Network, experiment: Experiment) -> dict[str, float]:
    """How good it is to say the same of every sample, for run.json: what a network that has learned must beat.

    loss                          of a network whose output is 0: ln C for the cross-entropy of C classes
    train_accuracy, val_accuracy  of always saying the most frequent class of the training part
    train_mae, val_mae            of always saying the median of the training part, in the data's units
    """
    data = experiment.data
    parts = {"train": data.train.y, "val": data.validation.y}
    found: dict[str, Tensor] = {}
    if experiment.task == "regression":
        answer = data.train.y.median(0).values
        found = {f"{name}_mae": (y - answer).abs().mean() for name, y in parts.items() if len(y)}
    else:
        answer = data.train.y.bincount().argmax()
        found = {f"{name}_accuracy": (y == answer).double().mean() for name, y in parts.items() if len(y)}
    y = data.train.y[:_JUDGED]
    output = torch.zeros_like(outputs(network, data.train.x[:1])).expand(len(y), -1)
    if LOSSES.get(experiment.loss.name).facts["takes"] == "log_probabilities":
        output = output.log_softmax(1)
    found["loss"] = experiment.loss(output, network.scaled(y))
    return {name: value.item() for name, value in found.items()}


class _Grid:
    """Points of the plane, spread over where the training samples lie."""

    def __init__(self, part: Part) -> None:
        ends = [torch.stack(part.x[start : start + _CHUNK].aminmax(dim=0)) for start in range(0, len(part), _CHUNK)]
        low, high = torch.cat(ends).double().aminmax(dim=0)
        margin = (high - low) / 20
        self.low, self.high = low - margin, high + margin
        axes = [
            torch.linspace(low, high, GRID, device=part.x.device) for low, high in zip(self.low, self.high, strict=True)
        ]
        y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
        self.points = torch.stack([x, y], dim=-1).reshape(-1, 2)  # (GRID * GRID, 2), x the quickest

    def answers(self, network: Network, experiment: Experiment) -> dict[str, Any]:
        """What the network says of each point, and where the points are."""
        (left, bottom), (right, top) = self.low.tolist(), self.high.tolist()
        output = outputs(network, self.points)
        place = {"size": GRID, "x": [left, right], "y": [bottom, top]}
        if experiment.task == "regression":
            value = network.in_units(output)[:, 0]
            low, high = value.min(), value.max()
            return {**place, "low": low.item(), "high": high.item(), "value": _bytes((value - low) / (high - low))}
        takes = LOSSES.get(experiment.loss.name).facts["takes"]
        confidence, label = probabilities(output, takes, experiment.task).max(dim=1)
        return {**place, "label": _base64(label), "confidence": _bytes(confidence)}


def _bytes(share: Tensor) -> str:
    """Numbers from 0 to 1 as bytes; what is none is 0."""
    return _base64((255 * share.nan_to_num(0)).round())


def _base64(values: Tensor) -> str:
    return base64.b64encode(values.to(torch.uint8).cpu().numpy().tobytes()).decode()
