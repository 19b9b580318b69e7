"""What a topic asks of a configuration: settings to compare, numbers to measure, and what is expected of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from dlf.config import ExperimentConfig, check, check_monitors
from dlf.data import Data
from dlf.engine import Experiment, TrainState
from dlf.errors import UsageError
from dlf.model import Blueprint, draw
from dlf.questions.results import Course, Expected, Figure, Study, Sweep
from dlf.registry import InvalidError, flaws

Measured = Mapping[str, Any]
Probe = Callable[[Experiment, TrainState], Measured]
Explain = Callable[[Sequence[Study]], tuple[str, str]]


@dataclass(frozen=True)
class Subject:
    """What is asked about: a valid configuration, its data, and the network that follows from both."""

    config: ExperimentConfig
    data: Data
    blueprint: Blueprint

    @property
    def headline(self) -> Figure:
        """How good the network is on the validation part: accuracy, or the mean absolute error of a regression."""
        if self.blueprint.task == "regression":
            return Figure("val_mae", "validation error (mae)")
        return Figure("val_accuracy", "validation accuracy", share=True)

    @property
    def course(self) -> Course:
        """The headline epoch by epoch."""
        return Course(self.headline.name, self.headline.title)

    def layers(self, **settings: Any) -> list[Any]:
        """The hidden layers as plain data, each with those of the settings that it has: init=None, activation=...."""
        return [_with(layer, settings) for layer in self.config.dump()["model"]["layers"]]


@dataclass(frozen=True)
class Variant:
    """One setting to train with: `settings` are laid over the configuration, "optimizer.lr": 0.1."""

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What the lesson says: `first` is better, worse, more or less than `second`, in a figure; default the headline."""

    first: str
    expected: Expected
    second: str
    figure: str | None = None


@dataclass(frozen=True)
class Design:
    """A paired experiment. The first of `figures` is the headline, the first of `claims` the one that matters most.

    `before` and `after` measure every training before its first step and after its last: a number becomes a figure, a
    sequence of numbers a series. `explain` makes the two paragraphs from what was measured. `data` chooses what of the
    data is trained with, where a topic keeps some for itself.
    """

    variants: Sequence[Variant]
    claims: Sequence[Claim]
    figures: Sequence[Figure]
    charts: Sequence[Course | Sweep]
    explain: Explain
    before: Probe = lambda experiment, state: {}
    after: Probe = lambda experiment, state: {}
    data: Callable[[Data], Data] = lambda data: data


def _with(layer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """One layer with these settings, and those within it."""
    changed = {**layer, **{key: value for key, value in settings.items() if key in layer}}
    if "layers" in layer:
        changed["layers"] = [_with(inner, settings) for inner in layer["layers"]]
    return changed


def varied(subject: Subject, variant: Variant) -> ExperimentConfig:
    """The configuration with the settings of the variant; UsageError where the two do not fit together."""
    data = subject.config.dump()
    try:
        for key, value in variant.settings.items():
            data = _laid(data, key.split("."), value)
        config = ExperimentConfig.model_validate(data)
        check(config)
        draw(config, subject.data.spec)
        if found := list(check_monitors(config, subject.headline.name.removeprefix("val_"))):
            raise InvalidError(found)
    except ValidationError as error:
        raise unfit(subject, variant, InvalidError(flaws(error, ExperimentConfig))) from None
    except InvalidError as error:
        raise unfit(subject, variant, error) from None
    return config


def _laid(node: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of plain data with `value` at `path`."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(node, list):
        index = int(step)
        return [*node[:index], _laid(node[index], rest, value), *node[index + 1 :]]
    known = node or {}
    return {**known, step: _laid(known.get(step), rest, value)}


def unfit(subject: Subject, variant: Variant, error: InvalidError) -> UsageError:
    """What is said of a configuration that a variant's settings do not fit."""
    problems = "\n".join(f"  {'.'.join(map(str, flaw.path))}  {flaw.message}" for flaw in error.flaws)
    return UsageError(f"{subject.config.name} cannot be trained with {variant.label}, which is asked for:\n{problems}")
