"""python -m tests.injected: put faults into healthy experiments, and see who finds them; and who complains of healthy
ones (docs/faults.md). With 20 seeds it takes a quarter of an hour on two cores."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; each process has a core of its own

from dlf import shipped
from dlf.findings import Finding

from .faults import FAULTS
from .looks import HEALTHY, Look, look_at_base, look_at_fault, look_at_shipped
from .table import alarms_list, false_alarms, faults_table, finders, healthy_table, total

VARIANTS = 3  # healthy experiments for each seed, besides the shipped ones
DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"

Task = tuple[Callable[..., Look], tuple[Any, ...]]


def tasks(only: Sequence[str], seeds: range) -> Iterator[Task]:
    """The experiments to look at, the long ones first; `only` holds names of faults, of shipped files, or HEALTHY."""
    for name in sorted(shipped.names(), key=lambda name: "mnist" not in name):
        if not only or name in only:
            yield from ((look_at_shipped, (name, seed)) for seed in seeds)
    for name in FAULTS:
        if not only or name in only:
            yield from ((look_at_fault, (name, seed)) for seed in seeds)
    if not only or HEALTHY in only:
        yield from ((look_at_base, (seed + 1000 * variant,)) for seed in seeds for variant in range(VARIANTS))


def look(todo: Sequence[Task], workers: int) -> Iterator[Look]:
    """The looks, as they are done."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(function, *given) for function, given in todo]):
            yield done.result()


def main(words: Sequence[str] | None = None) -> int:
    """Look, print what was missed and what was a false alarm, and the tables; 1 if there was any."""
    parser = argparse.ArgumentParser(prog="python -m tests.injected", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="experiments for each fault (20)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0); thresholds were tuned on 100 to 119")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a fault, a shipped file, or healthy"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="add what was seen to this file, a line each")
    parser.add_argument(
        "--read", action="append", default=[], type=Path, metavar="FILE", help="count what such files hold"
    )
    parser.add_argument("--markdown", action="store_true", help="write the tables to docs/faults.md")
    given = parser.parse_args(words)
    if unknown := set(given.only) - {*FAULTS, *shipped.names(), HEALTHY}:
        parser.error(f"{', '.join(unknown)}: known are {', '.join([*FAULTS, *shipped.names(), HEALTHY])}")
    began, looks = time.monotonic(), []
    for seen in read(given.read) if given.read else look(list(tasks(given.only, _seeds(given))), given.workers):
        looks.append(seen)
        tell(seen)
        if given.keep:
            with given.keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(seen)) + "\n")
    tables = "\n\n".join(part(looks) for part in (total, faults_table, healthy_table, alarms_list))
    print(f"\n{tables}\n\n{time.monotonic() - began:.0f} seconds")
    if given.markdown:
        DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), tables), encoding="utf-8")
    return int(any(is_wrong(seen) for seen in looks))


def _seeds(given: argparse.Namespace) -> range:
    return range(given.first, given.first + given.seeds)


def is_wrong(seen: Look) -> bool:
    """A fault that nobody named, or a false alarm."""
    return bool(false_alarms(seen)) if seen.fault == HEALTHY else not finders(seen, FAULTS[seen.fault])


def tell(seen: Look) -> None:
    """One line, and what was said where it is wrong."""
    by = "" if seen.fault == HEALTHY else ", ".join(sorted(finders(seen, FAULTS[seen.fault])))
    reached = "" if seen.reached is None else f"{seen.reached:.3f}"
    word = "WRONG" if is_wrong(seen) else "ok"
    print(f"{word:5}  {seen.fault}, seed {seen.seed}, {seen.base} {reached}: {by}", flush=True)
    if is_wrong(seen):
        for who, findings in (("check", seen.check), ("doctor", seen.doctor)):
            for finding in findings:
                print(f"         {who} {finding.verdict} {finding.name}: {finding.said}", flush=True)


def read(files: Sequence[Path]) -> Iterator[Look]:
    """The looks that were kept."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            for who in ("check", "doctor"):
                found[who] = tuple(Finding(**finding) for finding in found[who])
            yield Look(**found)


def document(text: str, tables: str | None = None) -> str:
    """docs/faults.md with what the code says of the faults, and the tables where they are new, between its marks."""
    how = "".join(f"| {fault.name} | {fault.how} |\n" for fault in FAULTS.values())
    names = "".join(f"  - {f.name}: {', '.join(f'`{name}`' for name in sorted(f.named_by))}\n" for f in FAULTS.values())
    for mark, filling in (("faults", how), ("names", names), ("measured", tables and tables + "\n")):
        before, start, rest = text.partition(f"<!-- {mark} -->\n")
        inside, end, after = rest.partition("<!-- end -->\n")
        text = before + start + (inside if filling is None else filling) + end + after
    return text


if __name__ == "__main__":
    sys.exit(main())
