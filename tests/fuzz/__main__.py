"""python -m tests.fuzz READER: search for a file on which a reader breaks the law of tests/fuzz/readers.py."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# what the fuzzer watches: with torch and pydantic among it a start would take minutes
WATCHED = ["dlf", "yaml", "zipfile", "gzip", "json", "numpy.lib", "PIL"]
MEMORY = 512 * 2**20  # bytes more than at the start; nothing that the seeds lead to needs a tenth of it
LONGEST = 8 * 1024  # bytes of a file: what the limits of the readers refuse at once teaches nothing


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz one reader for a while, or let it read the files that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("reader", metavar="READER", help="a reader of tests/fuzz/readers.py, such as config or npz")
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="only read these, as pytest does")
    parser.add_argument("--seconds", type=int, default=60, help="how long to search (60)")
    parser.add_argument("--corpus", type=Path, help="folder in which the inputs are kept that reached something new")
    given = parser.parse_args(arguments)
    atheris = None if given.files else _atheris()
    with atheris.instrument_imports(include=WATCHED) if atheris else contextlib.nullcontext():
        from . import readers
    if given.reader not in readers.READERS:
        parser.error(f"{given.reader!r} is no reader; known: {', '.join(readers.READERS)}")
    for file in given.files:
        accepted = readers.attempt(given.reader, file.read_bytes())
        print(f"{file}: {'accepted' if accepted else 'refused'}")
    if atheris is not None:
        _fuzz(atheris, readers, given)


def _atheris() -> Any:
    try:
        return importlib.import_module("atheris")
    except ImportError:
        sys.exit("the fuzzer is atheris, which has wheels for Linux: pip install -e '.[fuzz]'")


def _fuzz(atheris: Any, readers: Any, given: argparse.Namespace) -> None:
    """Does not return: libFuzzer ends the process, with 0 after the time, else with the file that it found."""
    import resource  # not on Windows, nor is atheris

    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="dlf-fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(readers.READERS[given.reader].seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)
        readers.attempt(given.reader, seed)  # what is imported late is not the fault of a file
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    options = [
        f"-max_total_time={given.seconds}",
        f"-max_len={LONGEST}",
        "-timeout=20",  # seconds of one file: a hang
        "-rss_limit_mb=0",  # the limit above gives a traceback that says where
        f"-artifact_prefix={readers.FOUND / given.reader}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda content: readers.attempt(given.reader, content))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
