"""A URL → a file on the disk, complete and checked. An interrupted download is resumed.

The bytes are written to `<destination>.partial`, which is renamed to the destination after its size and SHA-256 are
verified. After an interruption (lost connection, kill, power cut) an HTTP range request fetches the rest, if the
server's validator shows that its file has not changed (RFC 9110, sections 13.1.5 and 14); from a server without ranges,
the whole file is fetched again. If several processes need the same file, one fetches it and the others wait.

Environment: `RESNEXT_OFFLINE=1` forbids every connection; the error then says which file is needed and where.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from ..common.errors import UserError
from ..common.files import require_plain_file, sha256_of
from ..common.progress import ByteProgress
from ..common.units import in_bytes
from .partial_file import PartialFile, claimed, remove_note

CHUNK = 1 << 20  # bytes read at a time
LONGEST_WAIT = 60.0  # seconds between two attempts
DISK_RESERVE = 64 << 20  # bytes left free for other programs


class WrongFileError(UserError):
    """A file was obtained, but its size or SHA-256 is not the expected one."""


def offline() -> bool:
    """Whether the environment variable RESNEXT_OFFLINE forbids connections."""
    return os.environ.get("RESNEXT_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def download(
    url: str,
    destination: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    timeout: float = 30.0,
    attempts: int = 5,
    backoff: float = 1.0,
) -> Path:
    """Fetches `url` into the file `destination`, unless it is there already, and returns its path.

    Args:
        url: http, https or file.
        destination: the file to write; its folder is created if missing. An existing file is checked and kept.
        sha256: the expected SHA-256 in hexadecimal: all 64 digits, or the first 8 or more if only those are published.
        size: the expected size in bytes. The size that the server states and the free disk space are checked against
            it before anything is written.
        progress: report on stderr.
        timeout: seconds without a byte after which a connection counts as lost.
        attempts: the number of consecutive attempts that may fail without progress.
        backoff: seconds before the second attempt; doubled for each further one.

    Raises:
        UserError: the file cannot be obtained, or (WrongFileError) is not the expected one. The message names the URL,
            the file and the remedy; an interrupted download stays in `<destination>.partial`.
        ValueError: `sha256` is not a hash.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise ValueError(f"{sha256!r} is not a SHA-256, nor the first 8 or more hexadecimal digits of one")
    destination = Path(destination)
    unfinished = destination.with_name(destination.name + ".partial")
    if destination.exists():
        require_plain_file(destination)
        if reason := _describe_difference(destination, sha256, size):
            raise WrongFileError(f"{destination} is not the file at {url}: {reason}. Move or delete it, and run again")
        remove_note(unfinished)
        return destination
    by_hand = f"get {url} in another way and put it at {destination}"
    if sha256:
        by_hand += f" (SHA-256 {sha256}{'…' if len(sha256) < 64 else ''})"
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https", "file"):
        raise UserError(f"cannot fetch {url}: only http, https and file addresses are read")
    if scheme == "file":
        with contextlib.suppress(OSError):  # a missing file is reported below
            require_plain_file(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    elif offline():
        raise UserError(f"{destination} is missing, and RESNEXT_OFFLINE forbids to fetch it. Unset that, or {by_hand}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with claimed(unfinished) as file:
            if not destination.exists():  # else another process fetched it while this one waited
                partial = PartialFile(file, url)
                report = ByteProgress(destination.name, enabled=progress)
                _fetch(partial, size, report, timeout, attempts, backoff)
                reason = _describe_difference(partial.path, sha256, size)
                if reason and partial.resumed:
                    # A server without validators: the part of the earlier run may be of another version.
                    partial.restart()
                    _fetch(partial, size, report, timeout, attempts, backoff)
                    reason = _describe_difference(partial.path, sha256, size)
                if reason:
                    partial.restart()
                    raise WrongFileError(f"what {url} sends is not the expected file: {reason}")
                partial.finish(destination)
                return destination
    except UserError as error:
        raise type(error)(f"{error}. Or {by_hand}") from error
    except OSError as error:
        raise UserError(f"cannot write {destination}: {error}. Name another folder, or {by_hand}") from error
    return download(url, destination, sha256=sha256, size=size)


class _Interrupted(Exception):
    """An attempt failed, and another may succeed. `wait`: the server's requested delay in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _fetch(
    partial: PartialFile, size: int | None, report: ByteProgress, timeout: float, attempts: int, backoff: float
) -> None:
    """Makes requests until the file is complete. An attempt without progress counts as failed."""
    failures, furthest = 0, partial.offset
    while True:
        try:
            _attempt(partial, size, report, timeout)
            report.say(f"{in_bytes(partial.offset)} fetched")
            return
        except _Interrupted as interruption:
            failures = 0 if partial.offset > furthest else failures + 1
            furthest = max(furthest, partial.offset)
            if failures >= attempts:
                raise UserError(
                    f"cannot fetch {partial.url}: {interruption} ({attempts} attempts, {in_bytes(partial.offset)} "
                    "fetched). Check the connection and run again: it resumes from there"
                ) from interruption
            wait = min(max(backoff * 2 ** max(failures - 1, 0), interruption.wait), LONGEST_WAIT)
            report.say(f"{interruption}; trying again in {wait:.0f} s")
            time.sleep(wait)


def _attempt(partial: PartialFile, size: int | None, report: ByteProgress, timeout: float) -> None:
    """Makes one request and reads the answer to the last byte. Raises _Interrupted or UserError."""
    url = partial.url
    if size is not None:
        if partial.offset == size:
            return
        _check_disk(partial.path, size - partial.offset)
    headers = {"User-Agent": "resnext-detection", "Accept-Encoding": "identity"}
    if partial.offset:
        headers["Range"] = f"bytes={partial.offset}-"
        if partial.validator:
            headers["If-Range"] = partial.validator
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            total = _read_headers(partial, response, size)
            whole = "an unknown size" if total is None else in_bytes(total)
            resumed = f", resuming from {in_bytes(partial.offset)}" if partial.offset else ""
            report.say(f"fetching {whole}{resumed}")
            report.begin(partial.offset, total)
            while chunk := response.read(CHUNK):
                partial.write(chunk)
                report.advance_to(partial.offset)
                if total is not None and partial.offset > total:
                    partial.restart()
                    raise UserError(f"{url} sends more than the expected {total} bytes")
    except urllib.error.HTTPError as error:
        _handle_status(partial, error)
        return
    except (http.client.HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            remedy = "Behind a proxy that has a certificate of its own, name that in the variable SSL_CERT_FILE"
            raise UserError(f"cannot fetch {url}: {reason}. {remedy}") from error
        if isinstance(reason, (FileNotFoundError, PermissionError, IsADirectoryError, http.client.InvalidURL)):
            raise UserError(f"cannot read {url}: {reason}") from error
        raise _Interrupted(f"connection failed ({str(reason) or type(reason).__name__})") from error
    if total is not None and partial.offset < total:
        raise _Interrupted(f"connection lost after {in_bytes(partial.offset)} of {in_bytes(total)}")


def _read_headers(partial: PartialFile, response: http.client.HTTPResponse, size: int | None) -> int | None:
    """Reads the headers of an answer and moves `partial` to the offset of its body; returns the file's total size, None
    if unknown."""
    headers = response.headers
    etag = headers.get("ETag")
    # A weak ETag does not guarantee equal bytes.
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        total = int(match[2]) if match and match[2] != "*" else None
        same_start = match is not None and int(match[1]) == partial.offset
        same_total = partial.total in (None, total)
        same_version = validator in (None, partial.validator)  # RFC 9110, 15.3.7: may be missing in this answer
        if not (same_start and same_total and same_version):
            partial.restart()
            raise _Interrupted("the file changed on the server")
    else:
        if headers.get_content_type() == "text/html":
            raise UserError(f"{partial.url} answers with a web page instead of a file (a login or a proxy's notice?)")
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        partial.restart()
        partial.describe(validator, total)
    if size is not None and total is not None and total != size:
        partial.restart()
        raise UserError(
            f"{partial.url} offers {total} bytes, where {size} are expected: it is not the same file any more"
        )
    total = size if total is None else total
    if total is not None:
        _check_disk(partial.path, total - partial.offset)
    return total


def _handle_status(partial: PartialFile, error: urllib.error.HTTPError) -> None:
    """Handles an answer with a status of 400 or above: raises, unless it says that the file is complete already."""
    code, url = error.code, partial.url
    if code == 416:  # the range starts at or beyond the end: complete, or another file
        if error.headers.get("Content-Range", "").strip() == f"bytes */{partial.offset}":
            return
        partial.restart()
        raise _Interrupted("the file changed on the server") from error
    if code in (408, 425, 429) or code >= 500:
        after = error.headers.get("Retry-After", "")
        wait = float(after) if after.isdecimal() else 0.0
        raise _Interrupted(f"the server answers {code} {error.reason}", wait) from error
    remedies = {404: "it was moved or the address is mistyped", 410: "it was removed"}
    raise UserError(f"{url} answers {code} {error.reason}: {remedies.get(code, 'access to it is refused')}") from error


def _describe_difference(path: Path, sha256: str | None, size: int | None) -> str | None:
    """The difference between the file and the expected one, in words; None if there is none."""
    found_size = path.stat().st_size
    if size is not None and found_size != size:
        return f"it has {found_size} bytes, {size} are expected"
    if sha256 is not None and not (found := sha256_of(path)).startswith(sha256.lower()):
        return f"its SHA-256 is {found}, {sha256.lower()} is expected"
    return None


def _check_disk(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed + DISK_RESERVE > free:
        wanted = in_bytes(needed + DISK_RESERVE)
        raise UserError(f"the disk of {path.parent} has {in_bytes(free)} free, {wanted} are needed. Make room")
