"""What the loader, `dlf check` and the doctor say of one experiment."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from dlf import shipped
from dlf.api import Silent
from dlf.commands import check as check_command
from dlf.commands import train as train_command
from dlf.config import Loaded, load, loads
from dlf.doctor import diagnose_run
from dlf.errors import ConfigError, DataError, DivergedError
from dlf.experiment import assemble
from dlf.findings import Finding
from dlf.run import RunDirectory
from dlf.yaml12 import dump

from .bases import base
from .faults import FAULTS, Case, Change

HEALTHY = "healthy"


@dataclass(frozen=True)
class Look:
    """One experiment: the fault that is in it (or HEALTHY), what was built on, and what each of the three said.

    `refused` is the loader's message; `check` and `doctor` hold their findings but those that passed; `stopped` is why
    a training ended early; `reached` the best validation accuracy, or R^2 of a regression.
    """

    fault: str
    base: str
    seed: int
    refused: str | None
    check: tuple[Finding, ...]
    doctor: tuple[Finding, ...]
    stopped: str | None
    reached: float | None


def look_at_fault(name: str, seed: int) -> Look:
    """Put the fault into the seed's experiment, and look."""
    fault = FAULTS[name]
    drawn = base(seed, fault.suits)
    chance = np.random.default_rng([seed, zlib.crc32(name.encode())])
    with tempfile.TemporaryDirectory() as folder:
        case = fault.inject(drawn, chance, Path(folder))
        return _look(name, drawn.problem, seed, case, Path(folder))


def look_at_base(seed: int) -> Look:
    """The seed's experiment as it is."""
    drawn = base(seed)
    with tempfile.TemporaryDirectory() as folder:
        return _look(HEALTHY, drawn.problem, seed, Case(drawn.config), Path(folder))


def look_at_shipped(name: str, seed: int) -> Look:
    """A shipped experiment, trained whole, with another seed; its data are not downloaded."""
    overrides = [f"seed={seed}", "train.device=cpu", "train.threads=1", "data.download=false"]
    with tempfile.TemporaryDirectory() as folder:
        return _findings(HEALTHY, f"configs/{name}.yaml", seed, load(shipped.find(name), overrides), None, Path(folder))


def _look(fault: str, problem: str, seed: int, case: Case, folder: Path) -> Look:
    if case.instead is None:
        return _findings(fault, problem, seed, loads(dump(case.config), problem), case.change, folder)
    refused = _refusal(case.config)
    assert refused is not None, f"{fault}: taken by the loader, of which the case says that it refuses it"
    looked = _findings(fault, problem, seed, loads(dump(case.instead), problem), case.change, folder)
    return Look(**{**vars(looked), "refused": refused})


def _refusal(config: Mapping[str, Any]) -> str | None:
    """What dlf says before it builds anything; None where it takes the configuration."""
    try:
        check_command.check(loads(dump(dict(config)), "the experiment"))
    except (ConfigError, DataError) as error:
        return str(error)
    return None


def _findings(fault: str, of: str, seed: int, loaded: Loaded, change: Change | None, folder: Path) -> Look:
    torch.set_num_threads(1)
    with _assembling(check_command, change):
        checked = check_command.check(loaded).findings
    stopped = None
    with _assembling(train_command, change):
        try:
            train_command.train(loaded, runs=folder / "runs", display=Silent())
        except DivergedError as error:
            stopped = str(error)
        except ValueError as error:  # torch refuses a batch of one
            stopped = str(error)
    run = RunDirectory.find("latest", folder / "runs")
    return Look(fault, of, seed, None, _said(checked), _said(diagnose_run(run)), stopped, _reached(run))


def _assembling(command: Any, change: Change | None) -> Any:
    """The command on experiments that are changed as soon as they are assembled."""

    def assembled(*given: Any) -> Any:
        experiment, state, config = assemble(*given)
        return (experiment, state, config) if change is None else (*change(experiment, state), config)

    return mock.patch.object(command, "assemble", assembled)


def _said(findings: Any) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.verdict != "pass")


def _reached(run: RunDirectory) -> float | None:
    values = [
        value
        for record in run.read_metrics()
        for value in [record.get("val_accuracy", record.get("val_r2"))]
        if value is not None
    ]
    return max(values, default=None)
