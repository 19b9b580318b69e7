"""A run directory: the only place that knows the names of its files. No torch here, so that listing runs is quick.

runs/mnist-20261123-101500-3f2a/
  config.yaml            resolved: every default filled in; `dlf train` on it repeats the run
  config.source.yaml     as written, with the overrides
  run.json               status, versions, device, threads, precision, command line, seed, hashes of data and split
  metrics.jsonl          one object an epoch
  layers.jsonl           what was seen inside of the network, after epochs or more often (dlf/observe.py)
  boundary.jsonl         what it says all over the plane, for data of two features (dlf/observe.py)
  checkpoints/last/      model.safetensors, optimizer.safetensors, progress.safetensors, state.json, MANIFEST.json
  checkpoints/best/      the same, chosen by the monitored metric
  checkpoints/step-N/    the same, saved before last; where checkpoint.keep asks for it
  evaluation-test.json   what `dlf evaluate` found
  train.log              what was said while training
  .lock                  held by the process that trains
  .info.lock             held for the moment in which run.json or an evaluation is written
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from dlf import durable
from dlf.errors import MachineError, RunError, UsageError
from dlf.info import Info as Info  # noqa: PLC0414 -- what `read_info` gives
from dlf.info import Status as Status  # noqa: PLC0414
from dlf.info import json_object, parse, parse_line
from dlf.registry import Section, did_you_mean

Record = Mapping[str, Any]

WRITING_SECONDS = 30.0  # to wait for another process that writes, which needs milliseconds, or a slow disk

_TAIL = 2**16  # bytes
_STAMP = re.compile(r"\d{8}-\d{6}(?=-[0-9a-f]{4}$)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OLDER = re.compile(r"\.?step-([0-9]{1,18})(?:\.part|\.old)?")
_RESERVED = {"con", "prn", "aux", "nul", "latest", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def check_name(name: str) -> str:
    """The name, if it can be part of a folder's name on every system; ValueError otherwise."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:40]!r} cannot name a run: use 1 to 100 letters, digits, '.', '_', '-', the first a letter or digit"
        )
    if name.split(".", maxsplit=1)[0].lower() in _RESERVED:
        raise ValueError(f"{name!r} cannot name a run: the name is reserved")
    return name


