"""Which sources the compiled kernels are of. Imports nothing: hatch_build.py runs it before dlf is installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent


def fingerprint() -> str | None:
    """SHA-256 of the C files; None where they are not at hand, as in an installed wheel."""
    files = sorted(FOLDER.glob("*.[ch]"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else None
