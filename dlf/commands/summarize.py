"""`dlf summarize`: the architecture in numbers, from an experiment file or a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dlf import data as data_module
from dlf import shipped
from dlf.config import Loaded, load
from dlf.errors import RunError, UsageError
from dlf.model import Summary, summarize
from dlf.run import RunDirectory


def find_experiment(what: str, runs: Path, overrides: Sequence[str] = ()) -> Loaded:
    """The experiment of a file, of a shipped name or of a run, in this order; UsageError where it is none of them."""
    source = find_source(what, runs)
    return load(source.config if isinstance(source, RunDirectory) else source, overrides)


def find_source(what: str, runs: Path) -> Path | RunDirectory:
    """The experiment file or the run that CONFIG|RUN means; UsageError where it is neither."""
    if Path(what).is_dir():
        return RunDirectory.find(what, runs)
    try:
        path = shipped.find(what)
    except UsageError as no_file:
        try:
            return RunDirectory.find(what, runs)
        except RunError as no_run:
            raise UsageError(f"{no_file} And it is no run: {no_run}") from None
    return path


def summarize_experiment(loaded: Loaded) -> Summary:
    """Count the network; the data are read only where nothing else tells their shape, and never downloaded for it."""
    section = loaded.config.data_section
    spec = data_module.known_spec(section)
    if spec is None:
        data, _ = data_module.load(section, torch.device("cpu"), lambda message: None)
        spec = data.spec
    with loaded.places():
        return summarize(loaded.config, spec)
