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
    return sorted(path.stem for folder in _FOLDERS for path in folder.glob("*.yaml"))


def find(config: str) -> Path:
    """The file that CONFIG means: a path, or the name of a shipped experiment; UsageError where it is neither."""
    path = Path(config)
    if config != path.name or path.suffix or _is_file(path):
        return path
    if config in names():
        return files(config)[0]
    raise UsageError(f"{config!r} is no file and no shipped experiment.{_hint(config)}")


def files(name: str) -> list[Path]:
    """The experiment file of that name, then its data files, which share its stem; UsageError where there is none."""
    if name not in names():
        raise UsageError(f"{name!r} is no shipped experiment.{_hint(name)}")
    found = (path for folder in _FOLDERS for path in folder.glob(f"{name}.*"))
    return sorted(found, key=lambda path: (path.suffix != ".yaml", path.name))


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()  # a pipe is a file too
    except (OSError, ValueError):  # a name of 300 characters, or with a NUL
        return False


def _hint(name: str) -> str:
    return f"{did_you_mean(name, names())} Shipped: {', '.join(names())}"
