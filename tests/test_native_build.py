"""The kernels are compiled when dlf is installed; where they cannot be, dlf is installed without, and says why."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """hatch_build.py, for a folder in which a library is already, on a machine of the right kind."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "native"
    shutil.copytree(
        module.FOLDER, folder, ignore=lambda _, names: [n for n in names if "." not in n or n[-3:] == ".so"]
    )
    monkeypatch.setattr(module, "FOLDER", folder)
    monkeypatch.setattr(module, "LIBRARY", folder / "kernels.so")
    module.LIBRARY.write_text("old")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return module


WRITES = 'while [ "$1" != -o ]; do shift; done; echo new > "$2"'  # a compiler that only does this
COMPILERS = {
    "one that does": (WRITES, None),
    "none": (None, "there is no C compiler"),
    "one that is not there": ("", "No such file"),
    "one that fails": ("exit 1", "pool.c"),
    "one that cannot link": (f'[ "$1" != -shared ] || {{ echo no linker >&2; exit 1; }}; {WRITES}', "no linker"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernels are compiled on Linux only")
@pytest.mark.parametrize("name", COMPILERS)
def test_a_compiler_that_fails_leaves_the_old_library(
    name: str, build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says why; a new one takes its place, and nothing else is left."""
    (script, reason), before, compiler = COMPILERS[name], set(build.FOLDER.iterdir()), tmp_path / "compiler"
    monkeypatch.setenv("CC", "" if script is None else str(compiler))
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    elif script:
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
    said = build.compile_kernels()
    assert said is None if reason is None else reason in said
    assert build.LIBRARY.read_text().strip() == ("new" if reason is None else "old")
    assert set(build.FOLDER.iterdir()) == before


def test_other_machines_are_told_why_there_are_none(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "aarch64" in build.compile_kernels()
    assert build.LIBRARY.read_text() == "old"


def test_a_folder_that_takes_no_files_is_no_reason_not_to_install(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(options["dir"]))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert "Permission denied" in build.compile_kernels()
