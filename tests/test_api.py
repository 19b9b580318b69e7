"""The Python API, and what a training from start to end must not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dlf

TRAINS = """
import sys
import dlf
dlf.train({"data": "xor", "train": {"epochs": 1, "precision": sys.argv[2]}}, runs=sys.argv[1])
heavy = ("torch._dynamo", "torch._inductor", "sympy", "torchvision", "sklearn", "matplotlib", "PIL", "rich")
print(",".join(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_imports_nothing_heavy_but_torch(precision: str, tmp_path: Path) -> None:
    """torch's compiler alone takes a second, torchvision another: a training that needs neither pays for neither."""
    words = [sys.executable, "-c", TRAINS, str(tmp_path), precision]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_a_run_is_loaded_with_its_preprocessing(tmp_path: Path) -> None:
    result = dlf.train("lesson", "train.epochs=3", runs=tmp_path)
    trained = dlf.load(result.run, runs=tmp_path)
    test = trained.data.test
    probability = trained.predict(test.x).numpy()
    assert probability.shape == (len(test), 2)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)
    accuracy = float((probability.argmax(1) == test.y.numpy()).mean())
    assert accuracy == dlf.evaluate(result.run, runs=tmp_path)["accuracy"]
    assert trained.classes == ("0", "1")


def test_a_regression_predicts_in_the_units_of_the_data(tmp_path: Path) -> None:
    result = dlf.train("regression", "train.epochs=5", runs=tmp_path)
    trained = dlf.load(result.path)
    test = trained.data.test
    errors = (trained.predict(test.x) - test.y).abs().mean().item()
    assert errors == pytest.approx(dlf.evaluate(result.path)["mae"], rel=1e-5)
    assert 10 < errors < 200  # the targets lie between 25 and 346


def test_what_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        dlf.fit  # noqa: B018
