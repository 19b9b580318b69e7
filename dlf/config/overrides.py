"""Overrides: `key.path=value`, laid over what the file says before it is validated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dlf import yaml12
from dlf.config.sections import ExperimentConfig
from dlf.errors import Problem
from dlf.registry import Component, shown
from dlf.registry import Path as KeyPath


@dataclass
class Overridden:
    """Data with overrides laid over it; `applied` says which override set which path, the last one last."""

    data: dict[str, Any]
    applied: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def take_as_text(self, path: KeyPath) -> None:
        """Lay the override of `path` again, as the text that was written: `data.target=1` names the column 1."""
        self.data = _laid(self.data, path, self.applied[path].partition("=")[2].strip())


def override(data: dict[str, Any], overrides: Sequence[str]) -> Overridden:
    """The data with each override laid over it; those that fit nowhere are problems."""
    result = Overridden(data)
    for text in overrides:
        try:
            path, value = _parsed(text)
            result.data = _laid(result.data, path, value)
        except ValueError as error:
            result.problems.append(Problem(named(text), "", str(error)))
        else:
            result.applied.pop(path, None)
            result.applied[path] = text
    return result


def named(text: str) -> str:
    """An override as the place of a problem."""
    shown = text if len(text) <= 200 else f"{text[:197]}..."
    return f"override {shown!r}"


def _parsed(text: str) -> tuple[KeyPath, Any]:
    key, equals, value = text.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise ValueError("expected key.path=value, such as optimizer.lr=0.01 or model.layers.0.units=64")
    if len(steps) > yaml12.MAX_DEPTH:
        raise ValueError(f"a key of {len(steps):,} steps; a setting is at most {yaml12.MAX_DEPTH} deep")
    path = tuple(int(step) if re.fullmatch("[0-9]{1,9}", step) else step for step in steps)
    try:
        return path, yaml12.parse_scalar_or_flow(value)
    except yaml12.YamlError as error:
        raise ValueError("; ".join(message for _, message in error.problems)) from None


def _laid(node: Any, path: KeyPath, value: Any, walked: KeyPath = ()) -> Any:
    """A copy of `node`, which `walked` led to, with `value` at `path`; what the file does not say is its default."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if node is None:
        node = _default(walked)
    if isinstance(node, str):  # a component written as its name
        node = {"type": node}
    if isinstance(node, list):
        if not isinstance(step, int) or step >= len(node):
            entries = f"has {len(node)} entries, numbered from 0" if node else "has no entries: give the whole list"
            raise ValueError(f"{'.'.join(map(str, walked))} {entries}; there is no {step}")
        return [*node[:step], _laid(node[step], rest, value, (*walked, step)), *node[step + 1 :]]
    if not isinstance(node, dict):
        raise ValueError(f"{'.'.join(map(str, walked))} is {shown(node)}, not a section: it has no key {step!r}")
    key = str(step)
    return {**node, key: _laid(node.get(key), rest, value, (*walked, key))}


def _default(path: KeyPath) -> Any:
    """What stands at `path` where the file says nothing, as little of it as a file would need to say."""
    node: Any = ExperimentConfig.model_fields.get(str(path[0]))
    for step in ("default", *path[1:]):
        node = getattr(node, str(step), None)
    if isinstance(node, list):
        return [_written(component) for component in node]
    return {"type": node.type} if isinstance(node, Component) else {}


def _written(component: Component) -> dict[str, Any]:
    return {"type": component.type, **component.model_dump(mode="json", exclude_defaults=True)}
