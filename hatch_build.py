"""Compiles dlf's kernels (dlf/native) when dlf is installed or a wheel is built, on Linux with x86-64 and GCC.

Where that is not the machine, or the compiler fails, dlf is installed without them and computes with torch alone.
`python hatch_build.py` compiles them anew in a checkout.
"""

from __future__ import annotations

import os
import platform
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dlf" / "native"
LIBRARY = FOLDER / "kernels.so"

FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wextra")
AVX512 = (*(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq")), "-mfma", "-mprefer-vector-width=512")
# each instruction set: what it asks of the compiler, and the files that use it
LEVELS = {
    "avx2": (("-mavx2", "-mfma", "-mbmi2"), ("product", "adam", "batch")),
    "avx512": (AVX512, ("product", "adam", "batch")),
    "bfloat16": ((*AVX512, "-mavx512bf16", "-DBFLOAT16"), ("product",)),
}


def compile_kernels() -> str | None:
    """Compile the library into its place, in one move; None when it is there, else why it is not."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"they are written for Linux on x86-64, not for {sys.platform} on {platform.machine()}"
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "there is no C compiler"
    try:
        return _compile(compiler.split())
    except OSError as error:  # a full disk, sources that may not be written beside, a compiler that does not start
        return str(error)


def _compile(compiler: list[str]) -> str | None:
    fingerprint = runpy.run_path(str(FOLDER / "sources.py"))["fingerprint"]()
    files: list[tuple[str, str, tuple[str, ...]]] = [("pool", "pool", (f'-DSOURCES="{fingerprint}"',))]
    files += [
        (f"{file}-{level}", file, (*flags, f"-DLEVEL={level}"))
        for level, (flags, names) in LEVELS.items()
        for file in names
    ]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        objects = [f"{folder}/{name}.o" for name, _, _ in files]
        commands = [
            (*compiler, *FLAGS, *flags, "-c", f"{FOLDER}/{file}.c", "-o", made)
            for made, (_, file, flags) in zip(objects, files, strict=True)
        ]
        library = f"{folder}/{LIBRARY.name}"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            failed = [why for why in pool.map(_run, commands) if why]
        if failed:
            return failed[0]
        why_not = _run((*compiler, "-shared", "-o", library, *objects, "-lpthread", "-lm"))
        if why_not is None:
            Path(library).replace(LIBRARY)  # in one move: a program that uses the old one keeps it
        return why_not


def _run(command: Sequence[str]) -> str | None:
    """None, or what the compiler says of its failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{' '.join(command)}\n{done.stderr}" if done.returncode else None


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a script, without the build backend
    BuildHookInterface = object  # type: ignore[assignment,misc]


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling calls it for every build; a source distribution takes the sources alone."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        why_not = compile_kernels()
        if why_not is not None:
            LIBRARY.unlink(missing_ok=True)
            self.app.display_warning(f"dlf's kernels are left out, dlf computes with torch alone: {why_not}")
            return
        build_data["artifacts"].append(f"/{LIBRARY.relative_to(self.root).as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


if __name__ == "__main__":
    sys.exit(compile_kernels())
