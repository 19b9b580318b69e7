"""`dlf check`: what can be said of an experiment before it is trained. Each check is `f(prepared) -> list[Finding]`.

    looking.py       one look at all layers of a network, forward and backward, in float64
    prepared.py      an assembled experiment, some training samples, copies that may be trained
    samples.py       the data: balance, scale, what is in two parts at once
    architecture.py  what the network can express
    start.py         the network before its first step: loss, gradients, outputs
    propagation.py   how large signals are expected to be, by the initialisers
    signals.py       how they grow and shrink over the depth, expected and measured
    batch.py         one batch learned by heart
    baselines.py     simple models: the numbers to beat, and whether there is anything to learn

They work on copies and write nothing. Thresholds are named constants at the top of each file.
"""

from __future__ import annotations

from collections.abc import Callable

from dlf.checks import architecture, baselines, batch, samples, signals, start
from dlf.checks.prepared import Prepared, prepare
from dlf.findings import Finding

CHECKS: tuple[Callable[[Prepared], list[Finding]], ...] = (
    samples.class_balance,
    samples.constant_features,
    samples.input_scale,
    samples.twins,
    baselines.association,
    architecture.nonlinearity,
    architecture.output_range,
    start.first_loss,
    start.outputs_vary,
    start.units_differ,
    start.parameters_learn,
    start.samples_apart,
    start.batch_norm_batches,
    signals.as_initialised,
    signals.forward,
    signals.backward,
    signals.dead_units,
    batch.update_size,
    batch.one_batch,
    baselines.baselines,
)


def run_checks(prepared: Prepared) -> list[Finding]:
    """All findings, in order; the experiment is left as it was."""
    return [finding for check in CHECKS for finding in check(prepared)]


__all__ = ["CHECKS", "Prepared", "prepare", "run_checks"]
