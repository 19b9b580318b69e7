"""What activations are for: without them a deep network is one matrix, whatever its depth."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from dlf.collapse import collapse
from dlf.engine import Experiment, TrainState, outputs
from dlf.errors import UsageError
from dlf.model import draw, realize
from dlf.modules import Activate, Weighted
from dlf.questions.design import Claim, Design, Measured, Subject, Variant, varied
from dlf.questions.results import Figure, Study, digits
from dlf.questions.topics import Shipped, topic

_SAMPLES = 1024


def _ten_matrices(units: int) -> str:
    """Nine hidden layers; the output layer is the tenth."""
    return f"model.layers=[{', '.join([f'{{type: linear, units: {units}}}'] * 9)}]"


_POINTS = (_ten_matrices(32), "model.activation=relu", "optimizer={type: adam, lr: 0.001}", "schedule=constant")
_IMAGES = ("data.limit=11000", "data.validation=1000", "loss=cross_entropy", "train.epochs=5", "model.init=he_normal")


@topic(
    "Why does a deep network need activations?",
    Shipped("xor", (*_POINTS, "train.epochs=20")),
    Shipped("spiral", (*_POINTS, "train.epochs=60")),
    Shipped("mnist", (_ten_matrices(64), "optimizer={type: adam, lr: 0.002}", "schedule=constant", *_IMAGES)),
)
def activations(subject: Subject) -> Design:
    """The network as it is, and with the identity in the place of every hidden activation."""
    identity = {"type": "identity"}
    layers = subject.layers(activation=None, function=identity)
    without = Variant("without activations", {"model.activation": identity, "model.layers": layers})
    _check_is_linear(subject, without)
    given = Variant(f"with {_names(subject)}")
    return Design(
        variants=[given, without],
        claims=[Claim(without.label, "worse", given.label)],
        figures=[subject.headline, Figure("train_loss", "training loss"), Figure("collapsed", "distance to matrix")],
        charts=[subject.course],
        explain=_explain,
        after=_collapsed,
    )


def _names(subject: Subject) -> str:
    """The hidden activations of the network; UsageError where it has none."""
    hidden = [row.module for row in subject.blueprint.rows[:-1]]
    bending = [module for row in hidden for module in row.modules() if isinstance(module, Weighted | Activate)]
    names = sorted({module.activation.type for module in bending} - {"identity"})
    if not names:
        raise UsageError(f"{subject.config.name} has no hidden layer with an activation that could be left out")
    return " and ".join(names)


def _check_is_linear(subject: Subject, without: Variant) -> None:
    """UsageError, before anything is trained, where a layer bends what it gets without an activation too."""
    network = realize(draw(varied(subject, without), subject.data.spec), subject.data, 0, torch.device("cpu"))
    try:
        collapse(network)
    except UsageError as error:
        raise UsageError(f"{subject.config.name} without activations is still no matrix: {error}.") from None


def _collapsed(experiment: Experiment, state: TrainState) -> Measured:
    """Where the network is linear: `collapsed`, the largest difference of its outputs to its one matrix's, in float64.

    `outputs` is the largest output. `matrices` of the network, with `parameters` numbers in all, become one of `rows` x
    `columns`.
    """
    try:
        matrix, shift = collapse(state.network)
    except UsageError:
        return {}
    network = copy.deepcopy(state.network).to("cpu", torch.float64)
    x = experiment.data.validation.x[:_SAMPLES].cpu()
    seen = outputs(network, x)
    collapsed = network.normalize(x).flatten(1) @ matrix.T + shift
    parameters = list(network.parameters())
    return {
        "collapsed": (seen - collapsed).abs().max().item(),
        "outputs": seen.abs().max().item(),
        "matrices": sum(parameter.ndim > 1 for parameter in parameters),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "rows": matrix.shape[0],
        "columns": matrix.shape[1],
    }


def _explain(studies: Sequence[Study]) -> tuple[str, str]:
    because = (
        "Without an activation a layer is W x + b, and two of them behind each other are W2 (W1 x + b1) + b2 = "
        "(W2 W1) x + (W2 b1 + b2): one layer again, and so for any number of them. "
    )
    ended = [study for study in studies if "collapsed" in study.arm(study.differences[0].first).spreads]
    if ended:
        products = "; ".join(map(_product, ended))
        because += f"Multiplied out: {products}. That is rounding: whatever the depth, it is one affine map, "
        because += f"and as good as one: {', '.join(map(_as_good, ended))}."
    return " ".join(map(_happened, studies)), because


def _happened(study: Study) -> str:
    (difference,) = study.differences
    without, given, headline = difference.first, difference.second, study.figures[0].name
    verdict = difference.choose(
        appears="without them the network learns less",
        absent="on these data no effect is to be seen beyond what the seeds do",
        opposite="on these data it is even better without them",
    )
    return (
        f"{study.config}: the {study.figures[0].title} is {study.shown(given, headline)} {given} and "
        f"{study.shown(without, headline)} {without} ({difference.measured}); {verdict}. The training loss ends at "
        f"{study.shown(given, 'train_loss')} and {study.shown(without, 'train_loss')}."
    )


def _product(study: Study) -> str:
    """What the matrices of this network are together, and the largest difference over all seeds."""
    without = study.arm(study.differences[0].first)
    matrices, parameters, rows, columns, largest = (
        without.spreads[name].mean for name in ("matrices", "parameters", "rows", "columns", "outputs")
    )
    worst = max(t.figures.get("collapsed") or 0.0 for t in without.trainings)
    return (
        f"the {matrices:.0f} matrices of {study.config}, with biases {parameters:,.0f} numbers, are one of {rows:.0f} "
        f"x {columns:.0f}, whose outputs (up to {digits(largest)}) differ from the network's by at most "
        f"{digits(worst)} in float64"
    )


def _as_good(study: Study) -> str:
    """How good that affine map is, and whether the data ask for more."""
    (difference,) = study.differences
    enough = difference.choose(
        appears="which is not enough",
        absent="which is all that is to be seen here",
        opposite="which is easier to train",
    )
    return f"{study.shown(difference.first, study.figures[0].name)} on {study.config}, {enough}"
