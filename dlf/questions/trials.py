"""Paired trainings: every setting with the same seeds, hence with the same order of the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dlf import data as data_module
from dlf.config import ExperimentConfig, Loaded
from dlf.data import Data
from dlf.engine import Experiment, TrainState, fit
from dlf.errors import DivergedError, UsageError
from dlf.experiment import assemble, choose_device
from dlf.history import best_index, is_best, should_stop
from dlf.model import draw
from dlf.questions.design import Design, Measured, Subject, Variant, unfit, varied
from dlf.questions.results import Arm, Figure, Study, Training, difference, spreads
from dlf.registry import InvalidError

Record = Mapping[str, Any]


class Listener(Protocol):
    """What is told while trainings run."""

    def message(self, text: str) -> None:
        """Something to know, such as where data came from; warnings start with "warning"."""

    def begin(self, trainings: int) -> None:
        """So many trainings are about to run."""

    def trained(self, what: str, training: Training, figure: Figure) -> None:
        """One of them ended."""

    def end(self) -> None:
        """No more trainings, whatever the reason."""


def prepare(loaded: Loaded, topic: Callable[[Subject], Design], tell: Callable[[str], None]) -> tuple[Subject, Design]:
    """Read the data of a configuration, and let the topic design its experiment."""
    config = loaded.config
    device = choose_device(config.train.device)
    reasons: list[str] = []
    data, section = data_module.load(config.data_section, device, tell, reasons.append)
    if section is not config.data_section:
        tell(reasons[0])
        tell(f"warning: this is about {section.type}, not {config.data.type}, because data.fallback asks for it")
    config = config.model_copy(update={"data": section})
    if not len(data.validation):
        raise UsageError(f"{config.name} has no validation part to measure on: set data.validation, such as 0.2")
    with loaded.places():
        blueprint = draw(config, data.spec)
    subject = Subject(config, data, blueprint)
    return subject, topic(subject)


def study(subject: Subject, design: Design, seeds: Sequence[int], requested: str, listener: Listener) -> Study:
    """Train every variant with every seed; the variants of one seed behind each other."""
    configs = [varied(subject, variant) for variant in design.variants]
    data = [design.data(_data_for(config, subject, listener.message)) for config in configs]
    for variant, config, own in zip(design.variants, configs, data, strict=True):
        _check(subject, variant, config, own)  # all are refused before one is trained
    trainings: list[list[Training]] = [[] for _ in configs]
    for seed in seeds:
        for place, config in enumerate(configs):
            seeded = config.model_copy(update={"seed": seed})
            training = train(seeded, data[place], design)
            trainings[place].append(training)
            what = f"{subject.config.name}: {design.variants[place].label}, seed {seed}"
            listener.trained(what, training, design.figures[0])
    arms = {
        variant.label: Arm(variant.label, dict(variant.settings), tuple(own), spreads(own))
        for variant, own in zip(design.variants, trainings, strict=True)
    }
    named = {figure.name: figure for figure in design.figures}
    return Study(
        config=subject.config.name,
        data=subject.data.name,
        requested_data=requested,
        samples=(len(data[0].train), len(data[0].validation)),
        figures=tuple(design.figures),
        arms=tuple(arms.values()),
        differences=tuple(
            difference(arms[c.first], arms[c.second], named[c.figure or design.figures[0].name], c.expected)
            for c in design.claims
        ),
        charts=tuple(design.charts),
    )


def _data_for(config: ExperimentConfig, subject: Subject, tell: Callable[[str], None]) -> Data:
    """The data of a variant: those of the subject unless it reads, splits or normalizes them in another way."""
    mine, theirs = ({**c.data_section.model_dump(), "batch_size": None} for c in (config, subject.config))
    if mine == theirs:
        return subject.data
    return data_module.load(config.data_section, choose_device(config.train.device), tell)[0]


def _check(subject: Subject, variant: Variant, config: ExperimentConfig, data: Data) -> None:
    """UsageError where the number of samples, the device or the precision does not fit what a variant asks for."""
    try:
        assemble(config, data, choose_device(config.train.device))
    except InvalidError as error:
        raise unfit(subject, variant, error) from None


def train(config: ExperimentConfig, data: Data, design: Design) -> Training:
    """One training as `dlf train` makes it, without a run directory; a divergence is a result."""
    experiment, state, config = assemble(config, data, choose_device(config.train.device))
    noted: list[Measured] = [design.before(experiment, state)]
    history: list[Record] = []
    diverged = None
    try:
        best = _fit(config, experiment, state, history)
    except DivergedError as error:
        diverged = str(error).partition(". ")[0]
    else:
        result = history[-1 if best is None else best]
        noted += [_numbers(result), {"epochs": len(history)}, design.after(experiment, state)]
    found = {name: value for measured in noted for name, value in measured.items()}
    columns = {name: [record.get(name) for record in history] for name in _numbers(history[0] if history else {})}
    lists = {name: value for name, value in found.items() if isinstance(value, Sequence)}
    return Training(
        seed=config.seed,
        epochs=len(history),
        diverged=diverged,
        figures={name: _finite(value) for name, value in found.items() if name not in lists},
        series={name: tuple(map(_finite, values)) for name, values in {**columns, **lists}.items()},
    )


def _fit(config: ExperimentConfig, experiment: Experiment, state: TrainState, history: list[Record]) -> int | None:
    """Train to the last epoch, or until early stopping, and fill `history`.

    Where early stopping restores the best epoch, the network is that one's afterwards: its index; else None.
    """
    stopping, best = config.train.early_stopping, {}
    for record in fit(state, experiment, epochs=config.train.epochs, history=history):
        history.append(record)
        if stopping is None:
            continue
        if stopping.restore_best and is_best(history, config.monitor):
            best = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
        if should_stop(history, **stopping.model_dump(exclude={"restore_best"})):
            break
    if not best:
        return None
    state.network.load_state_dict(best)
    return best_index(history, config.monitor)


def _numbers(record: Record) -> dict[str, Any]:
    """What was measured of the training and the validation part in an epoch, apart from tables."""
    return {
        name: value
        for name, value in record.items()
        if name.startswith(("train_", "val_")) and (value is None or isinstance(value, int | float))
    }


def _finite(value: float | None) -> float | None:
    """The number, None where it is none or not finite."""
    return value if value is not None and math.isfinite(value) else None
