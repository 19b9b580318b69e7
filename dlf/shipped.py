"""The experiment files that come with dlf, found by name: `dlf train mnist`."""

from __future__ import annotations

from pathlib import Path

from dlf.errors import UsageError
from dlf.registry import did_you_mean

_PACKAGE = Path(__file__).parent
# in a wheel they lie inside of the package, in a checkout beside it
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def names() -> list[str]:
    """The names of the shipped experiments."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def find(config: str) -> Path:
    """The file that CONFIG means: a path, or the name of a shipped experiment; UsageError where it is neither."""
    path = Path(config)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    if config in names():
        return _folder() / f"{config}.yaml"
    known = ", ".join(names())
    raise UsageError(
        f"{config!r} is no file and no shipped experiment.{did_you_mean(config, names())} Shipped: {known}"
    )


def _folder() -> Path:
    return next(folder for folder in _FOLDERS if folder.is_dir())
