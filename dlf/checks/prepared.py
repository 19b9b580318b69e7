"""What the checks look at: an assembled experiment, some of its training samples, and copies of what they would change.

No check changes the network that will be trained, nor a file.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from dlf.checks.looking import Look, in_float64, look, without_dropout
from dlf.checks.propagation import LayerSignal, layer_signals
from dlf.config import ExperimentConfig
from dlf.data import Part, mix
from dlf.engine import Experiment, TrainState, train_step
from dlf.losses import LOSSES
from dlf.model import Network
from dlf.modules import Weighted

SAMPLES = 256  # at most; a share measured on them is known to 6 points, a mean to 6 % of its spread
FEWEST = 32  # also of networks that are expensive
MULTIPLY_ADDS = 4e8  # in one look forward: a second on one core with its way back, in float64
_STREAM = -(2**41)  # the position that mix() takes for the samples of a check: apart from weights, epochs and steps


@dataclass(frozen=True)
class Prepared:
    """An assembled experiment, and what is looked at of it: `x` (n, *shape) as read, and `y`, of the training part.

    `multiply_adds` counts the products with weights for one sample.
    """

    config: ExperimentConfig
    experiment: Experiment
    state: TrainState
    x: Tensor
    y: Tensor
    multiply_adds: int

    @cached_property
    def network(self) -> Network:
        """The network in float64 without dropout, in training mode; only to look at."""
        return in_float64(self.state.network)

    @cached_property
    def look(self) -> Look:
        """The network as it starts."""
        return look(self.network, self.experiment.loss, self.x, self.y)

    @property
    def learns(self) -> bool:
        """Whether any parameter has a gradient; without, a step would have nothing to go by."""
        return any(gradient is not None for gradient in self.look.parameters.values())

    @cached_property
    def later(self) -> Look:
        """The network after a few steps: what is 0 only because the output layer starts at 0 no longer is."""
        state, experiment = trainable(self.state, self.experiment)
        for _ in range(3 if self.learns else 0):
            step(state, experiment, self.x, self.y)
        return look(in_float64(state.network), self.experiment.loss, self.x, self.y)

    @cached_property
    def signals(self) -> list[LayerSignal]:
        """The outputs of the layers, expected and measured."""
        return layer_signals(self.network, self.look)

    @property
    def targets(self) -> Tensor:
        """y as the loss sees it."""
        return self.network.scaled(self.y.double() if self.y.is_floating_point() else self.y)

    @property
    def takes(self) -> str:
        """What the loss wants the outputs to be: logits, log_probabilities, scores or values."""
        takes: str = LOSSES.get(self.experiment.loss.name).facts["takes"]
        return takes


def prepare(experiment: Experiment, state: TrainState, config: ExperimentConfig) -> Prepared:
    """Choose the samples, by the seed: at most 256 of the training part, fewer where the network is expensive."""
    part = experiment.data.train
    cost = _multiply_adds(state.network, part)
    x, y = drawn(part, min(SAMPLES, max(FEWEST, int(MULTIPLY_ADDS // max(1, cost)))), experiment.seed)
    return Prepared(config, experiment, state, x, y, cost)


def drawn(part: Part, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """x and y of at most `count` samples, in an order that the seed decides: a file may be sorted by class."""
    generator = torch.Generator().manual_seed(mix(seed, _STREAM))
    indices = torch.randperm(len(part), generator=generator)[:count]
    x = part.x.index_select(0, indices.to(part.x.device) if isinstance(part.x, Tensor) else indices)
    return x, part.y.index_select(0, indices.to(part.y.device))


def _multiply_adds(network: Network, part: Part) -> int:
    """Products with weights for one sample, counted where they happen."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += module.weight.numel() * output[0, 0].numel()  # type: ignore[operator]

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, Weighted)]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(part.x[:1])
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return total


def trainable(state: TrainState, experiment: Experiment) -> tuple[TrainState, Experiment]:
    """Copies of network and optimizer, bound to each other, for steps without dropout and penalties.

    Clipping and limits stay: they belong to the size of a step.
    """
    network, optimizer, clips, limits = copy.deepcopy(
        (state.network, state.optimizer, list(experiment.clips), list(experiment.limits))
    )
    copied = TrainState(without_dropout(network).train(), optimizer, sums=torch.zeros_like(state.sums))
    return copied, replace(experiment, penalties=(), clips=clips, limits=limits, graph=None)


def step(state: TrainState, experiment: Experiment, x: Tensor, y: Tensor) -> float:
    """One step of the engine, as training does it, on copies; its loss before the update."""
    return float(train_step(state, experiment, x, y))


def uninformed(output: Tensor, takes: str) -> Tensor:
    """Outputs that say nothing: 0, and where they are logarithms of probabilities -ln C for each of C classes."""
    return torch.full_like(output, -math.log(output.shape[1]) if takes == "log_probabilities" else 0.0)
