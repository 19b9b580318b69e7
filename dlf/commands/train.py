"""`dlf train`: one experiment file in, a run directory out. The whole training loop is read here, top to bottom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dlf import checkpoint, environment, loggers
from dlf import data as data_module
from dlf.commands import saving
from dlf.commands.listeners import Display as Display  # noqa: PLC0414 -- belongs to the face of `train`
from dlf.commands.listeners import Logged
from dlf.commands.saving import Timetable
from dlf.commands.stopping import Interruption, StoppedError, signals
from dlf.config import ExperimentConfig, Loaded, check_monitors
from dlf.data import Data
from dlf.datasets import DataSection
from dlf.doctor import diagnose, diagnose_run, in_words
from dlf.engine import Experiment, TrainState, check_finite, fit
from dlf.errors import DivergedError, DlfError, MachineError, RunError, is_out_of_memory
from dlf.experiment import assemble, check_memory, choose_device
from dlf.findings import Finding
from dlf.history import best_index, is_best, outcome, should_stop
from dlf.model import draw
from dlf.observe import Observer, constant_answer
from dlf.registry import InvalidError
from dlf.run import Info, Record, RunDirectory, Status, now

LOSSES_KEPT = 5  # before a divergence


@dataclass(frozen=True)
class TrainResult:
    """What training came to. `best` and `last` are records of metrics.jsonl; `data` names what was trained on.

    `findings` holds the doctor's verdicts (dlf/doctor), what is wrong first.
    """

    run: str
    path: str
    status: Status
    data: str
    requested_data: str
    epochs: int
    monitor: str
    best: Record
    last: Record
    seconds: float
    findings: list[Finding]


def train(loaded: Loaded, *, runs: Path, display: Display) -> TrainResult:
    """Train the experiment in a new run directory below `runs`."""
    with threads(loaded.config.train.threads):
        return _train_new(loaded, runs, Logged(display))


def _train_new(loaded: Loaded, runs: Path, display: Logged) -> TrainResult:
    config = loaded.config
    device = choose_device(config.train.device)
    with loaded.places():  # what can be refused without the data is refused before they are read
        loggers.check(config.logging)
        spec = data_module.known_spec(config.data_section)
        if spec is not None:
            check_memory(draw(config, spec), config.optimizer, device)
    reasons: list[str] = []
    data, section = data_module.load(config.data_section, device, display.message, reasons.append)
    _warn(config.data_section, section, reasons, data, display)
    with loaded.places():
        experiment, state, resolved = assemble(
            config.model_copy(update={"data": section}), data, device, display.message
        )
        if flaws := list(check_monitors(resolved, experiment.headline)):
            raise InvalidError(flaws)
    if config.train.precision == "auto" and experiment.precision != "float32":
        display.message(f"precision {experiment.precision}: {experiment.precision_reason}")
    run = RunDirectory.create(runs, config.name)
    with run.locked():
        display.attach(run)
        run.begin(loaded.text, loaded.overrides.values(), resolved.to_yaml())
        run.write_info(
            id=run.id,
            status="running",
            started=now(),
            seed=config.seed,
            planned_epochs=config.train.epochs,
            data=data.name,
            requested_data=config.data.type,
            fallback_reason=reasons[0] if reasons else None,
            data_sha256=data.sha256,
            split_sha256=data.split_sha256,
            files=dict(data.files),
            samples={"train": len(data.train), "val": len(data.validation), "test": len(data.test)},
            classes=data.classes,
            features=data.features,
            task=experiment.task,
            monitor=resolved.monitor,
            result=_result_checkpoint(resolved),
            baseline=constant_answer(state.network, experiment),
            precision=experiment.precision,
            precision_reason=experiment.precision_reason,
            **environment.describe(device),
        )
        return until_the_end(run, resolved, experiment, state, [], display)


def until_the_end(
    run: RunDirectory,
    config: ExperimentConfig,
    experiment: Experiment,
    state: TrainState,
    history: list[Record],
    display: Logged,
) -> TrainResult:
    """From `state` to the end, or to what stops it; the status in run.json says which."""
    status: Status = "failed"
    diverged_at = divergence = None
    try:
        with signals() as received:
            display.start(run, config, experiment, state)
            display.log_to(run, config, history)
            loop(run, config, experiment, state, history, display, received)
        status = "interrupted" if received else "completed"
    except DivergedError as error:
        status, diverged_at, divergence = "diverged", error.step, _before_divergence(state, error.step)
        raise DivergedError(f"{error} Last good checkpoint: {_last_good(run)}.", error.step) from None
    except KeyboardInterrupt:  # the second, which does not wait for a save
        display.message(f"warning: stopped at once, without saving. Go on from the last save: {_resuming(run)}")
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0] or "the system gives no more"
        raise MachineError(
            f"out of memory after step {state.step}: {said}. What was saved is intact. Train with a smaller "
            f"data.batch_size or network; or, with more memory free, go on with: {_resuming(run)}"
        ) from None
    finally:
        display.end(status)
        result = _result_checkpoint(config) if best_index(history, config.monitor) is not None else "last"
        stands = {"epochs": len(history), "step": state.step, "result": result}
        stands |= {"diverged_at": diverged_at, "divergence": divergence}
        with _after(status, display):
            run.write_info(status=status, finished=now(), **stands, **outcome(history, config.monitor))
            if status == "diverged":
                display.message(in_words(diagnose_run(run)))
    if received:
        raise StoppedError(received[0], run)
    came_to = result_of(run, config, run.read_info(), history)
    display.message(in_words(came_to.findings))
    return came_to


def _before_divergence(state: TrainState, step: int | None) -> dict[str, Any]:
    """What run.json keeps of it: the learning rate, and the last losses before the step, or before the end."""
    end = state.step if step is None else step - 1
    losses = state.losses[max(0, end - LOSSES_KEPT) : end].tolist()
    return {"lr": float(state.optimizer.param_groups[0]["lr"]), "losses": losses}


@contextmanager
def _after(status: Status, display: Logged) -> Iterator[None]:
    """What fails here is only told of where the training was stopped before: the first error is the one to show."""
    try:
        yield
    except DlfError as error:
        if status in ("completed", "interrupted"):
            raise
        display.message(f"warning: {error}")


def _last_good(run: RunDirectory) -> str:
    with suppress(RunError):
        if saved := saving.newest(run):
            return saving.described(saved)
    return "none, nothing was saved yet"


def _resuming(run: RunDirectory) -> str:
    return f"dlf train --resume {run.path}"


def result_of(run: RunDirectory, config: ExperimentConfig, info: Info, history: Sequence[Record]) -> TrainResult:
    best = best_index(history, config.monitor)
    return TrainResult(
        run=run.id,
        path=str(run.path),
        status="completed",
        data=info["data"],
        requested_data=info["requested_data"],
        epochs=len(history),
        monitor=config.monitor,
        best=history[best if best is not None else -1],
        last=history[-1],
        seconds=round(sum(record["seconds"] for record in history), 3),
        findings=diagnose(history, run.read_observations(run.layers), info),
    )


def loop(
    run: RunDirectory,
    config: ExperimentConfig,
    experiment: Experiment,
    state: TrainState,
    history: list[Record],
    display: Display,
    received: Sequence[int],
) -> None:
    """Train, measure, save, decide: the order of an epoch. With something in `received` it saves and ends."""
    timetable = Timetable(config.checkpoint, experiment.steps_per_epoch)
    observer = Observer(state, experiment, config.train.observe_every_steps) if config.train.observe else None

    def save(packed: Mapping[str, bytes]) -> None:
        saving.commit(run, packed, state.step, config.checkpoint.keep)
        timetable.saved()

    def save_within_epoch() -> None:
        check_finite(state)
        save(checkpoint.pack(state, run.written))

    def on_step(state: TrainState) -> None:
        display.step(state)
        stopping = bool(received)
        if observer is not None:
            observer.step(run, stopping=stopping)
        if stopping:
            raise Interruption
        if timetable.after_step(state.step):
            save_within_epoch()

    if is_over(history, config):
        return
    try:
        for record in fit(state, experiment, epochs=config.train.epochs, history=history, on_step=on_step):
            history.append(run.append_metrics(record))
            best, over = is_best(history, config.monitor), is_over(history, config)
            if observer is not None:
                observer.note(run, last=over)
            due = over or timetable.after_epoch(state.epoch, state.step)
            packed = checkpoint.pack(state, run.written) if best or due else {}
            if best:
                checkpoint.write(run.best, packed)
            if due:
                save(packed)  # the commit point of an epoch
            display.epoch(history[-1], best)
            if over:
                break
            if received:
                raise Interruption
    except Interruption:
        save_within_epoch()


def is_over(history: Sequence[Record], config: ExperimentConfig) -> bool:
    """Whether all epochs are done, or early stopping has had enough."""
    stopping = config.train.early_stopping
    if len(history) >= config.train.epochs:
        return True
    return stopping is not None and should_stop(history, **stopping.model_dump(exclude={"restore_best"}))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use so many threads for the CPU's arithmetic, and what was set before afterwards; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result_checkpoint(config: ExperimentConfig) -> str:
    """Which checkpoint is the run's result: what `dlf evaluate` and `dlf.load` take unless told otherwise."""
    stopping = config.train.early_stopping
    return "last" if stopping is not None and not stopping.restore_best else "best"


def _warn(requested: DataSection, used: DataSection, reasons: Sequence[str], data: Data, display: Logged) -> None:
    if used is not requested:
        display.message(reasons[0])
        display.message(
            f"warning: training on {used.type} instead of {requested.type}, because data.fallback asks for it; "
            "every result of this run is about that data"
        )
    if data.constant:
        names = ", ".join(data.constant[:5])
        display.message(
            f"warning: {len(data.constant)} input columns never vary in the training part and tell nothing: {names}"
        )
