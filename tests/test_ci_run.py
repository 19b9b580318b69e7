"""`.ci/run` fails when it must. The script runs in a made-up repository in which the tools are stand-ins that only say
how they were called; what it decides from their answers is its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# `python -m venv FOLDER`, whose tools are all the same stand-in
PYTHON = """#!/usr/bin/env bash
mkdir -p "$3/bin"
for tool in pip ruff mypy dlf pytest; do cp "$(dirname "$0")/tool" "$3/bin/$tool"; done
"""

TOOL = """#!/usr/bin/env bash
tool=$(basename "$0")
echo "$tool $*" >> "$CALLS"
if [[ $tool == "$BROKEN" ]]; then exit 1; fi
if [[ $tool == pytest ]]; then
    echo "data ${DLF_DATA:-none}" >> "$CALLS"
    echo "$ANSWER"
    exit "$STATUS"
fi
"""

# what the script and its stand-ins call besides
PROGRAMS = ["bash", "basename", "cat", "cp", "dirname", "env", "git", "grep", "mkdir", "mktemp"]
PROGRAMS += ["rm", "tail", "tar", "tee", "timeout"]

PASSED = "===== 812 passed, 2 skipped in 61.20s (0:01:01) ====="
SKIPPED_MNIST = f"SKIPPED [3] tests/test_mnist.py:12: the files are not here\n{PASSED}"

CALLS = [
    "pip install --quiet --require-hashes -r constraints.txt",
    "ruff check .",
    "ruff format --check .",
    "mypy ",
    "pip install -e .",
    "dlf train configs/mnist.yaml",
    "pip install -e .[dev]",
    "pytest ",
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the script and README as they are, beside which data may be laid."""
    folder = tmp_path / "checkout"
    (folder / ".ci").mkdir(parents=True)
    (tmp_path / "scratch").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    shutil.copy(ROOT / "README.md", folder)
    scripts = {"python": PYTHON, "tool": TOOL, "apt-get": TOOL, "chromium": TOOL, "id": "#!/usr/bin/env bash\necho 0\n"}
    for name, script in scripts.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    return folder


def run(
    checkout: Path, answer: str = PASSED, status: int = 0, broken: str = "", browser: bool = True
) -> subprocess.CompletedProcess[str]:
    """`.ci/run` where only these programs are at hand, a browser among them or not."""
    above = checkout.parent
    shutil.rmtree(above / "programs", ignore_errors=True)
    (above / "programs").mkdir()
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program is not None, name
        (above / "programs" / name).symlink_to(program)
    for name in ["apt-get", "id", *(["chromium"] if browser else [])]:
        shutil.copy(above / name, above / "programs" / name)
    environment = {name: value for name, value in os.environ.items() if name not in {"DLF_DATA", "CI"}}
    environment |= {"PYTHON": str(above / "python"), "TMPDIR": str(above / "scratch"), "CALLS": str(above / "calls")}
    environment |= {"ANSWER": answer, "STATUS": str(status), "BROKEN": broken}
    environment["PATH"] = str(above / "programs")
    result = subprocess.run(
        [checkout / ".ci" / "run"], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert list((above / "scratch").iterdir()) == []  # removed, however it ended
    return result


def calls(checkout: Path) -> list[str]:
    return (checkout.parent / "calls").read_text().splitlines()


def test_everything_is_called_in_order_and_the_summary_comes_last(checkout: Path) -> None:
    result = run(checkout)
    assert result.returncode == 0, result.stderr
    assert calls(checkout) == [*CALLS, "data none"]
    assert result.stdout.splitlines()[-1] == PASSED


def test_data_beside_the_checkout_is_used(checkout: Path) -> None:
    data = checkout.parent / "shared" / "data"
    data.mkdir(parents=True)
    assert run(checkout).returncode == 0
    assert calls(checkout)[-1] == f"data {data}"


def test_tests_of_mnist_may_be_skipped_only_where_it_is_not_at_hand(checkout: Path) -> None:
    assert run(checkout, SKIPPED_MNIST).returncode == 0
    (checkout.parent / "shared" / "data").mkdir(parents=True)
    result = run(checkout, SKIPPED_MNIST)
    assert result.returncode == 1
    assert "a test of it was skipped" in result.stderr
    assert run(checkout, SKIPPED_MNIST.replace("the files are not here", "no CUDA device")).returncode == 0


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("===== 1 failed, 811 passed in 61.20s =====", 1),
        ("===== no tests ran in 0.01s =====", 5),
        ("===== 812 skipped in 1.20s =====", 0),
        ("===== 812 deselected in 1.20s =====", 0),
        ("===== 0 passed in 1.20s =====", 0),
        ("", 0),
    ],
)
def test_without_a_passed_test_it_fails(checkout: Path, answer: str, status: int) -> None:
    assert run(checkout, answer, status).returncode != 0


def test_a_browser_is_installed_where_there_is_none(checkout: Path) -> None:
    assert run(checkout, browser=False).returncode == 0
    wanted = ["apt-get update", "apt-get install --yes --no-install-recommends chromium fonts-dejavu-core"]
    assert calls(checkout) == [*CALLS[:4], *wanted, *CALLS[4:], "data none"]


def test_without_a_browser_it_says_so_and_goes_on(checkout: Path) -> None:
    result = run(checkout, browser=False, broken="apt-get")
    assert result.returncode == 0
    assert "the tests that need one are skipped" in result.stderr
    (checkout.parent / "calls").unlink()
    (checkout.parent / "id").write_text("#!/usr/bin/env bash\necho 1000\n")
    assert "the tests that need one are skipped" in run(checkout, browser=False).stderr
    assert not any(call.startswith("apt-get") for call in calls(checkout))


@pytest.mark.parametrize("tool", ["pip", "ruff", "mypy", "dlf"])
def test_a_failing_tool_ends_it(checkout: Path, tool: str) -> None:
    assert run(checkout, broken=tool).returncode == 1
    assert calls(checkout)[-1].startswith(tool)


def test_a_readme_that_says_something_else_ends_it(checkout: Path) -> None:
    readme = checkout / "README.md"
    readme.write_text(readme.read_text().replace("pip install -e '.[dev]' && pytest", "pip install -e '.[dev]'"))
    result = run(checkout)
    assert result.returncode == 1
    assert "README.md no longer has the line" in result.stderr
