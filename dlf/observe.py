"""What is noted of a network after each epoch: `dlf report` shows it. It reads, and changes nothing of what is trained.

layers.jsonl holds one object an epoch, seen on the same training samples each time, at most 256, in evaluation mode:

    epoch, step, samples   how far training was, and how many samples were looked at
    loss                   their mean loss, without penalties
    layers                 a list from the input on, one object for each layer but flatten and dropout:
      layer, module        its index as `dlf summarize` counts, "0" or "2.1" within a block; the class of its module
      activation           what follows its weighted sum, or null
      mean, std            of its outputs, over samples and units
      zeros                share of the outputs that are exactly 0
      dead                 share of the units (channels of images) whose output is 0 for every sample
      saturated            share of the outputs within 1 % of an end of the activation's range; null if it has not two
      gradient_norm        Euclidean norm of dL/dp over its parameters p, for the mean loss of these samples
      weight_norm          Euclidean norm of its parameters
      update_ratio         norm of the epoch's last update of its parameters, divided by their norm before it

The last three are null for a layer without parameters; a number that is not finite is null too.

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
from dlf.losses import LOSSES, probabilities
from dlf.model import Network
from dlf.modules import Activate, Dropout, Weighted
from dlf.registry import Component
from dlf.run import RunDirectory

SAMPLES = 256
GRID = 48
_CHUNK = 2**16
_NUMBERS = ("mean", "std", "zeros", "dead", "saturated", "gradient_norm", "weight_norm", "update_ratio")
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

    def __init__(self, state: TrainState, experiment: Experiment) -> None:
        self._state = state
        self._experiment = experiment
        part = experiment.data.train
        samples = min(SAMPLES, len(part))
        chosen = torch.arange(samples) * len(part) // samples  # evenly spread: a file may be sorted by class
        self._x = part.x.index_select(0, chosen.to(part.x.device) if isinstance(part.x, Tensor) else chosen)
        self._y = part.y.index_select(0, chosen.to(part.y.device))
        self._layers = list(_layers(state.network.layers))
        self._grid = _Grid(part) if tuple(part.x.shape[1:]) == (2,) else None
        self._before: dict[nn.Parameter, Tensor] = {}
        self.step()

    def step(self) -> None:
        """Keep a copy of the weights before the last step of an epoch."""
        if (self._state.step + 1) % self._experiment.steps_per_epoch == 0:
            self._before = {p: p.detach().clone() for p in self._state.network.parameters()}

    def note(self, run: RunDirectory) -> None:
        """Look at the network at the end of an epoch, and add what is seen to the run's directory."""
        place = {"epoch": self._state.epoch, "step": self._state.step}
        run.note_observation(run.layers, {**place, **self.layers()})
        if self._grid is not None and is_kept(self._state.epoch):
            run.note_observation(run.boundary, {**place, **self._grid.answers(self._state.network, self._experiment)})
        self.step()

    def layers(self) -> dict[str, Any]:
        """What layers.jsonl says of the network as it is."""
        loss, gradients, seen = self._backward()
        measured = [{"loss": loss}]
        for _, layer in self._layers:
            parameters = [p for p in layer.parameters() if p in gradients]
            measured.append({**_of_outputs(layer, seen[layer]), **_of_parameters(parameters, gradients, self._before)})
        values = [value.float() for row in measured for value in row.values()]
        numbers = iter(torch.stack(values).tolist())  # the one synchronization
        (total, *rows) = [{name: next(numbers) for name in row} for row in measured]
        described = [
            {**_description(index, layer), **dict.fromkeys(_NUMBERS), **row}
            for (index, layer), row in zip(self._layers, rows, strict=True)
        ]
        return {"samples": len(self._x), **total, "layers": described}

    def _backward(self) -> tuple[Tensor, dict[nn.Parameter, Tensor], dict[nn.Module, Tensor]]:
        """The loss of the samples, its gradients, which touch no parameter's `grad`, and the layers' outputs."""
        network, seen = self._state.network, {}
        training, parameters = network.training, list(network.parameters())
        hooks = [
            layer.register_forward_hook(lambda layer, _, output: seen.update({layer: output.detach()}))
            for _, layer in self._layers
        ]
        network.eval()
        try:
            with torch.enable_grad():
                loss = self._experiment.loss(network(self._x), network.scaled(self._y))
                gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        finally:
            network.train(training)
            for hook in hooks:
                hook.remove()
        return loss.detach(), dict(zip(parameters, gradients, strict=True)), seen


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


def _of_outputs(layer: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """Statistics of what a layer gives, (samples, units, ...)."""
    output = output.float()
    is_zero = output == 0
    others = [axis for axis in range(output.ndim) if axis != 1]
    found = {
        "mean": output.mean(),
        "std": output.std(correction=0),
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
    found = {"gradient_norm": _norm([gradients[p] for p in parameters]), "weight_norm": _norm(parameters)}
    if before:
        update = _norm([p.detach() - before[p] for p in parameters])
        found["update_ratio"] = update / _norm([before[p] for p in parameters])
    return found


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all the numbers together."""
    norms: list[Tensor] = [torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


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
