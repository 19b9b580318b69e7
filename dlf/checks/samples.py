"""The data: how many there are of each class, what they look like to the network, and who is in two parts at once.

Labels of the test part are not looked at, only whether its samples are also among those of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dlf.checks.prepared import Prepared
from dlf.data import Part
from dlf.datasets import Array
from dlf.findings import Finding, Verdict

IMBALANCE = 10.0  # the largest class to the smallest: beyond, a network is rewarded for forgetting the small one
FAR = 30.0  # standard deviations; a normal never gets there, and one such value outweighs 900 usual ones in a product
LARGE, HUGE = 5.0, 50.0  # root mean square: the first weighted sums are as many times larger than initialisers plan for
SMALL = 0.02
UNEVEN = 100.0  # the largest spread of a feature to the median: the others count for a hundredth in the first products
SHARED = 0.01  # of the test samples: more is a leak, and moves an accuracy by more than its own uncertainty
CONTRADICTING = 0.05  # of the training samples; no network can learn those
LOOKED_AT = 100_000  # samples of a part that are compared with those of another, and 256 MB of them at most
_BYTES = 2**28


def class_balance(prepared: Prepared) -> list[Finding]:
    """How many training samples each class has; for numbers, whether they vary at all and whether some lie far out."""
    data = prepared.experiment.data
    if data.classes is None:
        return list(_targets(data.train.y.double()))
    counts = torch.bincount(data.train.y, minlength=len(data.classes)).tolist()
    few, most = min(counts), max(counts)
    rare, usual = data.classes[counts.index(few)], data.classes[counts.index(most)]
    each = f"{few:,} of {rare!r} to {most:,} of {usual!r}" if few < most else f"{few:,} of each"
    said = f"{len(data.train):,} training samples in {len(counts)} classes: {each}"
    more = "docs/lesson.md#loss"
    if not few:
        empty = [name for name, count in zip(data.classes, counts, strict=True) if not count]
        said = f"no training sample is of class {', '.join(map(repr, empty[:5]))}"
        remedy = "give samples of it, or leave the class out: it cannot be learned"
        return [Finding("class_balance", "fail", said, 0.0, 1.0, remedy, more)]
    ratio = most / few
    if ratio <= IMBALANCE:
        return [Finding("class_balance", "pass", said, ratio, IMBALANCE)]
    given = prepared.experiment.loss.parameters
    if given.get("class_weights") is not None or given.get("positive_weight", 1.0) != 1.0:
        return [Finding("class_balance", "pass", f"{said}; the loss weighs them", ratio, IMBALANCE)]
    said += f", {ratio:.0f} times as many; up to {IMBALANCE:g} are usual"
    remedy = "weigh the classes (loss: {type: cross_entropy, class_weights: balanced}) and look at f1, not at accuracy"
    return [Finding("class_balance", "warn", said, ratio, IMBALANCE, remedy, more)]


def _targets(y: Tensor) -> Iterator[Finding]:
    spread = y.std(0, correction=0)
    if not bool((spread > 0).all()):
        said = f"{'a' if y.shape[1] > 1 else 'the'} target is the same for all {len(y):,} training samples"
        yield Finding("target_spread", "fail", said, 0.0, 0.0, "there is nothing to learn: was the right column named?")
        return
    far = float(((y - y.mean(0)) / spread).abs().max())
    said = f"the targets of {len(y):,} training samples lie within {far:.3g} standard deviations of their mean"
    if far <= FAR:
        yield Finding("target_spread", "pass", said, far, FAR)
        return
    remedy = f"more than {FAR:g} is far: look for errors in the data, or take the loss huber or mae"
    yield Finding("target_spread", "warn", said, far, FAR, remedy, "docs/lesson.md#loss")


def constant_features(prepared: Prepared) -> list[Finding]:
    """Features, or channels of images, that are the same in every training sample."""
    data = prepared.experiment.data
    shape = tuple(data.train.x.shape[1:])
    features = shape[0] if len(shape) > 1 else math.prod(shape)
    constant = data.constant
    what = "channels" if len(shape) > 1 else "features"
    if not constant:
        said = f"each of the {features:,} {what} varies"
        return [Finding("constant_features", "pass", said, 0.0, 0.0)]
    names = ", ".join(constant[:5]) + (", ..." if len(constant) > 5 else "")
    verdict: Verdict = "fail" if len(constant) == features else "warn"
    said = f"{len(constant)} of {features:,} {what} never vary: {names}"
    remedy = "nothing can be learned from them: leave them out, or look at how the file was made"
    return [Finding("constant_features", verdict, said, float(len(constant)), 0.0, remedy)]


def input_scale(prepared: Prepared) -> list[Finding]:
    """Sizes of the inputs as the network sees them, after normalization."""
    x = prepared.network.normalize(prepared.x).flatten(1)
    size, far = float(x.square().mean().sqrt()), float(x.abs().max())
    mean, spread = float(x.mean()), float(x.std(correction=0))
    said = (
        f"after normalization ({prepared.config.data_section.normalize}) the inputs of {len(x)} samples have mean "
        f"{mean:.3g}, standard deviation {spread:.3g} and reach {far:.3g}"
    )
    remedy, more = "set data.normalize: standard", "dlf why normalization"
    if size > LARGE or size < SMALL:
        threshold = SMALL if size < SMALL else LARGE if size <= HUGE else HUGE
        verdict: Verdict = "fail" if size > HUGE or size == 0 else "warn"
        said += f": a size (root mean square) of {size:.3g}, and {SMALL:g} to {LARGE:g} is usual"
        return [Finding("input_scale", verdict, said, size, threshold, remedy, more)]
    spreads = x.std(0, correction=0)
    spreads = spreads[spreads > 0]
    uneven = float(spreads.max() / spreads.median()) if len(spreads) else 1.0
    if uneven > UNEVEN and len(prepared.experiment.data.train.x.shape) == 2:
        said = f"one input spreads {uneven:.3g} times as much as the median one; up to {UNEVEN:g} times is usual"
        return [Finding("input_scale", "warn", said, uneven, UNEVEN, remedy, more)]
    if far > FAR * max(spread, SMALL):
        said += f": the farthest is {far / max(spread, SMALL):.0f} standard deviations out, and {FAR:g} is far"
        advice = "look for errors in the data; take the logarithm of numbers that span several powers of ten"
        return [Finding("input_scale", "warn", said, far, FAR * max(spread, SMALL), advice, more)]
    return [Finding("input_scale", "pass", said, size, LARGE)]


# --- the same sample twice ------------------------------------------------------------------------------------------


def twins(prepared: Prepared) -> list[Finding]:
    """Samples that occur twice, bit for bit: in training and test, in training and validation, with another label."""
    data = prepared.experiment.data
    trained = _fingerprints(data.train)
    known = set(trained)
    found = []
    for name, part in (("test", data.test), ("validation", data.validation)):
        if len(part):
            asked = _fingerprints(part)
            found.append(_shared(name, sum(one in known for one in asked), len(asked), trained))
    if data.classes is not None:
        found.append(_contradictions(trained, data.train.y.tolist()))
    return found


def _shared(name: str, shared: int, count: int, trained: Sequence[int]) -> Finding:
    share = shared / count
    said = f"{shared:,} of {count:,} {name} samples are also among {len(trained):,} training samples"
    if share <= SHARED:
        return Finding(f"shared_{name}", "pass", said, share, SHARED)
    said += f" ({share:.1%}; up to {SHARED:.0%} is accepted)"
    remedy = "what is measured on them says little of new samples: remove duplicates before the data are split"
    different, verdict = len(set(trained)), "fail"
    if different < len(trained) / 2:  # points of a small grid, answers to a few questions: twins by nature
        said += f"; of the training samples themselves only {different:,} differ"
        verdict = "warn"
    more = "docs/lesson.md#overfitting-and-regularization"
    return Finding(f"shared_{name}", verdict, said, share, SHARED, remedy, more)  # type: ignore[arg-type]


def _contradictions(trained: Sequence[int], labels: Sequence[int]) -> Finding:
    """Training samples with the same inputs and different classes."""
    seen: dict[int, set[int]] = {}
    for one, label in zip(trained, labels, strict=False):
        seen.setdefault(one, set()).add(label)
    count = sum(len(seen[one]) > 1 for one in trained)
    share = count / len(trained)
    said = f"{count:,} of {len(trained):,} training samples have a twin with another label"
    if share <= CONTRADICTING:
        return Finding("contradictions", "pass", said, share, CONTRADICTING)
    said += f" ({share:.1%}; up to {CONTRADICTING:.0%} is accepted)"
    remedy = "no network tells them apart: look at the labels, or for features that were lost"
    return Finding("contradictions", "warn", said, share, CONTRADICTING, remedy)


def _fingerprints(part: Part) -> list[int]:
    """A hash of 64 bits of each sample's inputs; of an even choice of the samples where they are too many."""
    row = 4 * math.prod(part.x.shape[1:])
    count = min(len(part), LOOKED_AT, max(1, _BYTES // row))
    values = chosen_rows(part, torch.arange(count) * len(part) // count)
    if values.dtype.kind == "f":
        values = values + 0.0  # -0.0 and 0.0 are one number, and differ in a bit
    return [hash(one.tobytes()) for one in values]


def chosen_rows(part: Part, indices: Tensor) -> Array:
    """The inputs of these samples, as they were read, (n, numbers) on the CPU."""
    if isinstance(part.x, Tensor):
        return part.x.index_select(0, indices.to(part.x.device)).flatten(1).cpu().numpy()
    return np.ascontiguousarray(part.x.rows[indices.numpy()]).reshape(len(indices), -1)
