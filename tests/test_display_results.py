"""Values become the right words, results the right tables, and a stdout that fails is treated as what it is."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_training import record

from dlf import display
from dlf.display.epochs import cells_of, epoch_line
from dlf.display.trials import trials
from dlf.display.words import byte_size, duration, number, safe, spark
from dlf.errors import MachineError


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0812345, "0.0812"),
        (0.0, "0.0000"),
        (12.34567, "12.346"),
        (123.4567, "123.46"),
        (1234.567, "1234.6"),
        (-0.5, "-0.5000"),
        (0.000512, "5.1e-4"),
        (12345.6, "1.2e4"),
        (55000, "55,000"),
        (None, "nan"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.031, "0.03s"), (9.996, "10.0s"), (12, "12s"), (59.96, "1m00s"), (185.4, "3m05s"), (7500.0, "2h05m")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1023, "0.999 KiB"), (2140160, "2.04 MiB"), (3 * 2**40, "3.0 TiB")]
)
def test_byte_size(count: int, text: str) -> None:
    assert byte_size(count) == text  # 2140160 / 1024^2 = 2.041


def test_spark() -> None:
    assert spark([4, 2, 1], "012") == "210"  # halving is a straight line on a logarithmic scale
    assert spark([4, 2, 1, -2], "0123") == "3220"  # a linear one, where not all are positive: 6, 4, 3, 0 sixths of 3
    assert spark([5, None, 5], "012") == "0 0"
    assert spark([], "012") == ""


def test_others_text_cannot_drive_the_terminal() -> None:
    assert safe("a\x1b[31mb\r\n\x07\u202e\udc80[red]é") == "a\\x1b[31mb\\r\\n\\x07\\u202e\\udc80[red]é"


def test_epoch_line_aligns_and_names() -> None:
    extra = record(10, val_f1=0.5, val_f1_none=[0.1, 0.9], penalty=0.01)
    lines = [
        epoch_line(record(3), best=True, epochs=10),
        epoch_line(extra, best=False, epochs=10),
    ]
    assert lines[0] == (
        "epoch  3/10  train_loss 0.0813  train_accuracy 0.9754  val_loss 0.0731  val_accuracy 0.9789  "
        "lr 0.00085    2.10s     26,400/s  best"
    )
    assert lines[1].endswith("26,400/s  penalty 0.0100  val_f1 0.5000")
    assert lines[0].index("26,400/s") == lines[1].index("26,400/s")


def test_record_without_validation_is_shown() -> None:
    bare = {key: value for key, value in record(1).items() if not key.startswith("val_")}
    assert "val_" not in epoch_line(bare, best=False, epochs=1)
    assert [cell.title for cell in cells_of(bare, 1, 200)][:3] == ["epoch", "train", "train"]


# --- results --------------------------------------------------------------------------------------------------------


def result(**changes: Any) -> Any:
    fields = {
        "run": "mnist-1",
        "path": str(Path("runs") / "mnist-1"),
        "status": "completed",
        "data": "mnist",
        "requested_data": "mnist",
        "epochs": 3,
        "monitor": "val_loss",
        "best": record(2),
        "last": record(3, val_f1=0.5),
        "seconds": 6.3,
    }
    return SimpleNamespace(**(fields | changes))


def evaluation(classes: tuple[str, ...] | None = ("0", "1", "2"), **changes: Any) -> dict[str, Any]:
    count = len(classes or ())
    matrix = [[0] * count for _ in range(count)]
    for index in range(count):
        matrix[index][index] = 1000 + index
        matrix[index][(index + 1) % count] = index
    found = {
        "run": "mnist-1",
        "checkpoint": "best",
        "epoch": 2,
        "split": "test",
        "data": "mnist",
        "requested_data": "mnist",
        "samples": 10_000,
        "task": "classification",
        "classes": classes,
        "test_looks": 3,
        "loss": 0.0731,
        "accuracy": 0.9789,
        "f1": 0.97,
        "auroc": None,
        "f1_none": [0.9, 0.8],
        "confusion_matrix": matrix,
        "accuracy_interval": {"method": "wilson", "confidence": 0.95, "low": 0.9759, "high": 0.98154},
        "per_class": [
            {"class": name, "precision": 0.9, "recall": 0.8, "f1": 0.9 - index / 100, "support": 1000 + 2 * index}
            for index, name in enumerate(classes or ())
        ],
        "calibration": {
            "expected_calibration_error": 0.0251,
            "bins": [
                {"low": 0.0, "high": 0.5, "samples": 0, "confidence": None, "accuracy": None},
                {"low": 0.5, "high": 1.0, "samples": 9999, "confidence": 0.95, "accuracy": 0.925},
            ],
        },
    }
    return found | changes


def regression(targets: int = 1) -> dict[str, Any]:
    largest = [
        {"index": 7, "true": 3.0, "predicted": 4.5, "residual": 1.5},
        {"index": 70, "true": 3.0, "predicted": -1.0, "residual": -4.0},  # listed later, as of another target
        {"index": 8, "true": 3.0, "predicted": None, "residual": None},
    ]
    residuals = {"mean": -0.25, "std": 2.5, "quantiles": {"0.0": -4.0, "0.05": -3.0, "0.5": 0.0, "1.0": 1.5}}
    found = evaluation(None, task="regression", mae=2.5, residuals=[residuals | {"largest": largest}] * targets)
    return {key: value for key, value in found.items() if key not in OF_CLASSES}


OF_CLASSES = ("accuracy", "accuracy_interval", "f1", "f1_none", "auroc", "confusion_matrix", "per_class", "calibration")


def layer(index: str, kind: str, shape: tuple[int, ...], parameters: int = 0, depth: int = 0, **more: Any) -> Any:
    fields = {"automatic": False, "activation": "", "init": "", "buffers": 0, "multiply_adds": parameters} | more
    return SimpleNamespace(index=index, type=kind, depth=depth, shape=shape, parameters=parameters, **fields)


def summary(name: str = "mnist") -> Any:
    layers = (
        layer("0", "conv2d", (64, 28, 28), 640, activation="relu", init="he_normal", multiply_adds=115_605_504),
        layer("1", "residual", (64, 28, 28), 36_928, activation="relu"),
        layer("1.0", "conv2d", (64, 28, 28), 36_928, depth=1, activation="leaky_relu", init="glorot_uniform"),
        layer("2", "flatten", (50_176,), automatic=True),
        layer("3", "linear", (10,), 501_770, activation="identity", init="he_normal"),
    )
    return SimpleNamespace(
        name=name,
        task="classification",
        loss="cross_entropy",
        optimizer="adam",
        input_shape=(1, 28, 28),
        batch_size=128,
        layers=layers,
        parameters=539_338,
        buffers=128,
        multiply_adds=144_000_000,
        weight_bytes=2_157_352,
        optimizer_bytes=4_314_704,
        activation_bytes=512,
    )


def show(what: Callable[[Any], None], value: Any, width: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that `what` prints for a terminal of `width` columns, or for a pipe."""
    stream = io.StringIO() if width is None else Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("NO_COLOR", "1")
    what(value)
    return stream.getvalue().splitlines()


