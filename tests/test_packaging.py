"""What is installed: the wheel holds the package and nothing else, its metadata says what the code needs, the tested
versions are pinned by hash, the command line starts light, and README, CONTRIBUTING and CI give the same commands."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dlf import __version__, native

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
HEAVY = {"torch", "torchvision", "sklearn", "matplotlib", "numpy", "pydantic"}

CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["project"]["optional-dependencies"]["dev"]]
EXTRAS = set(PROJECT["project"]["optional-dependencies"])
BACKEND = [Requirement(line) for line in PROJECT["build-system"]["requires"]]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, by the build backend alone: no isolated environment, so no network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


def expected() -> set[str]:
    """The files of the package, the shipped experiments inside it."""
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dlf").rglob("*.py")}
    package |= {f"dlf/html/{page}.{kind}" for page in ("page", "walk") for kind in ("html", "css", "js")}
    if native.LIBRARY.is_file():  # compiled on this machine, so it was for the wheel
        package.add("dlf/native/kernels.so")
    return package | {"dlf/py.typed"} | {f"dlf/configs/{path.name}" for path in (ROOT / "configs").iterdir()}


def faults_of_wheel(names: Sequence[str]) -> set[str]:
    """What a wheel with these files lacks, and what has no place in it."""
    return {name for name in names if not name.split("/")[0].endswith(".dist-info")} ^ expected()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert faults_of_wheel(names) == set()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "dlf/configs/mnist.yaml" in names


@pytest.mark.parametrize("fault", ["tests/test_losses.py", "dlf/py.typed", "dlf/configs/mnist.yaml", "dlf/cli/app.py"])
def test_a_wrong_wheel_is_refused(fault: str) -> None:
    assert faults_of_wheel(sorted(expected() ^ {fault})) == {fault}  # one file too many, or one too few


def test_shipped_experiments_are_found_in_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from dlf import shipped; print(shipped.find('mnist')); print(*shipped.names())"
    result = python("-c", code, cwd=tmp_path)
    found, names = result.stdout.splitlines()
    assert Path(found) == tmp_path / "dlf" / "configs" / "mnist.yaml"
    assert names.split() == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


# the metadata


@pytest.fixture(scope="module")
def written(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(archive.read(name).decode())


def without_floor(requirements: Sequence[Requirement]) -> list[str]:
    return [one.name for one in requirements if not any(each.operator == ">=" for each in one.specifier)]


def test_metadata_has_the_floors(written: Message) -> None:
    requirements = [Requirement(line) for line in written.get_all("Requires-Dist", [])]
    assert {str(one) for one in requirements if one.marker is None} == {str(one) for one in CORE}
    assert without_floor(requirements) == []
    assert {"torch>=2.9", "torchvision>=0.24"} <= {str(one) for one in CORE}  # 0.24 is the torchvision of torch 2.9
    assert written["Requires-Python"] == ">=3.11"
    assert written["License-Expression"] == "MIT"
    assert f'__version__ = "{written["Version"]}"' in text("dlf/__init__.py")


def test_a_requirement_without_floor_is_found() -> None:
    assert without_floor([Requirement("torch>=2.9"), Requirement("rich"), Requirement("numpy<3")]) == ["rich", "numpy"]


def test_the_script_is_the_command_line(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert archive.read(name).decode().split() == ["[console_scripts]", "dlf", "=", "dlf.__main__:main"]


def imported() -> set[str]:
    """The distributions whose modules dlf imports, at the top or inside a function."""
    modules: set[str] = set()
    for path in (ROOT / "dlf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).split(".")[0])
    of_module = metadata.packages_distributions()
    return {
        canonicalize_name(of_module.get(module, [module])[0]) for module in modules - sys.stdlib_module_names - {"dlf"}
    }


def test_what_is_imported_is_declared() -> None:
    # these belong to a dependency that cannot do without them
    comes_with = {"pydantic-core": "pydantic", "pillow": "torchvision", "scipy": "scikit-learn"}
    # a logger's package is its extra, and is asked for before it is imported; a notebook brings IPython
    where_there = {"tensorboard", "mlflow", "mlflow-skinny", "ipython"}
    assert where_there & EXTRAS == {"tensorboard", "mlflow"}
    needed = {comes_with.get(name, name) for name in imported()} - where_there
    assert needed == {canonicalize_name(one.name) for one in CORE}


# the tested versions


def pins(constraints: str) -> dict[str, tuple[Requirement, list[str]]]:
    """The pinned requirements of a constraints file by canonical name, each with its hashes."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in re.sub(r"\\\n", " ", constraints).splitlines():
        if line.strip() and not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            parsed = Requirement(requirement)
            found[canonicalize_name(parsed.name)] = (parsed, hashes)
    return found


def version(pin: Requirement) -> str:
    [specifier] = pin.specifier
    return specifier.version


