"""Verdicts on the course of the metrics: what the loss did, what was learned, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from dlf.doctor.case import SHORT, Case, Record, above, finding, number, percent
from dlf.findings import Finding, Verdict

FAR = 2.0  # times the loss of the answer 0: no initialization of the catalogue starts so high on scaled inputs
RISEN = 0.2, 1.0  # of what the training loss had gained, lost again
STUCK = 0.01  # of its greatest value: all that the training loss gained in half of the epochs
KNOWS = 0.1  # of the way from the constant answer to no error: below, the network is barely better than that answer
NOTHING = 0.02  # the same: next to nothing, however many samples say so
OVERFITTED = 0.25  # rise of the validation loss above its least, while the training loss fell
NOTICED = 0.1  # the same rise, by the loss of the answer 0: from 0.05 to 0.08 is a sample or two, where that is 2.3
GAP = 0.1  # of accuracy between training and validation, beyond what chance explains

_FITTING = "docs/lesson.md#overfitting-and-regularization"


def divergence(case: Case) -> Iterator[Finding]:
    """A number that was not finite, which ends a training, or a loss that was none."""
    remedy = f"Lower {case.rate} tenfold, add warm-up (schedule.warmup_epochs) or clip gradients (clip_norm)."
    more = "dlf why learning_rate"
    lost = [r["epoch"] for r in case.records if any(r.get(f"{part}_loss", 0) is None for part in ("train", "val"))]
    if case.info.get("status") == "diverged":
        step = number(case.info.get("diverged_at"))
        what = f"the loss of step {step:.0f}" if step else "a weight, or what the optimizer keeps of it,"
        said = f"training diverged: {what} was not a finite number{_before_it(case)}"
        yield finding("divergence", "fail", said, step, None, remedy=remedy, more=more)
    elif lost:
        said = f"the loss of {len(lost)} of {len(case.records)} epochs was no finite number, first in epoch {lost[0]}"
        yield finding("divergence", "fail", said, float(len(lost)), 0.0, remedy=remedy, more=more)
    elif case.records:
        yield finding("divergence", "pass", "every loss is a finite number", 0.0, 0.0, remedy=remedy, more=more)


def _before_it(case: Case) -> str:
    """What run.json keeps of the steps before a divergence."""
    about = case.info.get("divergence")
    about = about if isinstance(about, dict) else {}
    listed = about.get("losses")
    losses = [loss for loss in map(number, listed if isinstance(listed, list) else []) if loss is not None]
    rate = number(about.get("lr"))
    told = f"; the losses before it were {', '.join(f'{loss:.3g}' for loss in losses)}" if losses else ""
    return told + (f", at the learning rate {rate:.3g}" if rate is not None else "")


def training_loss(case: Case) -> Iterator[Finding]:
    """Whether the training loss rose again, or stayed above that of a network which answers nothing."""
    losses, nothing = case.column("train_loss"), case.baseline("loss")
    if len(losses) < 2:
        return
    first, least, last = losses[0], min(losses), losses[-1]
    risen = (last - least) / max(first - least, 0.1 * abs(least), 1e-12)
    verdict, said = above(risen, RISEN), f"the training loss went from {first:.3g} to {last:.3g}"
    if verdict != "pass":
        said = f"the training loss rose from {least:.3g} in epoch {1 + losses.index(least)} to {last:.3g}"
    value, threshold = risen, RISEN[0]
    if nothing is not None and 0 < FAR * nothing < last:
        verdict, value, threshold = "fail", last, FAR * nothing
        said += f"; a network that answers nothing has {nothing:.3g}"
    remedy = f"Lower {case.rate}; if that is not enough, clip gradients (regularizers: [clip_norm])."
    yield finding("training_loss", verdict, said, value, threshold, remedy=remedy, more="dlf why learning_rate")


def plateau(case: Case) -> Iterator[Finding]:
    """Whether half of the epochs brought nothing, with something left to learn."""
    losses, skill = case.column("train_loss"), case.skill("train")
    if len(losses) < 8 or skill is None or skill < KNOWS:  # that little was learned is said by `learning`
        return
    half, scale = len(losses) // 2, max(*map(abs, losses), 1e-12)
    gained = (min(losses[:half]) - min(losses[half:])) / scale
    verdict: Verdict = "warn" if gained < STUCK and skill < 0.9 else "pass"
    least = min(losses)
    since = next(n for n, loss in enumerate(losses, 1) if loss <= least + STUCK * scale)
    said = f"the training loss gained {percent(max(gained, 0.0))} of its greatest value in the second half"
    if verdict == "warn":
        said = f"the training loss stands still since epoch {since}, at {least:.3g}: {said} of {len(losses)} epochs"
    remedy = f"Try another {case.rate}, a schedule (cosine, plateau), a larger network, or fewer epochs."
    yield finding("plateau", verdict, said, gained, STUCK, remedy=remedy, more="dlf why learning_rate")


def learning(case: Case) -> Iterator[Finding]:
    """Whether the network knows more of the training part than an answer that is always the same."""
    skill = case.skill("train")
    if skill is None or case.steps < SHORT:
        return
    chance = max(3 * case.noise("train"), NOTHING)
    verdict: Verdict = "fail" if skill <= chance else "warn" if skill < KNOWS else "pass"
    said = _beside_constant(case, "train")
    if verdict != "pass":
        said = f"{'nothing' if verdict == 'fail' else 'little'} was learned: {said}{_beside_nothing(case)}"
    remedy = f"Check the labels and the inputs (dlf check), try another {case.rate}, a larger network or more epochs."
    yield finding("learning", verdict, said, skill, KNOWS, remedy=remedy, more="dlf why initialization")


def _beside_constant(case: Case, part: str) -> str:
    name = f"{part}_{case.headline}"
    late, base = case.late(name), case.baseline(name)
    assert late is not None, name
    assert base is not None, name
    if case.headline == "mae":
        return f"{name} is {late:.4g} in the last epochs, and {base:.4g} for an answer that is always the same"
    return f"{name} is {percent(late)} in the last epochs, and {percent(base)} for an answer that is always the same"


def _beside_nothing(case: Case) -> str:
    """What the loss says of it, where it stands at that of the answer 0: ln C, or nearly so."""
    loss, nothing = case.late("train_loss"), case.baseline("loss")
    if loss is None or nothing is None or not abs(loss - nothing) <= 0.03 * nothing:
        return ""
    classes = case.info.get("classes")
    count = len(classes) if isinstance(classes, list) else 0
    log = f"ln {count} = " if count and math.isclose(math.log(count), nothing, abs_tol=1e-3) else ""
    return f". The training loss is {loss:.3f}; {log}{nothing:.3f} is that of a network that answers nothing"


def holding(case: Case) -> Iterator[Finding]:
    """Whether anything of what was learned holds for the validation part: where labels were shuffled, nothing does."""
    train, val = case.skill("train"), case.skill("val")
    if train is None or val is None or case.steps < SHORT or train < KNOWS:
        return
    chance = 2 * case.noise("val")
    verdict: Verdict = "fail" if val <= chance and train - val > 2 * chance else "pass"
    said = _beside_constant(case, "val")
    if verdict == "fail":
        said = f"nothing of what was learned holds for other samples: {said}"
    remedy = "Check that the labels belong to their samples and that all parts are of the same data (dlf check)."
    yield finding("holding", verdict, said, val, chance, remedy=remedy, more=_FITTING)


def overfitting(case: Case) -> Iterator[Finding]:
    """Whether the validation loss rose while the training loss fell, and the answers got no better."""
    names = ("train_loss", "val_loss", f"val_{case.headline}")
    records = [record for record in case.records if all(number(record.get(name)) is not None for name in names)]
    if len(records) < 3:
        return
    losses = [record["val_loss"] for record in records]
    best = losses.index(min(losses))
    least, late = losses[best], median(losses[-3:])
    risen, nothing = (late - least) / max(abs(least), 1e-12), case.baseline("loss")
    rose = risen > OVERFITTED and (nothing is None or late - least > NOTICED * nothing)
    fell = records[-1]["train_loss"] < records[best]["train_loss"]
    verdict: Verdict = "warn" if rose and fell and not _improved(records, best, names[2]) else "pass"
    since = records[best]["epoch"]
    said = f"the validation loss is {late:.3g}; its least was {least:.3g}, in epoch {since}"
    if verdict == "warn":
        then, now = records[best]["train_loss"], records[-1]["train_loss"]
        said = f"overfitting since epoch {since}: the validation loss rose from {least:.3g} to {late:.3g}, while the "
        said += f"training loss fell from {then:.3g} to {now:.3g}"
    remedy = "Stop early (train.early_stopping), use dropout or weight decay, a smaller network, or more samples."
    yield finding("overfitting", verdict, said, risen, OVERFITTED, remedy=remedy, more=_FITTING)


def _improved(records: Sequence[Record], best: int, name: str) -> bool:
    """Whether the metric of the validation part still got better after that epoch."""
    then, now = records[best][name], median(record[name] for record in records[-3:])
    return bool(now < then if name.endswith("mae") else now > then)


def gap(case: Case) -> Iterator[Finding]:
    """How much better the network knows the training part than the validation part."""
    train, val, n = case.late("train_accuracy"), case.late("val_accuracy"), case.samples("val")
    if train is None or val is None or not n:
        return
    chance = 2 * math.sqrt(max(val * (1 - val), 1 / n) / n)
    verdict: Verdict = "warn" if train - val > GAP + chance else "pass"
    said = f"the accuracy is {percent(train)} in training and {percent(val)} in validation"
    if verdict == "warn":
        said += f": {100 * (train - val):.0f} points apart, of which chance explains {100 * chance:.0f}"
    remedy = "Use dropout, weight decay, a smaller network or more samples."
    yield finding("gap", verdict, said, train - val, GAP + chance, remedy=remedy, more=_FITTING)
