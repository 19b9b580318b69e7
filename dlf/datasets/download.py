"""Files from the network: the only place of dlf that opens a connection.

A file is streamed into a `.part` of its own, hashed on the way, and renamed only when it is whole and right, so that
a file under its final name was never half written and two processes may fetch the same one at once. Every wait is
bounded: for the answer, for the next byte, and for the whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import secrets
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, BinaryIO

from dlf.errors import DataError, DataMissingError, MachineError

ANSWER_SECONDS = 4.0  # for name look-up, connection, redirects and headers together
STALL_SECONDS = 10.0  # without a single byte
SLOWEST_BYTES_PER_SECOND = 1024  # over the whole transfer: a trickle would hold us for days
ABANDONED_SECONDS = 3600.0  # without a byte: the process that wrote the .part was killed, for it gives up long before
MAX_BYTES = 2**30  # the largest known file, EMNIST's archive, has 562 MB


class _RefusedError(Exception):
    """Why one address did not give the file."""


def data_root(root: str | None) -> Path:
    """Folder of data files: `root`, else $DLF_DATA, else the user's cache folder of dlf; absolute, ~ is home."""
    chosen = root or os.environ.get("DLF_DATA")
    return (Path(chosen).expanduser() if chosen else _cache_folder()).absolute()


def _cache_folder() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dlf"


def missing(name: str, target: Path, wanted: Sequence[str], reasons: Sequence[str]) -> DataMissingError:
    """The error for a file that is neither here nor reachable: why, where to put the files, how else to go on."""
    return DataMissingError(
        "\n  ".join([f"{name}: {target.name} is not in {target.parent} and was not downloaded:", *reasons])
        + f"\nPut {', '.join(wanted)} into {target.parent}, or name the folder that has them in data.root or $DLF_DATA,"
        "\nor train on other data: `data.fallback: digits` needs no download."
    )


def fetch(
    name: str,
    urls: Sequence[str],
    target: Path,
    *,
    tell: Callable[[str], None],
    md5: str,
    wanted: Sequence[str] = (),
) -> None:
    """Download the first of `urls` that gives bytes with this md5 to `target`; the others are mirrors.

    `name` is the data set and `wanted` the files that it needs, for the error message. `tell` hears the start, every
    tenth of a large file, and the end. Raises DataMissingError with the reason of every address; MachineError where
    the file cannot be written.
    """
    reasons = []
    for url in urls:
        try:
            _fetch_one(name, url, target, tell, md5)
            return
        except _RefusedError as error:
            reasons.append(f"{url}: {error}")
    raise missing(name, target, wanted or [target.name], reasons)


def _fetch_one(name: str, url: str, target: Path, tell: Callable[[str], None], md5: str) -> None:
    with _answer(url) as response, part_file(target) as part:
        size = _announced_size(response)
        tell(f"{name}: downloading {target.name} ({_megabytes(size)}) from {url}")
        digest, received, start = hashlib.md5(usedforsecurity=False), 0, time.monotonic()
        for chunk in _chunks(response, start):
            part.write(chunk)
            digest.update(chunk)
            before, received = received, received + len(chunk)
            if size and size > 20e6 and 10 * received // size > 10 * before // size:
                tell(f"{name}: {target.name} {100 * received // size} %")
        if size is not None and received != size:
            raise _RefusedError(f"cut off after {received:,} of {size:,} bytes")
        if digest.hexdigest() != md5:
            raise _RefusedError(f"{received:,} wrong bytes: md5 {digest.hexdigest()}, expected {md5}")
    tell(f"{name}: {target.name} complete in {time.monotonic() - start:.1f} s, in {target.parent}")


def _megabytes(size: int | None) -> str:
    return "unknown size" if size is None else f"{size / 1e6:.1f} MB"


