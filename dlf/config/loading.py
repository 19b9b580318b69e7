"""The one loader of experiment files: text in, a validated configuration out, or every problem with its place."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dlf import yaml12
from dlf.config.contradictions import check
from dlf.config.overrides import named, override
from dlf.config.sections import EarlyStopping, ExperimentConfig, ModelSection, TrainSection
from dlf.datasets import DATASETS, DataSection
from dlf.errors import ConfigError, Problem
from dlf.layers import LAYERS
from dlf.losses import LOSSES
from dlf.optimizers import OPTIMIZERS
from dlf.registry import Flaw, InvalidError, Registry, Section, flaws, shown
from dlf.registry import Path as KeyPath
from dlf.regularizers import REGULARIZERS
from dlf.run import check_name
from dlf.schedules import SCHEDULES


@dataclass(frozen=True)
class Loaded:
    """A validated experiment and where each of its settings was written."""

    config: ExperimentConfig
    source: str
    text: str
    document: yaml12.Document
    overrides: Mapping[KeyPath, str]

    @contextlib.contextmanager
    def places(self) -> Iterator[None]:
        """Turn flaws that only show while the experiment is assembled into a ConfigError that says where."""
        try:
            yield
        except InvalidError as error:
            problems = _located(self.source, self.document, self.overrides, error.flaws)
            raise _config_error(self.source, problems) from None


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read, override and validate an experiment file; ConfigError with every problem of it."""
    try:
        text = yaml12.read(path)
    except yaml12.YamlError as error:
        raise _not_yaml(str(path), error) from None
    loaded = loads(text, str(path), overrides, default_name=path.stem)
    return replace(loaded, config=_anchored(loaded.config, path.absolute().parent))


def _anchored(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """Files that the data section names, found beside the experiment file, by their absolute paths.

    So a run's config.yaml works from everywhere. What is not there is left to be looked for in the current folder.
    """
    files = {key: value for key, value in config.data.parameters.items() if key.endswith("path") and value}
    found = {key: str(folder / value) for key, value in files.items() if (folder / value).exists()}
    return config.model_copy(update={"data": config.data.model_copy(update=found)}) if found else config


def loads(text: str, source: str, overrides: Sequence[str] = (), default_name: str = "experiment") -> Loaded:
    """The same for the text of a file; `source` is how messages call it."""
    try:
        document = yaml12.parse(text)
    except yaml12.YamlError as error:
        raise _not_yaml(source, error) from None
    if not isinstance(document.data, dict):
        message = f"expected a mapping of sections such as `data: mnist`, got {shown(document.data)}"
        raise ConfigError(source, [Problem(f"{source}:1:1", "", message)])
    given = override({"name": _name_from(default_name), **document.data}, overrides)
    config, found = _validated(given.data)
    # an override is typed by the setting: 1 is text where text belongs
    if as_text := [flaw.path for flaw in found if flaw.wants_text and flaw.path in given.applied]:
        for path in as_text:
            given.take_as_text(path)
        config, found = _validated(given.data)
    problems = [*_located(source, document, given.applied, found), *given.problems]
    if config is None or problems:
        raise _config_error(source, problems)
    return Loaded(config, source, text, document, given.applied)


def _name_from(stem: str) -> str:
    """A run's name from a file's: what cannot be in it becomes a dash."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100]
    try:
        return check_name(name)
    except ValueError:
        return "experiment"


def _validated(data: Mapping[str, Any]) -> tuple[ExperimentConfig | None, list[Flaw]]:
    """The configuration, or what is wrong with it; contradictions are looked for where nothing else is wrong."""
    try:
        config = ExperimentConfig.model_validate(data)
        check(config)
    except ValidationError as error:
        return None, [_with_home(flaw) for flaw in flaws(error, ExperimentConfig)]
    except InvalidError as error:
        return None, list(error.flaws)
    return config, []


# --- where a problem stands -----------------------------------------------------------------------------------------


def _config_error(source: str, problems: Sequence[Problem]) -> ConfigError:
    in_file = any(problem.place.startswith(source) for problem in problems)
    return ConfigError(source if in_file else "the command line", problems)


def _not_yaml(source: str, error: yaml12.YamlError) -> ConfigError:
    places = (f"{source}:{place}" if place else source for place, _ in error.problems)
    return ConfigError(
        source, [Problem(at, "", message) for at, (_, message) in zip(places, error.problems, strict=True)]
    )


def _located(
    source: str, document: yaml12.Document, overrides: Mapping[KeyPath, str], found: Sequence[Flaw]
) -> list[Problem]:
    """Every flaw with its place: line and column of the file, in that order, then the overrides at fault."""
    in_file: list[tuple[yaml12.Place, Problem]] = []
    in_overrides = []
    for flaw in found:
        key = ".".join(map(str, flaw.path))
        text = _override_at_fault(flaw.path, document, overrides)
        if text is not None:
            in_overrides.append(Problem(named(text), key, flaw.message))
        else:
            place = document.place(flaw.path, flaw.at_key)
            in_file.append((place, Problem(f"{source}:{place}", key, flaw.message)))
    in_file.sort(key=lambda item: item[0])
    return [*(problem for _, problem in in_file), *in_overrides]


def _override_at_fault(path: KeyPath, document: yaml12.Document, overrides: Mapping[KeyPath, str]) -> str | None:
    """The last override that set `path` or, where the file does not, made a section there or chose its type."""
    for key, text in reversed(list(overrides.items())):
        if path[: len(key)] == key:
            return text
        chose_type = key[-1] == "type" and path[: len(key) - 1] == key[:-1]
        if path not in document.places and (key[: len(path)] == path or chose_type):
            return text
    return None


# --- a key in the wrong section -------------------------------------------------------------------------------------


@functools.cache
def _homes() -> dict[str, list[str]]:
    """For every key, the sections that know it, "" being the top; components only for keys that no section has."""
    homes: dict[str, list[str]] = {}
    sections: dict[str, type[Section]] = {
        "": ExperimentConfig,
        "data": DataSection,
        "model": ModelSection,
        "train": TrainSection,
        "train.early_stopping": EarlyStopping,
    }
    for name, section in sections.items():
        for key in section.model_fields:
            homes.setdefault(key, []).append(name)
    owners: dict[str, Registry[Any]] = {
        "data": DATASETS,
        "model.layers": LAYERS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "regularizers": REGULARIZERS,
    }
    settled = set(homes)
    for name, registry in owners.items():
        for key in {key for entry in registry.names() for key in registry.get(entry).model.model_fields} - settled:
            homes.setdefault(key, []).append(name)
    del homes["type"]
    return homes


def _with_home(flaw: Flaw) -> Flaw:
    """An unknown key that another section knows: name that section instead of the nearest name."""
    homes = _homes().get(str(flaw.path[-1]), []) if flaw.at_key else []
    here = ".".join(step for step in flaw.path[:-1] if isinstance(step, str))
    if not homes or any(home and f"{here}.".startswith(f"{home}.") for home in homes):
        return flaw
    where = " or ".join(home or "the top of the file" for home in homes)
    return flaw._replace(message=f"unknown key here: {flaw.path[-1]!r} belongs to {where}")
