"""The network before its first step: what its loss, its gradients and its outputs must be, whatever it will learn."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dlf.checks.looking import ROUNDING, Look, owners, walk
from dlf.checks.prepared import Prepared, uninformed
from dlf.findings import Finding
from dlf.losses import BoundLoss
from dlf.modules import Dropout, Weighted

# Times the loss of outputs that say nothing. Initial outputs of variance s^2 add s^2 / 2 to a cross-entropy and s^2 to
# a squared error, and He's and Xavier's formulas give s^2 of 1 to 3: 1.5 and 4 times. A narrow last layer doubles that.
HIGH_LOSS = 6.0
ABSURD_LOSS = 20.0
KNOWING_LOSS = 0.5  # a network that has seen nothing is no better than ignorance by so much
SHIFTS = 16
SMALL_BATCH = 8  # statistics of fewer samples are wrong by a third and more: sqrt(1 / (2 * 8)) = 0.25 for a spread


# --- the first loss -------------------------------------------------------------------------------------------------


def first_loss(prepared: Prepared) -> list[Finding]:
    """The loss beside that of outputs that say nothing, and what the spread of the outputs adds to it."""
    look, loss = prepared.look, prepared.experiment.loss
    targets = prepared.targets
    blank = float(loss(uninformed(look.output, prepared.takes), targets))
    value = float(look.loss)
    if not math.isfinite(value):
        remedy = "look at the initial weights and at the scale of the inputs"
        return [Finding("first_loss", "fail", f"the first loss is {value}", None, None, remedy, "docs/lesson.md#loss")]
    expected = unrelated(prepared)
    said = (
        f"the first loss is {value:.3g}; outputs that say nothing have {blank:.3g}, "
        f"{constant(loss, look.output.shape[1])}, and ones as large as these {expected:.3g}"
    )
    ratio = value / blank if blank else math.inf
    if ratio > HIGH_LOSS:
        threshold = ABSURD_LOSS if ratio > ABSURD_LOSS else HIGH_LOSS
        remedy = "the outputs are too large: scale the inputs (data.normalize: standard), let model.init be auto"
        verdict = "fail" if ratio > ABSURD_LOSS else "warn"
        said += f"; {threshold:g} times the former is {'absurd' if verdict == 'fail' else 'high'}"
        return [Finding("first_loss", verdict, said, value, threshold * blank, remedy, "docs/lesson.md#loss")]  # type: ignore[arg-type]
    if ratio < KNOWING_LOSS:
        remedy = "an untrained network knows nothing: were its weights trained on these data, or do the inputs say y?"
        return [Finding("first_loss", "warn", said, value, KNOWING_LOSS * blank, remedy, "docs/lesson.md#loss")]
    return [Finding("first_loss", "pass", said, value, HIGH_LOSS * blank)]


def constant(loss: BoundLoss, units: int) -> str:
    """In words, what a loss is where the outputs say nothing."""
    given = loss.parameters
    plain = given.get("class_weights") is None and given.get("positive_weight", 1.0) == 1.0
    weighed = "" if plain else " times the weights of the classes"
    words = {
        "cross_entropy": f"ln {units}{weighed}",
        "nll": f"ln {units}{weighed}",
        "kl_div": f"ln {units} less the entropy of the smoothed labels",
        "binary_cross_entropy": f"ln 2{weighed}",
        "hinge": "its margin",
        "mse": "the variance of the standardized targets",
        "mae": "the mean size of the standardized targets",
        "huber": "huber's mean of the standardized targets",
    }
    return words.get(loss.name, "outputs all 0")


def unrelated(prepared: Prepared) -> float:
    """The loss if these outputs had nothing to do with the targets: the mean over pairings with other targets.

    For logits of variance s^2 it is about ln C + s^2 / 2, for squared errors the variance of the targets plus s^2.
    """
    output, targets, n = prepared.look.output, prepared.targets, len(prepared.x)
    shifts = sorted({1 + (n - 1) * k // SHIFTS for k in range(SHIFTS)} & set(range(n))) or [0]
    loss = prepared.experiment.loss
    return float(torch.stack([loss(output, targets.roll(shift, 0)) for shift in shifts]).mean())


# --- gradients ------------------------------------------------------------------------------------------------------


def parameters_learn(prepared: Prepared) -> list[Finding]:
    """Every parameter is trained, and its gradient is a number and not 0; those that are not are named by layer."""
    layer_of = owners(prepared.network)
    frozen = {name for name, p in prepared.state.network.named_parameters() if not p.requires_grad}
    strange = _left_out(prepared)
    found = list(_not_trained("frozen_layer", "are frozen (requires_grad is False)", frozen, layer_of))
    found += _not_trained("frozen_layer", "are in no group of the optimizer", strange - frozen, layer_of)
    if not layer_of:
        said = "the network has no parameters: there is nothing to train"
        return [Finding("gradients", "fail", said, 0.0, 1.0, "add layers with weights, linear say")]
    broken = _broken(prepared.look)
    if broken:
        return [*found, _broken_finding(broken, layer_of)]
    redundant = _redundant(prepared)
    silent = _silent(prepared.look) - redundant
    if silent:  # an output layer that starts at 0 hides the layers before it for one step
        silent &= _silent(prepared.later)
    if silent:
        return [*found, _silent_finding(silent, layer_of)]
    reached = len(layer_of) - len(frozen)
    said = f"the gradients of {'all ' if not frozen else ''}{reached} parameter tensors are finite and not 0"
    if redundant:
        said += f", but for {_counted(redundant)} before a batch_norm, which takes the mean away"
    return [*found, Finding("gradients", "pass", said, float(reached), float(reached))]


def _left_out(prepared: Prepared) -> set[str]:
    known = {id(p) for group in prepared.state.optimizer.param_groups for p in group["params"]}
    return {name for name, p in prepared.state.network.named_parameters() if id(p) not in known}


def _not_trained(key: str, why: str, names: set[str], layer_of: dict[str, str]) -> Iterator[Finding]:
    for index in sorted({layer_of[name] for name in names}):
        tensors = [_last(name) for name in names if layer_of[name] == index]
        said = f"layer {index}: {' and '.join(sorted(tensors, reverse=True))} {why}; they keep their initial values"
        yield Finding(key, "fail", said, float(len(tensors)), 0.0, "let the optimizer train them", layer=index)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _counted(names: set[str]) -> str:
    return f"{len(names)} bias{'es' if len(names) > 1 else ''}"


def _broken(look: Look) -> set[str]:
    return {n for n, g in look.parameters.items() if g is not None and not bool(torch.isfinite(g).all())}


def _broken_finding(broken: set[str], layer_of: dict[str, str]) -> Finding:
    layers = sorted({layer_of[name] for name in broken})
    said = f"gradients of layer{'s' if len(layers) > 1 else ''} {', '.join(layers)} are not finite"
    remedy = "look at the initial weights and at the scale of the inputs"
    return Finding(
        "gradients", "fail", said, float(len(broken)), 0.0, remedy, "docs/lesson.md#backpropagation", layers[0]
    )


def _silent(look: Look) -> set[str]:
    """Parameters on which the loss does not depend, or depends by rounding alone."""
    largest = max((float(g.abs().max()) for g in look.parameters.values() if g is not None), default=0.0)
    return {n for n, g in look.parameters.items() if g is None or not bool((g.abs() > ROUNDING**2 * largest).any())}


def _redundant(prepared: Prepared) -> set[str]:
    """Biases whose gradient is 0 because a batch_norm takes the mean of the sum away."""
    names = {parameter: name for name, parameter in prepared.network.named_parameters()}
    found: set[str] = set()
    bias: nn.Parameter | None = None  # of the sum that a batch_norm would get
    for _, layer in walk(prepared.network.layers):
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and bias is not None:
            found.add(names[bias])
        if isinstance(layer, Weighted):
            bias = layer.get_parameter("bias") if layer.bias is not None and _is_plain_sum(layer) else None
        elif not isinstance(layer, nn.Flatten | Dropout):
            bias = None
    return found


def _is_plain_sum(layer: Weighted) -> bool:
    return layer.activation.type == "identity" and layer.pieces == 1


def _silent_finding(silent: set[str], layer_of: dict[str, str]) -> Finding:
    layers = sorted({layer_of[name] for name in silent})
    tensors = ", ".join(sorted(name.removeprefix("layers.") for name in silent))
    said = f"{len(silent)} of {len(layer_of)} parameter tensors get no gradient, at first and after 3 steps: {tensors}"
    remedy = "nothing depends on them: look for weights that are all 0 (model.init: auto), units that are all silent"
    more = "dlf why initialization"
    return Finding("gradients", "fail", said, float(len(silent)), 0.0, remedy, more, layers[0])


def units_differ(prepared: Prepared) -> list[Finding]:
    """The units of every hidden layer start different; equal ones get equal gradients and stay equal for good."""
    weighted = [(index, layer) for index, layer in walk(prepared.network.layers) if isinstance(layer, Weighted)]
    equal = [index for index, layer in weighted[:-1] if _all_equal(layer)]
    if equal:
        said = f"all units of layer{'s' if len(equal) > 1 else ''} {', '.join(equal)} start with the same weights"
        remedy = "they get equal gradients and stay one unit for good: let model.init be auto"
        value = float(len(equal))
        return [Finding("equal_units", "fail", said, value, 0.0, remedy, "dlf why initialization", equal[0])]
    if len(weighted) < 2:
        return []
    said = f"the units of {_layers_of(len(weighted) - 1)} start different"
    return [Finding("equal_units", "pass", said, 0.0, 0.0)]


def _layers_of(count: int) -> str:
    return "the hidden layer" if count == 1 else f"each of {count} hidden layers"


def _all_equal(layer: Weighted) -> bool:
    rows = layer.weight.detach().flatten(1)
    return len(rows) > 1 and bool((rows == rows[0]).all())


# --- outputs --------------------------------------------------------------------------------------------------------


def outputs_vary(prepared: Prepared) -> list[Finding]:
    """The outputs differ between samples, at the start or at least after a few steps."""
    first = _variation(prepared.look.output)
    value = first if first > ROUNDING else _variation(prepared.later.output)
    samples = len(prepared.x)
    said = f"between {samples} samples the outputs spread by {value:.2g} of their size"
    if samples < 2 or value > ROUNDING:
        said += "" if first > ROUNDING else " after 3 steps; at first they are all equal"
        return [Finding("outputs_vary", "pass", said, value, ROUNDING)]
    said = f"the output is the same for each of {samples} samples, at first and after 3 steps (spread {value:.2g})"
    remedy = "no input reaches the output: let model.init be auto, and look for silent or saturated layers"
    return [Finding("outputs_vary", "fail", said, value, ROUNDING, remedy, "dlf why initialization")]


def _variation(output: Tensor) -> float:
    """The standard deviation between samples, relative to the size of the outputs; the largest of the units."""
    size = output.square().mean().sqrt()
    return float(output.std(0, correction=0).max() / size) if size > 0 else 0.0


def samples_apart(prepared: Prepared) -> list[Finding]:
    """In evaluation the output of a sample stays when the other samples of its batch change."""
    if len(prepared.x) < 4:
        return []
    network = copy.deepcopy(prepared.network).eval()
    x = network.normalize(prepared.x[:4])
    others = torch.cat([x[:1], x[1:].roll(1, 0) * 3 + 1])
    with torch.no_grad():
        before, after = network.layers(x)[0], network.layers(others)[0]
        moved = float((after - before).abs().max() / before.abs().max().clamp(min=torch.finfo(before.dtype).tiny))
    leaking = _leak(network.layers, x)
    if moved > ROUNDING or leaking > 0:
        said = (
            f"the output of a sample changes by {moved:.2g} of its size when the others of its batch change, and its "
            f"gradient by them is {leaking:.2g}"
        )
        remedy = "a layer mixes samples: reshape and normalize over the features (dimension 1 on), never over the batch"
        return [Finding("samples_apart", "fail", said, max(moved, leaking), ROUNDING, remedy, "docs/lesson.md#forward")]
    said = f"the output of a sample does not depend on the others of its batch (it moves by {moved:.1g} of its size)"
    norms = [index for index, layer in walk(network.layers) if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if norms:
        said += f"; in training it does, by batch_norm (layer{'s' if len(norms) > 1 else ''} {', '.join(norms)})"
    return [Finding("samples_apart", "pass", said, moved, ROUNDING)]


def _leak(layers: nn.Module, x: Tensor) -> float:
    """The largest derivative of the first sample's outputs by the other samples."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        first = layers(x)[0].sum()
    if not first.requires_grad:  # a module cut it off, which the check of the gradients says
        return 0.0
    gradient = torch.autograd.grad(first, x, materialize_grads=True)[0]
    return float(gradient[1:].abs().max())


def batch_norm_batches(prepared: Prepared) -> list[Finding]:
    """Every batch of an epoch has samples enough for a batch_norm to measure a spread."""
    norms = [i for i, layer in walk(prepared.network.layers) if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return []
    n, size = len(prepared.experiment.data.train), prepared.experiment.batch_size
    smallest = min(size, n % size or size, n)
    said = f"batch_norm (layers {', '.join(norms)}) measures batches of {size}, the last one of {n % size or size}"
    more = "dlf why batch_norm"
    if smallest < 2:
        remedy = "one sample has no spread: choose another data.batch_size or data.validation, or layer_norm"
        return [Finding("batch_norm_batch", "fail", said, float(smallest), 2.0, remedy, more, norms[0])]
    if size < SMALL_BATCH:
        remedy = (
            f"the mean of fewer than {SMALL_BATCH} samples is mostly noise: raise data.batch_size, or take layer_norm"
        )
        return [Finding("batch_norm_batch", "warn", said, float(size), float(SMALL_BATCH), remedy, more, norms[0])]
    return [Finding("batch_norm_batch", "pass", said, float(smallest), 2.0)]
