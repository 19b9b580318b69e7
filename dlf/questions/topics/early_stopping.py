"""Early stopping: the epoch whose network is kept, chosen by samples that were not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch

from dlf.data import Part
from dlf.engine import Experiment, TrainState, evaluate
from dlf.errors import UsageError
from dlf.questions.design import Claim, Design, Measured, Subject, Variant
from dlf.questions.results import Course, Figure, Study, Training, digits
from dlf.questions.topics import Shipped, topic

_PATIENCE = {"monitor": "val_loss", "patience": 5}
_LONG = (
    "model.layers=[{type: linear, units: 128}, {type: linear, units: 64}]",
    "optimizer={type: adam, lr: 0.003}",
    "regularizers=[]",
    "metrics=[]",
    "train={epochs: 60}",
    "data.test=0",
    "data.validation=0.4",
)


@topic("When should training stop?", Shipped("breast_cancer", _LONG), Shipped("regression", _LONG))
def early_stopping(subject: Subject) -> Design:
    """All epochs, and early stopping: as configured, else after 5 epochs in which the validation loss has not improved.

    A half of the validation part decides when to stop. What that is worth is measured on the other half: the minimum of
    a course is below its end whatever is measured, so the samples that chose it cannot say.
    """
    choosing, other = _halves(subject)
    stopping = subject.config.dump()["train"]["early_stopping"] or _PATIENCE
    stopped, full = f"stopped, patience {stopping['patience']}", f"all {subject.config.train.epochs} epochs"
    headline = subject.headline.name.removeprefix("val_")
    loss = Figure("held_out_loss", "held-out loss")
    score = replace(subject.headline, name=f"held_out_{headline}", title=f"held-out {headline}")

    def probe(experiment: Experiment, state: TrainState) -> Measured:
        found = evaluate(state.network, experiment, other)
        return {loss.name: found["loss"], score.name: found[headline]}

    def explain(studies: Sequence[Study]) -> tuple[str, str]:
        return " ".join(map(_happened, studies)), _because(studies)

    return Design(
        variants=[
            Variant(full, {"train.early_stopping": None}),
            Variant(stopped, {"train.early_stopping": stopping}),
        ],
        claims=[
            Claim(stopped, "better", full, loss.name),
            Claim(stopped, "better", full, score.name),
            Claim(stopped, "less", full, "epochs"),
        ],
        figures=[loss, score, Figure("epochs", "epochs")],
        charts=[
            Course("val_loss", "loss of the half that chooses", log=True),
            Course("train_loss", "training loss", log=True),
        ],
        explain=explain,
        after=probe,
        data=lambda data: replace(data, validation=choosing),
    )


def _halves(subject: Subject) -> tuple[Part, Part]:
    """Every second sample of the validation part, and the others."""
    part = subject.data.validation
    if len(part) < 2:
        raise UsageError(f"{subject.config.name} validates on {len(part)} sample: set data.validation to 20 or more")
    places = torch.arange(len(part), device=part.y.device)
    return _taken(part, places[::2]), _taken(part, places[1::2])


def _taken(part: Part, places: torch.Tensor) -> Part:
    x = part.x.index_select(0, places if isinstance(part.x, torch.Tensor) else places.cpu())
    return Part(x, part.y.index_select(0, places))


def _happened(study: Study) -> str:
    loss, score, _ = study.differences
    full, stopped = loss.second, loss.first
    worth = loss.choose(
        appears="the network that was kept is better",
        absent="these seeds show no difference",
        opposite="the network that was kept is worse",
    )
    also = score.choose(appears="is better too", absent="shows no difference", opposite="is worse")
    return (
        f"{study.config}: half of the validation part, {study.samples[1]:,} samples, said when to stop; the other "
        f"half, which decided nothing, says what that is worth. There the loss is {study.shown(full, loss.figure)} "
        f"after {full} and {study.shown(stopped, loss.figure)} with early stopping: {worth} ({loss.measured}). The "
        f"{study.figure(score.figure).title.removeprefix('held-out ')} {also} ({score.measured}). "
        f"{_saved(study, stopped, full)}"
    )


def _saved(study: Study, stopped: str, full: str) -> str:
    """How many epochs were not needed."""
    counts = [training.epochs for training in study.arm(stopped).trainings if training.diverged is None]
    if not counts:
        return ""
    planned = study.arm(full).trainings[0].epochs
    if min(counts) == planned:
        return "No training stopped before its last epoch."
    return f"Of {planned} epochs {min(counts)} to {max(counts)} were trained, {fmean(counts):.3g} in the mean."


def _because(studies: Sequence[Study]) -> str:
    said = [
        "The training loss falls as long as training lasts. The loss of other samples falls with it while what is "
        "learned holds for them too, and rises where only the training samples gain."
    ]
    said += [_course(study) for study in studies]
    worth = [
        study.differences[0].choose(
            appears=f"on {study.config} that was right",
            absent=f"on {study.config} these seeds do not show that it matters",
            opposite=f"on {study.config} it chose the wrong one",
        )
        for study in studies
    ]
    said.append(
        "Early stopping keeps the weights of the epoch that looked best, and waits as long as its patience says, since "
        f"the course is noisy: {'; '.join(worth)}."
    )
    return " ".join(said)


def _course(study: Study) -> str:
    full = study.arm(study.differences[0].second)
    turns = [turn for training in full.trainings if (turn := _turn(training)) is not None]
    if not turns:
        return ""
    best, least, last, epochs = (fmean(column) for column in zip(*turns, strict=True))
    where = (
        f"Of {study.config} the validation loss is least at epoch {best:.3g} of {epochs:.0f} in the mean, with "
        f"{digits(least)}, and {digits(last)} at the end"
    )
    if last <= least * 1.01:  # a hundredth: less than the steps of such a course
        return f"{where}: it fell until the end, and there was nothing to stop."
    loss, score, _ = study.differences
    fitted = [spread.mean for spread in full.course("train_loss") if spread is not None]
    said = f"{where}, while the training loss went on to {digits(fitted[-1])}."
    if loss.mean is not None:
        gained, chosen = -loss.mean, last - least
        said += f" By the half that chose, stopping there gains {digits(chosen)}, by the other half {digits(gained)}"
        said += ": a choice flatters itself." if gained < chosen else "."
    if loss.verdict == "appears" and score.verdict != "appears" and "accuracy" in score.figure:
        said += " The accuracy gains nothing: the network that went on makes no more errors, it is surer of them."
    return said


def _turn(training: Training) -> tuple[int, float, float, int] | None:
    """The epoch of the least validation loss, that loss, the last one, and how many there were."""
    course = [math.inf if value is None else value for value in training.series.get("val_loss", ())]
    if not course or training.diverged:
        return None
    least = min(course)
    return course.index(least) + 1, least, course[-1], len(course)
