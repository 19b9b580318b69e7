"""How much memory this machine can give."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes() -> int:
    """Main memory that a process can have now without swapping; all of it where the system does not say."""
    try:  # what the kernel can give, file caches included: free pages alone are few on a machine that has read files
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):  # not Linux
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return 2**63
