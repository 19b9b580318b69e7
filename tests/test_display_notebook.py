"""The display in Jupyter: rows that stay, an output that is replaced, and nothing that is garbage there.

The calls are tried with a stand-in for IPython, and, where ipykernel and nbclient are installed, in a real notebook.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_training import STEPS, StepOnly, record, started
from fake_training import train as fake_train
from test_display import EPOCHS, on_terminal, rows

from dlf.api import Silent, _usual_display
from dlf.display import in_notebook, notebook, progress

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # everything that moves a cursor or rings; not the newline


class Cell:
    """What a cell shows: `outputs` is an output that is replaced, by every text that it had."""

    def __init__(self) -> None:
        self.outputs: list[str] = []
        self.failing = False

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Cell:
        assert raw
        assert display_id
        self.update(content, raw=raw)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        if self.failing:
            raise RuntimeError("the kernel lost its notebook")
        self.outputs.append(content["text/plain"])


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A stand-in for IPython inside of a kernel."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    shown = Cell()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.display))
    return shown


def test_a_kernel_is_known_by_its_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for shell, expected in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)):
        stand_in = SimpleNamespace(get_ipython=lambda shell=shell: shell)  # the last but one: IPython in a terminal
        monkeypatch.setitem(sys.modules, "IPython", stand_in)
        assert in_notebook() is expected
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


def test_rows_stay_and_one_output_is_replaced(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    assert fake_train(progress.training(quiet=False), EPOCHS, 0.06) == EPOCHS
    shown, errors = capsys.readouterr()
    assert errors == ""  # on a red background
    assert [row.split()[0] for row in rows(shown.splitlines())] == [f"{epoch}/{EPOCHS}" for epoch in (1, 2, 3)]
    assert not CONTROLS.search(shown + "".join(cell.outputs))
    assert shown.startswith("mnist: unpacked")
    assert max(map(len, shown.splitlines())) <= notebook.COLUMNS
    assert "0%" in cell.outputs[0]
    first, last = cell.outputs[-1].splitlines()
    assert first.startswith("epoch 3/3")
    assert "100%" in first
    assert last.startswith("train_loss █▅▁")
    # 3 epochs of 5 pauses of 0.06 s are 0.9 s: at most four a second, the first, the last
    assert 3 <= len(cell.outputs) <= 4 + 2 + 10


def test_the_output_is_not_replaced_at_every_step(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "time", SimpleNamespace(monotonic=lambda: 7.0))
    shown = progress.training(quiet=False)
    shown.start(*started(1))
    for step in range(STEPS):
        shown.step(StepOnly(step))  # type: ignore[arg-type]
    assert len(cell.outputs) == 2
    monkeypatch.setattr(notebook, "time", SimpleNamespace(monotonic=lambda: 7.25))
    shown.step(StepOnly(STEPS))  # type: ignore[arg-type]
    assert len(cell.outputs) == 3
    shown.end()


@pytest.mark.fault("P5")
def test_a_notebook_that_fails_stops_nothing(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.training(quiet=False)
    cell.failing = True
    shown.start(*started(2))
    shown.epoch(record(1), best=True)
    shown.end()
    assert "warning: the display failed (RuntimeError('the kernel lost its notebook'))" in capsys.readouterr().out


def test_quiet_is_quiet(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    fake_train(progress.training(quiet=True), EPOCHS)
    assert capsys.readouterr() == ("", "")
    assert cell.outputs == []


def test_functions_show_their_course_in_a_notebook_only(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(_usual_display(), Silent)
    monkeypatch.delitem(sys.modules, "IPython")
    assert isinstance(_usual_display(), Silent)


def test_a_command_in_a_cell_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """`!dlf train` has a pseudo-terminal that the kernel made, and the notebook no cursor."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    root = str(Path(__file__).parent.parent)
    sent, _, code = on_terminal(80, str(EPOCHS), "0", TERM="xterm-color", JPY_PARENT_PID="1", PYTHONPATH=root)
    assert code == 0
    assert not CONTROLS.search(sent.replace("\r\n", "\n"))
    assert sent.count("\nepoch ") == EPOCHS


def test_in_a_real_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbformat: Any = pytest.importorskip("nbformat")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    kernel = tmp_path / "kernels" / "dlf"
    kernel.mkdir(parents=True)
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernel / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "dlf", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    book = nbformat.v4.new_notebook()
    code = "import dlf; done = dlf.train({'data': {'type': 'iris'}}, 'train.epochs=3', 'train.threads=1')"
    book.cells = [nbformat.v4.new_code_cell(code)]
    nbclient.NotebookClient(book, timeout=60, kernel_name="dlf").execute()
    outputs = book.cells[0].outputs
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert [row.split()[0] for row in rows(text.splitlines())] == ["1/3", "2/3", "3/3"]
    assert not CONTROLS.search(text)
    [moving] = [output.data["text/plain"] for output in outputs if output.output_type == "display_data"]
    assert moving.startswith("epoch 3/3")
    assert "100%" in moving
