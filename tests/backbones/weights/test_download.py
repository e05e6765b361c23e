"""The promises of `download`, kept against a real HTTP server on the loopback whose connections really drop."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import backbones.weights.download as download_module
from backbones.common.errors import UserError
from backbones.common.files import sha256_of
from backbones.weights.download import download
from backbones.weights.partial_file import claimed

CONTENT = bytes(range(256)) * 12_000  # 3 MB: more than one chunk, more than a socket's buffers
REPOSITORY = Path(__file__).resolve().parents[3]
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file at any path, as badly as it is told to."""

    content = CONTENT
    etag: str | None = '"version 1"'
    ranges = True
    lengths = True  # whether the answer says how long it is
    content_type = "application/octet-stream"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, str]] = []
        self.drop_after: list[int] = []  # bytes of the body after which the next connections are cut
        self.statuses: list[tuple[int, dict[str, str]]] = []  # answers to give instead of the file
        self.url = f"http://127.0.0.1:{self.server_address[1]}/weights.bin"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is no news


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers.items()))
        self.close_connection = True
        if server.statuses:
            status, headers = server.statuses.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        start, total = 0, len(server.content)
        wanted = self.headers.get("Range") if server.ranges else None
        if wanted and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.content_type)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.lengths:
            self.send_header("Content-Length", str(total - start))
        self.send_header("Connection", "close")
        self.end_headers()
        body = server.content[start:]
        self.wfile.write(body[: server.drop_after.pop(0)] if server.drop_after else body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("RESNEXT_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server: Server, destination: Path, **options: Any) -> Path:
    return download(server.url, destination, **{"progress": False, "backoff": 0.0, "timeout": 5.0, **options})


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_file(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "new" / "folder" / "weights.bin"
    assert fetch(server, destination, sha256=DIGEST, size=len(CONTENT)) == destination
    assert destination.read_bytes() == CONTENT
    assert sha256_of(destination) == DIGEST
    assert leftovers(destination.parent) == ["weights.bin"]
    assert destination.stat().st_mode & 0o777 == 0o666 & ~_umask()
    fetch(server, destination, sha256=DIGEST[:8])
    assert len(server.requests) == 1, "a file that is there is not fetched again"


def test_a_note_that_a_kill_left_beside_a_whole_file_is_removed(server: Server, tmp_path: Path) -> None:
    """It fell between the last two steps: the file had its name, and its note was still there."""
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    (tmp_path / "weights.bin.partial.json").write_text("{}")
    fetch(server, tmp_path / "weights.bin")
    assert leftovers(tmp_path) == ["weights.bin"]
    (tmp_path / "weights.bin.partial").touch()  # of a download that goes on
    (tmp_path / "weights.bin.partial.json").write_text("{}")
    fetch(server, tmp_path / "weights.bin")
    assert len(leftovers(tmp_path)) == 3


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_dropped_connections_are_continued(server: Server, tmp_path: Path) -> None:
    server.drop_after = [1_000_000, 500_000, 1]
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST, attempts=1)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    ranges = [request.get("Range") for request in server.requests]
    assert ranges[0] is None
    starts = [int(text.removeprefix("bytes=").removesuffix("-")) for text in ranges[1:] if text]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert 0 < starts[0] <= 1_000_000
    assert all(request["If-Range"] == server.etag for request in server.requests[1:])


def test_interrupted_run_is_continued_by_the_next(server: Server, tmp_path: Path) -> None:
    server.drop_after = [1_000_000, 0]
    with pytest.raises(UserError, match=r"connection lost.*run again: it resumes from there.*weights\.bin"):
        fetch(server, tmp_path / "weights.bin", attempts=1)
    fetched = (tmp_path / "weights.bin.partial").stat().st_size
    assert 0 < fetched <= 1_000_000
    assert not (tmp_path / "weights.bin").exists()
    fetch(server, tmp_path / "weights.bin")
    assert server.requests[-1]["Range"] == f"bytes={fetched}-"
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["weights.bin"]


def test_complete_but_unnamed_file_needs_no_byte_more(server: Server, tmp_path: Path) -> None:
    """A run killed between the last byte and the renaming: the server answers 416 to a range that starts at the end."""
    (tmp_path / "weights.bin.partial").write_bytes(CONTENT)
    note = {"url": server.url, "validator": server.etag, "total": len(CONTENT)}
    (tmp_path / "weights.bin.partial.json").write_text(json.dumps(note))
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    assert len(server.requests) == 1
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


OTHER_NOTE = '{"url": "http://elsewhere.example/weights.bin", "validator": null, "total": 3072000}'


@pytest.mark.parametrize("note", [None, "not JSON", "[]", OTHER_NOTE])
def test_part_of_unknown_origin_is_not_continued(server: Server, tmp_path: Path, note: str | None) -> None:
    (tmp_path / "weights.bin.partial").write_bytes(b"something else")
    if note is not None:
        (tmp_path / "weights.bin.partial.json").write_text(note)
    fetch(server, tmp_path / "weights.bin")
    assert "Range" not in server.requests[0]
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


def test_file_changed_on_the_server_between_two_runs(server: Server, tmp_path: Path) -> None:
    server.drop_after = [1_000_000, 0]
    with pytest.raises(UserError):
        fetch(server, tmp_path / "weights.bin", attempts=1)
    server.content, server.etag = CONTENT[::-1], '"version 2"'
    fetch(server, tmp_path / "weights.bin")
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT[::-1]


def test_file_that_shrank_on_the_server(server: Server, tmp_path: Path) -> None:
    server.drop_after = [1_000_000, 0]
    server.etag = None
    with pytest.raises(UserError):
        fetch(server, tmp_path / "weights.bin", attempts=1)
    server.content = b"short"
    fetch(server, tmp_path / "weights.bin")
    assert (tmp_path / "weights.bin").read_bytes() == b"short"


def test_changed_file_without_validator_is_noticed_by_its_hash(server: Server, tmp_path: Path) -> None:
    """Same length, no ETag: the splice of two versions fails the hash, and the file is fetched from its first byte."""
    server.etag = None
    server.drop_after = [1_000_000, 0]
    with pytest.raises(UserError):
        fetch(server, tmp_path / "weights.bin", attempts=1)
    server.content = CONTENT[::-1]
    fetch(server, tmp_path / "weights.bin", sha256=hashlib.sha256(server.content).hexdigest())
    assert (tmp_path / "weights.bin").read_bytes() == server.content


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.drop_after = [1_000_000, 2_000_000]
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert "Range" in server.requests[2]


def test_server_without_ranges_that_never_gets_further_ends(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.drop_after = [1_000_000] * 50
    with pytest.raises(UserError, match="connection lost"):
        fetch(server, tmp_path / "weights.bin", attempts=3)
    assert len(server.requests) <= 5


def test_answer_without_a_length(server: Server, tmp_path: Path) -> None:
    server.lengths = False
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    server.drop_after = [1000]
    fetch(server, tmp_path / "other.bin", size=len(CONTENT), attempts=1)
    assert (tmp_path / "other.bin").read_bytes() == CONTENT, "the expected size tells that the answer was cut"


def test_wrong_hash(server: Server, tmp_path: Path) -> None:
    expected = rf"{server.url} sends is not the expected file: its SHA-256 is {DIGEST}, {'0' * 64} is expected"
    with pytest.raises(UserError, match=expected):
        fetch(server, tmp_path / "weights.bin", sha256="0" * 64)
    assert leftovers(tmp_path) == []
    with pytest.raises(UserError, match="0000abcd is expected"):
        fetch(server, tmp_path / "weights.bin", sha256="0000ABCD")
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST[:10].upper())
    with pytest.raises(ValueError, match="not a SHA-256"):
        fetch(server, tmp_path / "weights.bin", sha256="7cdf")


def test_wrong_size_is_noticed_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"offers 3072000 bytes, where 7 are expected"):
        fetch(server, tmp_path / "weights.bin", size=7)
    assert leftovers(tmp_path) == []


def test_file_in_the_way_is_neither_used_nor_touched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"weights\.bin is not the file at .*delete it"):
        fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    with pytest.raises(UserError, match="it has 4 bytes"):
        fetch(server, tmp_path / "weights.bin", size=len(CONTENT))
    assert (tmp_path / "weights.bin").read_bytes() == b"mine"
    assert server.requests == []


