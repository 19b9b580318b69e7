"""Downloads against a server of our own: the file is whole and right, or not there at all, and no wait is unbounded.

No test asserts a time: where a wait must be bounded, the server (or the look-up of the name) answers only after `fetch`
has given up, or so much later that the reason would be another one.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from dataset_files import md5

from dlf.datasets import download
from dlf.datasets.download import check_md5, check_md5_of_file, data_root, fetch, part_file
from dlf.errors import DataError, DataMissingError, MachineError

BODY = bytes(range(256)) * 1000
MD5 = md5(BODY)


class Handler(BaseHTTPRequestHandler):
    """One path for each way in which a server behaves."""

    release = threading.Event()  # what the servers that stall wait for
    both = threading.Barrier(2)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name is the base class's
        pass

    def do_GET(self) -> None:
        try:
            getattr(self, "answer_" + self.path.strip("/").split("/")[0].replace("-", "_"))()
        except (ConnectionError, threading.BrokenBarrierError):
            self.close_connection = True

    def body(self, data: bytes, length: int | None = len(BODY)) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def answer_good(self) -> None:
        self.body(BODY)

    def answer_unannounced(self) -> None:
        self.body(BODY, None)

    def answer_wrong(self) -> None:
        self.body(BODY[::-1])

    def answer_longer(self) -> None:
        self.body(BODY + b"!", len(BODY) + 1)

    def answer_truncated(self) -> None:
        self.body(BODY[:1000])

    def answer_empty(self) -> None:
        self.body(b"", 0)

    def answer_unannounced_truncated(self) -> None:
        self.body(BODY[:1000], None)

    def answer_huge(self) -> None:
        self.body(b"", 2**40)

    def answer_403(self) -> None:
        self.send_error(403)

    def answer_503(self) -> None:
        self.send_error(503)

    def answer_nonsense(self) -> None:
        self.wfile.write(b"220 this is not http\r\n")

    def answer_ftp(self) -> None:
        self.send_response(302)
        self.send_header("Location", "ftp://127.0.0.1/file")
        self.end_headers()

    def answer_local(self) -> None:
        self.send_response(302)
        self.send_header("Location", "file:///etc/hostname")
        self.end_headers()

    def answer_moved(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/good")
        self.end_headers()

    def answer_loop(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/loop")
        self.end_headers()

    def answer_stall(self) -> None:
        self.release.wait(20)

    def answer_stall_inside(self) -> None:
        self.body(BODY[:1000])
        self.release.wait(20)

    def answer_trickle(self) -> None:
        self.body(b"")
        while not self.release.wait(0.02):
            self.wfile.write(b".")

    def answer_together(self) -> None:
        """Half of the file, then nothing until two clients have come so far."""
        self.body(BODY[: len(BODY) // 2])
        self.both.wait(20)
        self.wfile.write(BODY[len(BODY) // 2 :])


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the server; waits are shortened, and no proxy stands between."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)
    Handler.release.clear()
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            Handler.release.set()
            server.shutdown()
            thread.join()


def get(target: Path, *urls: str) -> list[str]:
    """What `fetch` tells on its way."""
    told: list[str] = []
    fetch("set", urls, target, tell=told.append, md5=MD5)
    return told


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("path", ["good", "unannounced", "moved"])
def test_a_good_file_arrives_whole(site: str, tmp_path: Path, path: str) -> None:
    target = tmp_path / "deep" / "down" / "file.gz"
    told = get(target, f"{site}/{path}")
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["file.gz"]
    assert f"{site}/{path}" in told[0]
    assert "complete" in told[-1]


BAD = {
    "403": "HTTP 403 Forbidden",
    "503": "HTTP 503 Service Unavailable",
    "wrong": f"256,000 wrong bytes: md5 {md5(BODY[::-1])}, expected {MD5}",
    "longer": "256,001 wrong bytes",
    "truncated": "cut off after 1,000 of 256,000 bytes",
    "unannounced-truncated": "1,000 wrong bytes",
    "empty": "0 wrong bytes",
    "huge": "more than any known file",
    "nonsense": "this is not http",
    "ftp": "unknown url type: ftp",
    "local": "HTTP 302",
    "loop": "HTTP 302",
    "stall": "no answer within 0.5 s",
    "stall-inside": "stalled: nothing for 0.5 s after 1,000 bytes",
    "trickle": "too slow",
}


@pytest.mark.fault("D1")
@pytest.mark.fault("D2")
@pytest.mark.parametrize("path", BAD)
def test_a_bad_server_leaves_nothing_behind_and_is_named_with_its_reason(site: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(DataMissingError) as caught:
        get(tmp_path / "file.gz", f"{site}/{path}")
    message = str(caught.value)
    assert f"{site}/{path}: " in message
    assert BAD[path] in message
    assert names(tmp_path) == []


@pytest.mark.fault("D1")
@pytest.mark.fault("D2")
@pytest.mark.parametrize("path", BAD)
def test_the_next_mirror_is_tried(site: str, tmp_path: Path, path: str) -> None:
    get(tmp_path / "file.gz", f"{site}/{path}", f"{site}/good")
    assert (tmp_path / "file.gz").read_bytes() == BODY
    assert names(tmp_path) == ["file.gz"]


@pytest.mark.fault("D1")
def test_the_message_lists_every_address_and_the_ways_to_go_on(site: str, tmp_path: Path) -> None:
    with pytest.raises(DataMissingError) as caught:
        fetch(
            "set",
            [f"{site}/403", "file:///etc/hostname", "ftp://127.0.0.1/x", "http://127.0.0.1:1/x", "http://[bad/x"],
            tmp_path / "a.gz",
            tell=lambda _: None,
            md5=MD5,
            wanted=["a", "b"],
        )
    message = str(caught.value)
    assert "HTTP 403 Forbidden" in message
    assert message.count("only http and https addresses are opened") == 2
    assert "refused" in message
    assert "http://[bad/x: " in message
    assert f"Put a, b into {tmp_path}" in message
    for way in ("data.root", "$DLF_DATA", "data.fallback: digits"):
        assert way in message


@pytest.mark.fault("D1")
def test_a_name_server_that_hangs_is_bounded(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> None:
        Handler.release.wait(20)
        raise socket.gaierror("answered after all")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(DataMissingError, match=r"no answer within 0\.5 s"):
        get(tmp_path / "file.gz", "http://nowhere.invalid/file.gz")


def test_large_files_tell_every_tenth(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(21_000_000)
    monkeypatch.setattr(Handler, "answer_good", lambda self: self.body(body, len(body)))
    told: list[str] = []
    fetch("set", [f"{site}/good"], tmp_path / "file", tell=told.append, md5=md5(body))
    assert [line for line in told if line.endswith("%")] == [f"set: file {k}0 %" for k in range(1, 11)]


@pytest.mark.fault("D10")
def test_two_processes_at_once_both_succeed(site: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dlf.datasets.download import fetch\n"
        "fetch('set', [sys.argv[1]], Path(sys.argv[2]), tell=lambda _: None, md5=sys.argv[3])"
    )
    command = [sys.executable, "-c", code, f"{site}/together", str(tmp_path / "file"), MD5]
    started = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    assert (tmp_path / "file").read_bytes() == BODY
    assert names(tmp_path) == ["file"]


# --- the disk -------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made(site: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(MachineError, match=r"cannot write .*data\.root"):
        get(tmp_path / "file" / "below", f"{site}/good")


@pytest.mark.fault("D2")
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
    with pytest.raises(MachineError, match="No space left on device"):
        get(tmp_path / "file", f"{site}/good")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.fault("D2")
def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with part_file(tmp_path / "file") as part:
            part.write(b"half")
            assert len(names(tmp_path)) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


@pytest.mark.fault("D2")
def test_what_a_killed_download_left_is_removed_by_the_next(site: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dlf.datasets.download import part_file\n"
        "with part_file(Path(sys.argv[1])) as part: part.write(b'half'); part.flush(); print('.', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    (left,) = tmp_path.iterdir()
    other = tmp_path / "file2.1-2.part"  # of a file whose name begins with ours
    other.touch()
    get(tmp_path / "file", f"{site}/good")
    assert names(tmp_path) == sorted(["file", other.name, left.name]), "a young one may be somebody's who is at work"
    (tmp_path / "file").unlink()
    for path in (left, other):
        os.utime(path, (path.stat().st_mtime - download.ABANDONED_SECONDS - 60,) * 2)
    get(tmp_path / "file", f"{site}/good")
    assert names(tmp_path) == ["file", other.name]


def test_a_download_gives_up_long_before_it_is_taken_for_abandoned() -> None:
    assert 10 * download.STALL_SECONDS < download.ABANDONED_SECONDS


@pytest.mark.fault("D3")
def test_check_md5(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    check_md5(BODY, path, MD5)
    check_md5_of_file(path, MD5)
    words = f"file is damaged: md5 {MD5}, expected md5 beef. Delete it"
    with pytest.raises(DataError, match=words):
        check_md5(BODY, path, "beef")
    with pytest.raises(DataError, match=words):
        check_md5_of_file(path, "beef")


# --- where ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "cache/dlf"),
        ("linux", None, ".cache/dlf"),
        ("win32", "LOCALAPPDATA", "cache/dlf"),
        ("win32", None, "AppData/Local/dlf"),
        ("darwin", None, "Library/Caches/dlf"),
    ],
)
def test_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str | None, expected: str
) -> None:
    for name in ("DLF_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    assert data_root(None) == tmp_path / expected


def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLF_DATA", str(tmp_path / "variable"))
    assert data_root(None) == tmp_path / "variable"
    assert data_root(str(tmp_path / "given")) == tmp_path / "given"
    monkeypatch.chdir(tmp_path)
    assert data_root("given") == tmp_path / "given"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root("~/x") == tmp_path / "x"
    monkeypatch.setenv("DLF_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root(None).name == "dlf"