class Written(Section):
    """The beginning of metrics.jsonl: so many records, in so many bytes, with this hash."""

    records: NonNegativeInt = 0
    bytes: NonNegativeInt = 0
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = hashlib.sha256().hexdigest()


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.source = path / "config.source.yaml"
        self.metrics = path / "metrics.jsonl"
        self.layers = path / "layers.jsonl"
        self.boundary = path / "boundary.jsonl"
        self.last = path / "checkpoints" / "last"
        self.best = path / "checkpoints" / "best"
        self.log = path / "train.log"
        self._info = path / "run.json"
        self._written = Written()
        self._hash = hashlib.sha256()

    @property
    def id(self) -> str:
        """The folder's name: NAME-DATE-TIME-XXXX."""
        return self.path.name

    @classmethod
    def create(cls, runs: Path, name: str) -> RunDirectory:
        """A new directory below `runs`; mkdir is exclusive, so two processes never share one."""
        try:
            durable.ensure_folder(runs)
            while True:
                stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
                run = cls(runs / f"{name}-{stamp}-{secrets.token_hex(2)}")
                try:
                    durable.make_folder(run.path)
                except FileExistsError:
                    continue
                durable.make_folder(run.path / "checkpoints")
                return run
        except OSError as error:
            raise MachineError(
                f"cannot create a run below {runs.absolute()}: {error.strerror}. Choose a folder with --runs-dir."
            ) from error

    @classmethod
    def find(cls, run: str, runs: Path) -> RunDirectory:
        """The run that an id, a unique prefix of one, a path or `latest` means."""
        if _is_run(Path(run)):
            return cls(Path(run))
        try:
            names = [folder.name for folder in runs.iterdir() if not folder.name.startswith(".") and _is_run(folder)]
            known = sorted(names)
        except OSError:  # no such folder, or not for us
            known = []
        if not known:
            raise RunError(f"no run {run!r}: there are no runs below {runs.absolute()}. Train one, or name --runs-dir.")
        if run == "latest":
            return max((cls(runs / name) for name in known), key=cls._started)
        matches = [run] if run in known else [name for name in known if run and name.startswith(run)]
        if len(matches) > 1:
            raise UsageError(f"{run!r} begins {len(matches)} runs: {', '.join(matches[:5])}. Write more of the id.")
        if not matches:
            hint = did_you_mean(run, known) or f" The last of {len(known)} is {known[-1]!r}."
            raise RunError(f"no run {run!r} below {runs.absolute()}.{hint} `latest` is the last one started.")
        return cls(runs / matches[0])

    def _started(self) -> tuple[str, int]:
        """When: by the id, which copying keeps, and within a second by the file that is written first and only once."""
        stamp = _STAMP.search(self.id)
        with contextlib.suppress(OSError):
            return stamp.group() if stamp else "", self.source.stat().st_mtime_ns
        return stamp.group() if stamp else "", 0

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run, so that no other process trains it; RunError where one does."""
        # a list of runs, `is_trained_now`, holds it for an instant
        return durable.locked(self.path / ".lock", patience_seconds=0.1)

    def is_trained_now(self) -> bool:
        """Whether a process holds the run; False also where the system has no locks."""
        return durable.is_locked(self.path / ".lock")

    def remove(self) -> int:
        """Remove the run and all that it holds, unless a process trains it (RunError); the bytes that it took."""
        size = self.size()
        with self.locked():
            gone = durable.hide(self.path)
        durable.remove_hidden(gone)
        return size

    def size(self) -> int:
        """The bytes of all its files; what links lead to is not its own."""
        folders = os.walk(self.path)
        return sum(Path(top, name).lstat().st_size for top, _, names in folders for name in names)

    def begin(self, source: str, overrides: Iterable[str], resolved: str) -> None:
        """Keep the experiment as it was written, with its overrides, and as it was resolved."""
        given = "".join(f"# override: {json.dumps(override)}\n" for override in overrides)
        durable.write(self.source, (given + source).encode())
        self.write_config(resolved)

    def write_config(self, resolved: str) -> None:
        """Keep the resolved experiment, in the place of what it was."""
        durable.write(self.config, resolved.encode())

    def read_info(self) -> Info:
        """What run.json holds."""
        try:
            return parse(self._info.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{self._info} cannot be read: {error}") from error

    def write_info(self, **changes: Any) -> None:
        """Set these entries of run.json and keep the others."""
        with self._writing():
            self._change_info(changes)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """One process at a time changes the small files: a training that ends, evaluations beside each other."""
        return durable.locked(self.path / ".info.lock", patience_seconds=WRITING_SECONDS)

    def _change_info(self, changes: Record) -> None:
        info = self.read_info() if self._info.exists() else {}
        durable.write(self._info, to_json({**info, **changes}, indent=2))

    def test_looks(self) -> list[Record]:
        """When the test set was looked at, with which checkpoint and by which command; RunError if that is damaged."""
        looks = self.read_info().get("test_looks", [])
        if not isinstance(looks, list) or not all(isinstance(look, dict) for look in looks):
            raise RunError(
                f"{self._info}: test_looks is not a list of looks: the file was edited. "
                "Bring it back from a copy; an empty list starts to count anew."
            )
        return looks

    def count_test_look(self, *, checkpoint: str, epoch: int, command: str) -> int:
        """Note in run.json that somebody is about to see how a checkpoint does on the test set; how often now.

        Every command that shows such figures calls it once, before it shows them. No look is lost where several
        processes look at the same time.
        """
        look = {"time": now(), "checkpoint": checkpoint, "epoch": epoch, "command": command}
        with self._writing():
            looks = [*self.test_looks(), look]
            self._change_info({"test_looks": looks})
        return len(looks)

    def checkpoint(self, name: str) -> Path:
        """The folder of the checkpoint called best, last or step-N; UsageError, with those there are, otherwise."""
        older = {f"step-{step}": self.older_folder(step) for step in self.older_steps()}
        known = {"best": self.best, "last": self.last, **older}
        step = re.fullmatch(r"step-([0-9]{1,18})", name)
        folder = known.get(f"step-{int(step[1])}" if step else name)
        if folder is None:
            names = ", ".join(folder.name for folder in known.values())
            raise UsageError(f"{self.id} has no checkpoint {name!r}; it has {names}")
        return folder

    def older_folder(self, step: int) -> Path:
        """Where the checkpoint of this step is kept when `last` goes on; names sort as the steps do."""
        return self.last.with_name(f"step-{step:08}")

    def older_steps(self) -> list[int]:
        """The steps of the kept checkpoints, in order, also of those that were being written or removed."""
        found = (_OLDER.fullmatch(path.name) for path in self.last.parent.glob("*step-*"))
        return sorted({int(step[1]) for step in found if step})

    def append_metrics(self, record: Record) -> Record:
        """Add one epoch to metrics.jsonl; the record as it will be read back: NaN and infinity are null."""
        line = to_json(record)
        durable.append(self.metrics, line)
        self._count(line, records=1)
        return json.loads(line)  # type: ignore[no-any-return]

    def read_metrics(self) -> list[Record]:
        """Every epoch so far; a last line that was cut off while it was written is not counted."""
        try:
            return [parse_line(line) for line in self._metrics_lines()]
        except ValueError as error:
            raise RunError(f"{self.metrics} is damaged: {error}") from error

    def read_last_metrics(self) -> tuple[list[Record], bool]:
        """The epochs that stand in the last 64 KiB of metrics.jsonl, and whether those are all; none where unreadable.

        For a quick look at a run of any length: a hundred epochs or more.
        """
        try:
            with self.metrics.open("rb") as file:
                skipped = max(0, file.seek(0, os.SEEK_END) - _TAIL)
                file.seek(skipped)
                lines = file.read().split(b"\n")[bool(skipped) : -1]
            return [json_object(line) for line in lines if b"\0" not in line], not skipped
        except (OSError, ValueError):
            return [], False

    @property
    def written(self) -> Written:
        """What this process knows to stand in metrics.jsonl: what it kept of it, and what it added."""
        return self._written

    def keep_metrics(self, written: Written) -> None:
        """Keep these first records and drop those behind them, which no checkpoint followed; RunError if changed."""
        kept = self._first_records(written)
        durable.write(self.metrics, kept)
        self._written, self._hash = Written(), hashlib.sha256()
        self._count(kept, written.records)

    def check_metrics(self, written: Written) -> None:
        """RunError, with what differs, unless metrics.jsonl begins with these records."""
        self._first_records(written)

    def _first_records(self, written: Written) -> bytes:
        lines = self._metrics_lines()
        if len(lines) < written.records:
            raise RunError(
                f"{self.metrics} has {len(lines)} epochs and the checkpoint {written.records}: records are missing. "
                "Bring the file back from a copy, or train anew."
            )
        kept = b"".join(line + b"\n" for line in lines[: written.records])
        found = hashlib.sha256(kept).hexdigest()
        if found != written.sha256:
            raise RunError(
                f"{self.metrics} was changed: its first {written.records} records are {len(kept)} bytes with sha256 "
                f"{found}; the checkpoint was saved after {written.bytes} bytes with {written.sha256}. "
                "Bring the file back from a copy, or train anew."
            )
        return kept

    def _count(self, lines: bytes, records: int) -> None:
        self._hash.update(lines)
        self._written = Written(
            records=self._written.records + records,
            bytes=self._written.bytes + len(lines),
            sha256=self._hash.hexdigest(),
        )

    def _metrics_lines(self) -> list[bytes]:
        """The lines; not a last one without its end, nor one in which a power loss has left a hole."""
        try:
            lines = self.metrics.read_bytes().split(b"\n")[:-1] if self.metrics.exists() else []
        except OSError as error:
            raise RunError(f"{self.metrics} cannot be read: {error.strerror}") from error
        return lines[:-1] if lines and b"\0" in lines[-1] else lines

    def note_observation(self, path: Path, record: Record) -> bool:
        """Add one line to `layers` or `boundary`, unsynced; whether that worked. No training depends on it."""
        return durable.note(path, to_json(record).decode())

    def read_observations(self, path: Path) -> list[Record]:
        """The lines of `layers` or `boundary`, in order; those that are damaged are left out."""
        return [record for record, _ in _observations(path)]

    def keep_observations(self, epoch: int, step: int) -> None:
        """Drop what was seen of the layers after this step, of the boundary after this epoch, and damaged lines."""
        for path, place, last in ((self.layers, "step", step), (self.boundary, "epoch", epoch)):
            if path.exists():
                durable.write(path, b"".join(line for record, line in _observations(path) if record[place] <= last))

    def note(self, text: str) -> bool:
        """Add a line, with the time, to train.log; whether that worked. Nothing depends on it."""
        return durable.note(self.log, f"{now()} {text}\n")

    def write_evaluation(self, split: str, result: Record) -> Path:
        """Keep what `dlf evaluate` found; the file it was written to."""
        path = self.path / f"evaluation-{split}.json"
        with self._writing():
            durable.write(path, to_json(result, indent=2))
        return path


def read_all(runs: Path) -> Iterator[tuple[Path, Info | None]]:
    """Every entry of a folder of runs that is not hidden, and what its run.json holds; None where that is no run's.

    Of each run this one file is read, once; RunError where the folder itself cannot be read.
    """
    try:
        folders = list(runs.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{runs.absolute()} cannot be read: {error.strerror}. Name a folder with --runs-dir.") from error
    for folder in folders:
        if not folder.name.startswith("."):
            try:
                info = Info(json_object((folder / "run.json").read_bytes()))
            except (OSError, ValueError):  # ValueError also for what is no UTF-8
                yield folder, None
            else:
                yield folder, info


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "run.json").is_file()
    except (OSError, ValueError):  # not for us, a name that is too long, a NUL
        return False


def _observations(path: Path) -> list[tuple[Record, bytes]]:
    """What layers.jsonl or boundary.jsonl holds, each with its line; a file that cannot be read holds nothing."""
    found: list[tuple[Record, bytes]] = []
    with contextlib.suppress(OSError):
        for line in path.read_bytes().splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                record = json_object(line)
                if line.endswith(b"\n") and all(type(record.get(name)) is int for name in ("epoch", "step")):
                    found.append((record, line))
    return found


def now() -> str:
    """The time as run.json writes it: ISO 8601 with the offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def to_json(value: object, indent: int | None = None) -> bytes:
    """One JSON document and a newline; what JSON has no number for (NaN, infinity) becomes null."""
    text = json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace") + b"\n"  # half a character is written as JSON writes it: \\ud800


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
