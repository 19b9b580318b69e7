"""Inputs on one scale: features in their own units bend the loss by amounts that differ by orders of magnitude."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlf.data import Data
from dlf.engine import Experiment, TrainState, outputs
from dlf.model import Network
from dlf.questions.design import Claim, Design, Measured, Subject, Variant
from dlf.questions.results import Course, Figure, Study, digits
from dlf.questions.topics import Shipped, topic

_RAW, _STANDARD = "as they are", "standardized"
_SAMPLES = 2048
_TABLE = ("data.validation=0.3", "train.epochs=30", "train.early_stopping=null", "metrics=[]")


@topic(
    "Why should inputs have one scale?",
    Shipped("breast_cancer", ("name=sgd", "optimizer={type: sgd, lr: 0.01, momentum: 0.9}", *_TABLE)),
    Shipped("breast_cancer", ("name=adamw", *_TABLE)),
)
def normalization(subject: Subject) -> Design:
    """The inputs standardized and as they are; of images also divided by 255."""
    is_bytes = subject.data.train.x[:1].dtype == torch.uint8
    kinds = {_STANDARD: "standard", **({"divided by 255": "unit"} if is_bytes else {}), _RAW: "none"}
    scale = _scales(subject.data)
    return Design(
        variants=[Variant(label, {"data.normalize": kind}) for label, kind in kinds.items()],
        claims=[Claim(_RAW, "worse", _STANDARD), Claim(_RAW, "more", _STANDARD, "first_loss")],
        figures=[subject.headline, Figure("train_loss", "training loss"), Figure("first_loss", "first loss")],
        charts=[subject.course, Course("train_loss", "training loss", log=True)],
        explain=lambda studies: _explain(studies, scale),
        before=_moments,
    )


def _scales(data: Data) -> str:
    """The least and the greatest standard deviation of the features, with their names."""
    spread = data.train.x[:_SAMPLES].flatten(1).double().std(dim=0)
    least, most = int(torch.where(spread > 0, spread, torch.inf).argmin()), int(spread.argmax())
    names = data.features or tuple(f"input {index}" for index in range(len(spread)))
    low, high = spread[least].item(), spread[most].item()
    said = f"{names[least]} varies by {digits(low)} and {names[most]} by {digits(high)} (standard deviations)"
    return f"{said}, a factor of {digits(high / low)}" if low > 0 else said


def _moments(experiment: Experiment, state: TrainState) -> Measured:
    """The loss before the first step, and the eigenvalues of the inputs' second moments, mean(x x^T).

    As these are, so the loss bends along the weights of a linear layer that sees x: `most` is the largest, `ratio` that
    to the least one above rounding.
    """
    part, network = experiment.data.train, state.network
    x = part.x[:_SAMPLES]
    loss = experiment.loss(outputs(network, x), network.scaled(part.y[:_SAMPLES]))
    values = _eigenvalues(network, x)
    least = values[values > 1e-12 * values[-1]][0]
    return {"first_loss": loss.item(), "most": values[-1].item(), "ratio": (values[-1] / least).item()}


def _eigenvalues(network: Network, x: Tensor) -> Tensor:
    """In rising order, (features,), float64."""
    seen = network.normalize(x).flatten(1).double()
    values: Tensor = torch.linalg.eigvalsh(seen.T @ seen / len(seen))
    return values


def _explain(studies: Sequence[Study], scale: str) -> tuple[str, str]:
    happened = (
        "The same samples were trained on standardized (every feature less its mean, over its standard deviation) and "
        f"as they are. {' '.join(map(_happened, studies))}"
    )
    study = studies[0]
    curved, stretched = ((study.shown(_RAW, name), study.shown(_STANDARD, name)) for name in ("most", "ratio"))
    because = (
        f"Of these data {scale}. The gradient of a weight is the error times its input, so along the first layer's "
        f"weights the loss bends as the inputs' second moments do: by at most {curved[0]} as they are and {curved[1]} "
        f"standardized, where the most and the least bent direction differ by a factor of {stretched[0]} and "
        f"{stretched[1]}. One learning rate has to serve all directions, and what is short enough for the steepest is "
        f"slow along the others. {' '.join(map(_because, studies))}"
    )
    return happened, because


def _happened(study: Study) -> str:
    result, _ = study.differences
    headline = study.figures[0]
    effect = result.choose(
        appears="without one scale it learns less",
        absent="the difference is within what the seeds do",
        opposite="on these data it learns more without",
    )
    return (
        f"{study.config}: the {headline.title} is {study.shown(_STANDARD, headline.name)} standardized and "
        f"{study.shown(_RAW, headline.name)} as they are ({result.measured}): {effect}."
    )


def _because(study: Study) -> str:
    first = study.differences[1]
    begins = f"{study.config} begins with a loss of {study.shown(_RAW, 'first_loss')} in the place of "
    return (
        begins
        + study.shown(_STANDARD, "first_loss")
        + first.choose(
            appears=": sums of large numbers give answers that are sure, and mostly wrong.",
            absent=", a difference that these seeds do not show to be more than chance.",
            opposite=": it is not the start that suffers.",
        )
    )
