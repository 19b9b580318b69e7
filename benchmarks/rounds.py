"""Everyone in turn, A B C A B C, each in a process of its own: what the machine does meanwhile happens to all."""

from __future__ import annotations

import compileall
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from benchmarks.data import BYTES, synthetic
from benchmarks.figures import Run
from benchmarks.peers import BY_NAME, PEERS, Peer
from benchmarks.processes import ROOT, Finished, run
from benchmarks.task import Task, cores

ABOUT_DLF = ("floor", "dlf-everything", "commands")  # what can be left out besides the peers
TAKES_PART = (*BY_NAME, *ABOUT_DLF)
_FLOOR = Peer("floor", "floor", "bare", "floor", ("torch",))
_EVERYTHING = replace(BY_NAME["dlf"], name="dlf-everything", variant="everything")
_SCRIPT = Path(sys.executable).parent / "dlf"
_PYTHON = (sys.executable, "-c")
_DLF = (str(_SCRIPT),) if _SCRIPT.exists() else (sys.executable, "-m", "dlf")
_COMMANDS: dict[str, Sequence[str]] = {
    "import typer": (*_PYTHON, "import typer"),
    "dlf --help": (*_DLF, "--help"),
    "import torch": (*_PYTHON, "import torch"),
    "dlf train mnist": (*_DLF, "train", "configs/mnist.yaml", "train.epochs=2"),
}
_OFTEN = {"import typer": 5, "dlf --help": 5}  # short and so uneven: the middle of several is what a round says


@dataclass(frozen=True)
class Options:
    """What to measure and how often. `data` has MNIST/raw, or synthetic data; `threads` None leaves all cores."""

    data: Path
    repeats: int = 3
    epochs: int = 3
    samples: int = 60_000
    threads: int | None = None
    only: Sequence[str] = TAKES_PART
    networks: Sequence[str] = ("small", "wide")
    device: str = "cpu"
    limit_seconds: float = 900.0
    tell: Callable[[str], None] = field(default=lambda text: print(text, file=sys.stderr, flush=True))


def measure(options: Options) -> list[Run]:
    """Run all rounds; what is not installed or fails is left out with a line."""
    confine(options.threads)
    compileall.compile_dir(ROOT / "dlf", quiet=2)  # as pip did with all the others when it installed them
    takes_part = [peer for peer in (_FLOOR, *PEERS) if peer.name in options.only]
    for peer in takes_part:
        if peer.missing:
            options.tell(
                f"{peer.name}: skipped, {' and '.join(peer.missing)} is not installed: pip install -e '.[bench]'"
            )
    present = [peer for peer in takes_part if not peer.missing]
    return [run for number in range(options.repeats) for run in _round(options, present, number)]


def _round(options: Options, peers: Sequence[Peer], number: int) -> Iterator[Run]:
    for network in options.networks:
        around = [_EVERYTHING] if network == "small" and "dlf-everything" in options.only else []
        for peer in (*peers, *around):
            result = _train(options, peer, network, number)
            if result is not None:
                yield Run(network, peer.name, number, result)
    if "commands" in options.only:
        yield from _commands(options, number)


def _train(options: Options, peer: Peer, network: str, number: int) -> dict[str, Any] | None:
    """One process of a peer: what it printed."""
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(
            network=network,
            data=str(options.data),
            scratch=scratch,
            epochs=options.epochs,
            samples=options.samples,
            seed=number,
            variant=peer.variant,
            device=options.device,
            started=monotonic(),
        )
        command = [sys.executable, "-m", f"benchmarks.peers.{peer.module}", task.dump()]
        ended = run(
            command,
            environment(scratch, options) | dict(peer.environment),
            limit_seconds=options.limit_seconds,
            terminal=peer is _EVERYTHING,
        )
    what = f"round {number + 1}/{options.repeats}  {network:5}  {peer.name:14}"
    if ended.code:
        options.tell(f"{what} failed, and is left out: {why(ended)}")
        return None
    result = json.loads(ended.stdout.splitlines()[-1])
    shown = [f"{second:.2f}" for second in result["epochs"]] or [
        f"{k} {min(v):.2f}" for k, v in result["parts"].items()
    ]
    options.tell(f"{what} {'  '.join(shown)} s")
    return {"samples": options.samples, "seconds": ended.seconds, **result}


def _commands(options: Options, number: int) -> Iterator[Run]:
    """What commands cost before and besides training."""
    wanted = [name for name in _COMMANDS if name != "dlf train mnist" or not synthetic(options.data)]
    ended: dict[str, list[Finished]] = {name: [] for name in wanted}
    for turn in range(max(_OFTEN.values())):
        for name in wanted:
            if turn < _OFTEN.get(name, 1):
                ended[name].append(_command(options, name))
    for name, processes in ended.items():
        if failed := next((each for each in processes if each.code), None):
            options.tell(f"{name}: failed, and is left out: {why(failed)}")
            continue
        seconds, peak = (median(values) for values in zip(*((p.seconds, p.peak_bytes) for p in processes), strict=True))
        options.tell(f"round {number + 1}/{options.repeats}  {name:20} {seconds:.2f} s")
        result = {"seconds": seconds, "peak_bytes": peak, "with_data": peak + BYTES}
        yield Run("commands", name, number, result)


def _command(options: Options, name: str) -> Finished:
    with tempfile.TemporaryDirectory() as scratch:
        folder = ["--runs-dir", scratch] if name.startswith("dlf train") else []
        words = [*_COMMANDS[name], *folder]
        return run(words, environment(scratch, options), limit_seconds=options.limit_seconds)


def why(ended: Finished) -> str:
    """The last words of a process that failed."""
    return f"exit code {ended.code}: {' | '.join(ended.stderr.strip().splitlines()[-3:])}"


def confine(threads: int | None) -> None:
    """Let this process and all that it starts use so many cores: the one setting that every tool obeys."""
    if threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def environment(scratch: str, options: Options) -> dict[str, str]:
    """The same for everyone: no GPU unless it was asked for, the threads that were asked for, caches that are new.

    Python may keep what it compiles, as it does on a user's machine: packages that pip has installed are compiled.
    """
    threads = {} if options.threads is None else {"OMP_NUM_THREADS": str(options.threads)}
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        **threads,
        **({"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}),
        "JAX_PLATFORMS": "cpu",
        "TERM": "xterm",
        "KERAS_HOME": scratch,
        "DLF_DATA": str(options.data),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def machine() -> Mapping[str, Any]:
    """What a reader must know of the place, without its name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
    return {
        "processor": named.get("model name", platform.processor() or platform.machine()),
        "cores": cores(),
        "instructions": [name for name in wanted if name in named.get("flags", "").split()],
        "system": platform.system(),
        "python": platform.python_version(),
    }
