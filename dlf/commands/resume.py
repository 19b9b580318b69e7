"""`dlf train --resume`: go on exactly where a run stopped, or from an older checkpoint of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dlf import checkpoint, environment
from dlf import data as data_module
from dlf.checkpoint import Contents
from dlf.commands import saving
from dlf.commands.listeners import Display, Logged
from dlf.commands.train import TrainResult, is_over, result_of, threads, until_the_end
from dlf.config import ExperimentConfig, Loaded, load
from dlf.engine import Experiment, TrainState
from dlf.errors import RunError, UsageError
from dlf.experiment import assemble, choose_device
from dlf.run import Info, Record, RunDirectory, Written, now
from dlf.schedules import factor


def resume(
    run: RunDirectory,
    overrides: Sequence[str] = (),
    *,
    start: str | None = None,
    device: str | None = None,
    display: Display,
) -> TrainResult:
    """Go on exactly where the run stopped; a finished run is left as it is unless `train.epochs` was raised.

    `start` names a checkpoint (best, last, step-N) to go back to; what was trained after it is trained anew.
    """
    if wrong := [text for text in overrides if not text.startswith("train.epochs=")]:
        raise UsageError(f"a resumed run keeps its settings; only train.epochs=N can be given, got {', '.join(wrong)}")
    loaded = load(run.config, overrides)
    config, info, history = loaded.config, run.read_info(), run.read_metrics()
    if start is not None:
        run.checkpoint(start)  # a name that is none is refused before anything is read
    elif config.train.epochs < len(history):
        raise UsageError(_in_the_past(run, len(history), config))
    elif info["status"] == "completed" and is_over(history, config):
        display.message(f"{run.id} is finished: nothing to do. train.epochs=N with a larger N trains further.")
        return result_of(run, config, info, history)
    with threads(config.train.threads), run.locked():
        told = Logged(display)
        told.attach(run)
        return _resume(run, loaded, start, choose_device(device or config.train.device), told)


def _resume(run: RunDirectory, loaded: Loaded, start: str | None, device: torch.device, display: Logged) -> TrainResult:
    info = run.read_info()
    sha256, split = info["data_sha256"], info["split_sha256"]
    data = data_module.reload(loaded.config.data_section, device, display.message, sha256=sha256, split=split)
    with loaded.places():
        experiment, state, config = assemble(loaded.config, data, device, display.message)
    contents = saving.chosen(run, start) if start is not None else _newest(run, config, display)
    if contents is not None:
        _go_back_to(run, contents, state, config, display)
    kept = load(run.config).config
    if config.train.epochs != kept.train.epochs:
        _warn_of_another_course(kept, config, experiment, state, run.read_metrics(), display)
        run.write_config(loaded.config.to_yaml())
    here = environment.describe(device)
    _warn_of_another_machine(info, here, display)
    resumed = {"at": now(), "epoch": state.epoch, "step": state.step, "epochs": config.train.epochs, **here}
    run.write_info(status="running", resumed=[*info.get("resumed", []), resumed])
    return until_the_end(run, config, experiment, state, run.read_metrics(), display)


def _newest(run: RunDirectory, config: ExperimentConfig, display: Logged) -> Contents | None:
    """The checkpoint to go on from; None where the run was stopped before its first and starts over."""
    records = len(run.read_metrics())
    if not checkpoint.exists(run.last) and records > config.checkpoint.every_epochs:
        raise RunError(f"{run.last} is gone, and {run.id} had been trained. {saving.offers(run, run.last)}")
    contents = saving.newest(run)
    if contents is None:
        display.message(f"{run.id} was stopped before its first checkpoint: it starts over")
        run.keep_metrics(Written())
        run.keep_observations(0, 0)
    return contents


def _go_back_to(
    run: RunDirectory, contents: Contents, state: TrainState, config: ExperimentConfig, display: Logged
) -> None:
    """Make `state`, checkpoints/last and metrics.jsonl those of the checkpoint, after all three were found to fit."""
    checkpoint.fill(contents, state)
    run.check_metrics(contents.written)
    if config.train.epochs < state.epoch:
        raise UsageError(_in_the_past(run, state.epoch, config))
    saving.mend(run)
    if contents.folder.name != run.last.name:
        display.message(f"going on from {saving.described(contents)}")
        saving.commit(run, contents.files, state.step, config.checkpoint.keep)
    else:
        saving.prune(run, state.step, config.checkpoint.keep)
    run.keep_metrics(contents.written)
    run.keep_observations(state.epoch, state.step)


def _in_the_past(run: RunDirectory, epochs: int, config: ExperimentConfig) -> str:
    return f"{run.id} has {epochs} epochs already; train.epochs={config.train.epochs} is in its past"


def _warn_of_another_course(
    before: ExperimentConfig,
    after: ExperimentConfig,
    experiment: Experiment,
    state: TrainState,
    history: Sequence[Record],
    display: Logged,
) -> None:
    """Say so when the epochs that are done would have had other learning rates in a run that was this long at once."""
    per_epoch = experiment.steps_per_epoch
    for step in range(0, state.step, per_epoch):
        rates = {factor(c.schedule, step, per_epoch, c.train.epochs, history) for c in (before, after)}
        if len(rates) > 1:
            display.message(
                f"warning: {after.schedule.type} depends on train.epochs: the epochs so far followed the schedule of "
                f"{before.train.epochs} epochs, so this run differs from one of {after.train.epochs} at once"
            )
            return


def _warn_of_another_machine(info: Info, here: dict[str, Any], display: Logged) -> None:
    """Say what may make the rest of a run differ in its last bits from one that was never stopped."""
    watched = ("dlf", "python", "packages", "device", "device_name", "cpu_capability", "kernels", "threads")
    changed = [f"{name} {info[name]} -> {here[name]}" for name in watched if info[name] != here[name]]
    if changed:
        display.message("warning: the last bits may differ from a run that was never stopped: " + "; ".join(changed))
