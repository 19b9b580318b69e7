"""The batch: how many samples a gradient is averaged over, and how many steps an epoch has in exchange."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import linear_regression

import torch
from torch import Tensor

from dlf.engine import Experiment, TrainState
from dlf.errors import UsageError
from dlf.questions.design import Claim, Design, Measured, Subject, Variant
from dlf.questions.results import Difference, Figure, Study, Sweep, digits
from dlf.questions.topics import Shipped, topic

_FACTOR = 4  # from one size to the next
_DRAWN = 64  # batches: their variance is then known to about sqrt(2 / 64) = 18 %, less where it has many directions
_CHUNK = 2048


@topic(
    "How many samples should a step look at?",
    Shipped(
        "digits",
        (
            "model.layers=[{type: linear, units: 64}, {type: linear, units: 32}]",
            "optimizer={type: sgd, lr: 0.1}",
            "schedule=constant",
            "data.test=0",
            "data.validation=0.2",
            "data.batch_size=32",
            "train={epochs: 20}",
        ),
    ),
)
def batch_size(subject: Subject) -> Design:
    """A quarter of the configured batch, itself, 4 and 16 times as much; the largest also for 4 times the epochs."""
    sizes = _sizes(subject)
    epochs = subject.config.train.epochs
    steps = {size: -(-len(subject.data.train) // size) * epochs for size in sizes}
    longer = round(epochs * steps[sizes[-2]] / steps[sizes[-1]])
    least, most, long = f"batch {sizes[0]}", f"batch {sizes[-1]}", f"batch {sizes[-1]}, {longer} epochs"
    noise = Figure("noise", "gradient's variance")
    started = 0.0

    def before(experiment: Experiment, state: TrainState) -> Measured:
        nonlocal started
        found = _noise(experiment, state)
        started = time.perf_counter()
        return found

    def after(experiment: Experiment, state: TrainState) -> Measured:
        return {"steps": state.step, "epoch_seconds": (time.perf_counter() - started) / state.epoch}

    return Design(
        variants=[
            *(Variant(f"batch {size}", {"data.batch_size": size}) for size in sizes),
            Variant(long, {"data.batch_size": sizes[-1], "train.epochs": longer}),
        ],
        claims=[
            Claim(most, "worse", least),
            Claim(most, "less", least, noise.name),
            Claim(long, "better", most),
            Claim(long, "better", f"batch {sizes[-2]}"),
        ],
        figures=[subject.headline, noise, Figure("steps", "steps"), Figure("train_loss", "training loss")],
        charts=[
            subject.course,
            Sweep(noise.name, "variance of the gradient", "batch size", {f"batch {n}": n for n in sizes}, log=True),
        ],
        explain=lambda studies: _explain(studies[0], sizes, epochs),
        before=before,
        after=after,
    )


def _sizes(subject: Subject) -> list[int]:
    own, samples = subject.config.data_section.batch_size, len(subject.data.train)
    wanted = [max(1, round(own * float(_FACTOR) ** power)) for power in (-1, 0, 1, 2)]
    sizes = list(dict.fromkeys(min(size, samples) for size in wanted))
    if len(sizes) < 2:
        raise UsageError(f"{subject.config.name} has {samples} training samples: too few for batches of two sizes")
    return sizes


def _noise(experiment: Experiment, state: TrainState) -> Measured:
    """The variance of a batch's gradient at the first weights, in units of the full gradient's square.

    mean |g_B - g|^2 / |g|^2 over 64 batches, drawn with repetition from the training part; in evaluation mode, where a
    sample's gradient does not depend on its batch. Drawn so, the variance is that of one sample's gradient through B.
    """
    part, network = experiment.data.train, state.network
    weights = list(network.parameters())
    generator = torch.Generator().manual_seed(experiment.seed)

    def gradient(places: Tensor) -> Tensor:
        total = torch.zeros(sum(p.numel() for p in weights), dtype=torch.float64)
        for chunk in torch.split(places, _CHUNK):
            x = part.x.index_select(0, chunk.to(part.x.device) if isinstance(part.x, Tensor) else chunk)
            y = part.y.index_select(0, chunk.to(part.y.device))
            with torch.enable_grad():
                loss = experiment.loss(network(x), network.scaled(y))
            found = torch.autograd.grad(loss, weights, materialize_grads=True)
            total += torch.cat([g.flatten() for g in found]).double().cpu() * (len(chunk) / len(places))
        return total

    network.eval()
    full = gradient(torch.arange(len(part)))
    size = min(experiment.batch_size, len(part))
    drawn = [torch.randint(len(part), (size,), generator=generator) for _ in range(_DRAWN)]
    variance = sum(float((gradient(places) - full).square().sum()) for places in drawn) / _DRAWN
    network.train()
    return {"noise": variance / float(full.square().sum())}


def _explain(study: Study, sizes: Sequence[int], epochs: int) -> tuple[str, str]:
    result, noise, long, _ = study.differences
    headline = study.figures[0]
    named = [f"batch {size}" for size in sizes]
    same = ", ".join(f"{study.shown(label, headline.name)} with {label}" for label in named)
    most, least = result.first, result.second
    happened = (
        f"{study.config} was trained for {epochs} epochs with batches of {len(sizes)} sizes, at one learning rate. The "
        f"{headline.title} came to {same}: {_by_size(result)} ({result.measured}). But {epochs} epochs are "
        f"{study.shown(least, 'steps')} steps with {least} and {study.shown(most, 'steps')} with {most}. Given "
        f"{study.shown(long.first, 'steps')} steps, as many as {named[-2]} had, {most} comes to "
        f"{study.shown(long.first, headline.name)}: {_by_steps(long)} ({long.measured})."
    )
    return happened, _because(study, noise, sizes)


def _by_size(result: Difference) -> str:
    return result.choose(
        appears="the largest batch is worse than the smallest",
        absent="between the largest and the smallest these seeds show no difference",
        opposite="the largest batch is better than the smallest",
    )


def _by_steps(long: Difference) -> str:
    return long.choose(
        appears="more steps made it better",
        absent="more steps made no difference that these seeds show",
        opposite="more steps made it worse",
    )


def _because(study: Study, noise: Difference, sizes: Sequence[int]) -> str:
    named = [f"batch {size}" for size in sizes]
    known = {n: value for n, label in zip(sizes, named, strict=True) if (value := study.mean(label, noise.figure))}
    said = [
        "The gradient of a batch is the mean of its samples' gradients: right on average, and with a variance that "
        "falls as 1 / size, its error as 1 / sqrt(size)."
    ]
    if len(known) > 1:
        slope, _ = linear_regression(*zip(*((math.log(n), math.log(value)) for n, value in known.items()), strict=True))
        values = ", ".join(f"{digits(value)} with {size}" for size, value in known.items())
        said.append(
            f"Measured at the first weights, in units of the full gradient's square: {values}. That falls as size to "
            f"the power {slope:.2f}; -1 is 1 / size."
        )
    said.append(
        f"A batch {sizes[-1] / sizes[0]:.3g} times as large costs as many times the arithmetic a step and is "
        f"{math.sqrt(sizes[-1] / sizes[0]):.2g} times as exact, so for the same arithmetic many rough steps go further "
        "than a few exact ones, as long as the noise does not outweigh what they gain."
    )
    said.append(_times(study, named))
    said.append(_lesson(study))
    return " ".join(filter(None, said))


def _times(study: Study, named: Sequence[str]) -> str:
    """How long an epoch took, that of the quickest seed: the machine has other things to do. All else is repeatable."""
    known = [
        [t.figures["epoch_seconds"] for t in study.arm(label).trainings if t.figures.get("epoch_seconds")]
        for label in (named[0], named[-1])
    ]
    if not all(known):
        return ""
    slow, quick = (1000 * min(value for value in values if value is not None) for values in known)
    took = f"An epoch and its validation took {slow:.0f}ms with {named[0]} and {quick:.0f}ms with {named[-1]}"
    if slow > 1.1 * quick:
        return f"{took}: the products are the same, and every step has a cost of its own."
    return f"{took}: here a step costs no more than its products."


def _lesson(study: Study) -> str:
    """What of that showed."""
    result, _, long, even = study.differences
    lost, regained = result.mean, long.mean
    if result.verdict == "appears" and long.verdict == "appears" and lost and regained is not None:
        share = -regained / lost
        what = "all" if share >= 1 else f"{100 * share:.0f} %"
        said = f"Here the steps were what the large batch lacked: more of them brought back {what} of what it had lost."
    elif result.verdict == "appears":
        said = "Here more steps did not bring back what the large batch had lost."
    elif result.verdict == "absent":
        said = "Here the smallest and the largest batch differ by no more than their seeds do."
    else:
        said = "Here the few exact steps went further: the noise of the small batch outweighed the number of its steps."
    same = even.choose(
        appears=f"At as many steps, {even.first} is better than {even.second}: its steps are the more exact.",
        absent=f"At as many steps, these seeds show no difference between {even.first} and {even.second}.",
        opposite=f"At as many steps, {even.first} is worse than {even.second}: less noise was no gain.",
    )
    return f"{said} {same} ({even.measured.capitalize()}.)"
