"""The size of a step: too small, and little is learned in the time given; too large, and what was learned is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dlf.engine import Experiment, TrainState
from dlf.questions.design import Claim, Design, Measured, Subject, Variant
from dlf.questions.results import Figure, Study, Sweep, digits
from dlf.questions.topics import Shipped, topic
from dlf.registry import Component

_SMALL = "model.layers=[{type: linear, units: 64}, {type: linear, units: 32}]"
_DECADES = (-3, -2, -1, 0, 1, 2, 3)  # of the configured rate
_SAMPLES = 256
_PRODUCTS = 30  # of power iteration: its error falls with the ratio of the two largest eigenvalues to this power
_BY_SIGN = ("adam", "adamw", "nadam", "radam", "lion")  # every weight moves by about the rate, whatever the gradient


@topic(
    "How large should a step be?",
    Shipped("digits", (_SMALL, "optimizer={type: sgd, lr: 0.1}", "schedule=constant", "train.epochs=10")),
)
def learning_rate(subject: Subject) -> Design:
    """The configured learning rate, and from a thousandth to a thousand times of it, a decade each."""
    optimizer = subject.config.optimizer
    own = optimizer.parameters["lr"]
    rates = {_label(own, decade): float(f"{own * 10.0**decade:.6g}") for decade in _DECADES}
    least, most, configured = _label(own, _DECADES[0]), _label(own, _DECADES[-1]), _label(own, 0)
    return Design(
        variants=[Variant(label, {"optimizer.lr": rate}) for label, rate in rates.items()],
        claims=[Claim(least, "worse", configured), Claim(most, "worse", configured)],
        figures=[subject.headline, Figure("train_loss", "training loss")],
        charts=[Sweep(subject.headline.name, subject.headline.title, "learning rate", rates), subject.course],
        explain=lambda studies: _explain(studies[0], rates, optimizer),
        before=_curvature_and_weights,
    )


def _label(own: float, decade: int) -> str:
    return f"lr {own * 10.0**decade:.6g}"


def _curvature_and_weights(experiment: Experiment, state: TrainState) -> Measured:
    """The largest eigenvalue of the Hessian at the first weights, and their root mean square.

    The Hessian is that of the loss of the first 256 training samples by all parameters, in evaluation mode.
    """
    part, network = experiment.data.train, state.network
    parameters = list(network.parameters())
    network.eval()
    with torch.enable_grad():
        loss = experiment.loss(network(part.x[:_SAMPLES]), network.scaled(part.y[:_SAMPLES]))
        slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        curvature = _farthest(slopes, parameters)
        if curvature < 0:  # the farthest from 0 is the least one: seen from there, the largest is the farthest
            curvature += _farthest(slopes, parameters, curvature)
    network.train()
    weights = torch.cat([p.detach().flatten() for p in parameters if p.ndim > 1])
    return {"curvature": curvature, "weight": weights.square().mean().sqrt().item()}


def _farthest(slopes: Sequence[Tensor], parameters: Sequence[Tensor], shift: float = 0.0) -> float:
    """Of the Hessian's eigenvalues less `shift` the one farthest from 0, by power iteration; `slopes` are gradients."""
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator).to(p.device) for p in parameters]
    for _ in range(_PRODUCTS):
        size = _dot(direction, direction).sqrt()
        direction = [d / size for d in direction]
        slope = _dot(slopes, direction)  # its gradient is the Hessian times the direction
        bent = torch.autograd.grad(slope, parameters, retain_graph=True, materialize_grads=True)
        moved = [b - shift * d for b, d in zip(bent, direction, strict=True)]
        found = _dot(moved, direction)
        direction = moved
    return found.item()


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def _explain(study: Study, rates: Mapping[str, float], optimizer: Component) -> tuple[str, str]:
    low, high = study.differences
    own, headline = low.second, study.figures[0]
    known = {label: mean for label in rates if (mean := study.mean(label, headline.name)) is not None}
    small = low.choose(
        appears="so short a step is too short for the time given",
        absent="so short a step does no harm that these seeds could show",
        opposite="it is even better, so the configured one is too large",
    )
    large = high.choose(
        appears="so long a step loses what it learns",
        absent="so long a step does no harm that these seeds could show",
        opposite="it is even better, so the configured one is too small",
    )
    happened = (
        f"{study.config} was trained with seven learning rates. With {own}, as configured, the {headline.title} is "
        f"{study.shown(own, headline.name)}. A thousandth of it, {low.first}, gives "
        f"{study.shown(low.first, headline.name)} ({low.measured}): {small}. A thousand times of it, {high.first}, "
        f"gives {study.shown(high.first, headline.name)} ({high.measured}): {large}."
    )
    if known:
        best = (min if headline.name == "val_mae" else max)(known, key=lambda label: known[label])
        happened += f" The best mean of the seven is that of {best}, {headline.shown(known[best])}."
    short = low.choose(
        appears="the loss falls at every step, but the way is long",
        absent="the loss falls at every step, and the way was not too long to see a difference",
        opposite="the loss falls at every step, and that was worth more than to be quick",
    )
    long = high.choose(
        appears="A step that is too long leaves the region that the slope speaks of",
        absent="A step that is too long leaves the region that the slope speaks of; that the longest did is not to "
        "be seen here",
        opposite="Here even the longest step stays where the slope holds",
    )
    because = (
        "A step moves the weights against the gradient, which is the slope of the loss at one point. While steps are "
        f"short {short}: {_way(study, low.first)}, {_way(study, own)}. {long}. {_limit(study, rates, optimizer)}"
    )
    return happened, because


def _way(study: Study, label: str) -> str:
    """From where to where the training loss went."""
    losses = [spread.mean for spread in study.arm(label).course("train_loss") if spread is not None]
    if not losses:
        return f"with {label} no epoch was finished"
    return f"with {label} the training loss went from {digits(losses[0])} in the first epoch to {digits(losses[-1])}"


def _limit(study: Study, rates: Mapping[str, float], optimizer: Component) -> str:
    """At which rate a step overshoots, as far as the first weights tell, and what the rates beyond it came to."""
    given, first, headline = optimizer.parameters, next(iter(rates)), study.figures[0].name
    curvature, weight = study.mean(first, "curvature"), study.mean(first, "weight")
    if optimizer.type == "sgd" and not given["nesterov"] and curvature is not None and curvature > 0:
        limit = 2 * (1 + given["momentum"]) / curvature
        beyond = [label for label, rate in rates.items() if rate > limit]
        formula = f"2 (1 + momentum) / curvature = 2 x {1 + given['momentum']:.3g} / {digits(curvature)}"
        outcome = f" Rates beyond it: {study.listed(headline, beyond)}." if beyond else " All seven rates are below it."
        return (
            "Along the direction in which the loss bends most, steps swing up and no longer down where their rate "
            f"exceeds {formula} = {digits(limit)}. That is measured at the first weights, and training may come to "
            f"where the loss bends less, or more.{outcome}"
        )
    if optimizer.type in _BY_SIGN and weight is not None:
        most = list(rates)[-1]
        return (
            f"{optimizer.type} moves every weight by about the learning rate at a step, whatever the size of the "
            f"gradient. The first weights have a root mean square of {digits(weight)}: {most} moves them by "
            f"{digits(rates[most] / weight)} times their size at once."
        )
    return f"The rates came to: {study.listed(headline)}."
