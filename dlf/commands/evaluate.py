"""`dlf evaluate`: what a run's checkpoint scores on the validation or the test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dlf import checkpoint
from dlf import data as data_module
from dlf.commands.train import threads
from dlf.config import ExperimentConfig, load
from dlf.data import Data
from dlf.engine import Experiment, evaluate
from dlf.errors import DataError
from dlf.experiment import assemble, choose_device
from dlf.losses import Task
from dlf.metrics import METRICS
from dlf.model import Network
from dlf.registry import Component
from dlf.run import RunDirectory

Split = Literal["train", "val", "test"]

# measured on top of the configured metrics
_STANDARD: dict[Task, tuple[str, ...]] = {
    "classification": ("precision", "recall", "f1", "confusion_matrix"),
    "binary": ("precision", "recall", "f1", "auroc", "confusion_matrix"),
    "regression": ("rmse", "r2"),
}


@dataclass(frozen=True)
class Opened:
    """A run, read back: its configuration, its data, its network with the weights of one checkpoint."""

    run: RunDirectory
    config: ExperimentConfig
    data: Data
    experiment: Experiment
    network: Network
    checkpoint: str
    epoch: int


def open_run(run: RunDirectory, *, which: str | None, device: str | None) -> Opened:
    """Build the run's network, load `which` checkpoint (best, last; default: the run's result) and check the data.

    RunError where the run has no checkpoint, or the data are not those that it was trained on.
    """
    info = run.read_info()
    loaded = load(run.config)
    target = choose_device(device or loaded.config.train.device)
    sha256, split = info["data_sha256"], info["split_sha256"]
    data = data_module.reload(loaded.config.data_section, target, lambda message: None, sha256=sha256, split=split)
    with loaded.places():
        metrics = _standard_metrics(loaded.config.metrics, info["task"])
        experiment, state, config = assemble(loaded.config.model_copy(update={"metrics": metrics}), data, target)
    chosen = which or info["result"]
    epoch = checkpoint.load_network(run.best if chosen == "best" else run.last, state.network)
    return Opened(run, config, data, experiment, state.network, chosen, epoch)


def evaluate_run(
    run: RunDirectory, *, split: Split = "test", which: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Measure and keep the result in evaluation-SPLIT.json; the same loss and accuracy as training wrote for `val`."""
    info = run.read_info()
    opened = open_run(run, which=which, device=device)
    part = opened.data.part(split)
    if not len(part):
        raise DataError(f"{run.id} has no {split} samples: data.{'validation' if split == 'val' else split} is 0")
    with threads(opened.config.train.threads):
        found = evaluate(opened.network, opened.experiment, part)
    looks = {}
    if split == "test":
        looks["test_looks"] = run.count_test_look(checkpoint=opened.checkpoint, epoch=opened.epoch, command="evaluate")
    result = {
        "run": run.id,
        "checkpoint": opened.checkpoint,
        "epoch": opened.epoch,
        "split": split,
        "data": opened.data.name,
        "requested_data": info["requested_data"],
        "samples": len(part),
        "task": opened.experiment.task,
        "classes": opened.data.classes,
        **looks,
        **found,
    }
    run.write_evaluation(split, result)
    return result


def _standard_metrics(configured: Sequence[Component], task: Task) -> list[Component]:
    """The configured metrics and those that every evaluation has."""
    standard = [METRICS.make(name) for name in _STANDARD[task]]
    return [*configured, *(metric for metric in standard if metric not in configured)]
