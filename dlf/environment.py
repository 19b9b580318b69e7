"""What a result depends on besides the experiment file: versions, device, threads, instruction set, command line."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dlf import __version__, native

_PACKAGES = ("torch", "numpy", "pydantic", "safetensors", "scikit-learn")


def describe(device: torch.device) -> dict[str, Any]:
    """The entries of run.json that say where a run was made."""
    return {
        "dlf": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": native.describe(),
        "threads": torch.get_num_threads(),
        "git_commit": _commit(),
        "command": sys.argv,
    }


def _processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _commit() -> str | None:
    """The commit of the checkout that dlf runs from; None where it is installed without one."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
