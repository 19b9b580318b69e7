"""What the network can express: whether its depth is more than one matrix, and whether its outputs reach their targets.

Both are found by trying, whatever the activations are called.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from dlf.checks.looking import ROUNDING, Look, walk
from dlf.checks.prepared import Prepared
from dlf.findings import Finding
from dlf.layers import Residual
from dlf.modules import Maxout, Weighted

REACH = 0.99  # probability that a classifier must be able to give, and 1 - REACH to the others
_LARGE = 1e4  # weights of an output layer that drive its outputs to their ends: far beyond every bound, exp() holds out
_OUTSIDE = 0.01  # of the targets may be out of reach: outliers
# Weighted sums on which an activation is tried: no kink lies in the middle of two, and they reach beyond every bend.
_SUMS = 5 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
_NO_ACTIVATION = "end the output layer in no activation (identity)"

# --- nonlinearity between the layers --------------------------------------------------------------------------------


def nonlinearity(prepared: Prepared) -> list[Finding]:
    """Between two weighted sums stands something that bends; without, both are one matrix.

    A network without hidden layers is a linear model and means to be. One with hidden layers that is linear all the
    same computes what a single layer would, at the price of several: that is a failure. A single pair of layers without
    an activation between them (a bottleneck) may be meant, and so may one with nothing but a layer_norm, which bends
    little: a warning.
    """
    network = copy.deepcopy(prepared.network).eval()
    weighted = [(index, layer) for index, layer in walk(network.layers) if isinstance(layer, Weighted)]
    if len(weighted) < 2:
        said = "the network has no hidden layer: it is a linear model, as the baseline is"
        return [Finding("nonlinearity", "pass", said, 0.0, 0.0)]
    more = "dlf why activations"
    if is_affine(partial(_given_to, weighted[-1][1], network.layers), _mirrored(network.normalize(prepared.x))):
        said = f"no activation bends anything: the {len(weighted)} layers with weights are together one matrix"
        remedy = "set model.activation (relu), or leave the hidden layers out: a linear model is the same, and cheaper"
        return [Finding("nonlinearity", "fail", said, float(len(weighted) - 1), 0.0, remedy, more, weighted[0][0])]
    pairs = list(_without_activation(prepared.look, network.layers))
    if not pairs:
        said = f"something bends between any two of the {len(weighted)} layers with weights"
        return [Finding("nonlinearity", "pass", said, 0.0, 0.0)]
    named = ", ".join(f"{first} and {second}" for first, second in pairs)
    said = f"no activation stands between layers {named}: without a norm such a pair is one matrix"
    remedy = "set an activation between them, unless the first is a bottleneck on purpose"
    return [Finding("nonlinearity", "warn", said, float(len(pairs)), 0.0, remedy, more, pairs[0][0])]


def _given_to(layer: nn.Module, layers: nn.Module, x: Tensor) -> Tensor:
    """What this layer gets when all layers get x."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        layers(x)
    finally:
        hook.remove()
    return seen[0]


