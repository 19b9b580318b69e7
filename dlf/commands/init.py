"""`dlf init`: write a shipped experiment file, with its comments, to start from."""

from __future__ import annotations

from pathlib import Path

from dlf import shipped
from dlf.errors import MachineError, UsageError


def init(name: str, target: Path | None = None) -> Path:
    """Copy the shipped experiment `name` to `target` (default: NAME.yaml here); never over an existing file."""
    if name not in shipped.names():
        raise UsageError(f"{name!r} is no shipped experiment. Shipped: {', '.join(shipped.names())}")
    target = target or Path(f"{name}.yaml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(shipped.find(name).read_text(encoding="utf-8"))
    except FileExistsError:
        raise UsageError(f"{target} exists; name another file: dlf init {name} FILE") from None
    except OSError as error:
        raise MachineError(f"cannot write {target}: {error.strerror}") from error
    return target
