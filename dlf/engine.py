"""Training and evaluation: what happens in a step, in an epoch, and in what order. Knows no YAML and no terminal.

Everything that decides a step is in TrainState (what changes) and Experiment (what does not). Randomness is a function
of (seed, epoch) for the order of the samples and of (seed, step) for dropout, so logging, evaluating, saving or
stopping in between changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlf import native
from dlf.backpropagation import Backpropagation, backpropagation, compiled_forward
from dlf.capture import Graph, Step, captured
from dlf.data import Data, Part, batches, by_class, mix, order
from dlf.errors import DivergedError
from dlf.losses import BoundLoss, Task, predicted
from dlf.model import Network
from dlf.streamed import Streamed
from dlf.updates import update_of

# Large enough to be limited by arithmetic, small enough for 32 MiB of inputs. They depend on nothing but the shape of a
# sample, so that every evaluation gives equal bits.
EVALUATION_BATCH, EVALUATION_INPUTS = 1024, 2**23

Record = Mapping[str, Any]
Metrics = Callable[[Tensor, Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """What stays the same while training: the data, the rules and the numbers that steer them.

    `loss(output, target)` is the mean over a batch. `penalties` add their gradient to `.grad` and return their value,
    `clips` change gradients, `limits` change weights after the update. `learning_rate_factor(step, history)` scales
    every group's initial rate. `metrics(output, target)` measures the validation part beyond loss and headline.
    `graph` makes what captures steps, if they shall be; `tell` hears why they could not.
    """

    data: Data
    task: Task
    loss: BoundLoss
    learning_rate_factor: Callable[[int, Sequence[Record]], float]
    seed: int
    batch_size: int
    penalties: Sequence[Callable[[], Tensor]] = ()
    clips: Sequence[Callable[[], None]] = ()
    limits: Sequence[Callable[[], None]] = ()
    metrics: Metrics = lambda output, target: {}
    precision: str = "float32"
    precision_reason: str = ""
    graph: Callable[[], Graph] | None = None
    tell: Callable[[str], None] = lambda message: None

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one epoch; the last batch may be smaller."""
        return -(-len(self.data.train) // self.batch_size)

    @property
    def headline(self) -> str:
        """The metric that is measured everywhere: accuracy for classes, mean absolute error for regression."""
        return "mae" if self.task == "regression" else "accuracy"


@dataclass
class TrainState:
    """What changes while training: all of it is in a checkpoint.

    `epoch` counts finished epochs, `step` updates since the start. `losses` holds the loss of every such step, and room
    for the rest of the epoch; `sums` headline metric and penalty of the epoch under way, each summed over its samples.
    Both are on the device. `seconds` is what the epoch under way took so far.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    seconds: float = 0.0
    update: Callable[[], Any] = field(init=False, repr=False)
    backpropagate: Backpropagation = field(init=False, repr=False)
    captured: Step | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.backpropagate = backpropagation(self.network)
        self.update = update_of(self.optimizer, compiled=self.backpropagate.compiled)


def fit(
    state: TrainState,
    experiment: Experiment,
    *,
    epochs: int,
    history: Sequence[Record],
    on_step: Callable[[TrainState], None] = lambda state: None,
) -> Iterator[Record]:
    """Train up to `epochs` epochs and yield one record for each; goes on where `state` stands.

    `history` holds the records of the finished epochs; the caller adds to it between two epochs. The record's losses
    and headline of the training part are means over the epoch while the weights changed, with dropout active; those of
    the validation part are measured after it. Raises DivergedError before a record of a broken epoch is yielded.
    """
    while state.epoch < epochs:
        rate = train_epoch(state, experiment, history, on_step)
        record = {"epoch": state.epoch, "step": state.step, "lr": rate, **_training_means(state, experiment)}
        record |= evaluate(state.network, experiment, experiment.data.validation, prefix="val_")
        record |= {
            "seconds": round(state.seconds, 4),
            "samples_per_second": round(len(experiment.data.train) / max(state.seconds, 1e-9)),
        }
        state.sums.zero_()
        state.seconds = 0.0
        yield record


def train_epoch(
    state: TrainState, experiment: Experiment, history: Sequence[Record], on_step: Callable[[TrainState], None]
) -> float:
    """The rest of the epoch under way, all of it at its start; the learning rate of its last step."""
    first = state.step - state.epoch * experiment.steps_per_epoch
    visited = in_batches(experiment, state.epoch)
    rate, device = float(state.optimizer.param_groups[0]["lr"]), experiment.data.train.x.device
    reserve(state, (state.epoch + 1) * experiment.steps_per_epoch)
    state.network.train()
    started = time.perf_counter() - state.seconds
    own_threads = native.helpers() if state.backpropagate.compiled else nullcontext()
    # the caller's generators stay theirs
    with own_threads, torch.random.fork_rng([device] if device.type == "cuda" else []):
        for step in steps(state, experiment, visited, first):
            rate = set_learning_rate(state.optimizer, experiment.learning_rate_factor(state.step, history))
            seed_dropout(mix(experiment.seed, state.step), device)
            state.losses[state.step] = step()
            state.step += 1
            state.seconds = time.perf_counter() - started
            on_step(state)
    check_finite(state)  # the one synchronization of the epoch
    state.epoch += 1
    state.seconds = time.perf_counter() - started
    return rate


def in_batches(experiment: Experiment, epoch: int) -> Tensor:
    """The order in which an epoch visits the training part: on its device or, where it is streamed, on the CPU."""
    train, data = experiment.data.train, experiment.data
    visited = order(len(train), experiment.seed, epoch)
    if isinstance(train.x, Tensor):
        visited = visited.to(train.x.device)
    return visited if data.classes is None else by_class(visited, train.y, experiment.batch_size, len(data.classes))


def reserve(state: TrainState, steps: int) -> None:
    """Make room for the losses of so many steps since the start; those that are there stay."""
    missing = max(0, steps - len(state.losses))
    state.losses = torch.cat([state.losses, state.losses.new_zeros(missing)])


def steps(state: TrainState, experiment: Experiment, visited: Tensor, first: int) -> Iterator[Callable[[], Tensor]]:
    """The steps of an epoch from number `first` on, each as a function that makes it and returns its loss."""
    train, size = experiment.data.train, min(experiment.batch_size, len(experiment.data.train))
    if experiment.graph is None or not isinstance(train.x, Tensor):
        for x, y in batches(train, visited, size, first):
            yield partial(train_step, state, experiment, x, y)
        return
    if state.captured is None:
        step = partial(_gather_and_step, state, experiment)
        state.captured = captured(
            step, state.optimizer, size=size, graph=experiment.graph, device=train.x.device, tell=experiment.tell
        )
    for batch in torch.split(visited, size)[first:]:
        yield partial(state.captured, batch)


def _gather_and_step(state: TrainState, experiment: Experiment, batch: Tensor) -> Tensor:
    train = experiment.data.train
    assert isinstance(train.x, Tensor)
    return train_step(state, experiment, train.x.index_select(0, batch), train.y.index_select(0, batch))


def train_step(state: TrainState, experiment: Experiment, x: Tensor, y: Tensor) -> Tensor:
    """Forward, loss, backward, penalties, clipping, update, limits; the loss, and the sums noted, without waiting."""
    output, loss = state.backpropagate(x, y, experiment.loss)
    penalties = [penalty() for penalty in experiment.penalties]
    for clip in experiment.clips:
        clip()
    with torch.no_grad():
        state.update()
        for limit in experiment.limits:
            limit()
        state.sums[0].add_(headline(state.network, output, y, experiment.task))
        for penalty in penalties:
            state.sums[1].add_(penalty * len(x))
    return loss


def headline(network: Network, output: Tensor, y: Tensor, task: Task) -> Tensor | int:
    """Sum over the batch of what the headline metric averages: hits, or absolute errors in the data's own units."""
    if task == "regression":
        return (network.in_units(output) - y).abs().mean(1).sum()
    if task == "classification" and output.dtype == torch.float32 and not output.is_cuda and native.level(output.dtype):
        return native.hits(output, y)
    return (predicted(output, task) == y).sum()


@torch.no_grad()
def outputs(network: Network, x: Tensor | Streamed) -> Tensor:
    """What the network says of samples as they were read, in evaluation mode: (n, units), in large batches."""
    size = max(1, min(EVALUATION_BATCH, EVALUATION_INPUTS // max(1, math.prod(x.shape[1:]))))
    starts, training = range(0, len(x), size), network.training
    compiled = None if isinstance(x, Tensor) and x.device.type != "cpu" else compiled_forward(network, x.shape[1:])
    if compiled is not None:
        with native.helpers():
            parts = [compiled(x[start : start + size]) for start in starts]
    else:
        network.eval()
        try:
            parts = [network(x[start : start + size]) for start in starts]
        finally:
            network.train(training)
    return torch.cat(parts) if parts else torch.empty(0)


@torch.no_grad()
def evaluate(network: Network, experiment: Experiment, part: Part, prefix: str = "") -> dict[str, Any]:
    """Loss, headline metric and further metrics on a part; the same numbers for the same weights, whoever asks."""
    if not len(part):
        return {}
    found = measured(network, experiment, outputs(network, part.x), part.y)
    return {f"{prefix}{name}": value for name, value in found.items()}


@torch.no_grad()
def measured(network: Network, experiment: Experiment, output: Tensor, y: Tensor) -> dict[str, Any]:
    """Those numbers from what the network said of n >= 1 samples, (n, units), and what is true."""
    return {
        "loss": experiment.loss(output, network.scaled(y)).item(),
        experiment.headline: float(headline(network, output, y, experiment.task)) / len(y),
        **experiment.metrics(network.in_units(output), y),
    }


def seed_dropout(seed: int, device: torch.device) -> None:
    """What torch.manual_seed does, for the device in use alone: 1 microsecond instead of 100 a step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Scale every group's initial rate; the rate of the first group."""
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], Tensor):  # a captured update reads it there
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return float(optimizer.param_groups[0]["initial_lr"] * factor)


def check_finite(state: TrainState) -> None:
    """DivergedError when a number of the state is not finite; names the first such loss and the first such tensor.

    Called before every save. It looks at all that a checkpoint takes: a huge gradient can leave finite weights, and an
    Adam whose second moment is infinite, which never moves them again.
    """
    losses = torch.isfinite(state.losses[: state.step]).tolist()
    broken = [name for name, tensor in _tensors(state) if not _is_finite(tensor)]
    if all(losses) and not broken:
        return
    step = None if all(losses) else losses.index(False) + 1
    found = [f"the loss of step {step} is not a finite number"] if step is not None else []
    if broken:
        more = f" and {len(broken) - 1} more tensors are" if len(broken) > 1 else " is"
        found.append(f"after step {state.step} {broken[0]}{more} not finite")
    raise DivergedError(
        f"training diverged: {'; '.join(found)}. "
        "Lower optimizer.lr, add warm-up (schedule.warmup_epochs) or clip gradients (regularizers: [clip_norm]).",
        step,
    )


def _tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    """What a step changes, apart from its loss, by the names that a user knows."""
    yield from ((f"parameter {name}", tensor) for name, tensor in state.network.named_parameters())
    yield from ((f"statistic {name}", tensor) for name, tensor in state.network.named_buffers())
    for name, parameter in state.network.named_parameters():
        for key, tensor in state.optimizer.state.get(parameter, {}).items():
            yield f"optimizer.{key} of {name}", tensor
    yield from zip(("the sum of the headline metric", "the sum of the penalty"), state.sums, strict=True)


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite. Least and greatest take one pass, and a NaN is both; isfinite takes five."""
    return all(math.isfinite(bound) for bound in torch.stack(tensor.detach().aminmax()).tolist())


def _training_means(state: TrainState, experiment: Experiment) -> dict[str, float]:
    """Of the epoch that has just ended. Its loss is the exact mean of the steps' losses, weighted by their samples."""
    samples, size = len(experiment.data.train), experiment.batch_size
    losses = state.losses[state.step - experiment.steps_per_epoch : state.step].tolist()
    sizes = [min(size, samples - start) for start in range(0, samples, size)]
    loss = math.fsum(loss * size for loss, size in zip(losses, sizes, strict=True)) / samples
    hits, penalty = (state.sums / samples).tolist()
    return {"train_loss": loss, f"train_{experiment.headline}": hits, "penalty": penalty}
