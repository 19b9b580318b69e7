"""What README.md shows is run: its YAML, its Python, its component, its commands; and its lists are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main
from PIL import Image

import dlf
from dlf.activations import ACTIVATIONS
from dlf.cli.app import app
from dlf.config import loads
from dlf.layers import LAYERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of README.md in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The text of README.md under this heading."""
    return README.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_experiment_is_one() -> None:
    (text,) = blocks("yaml")
    config = loads(text, "README.md").config
    assert config.name == "mnist"
    assert [layer.type for layer in config.model.layers] == ["linear", "dropout", "linear"]


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = next(block for block in blocks("python") if "import dlf" in block)
    exec(compile(example, "README.md", "exec"), {})
    accuracy, probabilities = capsys.readouterr().out.split("\n", 1)
    assert float(accuracy) > 0.8  # five epochs of digits; guessing gives 0.1
    assert probabilities.startswith("tensor(")


def test_a_component_is_added_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ACTIVATIONS, "_entries", dict(ACTIVATIONS._entries))
    example = next(block for block in blocks("python") if "register" in block)
    names = {"ACTIVATIONS": ACTIVATIONS, "Tensor": torch.Tensor, "F": torch.nn.functional}
    names["PositiveFloat"] = sys.modules["pydantic"].PositiveFloat
    exec(compile(example, "README.md", "exec"), names)
    layer = LAYERS.make("linear", units=2, activation={"type": "squared_relu", "scale": 0.5})
    module, _ = LAYERS.build(layer, (3,))
    assert torch.equal(module.activate(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))
    z = torch.tensor([-1.0, 2.0], requires_grad=True)
    module.activate(z).sum().backward()
    assert z.grad is not None
    assert torch.equal(ACTIVATIONS.get("squared_relu").facts["slope"](z.detach(), scale=0.5), z.grad)


def test_every_command_is_in_the_table_and_every_one_there_exists() -> None:
    shown = set(re.findall(r"^\| `dlf (\w+)", section("Commands"), re.MULTILINE))
    assert shown == set(typer.main.get_group(app).commands)


@pytest.mark.parametrize(
    "command",
    [
        "dlf train {config} train.epochs=1",
        "dlf evaluate latest --split test",
        "dlf evaluate latest --split val --predictions val.csv",
        "dlf predict latest digit.png --picture seen.png",
        "dlf check {config}",
        "dlf explain {config} --sample 3 --unit 3:17 --html walk.html",
        "dlf summarize {config} --plot picture.svg",
        "dlf why normalization {config} train.epochs=1 --seeds 2 --plot why.svg",
        "dlf report latest",
        "dlf train --resume latest",
        "dlf reproduce latest",
        "dlf records latest --csv epochs.csv",
        "dlf runs --sort best --since 7d",
        "dlf train {config} train.epochs=1 seed=1 --name second",
        "dlf compare digits second --plot curves.svg",
        "dlf runs rm second --yes",
        "dlf schema",
        "dlf init spiral mine.yaml",
        "dlf --version",
    ],
)
def test_the_commands_run(command: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "readme"
    folder.mkdir(exist_ok=True)
    Image.radial_gradient("L").save(folder / "digit.png")
    words = [word.format(config=ROOT / "configs" / "digits.yaml") for word in command.split()[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "dlf", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_file_map_names_every_file() -> None:
    shown = set(re.findall(r"`dlf/([\w.]+/?)`", section("The house")))
    package = Path(dlf.__file__).parent
    there = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    there |= {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert shown == there


def test_the_exit_codes_are_those_of_the_error_tree() -> None:
    from dlf import errors

    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.DlfError)
    }
    text = section("Commands")
    assert codes == {1, 2, 3, 4, 5, 6}
    assert all(re.search(rf"\b{code} ", text) for code in codes)