def test_full_disk_is_noticed_before_the_transfer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"1\.0 kB free"):
        fetch(server, tmp_path / "weights.bin", size=len(CONTENT))
    assert server.requests == [], "the size was known before asking"
    with pytest.raises(UserError, match=r"70\.2 MB are needed"):
        fetch(server, tmp_path / "weights.bin")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_passing_faults_are_waited_for(server: Server, tmp_path: Path, status: int) -> None:
    server.statuses = [(status, {}), (status, {"Retry-After": "0"})]
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    assert len(server.requests) == 3


def test_the_server_says_how_long_to_wait(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download_module.time, "sleep", waits.append)
    server.statuses = [(503, {"Retry-After": "7"}), (503, {}), (503, {"Retry-After": "86400"})]
    fetch(server, tmp_path / "weights.bin", backoff=1.0)
    assert waits == [7.0, 2.0, 60.0]


@pytest.mark.parametrize(("status", "reason"), [(404, "moved or the address"), (403, "refused"), (410, "removed")])
def test_lasting_refusals_are_told_at_once(server: Server, tmp_path: Path, status: int, reason: str) -> None:
    server.statuses = [(status, {})] * 5
    expected = rf"{server.url} answers {status} .*{reason}.*put it at {tmp_path / 'weights.bin'}"
    with pytest.raises(UserError, match=expected):
        fetch(server, tmp_path / "weights.bin")
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_redirects_keep_the_range(server: Server, tmp_path: Path) -> None:
    server.drop_after = [1_000_000]
    server.statuses = [(302, {"Location": server.url + "?signed"})]
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    assert "Range" in server.requests[-1]


