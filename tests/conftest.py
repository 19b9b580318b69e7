"""What every test runs in: one thread, no network, no data and no cache but the test's own, and a quick `train`."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from dlf import yaml12
from dlf.api import Silent
from dlf.commands.train import Display, TrainResult
from dlf.commands.train import train as train_experiment
from dlf.config import loads
from dlf.data import load
from dlf.engine import Experiment, TrainState
from dlf.experiment import assemble

DATA = os.environ.get("DLF_DATA")  # before any test hides it

# The same suite gives the same verdict: no example is drawn by chance, and none is refused for a slow machine.
settings.register_profile("dlf", deadline=None, derandomize=True, database=None)
settings.load_profile("dlf")

COLLECTED = pytest.StashKey[list[pytest.Item]]()
Train = Callable[..., TrainResult]
Assembled = Callable[..., tuple[Experiment, TrainState]]


def pytest_configure() -> None:
    # One thread gives equal bits whatever the machine has, and tests of tiny networks gain nothing from a second one.
    torch.set_num_threads(1)
    # matplotlib looks for fonts once a process, and takes seconds; the folder is kept for the next one
    os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "dlf-tests-matplotlib"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")
    if item.get_closest_marker("mnist"):
        mnist_folder()


@pytest.hookimpl(tryfirst=True)  # before any is deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = list(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that says how many cases of a fault it tries fails where it tried fewer."""
    yield
    stated = [marker.kwargs["cases"] for marker in item.iter_markers("fault") if "cases" in marker.kwargs]
    if stated:
        tried = getattr(item, "funcargs", {}).get("tried", Tried())
        assert tried.count >= max(stated), f"{tried.count} cases were tried, the test says {max(stated)}"


class Tried:
    """Counts the cases that a test tries in a loop."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def tried() -> Tried:
    """`tried()`: one more of the cases that the test's marker `fault` speaks of."""
    return Tried()


def mnist_folder() -> Path:
    """The folder that DLF_DATA named when the tests began; skips, or fails where MNIST is required, without it."""
    if DATA is not None and (Path(DATA) / "MNIST").is_dir():
        return Path(DATA).absolute()
    reason = f"needs the MNIST files in the folder that DLF_DATA names, which is {DATA!r}"
    if os.environ.get("DLF_REQUIRE_MNIST") == "1":
        pytest.fail(f"{reason}; DLF_REQUIRE_MNIST forbids to skip")
    pytest.skip(reason)


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the real MNIST, which DLF_DATA then names again; mark such a test with `mnist`."""
    folder = mnist_folder()
    monkeypatch.setenv("DLF_DATA", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder, no cache of a user, no network beyond this machine, no waiting for disks."""
    monkeypatch.delenv("DLF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(socket.socket, "connect", _local_only(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", _local_only(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", _local_names_only(socket.getaddrinfo))
    # no test cuts the power, and a disk needs milliseconds for each: an fsync only has to be asked of an open file
    monkeypatch.setattr(os, "fsync", os.fstat)


def _local_only(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            raise OSError(errno.ENETUNREACH, f"tests have no network: {address}")
        return connect(self, address)

    return guarded


def _local_names_only(getaddrinfo: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
            raise socket.gaierror(socket.EAI_NONAME, f"tests have no network: {host}")
        return getaddrinfo(host, *arguments, **options)

    return guarded


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """`train(config, *overrides, display=...)`: train a mapping below tmp_path/runs, quickly and on the CPU."""

    def trained(config: Mapping[str, Any], *overrides: str, display: Display | None = None) -> TrainResult:
        loaded = loads(yaml12.dump(dict(config)), "the test", ["train.device=cpu", *overrides])
        return train_experiment(loaded, runs=tmp_path / "runs", display=display or Silent())

    return trained


@pytest.fixture
def assembled() -> Assembled:
    """`assembled(config, *overrides)`: the running objects of a mapping, untrained; by default on the CPU."""

    def made(config: Mapping[str, Any], *overrides: str, device: str = "cpu") -> tuple[Experiment, TrainState]:
        resolved = loads(yaml12.dump(dict(config)), "the test", overrides).config
        data, _ = load(resolved.data_section, torch.device(device), lambda message: None)
        return assemble(resolved, data, torch.device(device))[:2]

    return made