def faults_of_constraints(constraints: str) -> list[str]:
    """Why this file would not install exactly what was tested, wherever its reader gets the packages from."""
    faults = re.findall(r"://|@|index-url|find-links|[\w-]+\.(?:org|com|net|io|dev)\b", constraints)
    try:
        pinned = pins(constraints)
    except ValueError as error:  # an option, say, where a requirement is expected
        return [*faults, str(error)]
    for name, (requirement, hashes) in pinned.items():
        if [each.operator for each in requirement.specifier] != ["=="] or "*" in str(requirement.specifier):
            faults.append(f"{name} has no one version")
        if not hashes or not all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes):
            faults.append(f"{name} has no sha256")
    for one in (*CORE, *DEV, *BACKEND):
        pin = pinned.get(canonicalize_name(one.name))
        if pin is None or not one.specifier.contains(version(pin[0])):
            faults.append(f"{one} is not pinned")
    return faults


def test_every_dependency_is_pinned_by_hash_and_no_host_is_named() -> None:
    assert faults_of_constraints(CONSTRAINTS) == []


HASH = f"--hash=sha256:{'0' * 64}"


@pytest.mark.parametrize(
    "wrong",
    [
        CONSTRAINTS + "--index-url=files\n",
        CONSTRAINTS + "--no-binary=torch\n",
        CONSTRAINTS + "# from files.example.org\n",
        CONSTRAINTS + f"extra @ https://example/extra.whl {HASH}\n",
        CONSTRAINTS + f"extra>=1 {HASH}\n",
        CONSTRAINTS + f"extra==1.* {HASH}\n",
        CONSTRAINTS + "extra==1\n",
        CONSTRAINTS + f"extra==1 {HASH} --hash=md5:{'0' * 32}\n",
        re.sub(r"(?m)^rich==", "poor==", CONSTRAINTS),
        re.sub(r"(?m)^torch==\S+", "torch==2.8.0", CONSTRAINTS),  # below the floor
    ],
)
def test_wrong_constraints_are_refused(wrong: str) -> None:
    assert wrong != CONSTRAINTS
    assert faults_of_constraints(wrong) != []


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="only CI installs from constraints.txt")
def test_what_is_installed_is_what_was_tested() -> None:
    tested = {
        name: version(pin) for name, (pin, _) in pins(CONSTRAINTS).items() if not pin.marker or pin.marker.evaluate()
    }
    installed: dict[str, str] = {canonicalize_name(each.name): each.version for each in metadata.distributions()}
    assert {name: installed.get(name) for name in tested} == tested
    assert set(installed) - set(tested) <= {"dlf", "pip", "setuptools"}  # nothing came past the file


# the command line


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, check=True, capture_output=True, text=True)


def heavy_after(code: str, *arguments: str) -> set[str]:
    """Which heavy packages are loaded when `code`, given the arguments, has ended."""
    report = "import atexit, sys; atexit.register(lambda: print('loaded:', *sys.modules, file=sys.stderr)); "
    words = python("-c", report + code, *arguments).stderr.split()
    return HEAVY & set(words[words.index("loaded:") :])


def test_version_and_help() -> None:
    assert python("-m", "dlf", "--version").stdout == f"dlf {__version__}\n"
    shown = python("-m", "dlf", "--help").stdout
    assert all(command in shown for command in ("train", "evaluate", "summarize", "schema"))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_the_command_line_starts_light(arguments: list[str]) -> None:
    of_typer = {"pydantic"} if len(arguments) > 1 else set()  # typer itself loads it for the parameters of a command
    assert heavy_after("from dlf.cli import main; main()", *arguments) <= of_typer


def test_a_heavy_start_is_found() -> None:
    assert heavy_after("import numpy; from dlf.cli import main; main()", "--version") == {"numpy"}


# the commands that README, CONTRIBUTING and CI give


def fenced(markdown: str) -> list[str]:
    """The fenced blocks, without their fences."""
    return re.findall(r"(?ms)^```\w*\n(.*?)\n```$", markdown)


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    script = text(".ci/run")
    commands = [block for block in fenced(text("README.md")) if block.startswith("pip install")]
    assert commands == re.findall(r'(?m)^(?:train|test)="(.*)"$', script)
    assert commands == ["pip install -e . && dlf train configs/mnist.yaml", "pip install -e '.[dev]' && pytest"]
    assert re.findall(r'bash -euo pipefail -c "\$(\w+)"', script) == ["train", "test"]


def test_the_constraints_are_made_as_contributing_says() -> None:
    [command] = re.findall(r"(?m)^#\s+(uv pip compile .*)$", CONSTRAINTS)
    assert command in fenced(text("CONTRIBUTING.md"))


def test_the_hosted_ci_runs_the_same_script() -> None:
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