def _without_activation(look: Look, layers: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The pairs of weighted layers with nothing but affine maps and norms between them."""
    before: str | None = None  # the last weighted layer, while no activation came since
    for number, layer in enumerate(layers):
        index = f"{prefix}{number}"
        if isinstance(layer, Residual):
            yield from _without_activation(look, layer.body, f"{index}.")
            before = None
        elif isinstance(layer, Weighted) and not isinstance(layer, Maxout):
            if before is not None:
                yield before, index
            before = index if is_affine(layer.activate, _SUMS) else None
        elif not isinstance(layer, nn.LayerNorm | nn.RMSNorm) and not is_affine(layer, _mirrored(look.inputs[index])):
            before = None


def _mirrored(x: Tensor) -> Tensor:
    """Some of the samples, and ten times what lies on the other side of 0: beyond every bend of an activation."""
    return torch.cat([x[:16], -10 * x[:16]])


def is_affine(function: Callable[[Tensor], Tensor], points: Tensor) -> bool:
    """Whether f((x + x') / 2) = (f(x) + f(x')) / 2, to rounding, for points x in pairs with others x' (n, ...).

    What gives the same for all points bends nothing either, and has other faults: it is not called affine.
    """
    others = points.roll(1, 0)
    with torch.no_grad():  # clones: an activation may write over what it is given
        middle, first, second = (function(p.clone()) for p in ((points + others) / 2, points, others))
    apart = (first - second).abs().max()
    return bool(apart > 0) and bool((middle - (first + second) / 2).abs().max() <= ROUNDING * first.abs().max())


# --- the range of the outputs ---------------------------------------------------------------------------------------


def output_range(prepared: Prepared) -> list[Finding]:
    """What the outputs can be, found by making the last weights huge, beside what the loss needs them to be."""
    low, high, sums = _reached(prepared)
    if prepared.takes == "log_probabilities":
        return [_log_probabilities(sums)]
    if prepared.takes == "values":
        return [_values(prepared, low, high)]
    if high == low:
        said = f"the outputs are {low:.3g} whatever the weights of the last layer are"
        remedy = "leave the output layer to dlf (model.output: auto)"
        return [Finding("output_range", "fail", said, 0.0, None, remedy, "docs/lesson.md#loss")]
    if prepared.takes == "scores":
        return [_scores(prepared, low, high)]
    return [_logits(prepared, low, high, sums)]


def _reached(prepared: Prepared) -> tuple[float, float, float]:
    """The least and greatest output with huge weights, and the farthest that log sum exp of a sample's is from 0."""
    network = copy.deepcopy(prepared.network).eval()
    weighted = [layer for layer in network.modules() if isinstance(layer, Weighted)]
    generator = torch.Generator().manual_seed(prepared.experiment.seed)
    seen = []
    for sign in (1, -1):  # what one drives to one end, the other drives to the other
        for parameter in weighted[-1].parameters() if weighted else ():
            if sign > 0:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data.copy_(_LARGE * drawn)
            parameter.data *= sign
        with torch.no_grad():
            seen.append(network(prepared.x[:64]))
    output = torch.cat(seen)
    return float(output.min()), float(output.max()), float(output.logsumexp(1).abs().max())


def _logits(prepared: Prepared, low: float, high: float, sums: float) -> Finding:
    binary = prepared.experiment.task == "binary"
    name, more = prepared.experiment.loss.name, "docs/lesson.md#loss"
    classes = prepared.look.output.shape[1]
    if binary:
        least, greatest = (1 / (1 + math.exp(-max(-700.0, bound))) for bound in (low, high))
    else:  # one output at its upper end, the others at their lower end, and the other way round
        width = min(high - low, 700.0)
        greatest = 1 / (1 + (classes - 1) * math.exp(-width))
        least = 1 / (1 + (classes - 1) * math.exp(width))
        if sums < ROUNDING * _LARGE and high <= ROUNDING:
            said = f"the outputs are log-probabilities already, and {name} takes their log_softmax once more: no change"
            return Finding("output_range", "warn", said, sums, 0.0, "drop the log_softmax, or take the loss nll", more)
    said = (
        f"with the outputs between {low:.3g} and {high:.3g} {name} gives probabilities of {least:.2g} to {greatest:.2g}"
    )
    if greatest < REACH or least > 1 - REACH:
        remedy = f"{name} applies softmax or sigmoid itself: the output layer must end in no activation (identity)"
        said += f": {REACH} and {1 - REACH:.2g} are out of reach"
        value = greatest if greatest < REACH else least
        return Finding("output_range", "fail", said, value, REACH if greatest < REACH else 1 - REACH, remedy, more)
    if min(abs(low), abs(high)) < _LARGE / 100 < max(abs(low), abs(high)):
        end = f"none is {'below' if abs(low) < abs(high) else 'above'} {low if abs(low) < abs(high) else high:.3g}"
        said = f"the outputs are open to one side only: {end}, and {name} takes logits of any size"
        return Finding(
            "output_range", "warn", said, low, None, "end the output layer in no activation (identity)", more
        )
    return Finding("output_range", "pass", f"the outputs can be of any size, as {name} takes them", high, None)


def _scores(prepared: Prepared, low: float, high: float) -> Finding:
    margin = float(prepared.experiment.loss.parameters.get("margin", 1.0))
    binary = prepared.look.output.shape[1] == 1
    name = prepared.experiment.loss.name
    reach = min(high, -low) if binary else high - low
    if reach >= margin:
        return Finding("output_range", "pass", f"the outputs can be as far apart as {name} asks", reach, margin)
    said = f"the outputs stay between {low:.3g} and {high:.3g}: {name} never reaches its margin of {margin:g}"
    remedy = _NO_ACTIVATION
    return Finding("output_range", "fail", said, reach, margin, remedy, "docs/lesson.md#loss")


def _values(prepared: Prepared, low: float, high: float) -> Finding:
    targets = prepared.targets
    outside = float(((targets < low) | (targets > high)).double().mean())
    said = f"{outside:.0%} of the standardized targets lie outside of what the outputs can be, {low:.3g} to {high:.3g}"
    if outside <= _OUTSIDE:
        return Finding(
            "output_range", "pass", "the outputs can be as small and as large as the targets", outside, _OUTSIDE
        )
    remedy = "end the output layer in no activation (identity): targets are standardized, half of them is negative"
    return Finding("output_range", "fail", said, outside, _OUTSIDE, remedy, "docs/lesson.md#loss")


def _log_probabilities(sums: float) -> Finding:
    if sums < ROUNDING * _LARGE:
        said = "the outputs are logarithms of probabilities that add up to 1"
        return Finding("output_range", "pass", said, sums, 0.0)
    said = f"the loss takes log-probabilities, and the logarithm of the sum of theirs is {sums:.3g}, not 0"
    remedy = "end the network in log_softmax, or take the loss cross_entropy"
    return Finding("output_range", "fail", said, sums, 0.0, remedy, "docs/lesson.md#loss")
