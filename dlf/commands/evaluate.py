"""`dlf evaluate`: what a run's checkpoint scores on the validation or the test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dlf import checkpoint
from dlf import data as data_module
from dlf.assessment import assess
from dlf.commands.predictions import check_target, write_predictions
from dlf.commands.train import threads
from dlf.config import ExperimentConfig, load
from dlf.data import Data
from dlf.engine import Experiment, measured, outputs
from dlf.errors import DataError
from dlf.experiment import assemble, choose_device, predictions
from dlf.losses import Task
from dlf.metrics import METRICS, Predictions
from dlf.model import Network
from dlf.registry import Component
from dlf.run import RunDirectory

Split = Literal["train", "val", "test"]

# measured on top of the configured metrics
_STANDARD: dict[Task, tuple[str, ...]] = {
    "classification": ("precision", "recall", "f1", "confusion_matrix"),
    "binary": ("precision", "recall", "f1", "auroc", "average_precision", "confusion_matrix"),
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
    """Build the run's network, load `which` checkpoint (best, last, step-N; default: its result), check the data.

    UsageError where it has no such checkpoint, RunError where it has none at all, or the data are not those that it was
    trained on.
    """
    info = run.read_info()
    folder = run.checkpoint(which or info["result"])
    loaded = load(run.config)
    target = choose_device(device or loaded.config.train.device)
    sha256, split = info["data_sha256"], info["split_sha256"]
    data = data_module.reload(loaded.config.data_section, target, lambda message: None, sha256=sha256, split=split)
    with loaded.places():
        metrics = _standard_metrics(loaded.config.metrics, info["task"])
        experiment, state, config = assemble(loaded.config.model_copy(update={"metrics": metrics}), data, target)
    epoch = checkpoint.load_network(folder, state.network)
    return Opened(run, config, data, experiment, state.network, folder.name, epoch)


@dataclass(frozen=True)
class Measured:
    """What a checkpoint says of one part: the numbers that training writes too, and each prediction.

    `test_looks` counts how often the run was measured on the test part, now included; None on other parts.
    """

    found: dict[str, Any]
    predictions: Predictions
    test_looks: int | None


def measure(opened: Opened, split: Split, *, command: str) -> Measured:
    """Measure a part. Every command that shows how a run does on its test set comes here, so that each look is counted.

    DataError where the part is empty.
    """
    part = opened.data.part(split)
    if not len(part):
        key = "validation" if split == "val" else split
        raise DataError(f"{opened.run.id} has no {split} samples: data.{key} is 0")
    network, experiment = opened.network, opened.experiment
    with threads(opened.config.train.threads):
        output = outputs(network, part.x)
        found = measured(network, experiment, output, part.y)
    seen = predictions(network.in_units(output), part.y, experiment.task, experiment.loss.name, opened.data.classes)
    looks = None
    if split == "test":
        looks = opened.run.count_test_look(checkpoint=opened.checkpoint, epoch=opened.epoch, command=command)
    return Measured(found, seen, looks)


def evaluate_run(
    run: RunDirectory,
    *,
    split: Split = "test",
    which: str | None = None,
    device: str | None = None,
    predictions_to: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Measure and keep the result in evaluation-SPLIT.json; the same loss and accuracy as training wrote for `val`.

    `predictions_to` is a .csv or .npz file for every prediction, which replaces another file only with `force`.
    """
    if predictions_to is not None:
        check_target(predictions_to, force=force)
    info = run.read_info()
    opened = open_run(run, which=which, device=device)
    seen = measure(opened, split, command="evaluate")
    result = {
        "run": run.id,
        "checkpoint": opened.checkpoint,
        "epoch": opened.epoch,
        "split": split,
        "data": opened.data.name,
        "requested_data": info["requested_data"],
        "samples": len(seen.predictions.target),
        "task": opened.experiment.task,
        "classes": opened.data.classes,
        **({} if seen.test_looks is None else {"test_looks": seen.test_looks}),
        **seen.found,
        **assess(seen.predictions),
    }
    run.write_evaluation(split, result)
    if predictions_to is not None:
        write_predictions(predictions_to, seen.predictions, force=force)
    return result


def _standard_metrics(configured: Sequence[Component], task: Task) -> list[Component]:
    """The configured metrics and those that every evaluation has."""
    standard = [METRICS.make(name) for name in _STANDARD[task]]
    return [*configured, *(metric for metric in standard if metric not in configured)]