ALL: list[tuple[Callable[[Any], None], Any]] = [
    (display.show_training, result()),
    (display.show_evaluation, evaluation()),
    (display.show_evaluation, evaluation(tuple(f"class number {index}" for index in range(12)))),
    (display.show_evaluation, evaluation(tuple(f"class number {index}" * 9 for index in range(30)))),
    (display.show_evaluation, regression()),
    (display.show_evaluation, regression(targets=9)),
    (display.show_summary, summary()),
]


@pytest.mark.parametrize(("what", "value"), ALL)
@pytest.mark.parametrize("width", [None, 1, 20, 80])
def test_results_fit_and_hold_no_escapes(
    what: Callable[[Any], None], value: Any, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = show(what, value, width, monkeypatch)
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)
    if width == 80:
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("what", "value"), ALL)
def test_colour_is_for_terminals_and_on_request(
    what: Callable[[Any], None], value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = show(what, value, None, monkeypatch)
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = show(what, value, None, monkeypatch)
    assert any("\x1b[1m" in line for line in coloured)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured] == plain


def test_show_training(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(display.show_training, result(), None, monkeypatch)
    assert lines[0] == "mnist-1: completed, 3 epochs in 6.30s of training"
    assert [line.split() for line in lines[1:-3]] == [
        ["best", "last"],
        ["epoch", "2", "3"],
        ["train_loss", "0.1625", "0.0813"],  # 0.65 / 4, 0.65 / 8 in fake_training
        ["train_accuracy", "0.9754", "0.9754"],
        ["val_loss", "0.1462", "0.0731", "monitored"],
        ["val_accuracy", "0.9789", "0.9789"],
        ["val_f1", "nan", "0.5000"],
    ]
    assert lines[-3:] == ["data   mnist", f"saved  {Path('runs') / 'mnist-1'}", "next   dlf evaluate mnist-1"]


def test_a_run_elsewhere_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(display.show_training, result(path="/data/my runs/mnist-1"), None, monkeypatch)
    assert lines[-1] == "next   dlf evaluate '/data/my runs/mnist-1'"


@pytest.mark.parametrize(("what", "value"), [(display.show_training, result), (display.show_evaluation, evaluation)])
def test_a_fallback_is_loud(what: Callable[[Any], None], value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(show(what, value(data="digits"), None, monkeypatch))
    assert "ATTENTION: this is about digits, not mnist" in text
    assert "ATTENTION" not in "\n".join(show(what, value(), None, monkeypatch))


def test_show_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(display.show_evaluation, evaluation(), None, monkeypatch) == [
        "mnist-1, best checkpoint (epoch 2): test part of mnist, 10,000 samples",
        "test looked at 3 times",
        "loss               0.0731",
        "accuracy           0.9789  95 % interval 0.9759 to 0.9815 (Wilson)",
        "f1 (macro)         0.9700",
        "auroc                 nan",
        "calibration error  0.0251  expected, over 2 bins of confidence",
        "",
        "class by class",
        "   precision  recall      f1  support",
        "0     0.9000  0.8000  0.9000    1,000",
        "1     0.9000  0.8000  0.8900    1,002",
        "2     0.9000  0.8000  0.8800    1,004",
        "",
        "confusion matrix: rows are the true classes, columns the predicted ones",
        "     0    1    2",
        "0 1000    .    .",
        "1    . 1001    1",
        "2    2    . 1002",
        "",
        "most confused",
        "2 is taken for 0: 2 of 1,004 times (0.2 %)",
        "1 is taken for 2: 1 of 1,002 times (0.1 %)",
        "",
        "calibration: how sure it was, and how often it was right",
        "confidence    samples    mean  accuracy      gap",
        "0.50 to 1.00    9,999  0.9500    0.9250  -0.0250",  # 0.925 - 0.95
    ]


@pytest.mark.parametrize(("count", "words"), [(1, "once"), (2, "twice"), (3, "3 times"), (1000, "1,000 times")])
def test_looks_are_counted_in_words(count: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(display.show_evaluation, evaluation(test_looks=count), 80, monkeypatch)[1] == f"test looked at {words}"


def test_two_classes_have_areas_and_a_stated_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    point = {"threshold": 0.5, "positive": "yes", "true_positive_rate": 0.9, "false_positive_rate": 0.05}
    found = evaluation(("no", "yes"), task="binary", auroc=0.98, average_precision=0.97)
    lines = show(display.show_evaluation, {**found, "operating_point": point | {"precision": 0.8}}, None, monkeypatch)
    assert "auroc              0.9800  area under the ROC curve; chance gives 0.5" in lines
    assert "average_precision  0.9700  area under the precision-recall curve" in lines
    assert "yes is said above probability 0.5: true positive rate 0.9000, false positive rate 0.0500" in "".join(lines)
    lines = show(display.show_evaluation, {**found, "operating_point": point | {"precision": 0.8}}, 80, monkeypatch)
    assert max(map(len, lines)) <= 80
    del point["true_positive_rate"], point["false_positive_rate"]
    lines = show(display.show_evaluation, {**found, "operating_point": point}, None, monkeypatch)
    assert "no ROC and precision-recall curves: they need samples of both classes" in lines


def test_many_classes_show_the_worst_confusions(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    lines = show(display.show_evaluation, evaluation(letters), 80, monkeypatch)
    at = lines.index("most confused")
    assert lines[at + 1] == "Z is taken for A: 25 of 1,050 times (2.4 %)"  # 1000 + i on the diagonal, i beside it
    assert lines[at + 2] == "Y is taken for Z: 24 of 1,048 times (2.3 %)"
    at = lines.index("the 10 of 26 classes with the lowest F1; --json has all")
    assert [line[0] for line in lines[at + 2 : at + 12]] == list("ZYXWVUTSRQ")
    assert not any("confusion matrix" in line for line in lines)


def test_a_matrix_that_does_not_fit_becomes_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(display.show_evaluation, evaluation(), 12, monkeypatch)
    assert "2 is taken for 0" in " ".join(line.strip() for line in lines)
    assert not any("confusion matrix" in line for line in lines)


def test_regression_has_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(display.show_evaluation, regression(), None, monkeypatch)[2:] == [
        "loss  0.0731",
        "mae   2.5000",
        "",
        "residuals: predicted less true",
        "mean           -0.2500",
        "std             2.5000",
        "least          -4.0000",
        "5 % are below  -3.0000",
        "median          0.0000",
        "greatest        1.5000",
        "",
        "largest errors, by the sample's index in this part",
        "index    true  predicted  residual",
        "70     3.0000    -1.0000   -4.0000",
        "7      3.0000     4.5000    1.5000",
        "8      3.0000        nan       nan",
    ]
    lines = show(display.show_evaluation, regression(targets=9), None, monkeypatch)
    assert "residuals: predicted less true; 6 of 9 targets, --json has all" in lines


def test_names_of_classes_are_taken_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("[red]x[/red]", ":smile:", "\x1b[31m")
    text = "\n".join(show(display.show_evaluation, evaluation(names), None, monkeypatch))
    for expected in ("0 [red]x[/red]", "1 :smile:", "2 \\x1b[31m"):
        assert expected in text


def test_show_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(display.show_summary, summary(), None, monkeypatch) == [
        "mnist: classification, cross_entropy, input 1x28x28",
        "layer              output    activation  init            parameters    mult-adds",
        "0 conv2d           64x28x28  relu        he_normal              640  115,605,504",
        "1 residual         64x28x28  relu                            36,928       36,928",
        "  1.0 conv2d       64x28x28  leaky_relu  glorot_uniform      36,928       36,928",
        "2 flatten (added)  50176                                          0            0",
        "3 linear           10        identity    he_normal          501,770      501,770",
        "",
        "parameters       539,338 trained, 128 not (buffers)",
        "multiply-adds    144,000,000 a sample",
        "weights          2.06 MiB",  # 2157352 / 1024^2 = 2.057
        "optimizer state  4.11 MiB (adam)",
        "activations      512 B for a batch of 128",
    ]


def test_narrow_summary_drops_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {width: show(display.show_summary, summary(), width, monkeypatch) for width in (80, 70, 30)}
    headings = {width: next(line for line in lines if line[:5] == "layer").split() for width, lines in tables.items()}
    assert headings[80] == ["layer", "output", "activation", "init", "parameters", "mult-adds"]
    assert headings[70] == ["layer", "output", "activation", "parameters", "mult-adds"]
    assert headings[30] == ["layer", "parameters"]


# --- stdout that fails ----------------------------------------------------------------------------------------------

SHOW = "from dlf.display import show_text; show_text('x' * 100_000 + '\\n'); import sys; sys.exit(7)"


def test_a_reader_that_left_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", SHOW], check=False, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (7, b"")  # went on behind show_text, and Python's own flush was silent


def test_closed_stdout_is_no_failure() -> None:
    done = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "{SHOW}" >&-'], check=False, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (7, b"")


def test_full_stdout_is_said() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        with pytest.raises(MachineError, match="stdout: No space left on device"):
            display.show_training(result())


def test_letters_that_stdout_lacks_are_escaped() -> None:
    code = "from dlf.display import show_text; show_text('caf\\u00e9 \\u2581')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"caf\\xe9 \\u2581")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_warning_of_dlf_why_keeps_its_lines_and_cannot_drive_the_terminal(
    quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = trials(quiet=quiet)
    listener.message("warning: mnist is not here\nlooked for in a\x1b[31mred folder")
    assert capsys.readouterr().err == "warning: mnist is not here\nlooked for in a\\x1b[31mred folder\n"