def test_login_page_instead_of_the_file(server: Server, tmp_path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="web page"):
        fetch(server, tmp_path / "weights.bin")
    assert leftovers(tmp_path) == []


def test_nobody_listens(tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.url
    with pytest.raises(UserError, match=r"connection failed.*2 attempts"):
        download(url, tmp_path / "weights.bin", progress=False, attempts=2, backoff=0.0)


def test_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    expected = rf"get {server.url} in another way and put it at {tmp_path / 'weights.bin'} \(SHA-256 {DIGEST}\)"
    with pytest.raises(UserError, match=expected):
        fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    assert server.requests == []
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST)


def test_addresses_that_are_none(tmp_path: Path) -> None:
    for url in ("ftp://example.org/x", "weights.bin", "http://", "http://exa mple.org/x"):
        with pytest.raises(UserError):
            download(url, tmp_path / "weights.bin", progress=False, attempts=1)


def test_file_address(tmp_path: Path) -> None:
    (tmp_path / "source.bin").write_bytes(CONTENT)
    download((tmp_path / "source.bin").as_uri(), tmp_path / "copy.bin", sha256=DIGEST, progress=False)
    assert (tmp_path / "copy.bin").read_bytes() == CONTENT
    with pytest.raises(UserError, match="cannot read"):
        download((tmp_path / "absent.bin").as_uri(), tmp_path / "other.bin", progress=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_folder_without_permission(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot write"):
            fetch(server, tmp_path / "weights.bin")
    finally:
        tmp_path.chmod(0o700)


def test_folder_that_is_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        fetch(server, tmp_path / "folder" / "weights.bin")


def test_progress_is_written_to_stderr(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.drop_after = [1_000_000]
    fetch(server, tmp_path / "weights.bin", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "weights.bin: fetching 3.1 MB" in captured.err
    assert "trying again" in captured.err
    assert "resuming from" in captured.err
    assert "weights.bin: 3.1 MB fetched" in captured.err


def test_all_who_want_the_same_file_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    """As the ranks of one machine do. The lock belongs to the open file, so threads stand for processes here."""
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(server, tmp_path / "weights.bin", sha256=DIGEST), range(4)))
    assert paths == [tmp_path / "weights.bin"] * 4
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == ["weights.bin"]
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("vanishes", [1, 2, 3])
def test_a_file_that_is_renamed_while_it_is_claimed_is_claimed_anew(
    vanishes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two looks at it, as the process before does when it has finished."""
    path, stat, looks = tmp_path / "weights.partial", Path.stat, itertools.count(1)

    def look(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if self == path and next(looks) == vanishes:
            self.unlink()
        return stat(self, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", look)
    with claimed(path) as file:
        file.write(b"content")
        monkeypatch.setattr(Path, "stat", stat)
        assert path.read_bytes() == b"content"


def test_killed_process_is_continued(server: Server, tmp_path: Path) -> None:
    """kill -9 in the middle of a transfer: what had arrived is not fetched again."""
    hold = threading.Event()
    write = Handler.do_GET

    class Slow(Handler):
        def do_GET(self) -> None:
            if hold.is_set():
                return write(self)
            hold.set()
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.send_header("ETag", str(self.server.etag))
            self.end_headers()
            self.wfile.write(CONTENT[:2_000_000])
            self.wfile.flush()
            threading.Event().wait(20)
            return None

    server.RequestHandlerClass = Slow  # type: ignore[assignment]
    program = "import sys; from backbones.weights.download import download; download(*sys.argv[1:3], progress=False)"
    arguments = [sys.executable, "-c", program, server.url, str(tmp_path / "weights.bin")]
    process = subprocess.Popen(arguments, cwd=REPOSITORY)
    partial = tmp_path / "weights.bin.partial"
    try:
        for _ in range(3000):
            if partial.exists() and partial.stat().st_size > 0:
                break
            threading.Event().wait(0.01)
        else:
            pytest.fail("nothing arrived")
    finally:
        process.kill()
        process.wait()
    fetched = partial.stat().st_size
    fetch(server, tmp_path / "weights.bin", sha256=DIGEST)
    assert server.requests[-1]["Range"] == f"bytes={fetched}-"
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
