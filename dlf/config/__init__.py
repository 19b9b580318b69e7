"""The experiment file: its sections, and the one loader that every command uses.

A file is read as YAML 1.2 (dlf/yaml12.py), overrides are laid over it, and the result is validated against sections
whose components come from the registries. Every problem is reported at once, with its place.

    sections.py         what can be set, and its JSON Schema
    overrides.py        key.path=value laid over the file
    contradictions.py   settings that are right by themselves and wrong together
    loading.py          the loader, and where a problem stands
"""

from dlf.config.contradictions import check, check_monitors, measured, nested
from dlf.config.loading import Loaded, load, loads
from dlf.config.sections import (
    REGISTRIES,
    CheckpointSection,
    EarlyStopping,
    ExperimentConfig,
    ModelSection,
    TrainSection,
    check_device,
    json_schema,
)

__all__ = [
    "REGISTRIES",
    "CheckpointSection",
    "EarlyStopping",
    "ExperimentConfig",
    "Loaded",
    "ModelSection",
    "TrainSection",
    "check",
    "check_device",
    "check_monitors",
    "json_schema",
    "load",
    "loads",
    "measured",
    "nested",
]
