"""What run.json and a line of metrics.jsonl hold: the entries that dlf reads again, and of which kind each must be."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from dlf.errors import RunError

Status = Literal["running", "completed", "interrupted", "diverged", "failed"]


class Info(dict[str, Any]):
    """What run.json holds; an entry that dlf writes and that is not there is a RunError."""

    file = "run.json"

    def __missing__(self, key: str) -> Any:
        raise RunError(f"{self.file} has no {key!r}: `dlf train` did not write it, or it was edited. Train a new run.")


class Line(Info):
    """A record of metrics.jsonl."""

    file = "metrics.jsonl"


def parse(text: bytes) -> Info:
    """The entries; ValueError, with the first that is not what dlf writes, where the file was damaged or edited."""
    found = json_object(text)
    try:
        _Entries.model_validate(found)
    except ValidationError as error:
        wrong = error.errors()[0]
        entry = ".".join(map(str, wrong["loc"]))
        raise ValueError(f"{entry} is {wrong['input']!r:.40}; {wrong['msg']}. It was edited") from None
    return Info(found)


def parse_line(text: bytes) -> Line:
    """A record, whose place and time are numbers, and none of whose numbers is beyond every float; else ValueError."""
    found = Line(json_object(text))
    for name in ("epoch", "step", "seconds"):
        if name in found and (isinstance(found[name], bool) or not isinstance(found[name], int | float)):
            raise ValueError(f"{name} is {found[name]!r:.40}, which is no number")
    if any(isinstance(value, int) and abs(value) > 2**63 for value in found.values()):
        raise ValueError("a number has more digits than any that dlf writes")
    return found


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object that is written there; ValueError, with what it is instead, where it is none."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text[:40]!r}")
    return value


def _is_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class _Part(BaseModel):
    """Where a part of the training began, and on what; an entry that is missing is asked for when it is needed."""

    model_config = ConfigDict(strict=True, extra="ignore")

    epoch: NonNegativeInt = 0
    step: NonNegativeInt = 0
    epochs: NonNegativeInt = 0
    device: str = ""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1  # as many as `train.threads` takes
    packages: dict[str, Any] = {}


class _Entries(_Part):
    status: Status = "running"
    started: Annotated[str, AfterValidator(_is_time)] = ""
    planned_epochs: NonNegativeInt = 0
    data: str = ""
    requested_data: str = ""
    data_sha256: str = ""
    split_sha256: str = ""
    task: Literal["classification", "binary", "regression"] = "classification"
    result: Literal["best", "last"] = "best"
    diverged_at: PositiveInt | None = None
    resumed: list[_Part] = []
