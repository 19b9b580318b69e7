"""The soak, shortly: a few processes that are really killed, and what they leave goes on to the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tried

KILLS = 4
SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.fault("P2", cases=KILLS)
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL, no fork on Windows")
def test_p2_killed_processes_go_on_to_the_same_bytes(tried: Tried) -> None:
    command = [sys.executable, str(SOAK), "--kills", str(KILLS), "--full", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SOAK.parent.parent)
    figures = {what: int(count) for count, what in (line.split(maxsplit=1) for line in done.stdout.splitlines())}
    assert done.returncode == 0, done
    assert figures["kills"] == KILLS
    for _ in range(figures["kills"]):
        tried()
    assert figures["trainings"] == figures["equal to the undisturbed one"] > 0
    assert figures["lost"] == figures["failed"] == 0
