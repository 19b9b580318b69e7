"""`dlf check`: what is wrong with an experiment, found in seconds, before it is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dlf import data as data_module
from dlf.checks import prepare, run_checks
from dlf.checks.propagation import LayerSignal
from dlf.commands.train import threads
from dlf.config import Loaded
from dlf.experiment import assemble, choose_device
from dlf.findings import Finding
from dlf.losses import Task


@dataclass(frozen=True)
class CheckResult:
    """What was found. `data` names what was looked at, `samples` how many of its `training_samples`.

    `layers` are the signals at the start, expected and measured; `passed`, `warned` and `failed` count the findings.
    """

    name: str
    task: Task
    data: str
    requested_data: str
    training_samples: int
    samples: int
    passed: int
    warned: int
    failed: int
    findings: tuple[Finding, ...]
    layers: tuple[LayerSignal, ...]


def check(loaded: Loaded, *, tell: Callable[[str], None] = lambda message: None) -> CheckResult:
    """Load the data, build the network, and look at both; nothing is written, and the network is not trained.

    `tell` hears of downloads, and of data that had to step in. Raises what `dlf train` raises before its first step.
    """
    config = loaded.config
    with threads(config.train.threads):
        device = choose_device(config.train.device)
        data, section = data_module.load(config.data_section, device, tell, tell)
        with loaded.places():
            experiment, state, resolved = assemble(config.model_copy(update={"data": section}), data, device, tell)
        prepared = prepare(experiment, state, resolved)
        findings = run_checks(prepared)
        layers = prepared.signals
    verdicts = Counter(finding.verdict for finding in findings)
    return CheckResult(
        name=config.name,
        task=experiment.task,
        data=data.name,
        requested_data=config.data.type,
        training_samples=len(data.train),
        samples=len(prepared.x),
        passed=verdicts["pass"],
        warned=verdicts["warn"],
        failed=verdicts["fail"],
        findings=tuple(findings),
        layers=tuple(layers),
    )
