"""`dlf init`: write a shipped experiment file, with its comments, to start from."""

from __future__ import annotations

from pathlib import Path

from dlf import shipped
from dlf.errors import MachineError, UsageError


def init(name: str, target: Path | None = None) -> list[Path]:
    """Copy the shipped experiment `name` to `target`, a file or a folder (default: NAME.yaml here).

    Its data files (lesson.csv of lesson.yaml) go beside it, unless they are there already, byte for byte. Where another
    file is in the way nothing is written: UsageError. Returns what was written.
    """
    source, *data = shipped.files(name)
    target = target or Path()
    if target.is_dir():
        target = target / source.name
    wanted = {target: source, **{target.with_name(file.name): file for file in data}}
    copies = {path: original for path, original in wanted.items() if path == target or not _same(path, original)}
    for path in copies:
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is there already and stays as it is; name another place: dlf init {name} FILE")
    for path, original in copies.items():
        _write_new(path, original.read_bytes())
    return list(copies)


def _same(path: Path, original: Path) -> bool:
    return path.is_file() and path.read_bytes() == original.read_bytes()


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error