def _announced_size(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    size = int(text) if text.isdecimal() else None
    if size is not None and size > MAX_BYTES:
        raise _RefusedError(f"announces {size:,} bytes, more than any known file")
    return size


def _chunks(response: http.client.HTTPResponse, start: float) -> Iterator[bytes]:
    """The body as it arrives; _RefusedError where it stalls, trickles, never ends or breaks off."""
    received = 0
    while True:
        try:
            chunk = response.read1(1 << 16)
        except TimeoutError:
            raise _RefusedError(f"stalled: nothing for {STALL_SECONDS:g} s after {received:,} bytes") from None
        except (OSError, http.client.HTTPException) as error:
            raise _RefusedError(f"broke off after {received:,} bytes: {error or type(error).__name__}") from None
        if not chunk:
            return
        received += len(chunk)
        seconds = time.monotonic() - start
        if seconds > STALL_SECONDS and received < seconds * SLOWEST_BYTES_PER_SECOND:
            raise _RefusedError(f"too slow: {received:,} bytes in {seconds:.0f} s")
        if received > MAX_BYTES:
            raise _RefusedError(f"still sending after {received:,} bytes, more than any known file")
        yield chunk


def _answer(url: str) -> http.client.HTTPResponse:
    """The open response of a web address; _RefusedError, within ANSWER_SECONDS, where there is none."""
    if not url.startswith(("http://", "https://")):
        raise _RefusedError("only http and https addresses are opened")
    future: Future[http.client.HTTPResponse] = Future()
    # In a thread of its own: no timeout of the socket bounds the look-up of a name.
    threading.Thread(target=_open, args=(url, future), daemon=True).start()
    try:
        return future.result(ANSWER_SECONDS)
    except TimeoutError:
        future.add_done_callback(_discard)
        raise _RefusedError(f"no answer within {ANSWER_SECONDS:g} s") from None
    except urllib.error.HTTPError as error:
        error.close()
        raise _RefusedError(f"HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _RefusedError(str(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _RefusedError(str(error) or type(error).__name__) from None


def _open(url: str, future: Future[http.client.HTTPResponse]) -> None:
    opener = urllib.request.OpenerDirector()
    for handler in (  # the web only: urllib's default opener would follow a redirect to ftp
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "dlf"})
        future.set_result(opener.open(request, timeout=STALL_SECONDS))
    except Exception as error:
        future.set_exception(error)


def _discard(future: Future[http.client.HTTPResponse]) -> None:
    """Close an answer that came too late."""
    late = future.exception()
    if late is None:
        future.result().close()
    elif isinstance(late, urllib.error.HTTPError):
        late.close()


@contextlib.contextmanager
def part_file(target: Path) -> Iterator[BinaryIO | IO[bytes]]:
    """A new file that becomes `target`, whole and on disk, when the block ends without an error, else vanishes.

    Its name is unique, so that several processes may write the same target; what killed ones left is removed. Raises
    MachineError where it cannot be written.
    """
    _remove_abandoned(target)
    part = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    except OSError as error:
        raise MachineError(
            f"cannot write {target}: {error.strerror or error}. Free space, or choose another folder in data.root or "
            "$DLF_DATA."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_abandoned(target: Path) -> None:
    with contextlib.suppress(OSError):
        for entry in list(target.parent.iterdir()):
            ours = entry.name.startswith(f"{target.name}.") and entry.suffix == ".part"
            if ours and time.time() - entry.lstat().st_mtime > ABANDONED_SECONDS:
                entry.unlink()


def check_md5(data: bytes, path: Path, expected: str) -> None:
    """DataError where the bytes of the file at `path` do not have this md5."""
    _compare(hashlib.md5(data, usedforsecurity=False).hexdigest(), path, expected)


def check_md5_of_file(path: Path, expected: str) -> None:
    """The same for a file that is too large to be held whole."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
    _compare(digest.hexdigest(), path, expected)


def _compare(found: str, path: Path, expected: str) -> None:
    if found != expected:
        raise damaged(path, f"md5 {found}", f"md5 {expected}")


def keep_unpacked(path: Path, data: bytes) -> None:
    """Write an unpacked file and, before it, its sha256 beside it: only packed files have hashes that are published.

    Where nothing can be written that costs time only, at the next start.
    """
    with contextlib.suppress(MachineError):
        with part_file(_note_of(path)) as note:
            note.write(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())  # as sha256sum has it
        with part_file(path) as part:
            part.write(data)


def check_unpacked(sha256: str, path: Path) -> None:
    """DataError where the file at `path` was unpacked with another sha256 than it has now."""
    note = _note_of(path)
    with contextlib.suppress(OSError):  # none was written: the file was put there by somebody else
        expected = note.read_bytes()[:64].decode(errors="replace")
        if sha256 != expected:
            raise damaged(path, f"sha256 {sha256}", f"sha256 {expected} as in {note.name}")


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def damaged(path: Path, found: str, expected: str) -> DataError:
    """The error for a file whose bytes are not the published ones."""
    return DataError(f"{path} is damaged: {found}, expected {expected}. Delete it; it will be fetched again.")
