"""The house of dlf, read from its syntax trees: imports point down, what must stay light loads no torch, and nothing is
ever unpickled. Each check is also shown to refuse a made-up module that breaks its rule."""

from __future__ import annotations

import ast
import copy
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# from the ground up: a module may import its own level and every level before it
LEVELS = (
    ("errors",),
    ("native",),
    ("registry", "durable", "figure_files", "findings", "memory", "statistics", "yaml12_scalars"),
    ("info", "run", "shipped", "yaml12"),
    ("doctor",),
    (
        "activations",
        "inits",
        "modules",
        "layers",
        "losses",
        "fitting",
        "regularizers",
        "optimizers",
        "updates",
        "capture",
        "schedules",
        "metrics",
        "assessment",
        "loggers",
        "datasets",
    ),
    ("precision",),
    ("config",),
    ("streamed", "pictures"),
    ("data", "model", "history"),
    ("backpropagation", "chain_rule", "collapse", "derivatives", "gradient_check"),
    ("engine", "environment", "checkpoint"),
    ("experiment", "observe"),
    ("checks",),
    ("commands", "curves", "display", "drawing", "html", "questions", "sheet"),
    ("api", "cli"),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}

NO_TORCH = (
    "errors",
    "registry",
    "doctor",
    "durable",
    "findings",
    "run",
    "shipped",
    "yaml12",
    "history",
    "display",
    "drawing",
    "html",
    "cli",
)
HEAVY = {"torch", "torchvision", "sklearn", "matplotlib", "scipy"}
PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

Trees = Mapping[str, ast.Module]


def trees_of(package: Path) -> dict[str, ast.Module]:
    """The syntax tree of every module, by its name below the package: "layers", "datasets.mnist", "__init__"."""
    trees = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def made_up(**sources: str) -> dict[str, ast.Module]:
    return {name: ast.parse(source) for name, source in sources.items()}


DLF = trees_of(ROOT / "dlf")


def imported(tree: ast.AST, trees: Trees) -> Iterator[str]:
    """Absolute names of what is imported anywhere below `tree`; submodules by their own name, attributes by no name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it from dlf on"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule.removeprefix("dlf.") in trees:
                    yield submodule
                elif submodule != "dlf.__version__":  # a constant, above nothing
                    yield str(node.module)


def own(names: Iterator[str]) -> set[str]:
    """Of the imported names, the modules of dlf."""
    return {name.removeprefix("dlf.") if name != "dlf" else "__init__" for name in names if name.split(".")[0] == "dlf"}


def upward(trees: Trees) -> list[str]:
    """Every import that points up the list of levels, and every module that has no place in it."""
    found = []
    for module, tree in trees.items():
        level = LEVEL.get(module.split(".")[0])
        if level is None:
            found.append(f"{module} has no level: give it one in LEVELS")
            continue
        for name in sorted(own(imported(tree, trees))):
            if LEVEL.get(name.split(".")[0], len(LEVELS)) > level:
                found.append(f"{module} imports {name}")
    return found


def cycle(trees: Trees) -> list[str]:
    """One circle of imports, those for type checking included; empty where there is none."""
    graph = {module: own(imported(tree, trees)) for module, tree in trees.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def eager(tree: ast.AST) -> ast.Module:
    """What runs when a module is imported: without the bodies of functions and what is for type checkers only."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if is_type_checking(node) else self.generic_visit(node)

    stripped = Strip().visit(copy.deepcopy(tree))
    assert isinstance(stripped, ast.Module)
    return stripped


def heavy(module: str, trees: Trees) -> list[str]:
    """The chains of imports by which importing `module` loads something heavy: "run > durable > torch"."""
    found: list[str] = []
    seen, waiting = {module}, [[module]]
    while waiting:
        chain = waiting.pop()
        names = list(imported(eager(trees[chain[-1]]), trees))
        found += [" > ".join([*chain, name]) for name in names if name.split(".")[0] in HEAVY]
        fresh = (own(iter(names)) & set(trees)) - seen
        seen |= fresh
        waiting += [[*chain, name] for name in fresh]
    return found


def unpicklers(trees: Trees) -> list[str]:
    """Every place that could execute a file that it reads: pickle and what is built on it, torch.load, allow_pickle."""
    found = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if imports_pickle(node) or loads_by_torch(node) or allows_pickle(node):
                found.append(f"{module}:{getattr(node, 'lineno', 0)}")
    return found


def imports_pickle(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
    return any(name.split(".")[0] in PICKLES for name in names)


def loads_by_torch(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module in {"torch", "torch.serialization"} and any(alias.name == "load" for alias in node.names)
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {"torch.load", "torch.serialization.load"}


def allows_pickle(node: ast.AST) -> bool:
    if not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"):
        return False
    return not (isinstance(node.value, ast.Constant) and node.value.value is False)


def test_the_trees_are_those_of_dlf() -> None:
    assert {"__init__", "cli", "datasets", "datasets.mnist", "commands.train"} <= set(DLF)
    assert {"config", "layers", "registry"} <= own(imported(DLF["model"], DLF))


def test_imports_point_down() -> None:
    assert upward(DLF) == []


def test_no_circle() -> None:
    assert cycle(DLF) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("engine", "from dlf.config import ExperimentConfig\nfrom dlf.experiment import assemble"),
        ("losses", "import dlf.config"),
        ("metrics", "def f():\n    from dlf import data"),  # inside a function too
        ("run", "from dlf.checkpoint import save"),
        ("durable", "from dlf.commands.train import train"),
        ("config", "from dlf import train"),  # the API, through the package
        ("utils", "import math"),  # a module without a level
    ],
)
def test_an_import_that_points_up_is_found(module: str, source: str) -> None:
    assert len(upward({**DLF, **made_up(**{module: source})})) == 1


def test_a_circle_is_found() -> None:
    inits = made_up(inits="from dlf.layers import LAYERS")
    assert set(cycle({**DLF, **inits})) == {"inits", "layers"}  # layers imports inits; both are of one level


def test_a_relative_import_is_refused() -> None:
    with pytest.raises(AssertionError, match="relative import"):
        upward(made_up(engine="from . import cli"))


@pytest.mark.parametrize("module", NO_TORCH)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert heavy(module, DLF) == []


@pytest.mark.parametrize(
    ("source", "chains"),
    [
        ("import torch", ["durable > torch", "run > durable > torch"]),
        ("try:\n    from torch.nn import init\nexcept ImportError:\n    pass", ["durable > torch.nn"]),
        ("from dlf.data import Data", ["durable > data > torch"]),
        ("def f():\n    import torch", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", []),
    ],
)
def test_a_heavy_import_is_found(source: str, chains: list[str]) -> None:
    trees = {**DLF, **made_up(durable=source)}
    found = [*heavy("durable", trees), *heavy("run", trees)]
    assert set(chains) <= set(found)
    assert bool(found) == bool(chains)


def test_nothing_is_unpickled() -> None:
    assert unpicklers(DLF) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    import cloudpickle as safe",
        "from joblib import load",
        "import torch\ntorch.load('file', weights_only=True)",
        "from torch import load as read",
        "read = torch.load",
        "import numpy as np\nnp.load('file', allow_pickle=True)",
        "import numpy as np\nnp.load('file', allow_pickle=anything)",
    ],
)
def test_what_unpickles_is_found(source: str) -> None:
    assert len(unpicklers(made_up(engine=source))) == 1


def test_safe_reading_is_let_through() -> None:
    assert unpicklers(made_up(engine="import json, numpy as np\njson.load(f)\nnp.load(f, allow_pickle=False)")) == []
