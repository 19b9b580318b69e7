"""Signals forward and backward: how they grow and shrink from layer to layer, as predicted and as measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import nn

from dlf.checks import propagation
from dlf.checks.looking import walk
from dlf.checks.prepared import Prepared
from dlf.findings import Finding, Verdict
from dlf.modules import Activate, Weighted

# A layer of sigmoids shrinks the differences between samples to a quarter, and gradients too. Three of them, a factor
# of 100, still train, slowly; with seven, 10,000, what tells samples apart is a ten-thousandth of what they share.
UNUSUAL = 1e2
BROKEN = 1e4
# Of relu's units a tenth or less is silent for all of 256 samples at the start, a third in twelve layers.
MANY_DEAD = 0.5
NEARLY_ALL_DEAD = 0.9


# --- as the initialisers promise ------------------------------------------------------------------------------------


def as_initialised(prepared: Prepared) -> list[Finding]:
    """Sizes as the initialisers promise, within what the widths leave to chance."""
    rows = [row for row in prepared.signals if row.expected_size is not None and math.isfinite(row.size)]
    judged = [row for row in rows if row.tolerance is not None and row.tolerance > 1]
    if not judged:
        return []
    row = max(judged, key=_surprise)
    said = (
        f"the outputs of layer {row.layer} have size {row.size:.3g}; {row.expected_size:.3g} follows from the "
        f"initialisers, within a factor of {row.tolerance:.3g}"
    )
    if _surprise(row) <= 1:
        said += f" ({len(judged)} layers, this one the farthest)" if len(judged) > 1 else ""
        return [Finding("initialisation", "pass", said, row.size, row.tolerance, layer=row.layer)]
    remedy = "the weights are not as their initialiser draws them: were they changed, or set to something else?"
    more = "docs/lesson.md#initialization"
    return [Finding("initialisation", "warn", said, row.size, row.tolerance, remedy, more, row.layer)]


def _surprise(row: propagation.LayerSignal) -> float:
    """How far a size is from the expected one, in tolerances: 1 is the border. A size of 0 is as far as can be."""
    assert row.expected_size is not None
    assert row.tolerance is not None
    if row.expected_size == 0 or row.size == 0:
        return 0.0 if row.expected_size == row.size else math.inf
    return abs(math.log(row.size / row.expected_size)) / math.log(row.tolerance)


# --- growth and decay over the depth --------------------------------------------------------------------------------


def forward(prepared: Prepared) -> list[Finding]:
    """The spread between samples at the last hidden layer, beside that of the inputs."""
    weighted = _weighted(prepared)
    look = prepared.look
    if len(weighted) < 2:
        return []
    first, last = weighted[0], weighted[-1]
    before = propagation.measured(look.inputs[first]).spread
    signal = propagation.measured(look.inputs[last])
    if not before:
        return []  # samples that are all equal: the data checks say so
    ratio = signal.spread / before
    hidden = len(weighted) - 1
    what = (
        f"from the input to the last of {hidden} hidden layers the spread between samples goes from {before:.3g} to "
        f"{signal.spread:.3g}, {_per_layer(ratio, hidden)}"
    )
    return [_judged("signal_spread", what, ratio, _forward_remedy(prepared, ratio), "dlf why initialization")]


def _forward_remedy(prepared: Prepared, ratio: float) -> str:
    if ratio == 0:
        return "all samples look the same to the last layers: let model.init be auto, and activations not all be 0"
    if ratio < 1:
        return "take relu with he_normal (model.activation, model.init: auto), fewer layers, or a norm between them"
    return "lower the initial weights (model.init: auto), or put a batch_norm or layer_norm between the layers"


def backward(prepared: Prepared) -> list[Finding]:
    """The gradient at the first layer's outputs, beside that at the last hidden layer's."""
    weighted = _weighted(prepared)
    if len(weighted) < 3:
        return []
    at = [propagation.gradient_size(prepared.look.gradients[index]) for index in (weighted[0], weighted[-2])]
    if at[0] is None or not at[1]:
        return []  # the check of the parameters names those that get no gradient
    ratio = at[0] / at[1]
    what = (
        f"the gradient of a sample's loss by the outputs of layer {weighted[0]} has norm {at[0]:.3g}, by those of "
        f"layer {weighted[-2]} {at[1]:.3g}, {_per_layer(ratio, len(weighted) - 2)}"
    )
    remedy = (
        "the first layers learn nothing in this time: take relu with he_normal, fewer layers, norms or residual blocks"
        if ratio < 1
        else "the first layers' updates explode: lower the initial weights, clip gradients (clip_norm), or put norms"
    )
    return [_judged("gradient_spread", what, ratio, remedy, "dlf why depth")]


def _per_layer(ratio: float, layers: int) -> str:
    if ratio == 0 or not math.isfinite(ratio):
        return f"a factor of {ratio:g}"
    return f"a factor of {ratio:.3g}" + (f", {ratio ** (1 / layers):.2g} a layer" if layers > 1 else "")


def _judged(name: str, what: str, ratio: float, remedy: str, more: str) -> Finding:
    """By the factor, whichever way it goes."""
    factor = math.inf if ratio == 0 or not math.isfinite(ratio) else max(ratio, 1 / ratio)
    verdict: Verdict = "fail" if factor > BROKEN else "warn" if factor > UNUSUAL else "pass"
    threshold = BROKEN if verdict == "fail" else UNUSUAL
    said = f"{what}; within a factor of {threshold:g} is {'usual' if verdict != 'fail' else 'trainable'}"
    advice = {"remedy": remedy, "more": more} if verdict != "pass" else {}
    return Finding(name, verdict, said, ratio, 1 / threshold if ratio < 1 else threshold, **advice)


def _weighted(prepared: Prepared) -> Sequence[str]:
    """The indices of the layers with a weighted sum, and of blocks that hold some; from the input on."""
    return [
        index
        for index, layer in walk(prepared.network.layers)
        if "." not in index and any(isinstance(module, Weighted) for module in layer.modules())
    ]


# --- silent units ---------------------------------------------------------------------------------------------------


def dead_units(prepared: Prepared) -> list[Finding]:
    """Units of hidden layers whose output is 0 for every sample: no gradient reaches their weights."""
    hidden = list(_silent(prepared))
    if not hidden:
        return []
    index, share = max(hidden, key=lambda found: found[1])
    samples = len(prepared.x)
    said = f"{share:.0%} of the units of layer {index} give 0 for each of {samples} samples"
    verdict: Verdict = "fail" if share > NEARLY_ALL_DEAD else "warn" if share > MANY_DEAD else "pass"
    if verdict == "pass":
        said = f"at most {said}" if share else f"no unit gives 0 for each of {samples} samples"
        return [Finding("dead_units", "pass", said, share, MANY_DEAD)]
    remedy = "they learn nothing: take leaky_relu, or model.init: auto; look at the biases and the scale of the inputs"
    threshold = NEARLY_ALL_DEAD if verdict == "fail" else MANY_DEAD
    said += f"; {threshold:.0%} is the most that is accepted"
    return [Finding("dead_units", verdict, said, share, threshold, remedy, "dlf why activations", index)]


def _silent(prepared: Prepared) -> Iterator[tuple[str, float]]:
    """The share of units, or channels, of each hidden layer that are 0 throughout."""
    last = _weighted(prepared)[-1:]
    for index, layer in walk(prepared.network.layers):
        if isinstance(layer, Weighted | Activate | nn.PReLU) and index not in last:
            output = prepared.look.outputs[index]
            zero = (output == 0).flatten(2).all(2) if output.ndim > 2 else output == 0  # (n, units)
            yield index, float(zero.all(0).double().mean())
