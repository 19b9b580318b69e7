"""`dlf check`: what is wrong with an experiment, found in seconds, before it is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlf import data as data_module
from dlf.checks import prepare, run_checks
from dlf.checks.propagation import LayerSignal
from dlf.commands.summarize import find_source
from dlf.commands.train import threads
from dlf.config import Loaded, load
from dlf.doctor import diagnose_run
from dlf.experiment import assemble, choose_device
from dlf.findings import Finding
from dlf.losses import Task
from dlf.run import RunDirectory


@dataclass(frozen=True)
class CheckResult:
    """What was found. `data` names what was looked at, `samples` how many of its `training_samples`.

    `layers` are the signals at the start, expected and measured; `doctor` holds the findings in the training of a run.
    `passed`, `warned` and `failed` count both kinds.
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
    doctor: tuple[Finding, ...] = ()


def check_what(
    what: str, overrides: Sequence[str], runs: Path, *, tell: Callable[[str], None] = lambda message: None
) -> CheckResult:
    """`check` of what CONFIG|RUN means; of a run, as it was set, also what the doctor says of its training."""
    source = find_source(what, runs)
    if not isinstance(source, RunDirectory):
        return check(load(source, overrides), tell=tell)
    result, findings = check(load(source.config, overrides), tell=tell), tuple(diagnose_run(source))
    counted = Counter(finding.verdict for finding in findings)
    return replace(
        result,
        doctor=findings,
        passed=result.passed + counted["pass"],
        warned=result.warned + counted["warn"],
        failed=result.failed + counted["fail"],
    )


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
