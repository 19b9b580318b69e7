"""Dropout: hidden units silenced at random, so that what is learned cannot rest on single ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dlf.engine import Experiment, TrainState, evaluate
from dlf.model import draw, realize
from dlf.modules import Dropout
from dlf.questions.design import Claim, Design, Measured, Probe, Subject, Variant, varied
from dlf.questions.results import Course, Figure, Study
from dlf.questions.surgery import has, hidden, with_dropout, without
from dlf.questions.topics import Shipped, topic

_RATE = 0.5
_KINDS = ("dropout", "alpha_dropout")
_SAMPLES = 2048
_LONG = (
    "model.layers=[{type: linear, units: 128}, {type: linear, units: 128}]",
    "optimizer={type: adam, lr: 0.003}",
    "schedule=constant",
    "regularizers=[]",
    "metrics=[]",
    "train={epochs: 60}",
    "data.test=0",
)


@topic(
    "Why silence units at random?",
    Shipped("regression", (*_LONG, "data.validation=0.3")),
    Shipped("digits", (*_LONG, "data.validation=0.5", "data.limit=600")),
)
def dropout(subject: Subject) -> Design:
    """The network without dropout, and with it: as configured, else of a half behind every hidden layer."""
    plain, dropped = _variants(subject)
    return Design(
        variants=[plain, dropped],
        claims=[
            Claim(dropped.label, "less", plain.label, "gap"),
            Claim(dropped.label, "better", plain.label, "val_loss"),
            Claim(dropped.label, "better", plain.label, subject.headline.name),
        ],
        figures=[
            Figure("val_loss", "validation loss"),
            Figure("fitted_loss", "training loss"),
            Figure("gap", "gap"),
            subject.headline,
        ],
        charts=[Course("val_loss", "validation loss", log=True), subject.course],
        explain=_explain,
        after=_gap_and_reliance(subject, dropped),
    )


def _variants(subject: Subject) -> tuple[Variant, Variant]:
    plain = hidden(subject, lambda layers: without(layers, *_KINDS))
    if has(subject.layers(), *_KINDS):
        label, layers = "with dropout", hidden(subject, list)
    else:
        label, layers = f"with dropout {_RATE:g}", hidden(subject, lambda own: with_dropout(own, _RATE))
    return Variant("without dropout", {"model.layers": plain}), Variant(label, {"model.layers": layers})


def _gap_and_reliance(subject: Subject, dropped: Variant) -> Probe:
    """A probe: the loss of the training part measured as that of the validation part is, without dropout; the gap.

    And `silenced`: the loss of the validation part while units are silenced as dropout does, in either network.
    """
    config = varied(subject, dropped)

    def probe(experiment: Experiment, state: TrainState) -> Measured:
        fitted = evaluate(state.network, experiment, experiment.data.train)["loss"]
        part = experiment.data.validation
        seen = evaluate(state.network, experiment, part)["loss"]
        device = part.y.device
        silenced = realize(draw(config, experiment.data.spec), experiment.data, 0, device)
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for own, theirs in zip(_tensors(silenced), _tensors(state.network), strict=True):
                own.copy_(theirs)
            silenced.eval()
            for module in silenced.modules():
                if isinstance(module, Dropout | nn.AlphaDropout):
                    module.train()
            torch.manual_seed(experiment.seed)
            loss = experiment.loss(silenced(part.x[:_SAMPLES]), silenced.scaled(part.y[:_SAMPLES]))
        return {"fitted_loss": fitted, "gap": seen - fitted, "silenced": loss.item()}

    return probe


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers in the order of the layers; dropout has neither."""
    return [*network.parameters(), *network.buffers()]


def _explain(studies: Sequence[Study]) -> tuple[str, str]:
    return " ".join(map(_happened, studies)), _because(studies)


def _happened(study: Study) -> str:
    gap, loss, result = study.differences
    plain, dropped = gap.second, gap.first
    closed = gap.choose(
        appears="dropout narrows it",
        absent="as far as these seeds show dropout leaves it as it is",
        opposite="dropout widens it",
    )
    helps = loss.choose(
        appears="it pays: the validation loss is lower",
        absent="the validation loss is neither better nor worse for it",
        opposite="it does harm: the validation loss is higher",
    )
    also = result.choose(appears="is better too", absent="shows no difference", opposite="is worse")
    return (
        f"{study.config} {plain}: the loss is {study.shown(plain, 'fitted_loss')} on the {study.samples[0]:,} samples "
        f"that were trained on and {study.shown(plain, 'val_loss')} on the validation part, a gap of "
        f"{study.shown(plain, 'gap')}. {dropped.capitalize()} it is {study.shown(dropped, 'fitted_loss')} and "
        f"{study.shown(dropped, 'val_loss')}, a gap of {study.shown(dropped, 'gap')}: {closed} ({gap.measured}), and "
        f"{helps} ({loss.measured}). The {study.figure(result.figure).title} {also} ({result.measured})."
    )


def _because(studies: Sequence[Study]) -> str:
    said = [
        "In training, dropout sets every unit's value to 0 with a fixed probability, anew at every step, and enlarges "
        "the others to the same mean; afterwards it does nothing. A unit has to be of use whichever others are there."
    ]
    for study in studies:
        plain, dropped = (arm.label for arm in study.arms)
        rose, less_rose = (_rise(study, label) for label in (plain, dropped))
        if rose is None or less_rose is None:
            continue
        robust = "leans less on single units" if less_rose < rose else "leans on single units no less"
        said.append(
            f"With units silenced in the same way after training, the validation loss of {study.config} is {rose:.3g} "
            f"times as large {plain} and {less_rose:.3g} times {dropped}: the network {dropped} {robust}."
        )
        said.append(_price(study, plain, dropped))
    return " ".join(said)


def _rise(study: Study, label: str) -> float | None:
    """By what factor the mean validation loss rises when units are silenced."""
    spread, loss = study.arm(label).spreads.get("silenced"), study.mean(label, "val_loss")
    return spread.mean / loss if spread is not None and loss else None


def _price(study: Study, plain: str, dropped: str) -> str:
    loss = study.differences[1]
    fitted, hindered = study.mean(plain, "fitted_loss"), study.mean(dropped, "fitted_loss")
    if fitted is None or hindered is None:
        return ""
    if hindered <= fitted:
        return "It fits the training part no worse for that."
    return {
        "appears": "It fits the training part less closely, and what it gave up there was learned by heart.",
        "absent": "It fits the training part less closely, and on other samples that shows neither gain nor loss.",
        "opposite": "It fits the training part less closely, and other samples too: here it had nothing to prevent.",
    }[loss.verdict]
