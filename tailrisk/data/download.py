"""One file of a public archive, fetched so that it can be trusted: whole, checked, and never half there.

A download goes to NAME.part and is renamed when its SHA-256 is that of NAME.CHECKSUM beside it on the server. What an
interruption leaves is continued, not begun again. A lock beside it makes a second process wait and then find the file.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .._fields import InputError

_CHUNK = 1 << 20
_TRIES = 4
_BUSY = (429, 500, 502, 503, 504)
_DIGEST = re.compile(r"\b[0-9a-fA-F]{64}\b")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)


class MissingError(InputError):
    """The server has no such file."""


class UnreachableError(InputError):
    """The server does not answer, or not to the end."""


def fetch_file(
    url: str, target: Path, *, timeout: float = 30.0, pause: float = 1.0, stop: threading.Event | None = None
) -> bool:
    """Fetches `url` into `target` unless the file is there and has the right checksum; true if it was fetched.

    **Raises:** MissingError for a file that the server does not have, UnreachableError if it cannot be had now,
    InputError if what the server sends does not have the checksum that it says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stated, part = (target.with_name(target.name + suffix) for suffix in (".CHECKSUM", ".part"))
    if _is_whole(target, stated):
        return False
    with _locked(target.with_name(target.name + ".lock")):
        if _is_whole(target, stated):  # by another process, while this one waited
            return False
        session = _Session(timeout, pause, stop or threading.Event())
        digest = session.checksum(url + ".CHECKSUM")
        with part.open("ab+") as file:
            try:
                session.fill(file, url, digest)
                os.fsync(file.fileno())
            finally:
                if not file.seek(0, os.SEEK_END):
                    part.unlink(missing_ok=True)
        scratch = target.with_name(target.name + ".CHECKSUM.part")
        scratch.write_text(f"{digest}  {target.name}\n", "ascii")
        os.replace(scratch, stated)
        os.replace(part, target)  # last: a file with the right name is whole
    return True


def _is_whole(target: Path, stated: Path) -> bool:
    """Whether the file is there and has its checksum, which is kept beside it so that no network is needed."""
    if not (target.is_file() and stated.is_file()):
        return False
    with target.open("rb") as file:
        return _sha256(file) in stated.read_text("ascii", "replace")


def _sha256(file: Any) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Work on a file for one process and thread at a time; where the system has no such locks, checksums must do."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    continue
            except FileNotFoundError:  # the one before has finished and removed it
                continue
            try:
                yield
            finally:
                path.unlink()
            return


class _Session:
    """Requests that are tried again while there is a point in it."""

    def __init__(self, timeout: float, pause: float, stop: threading.Event):
        self.timeout, self.pause, self.stop = timeout, pause, stop

    def checksum(self, url: str) -> str:
        text = ""
        for attempt in range(_TRIES):
            try:
                with self._open(url) as answer:
                    text = answer.read(4096).decode("ascii", "replace")
                break
            except _BROKEN as error:
                self._wait_or_raise(url, error, attempt)
        digest = _DIGEST.search(text)
        if not digest:
            raise InputError(f"{url}: {text[:40]!r}, expected a SHA-256; is this a mirror of the archive?")
        return digest.group().lower()

    def fill(self, part: IO[bytes], url: str, digest: str) -> None:
        """Adds to the part until it is whole. If an older part does not fit the file of today, it begins anew, once."""
        for _ in range(2):
            begun = part.seek(0, os.SEEK_END) > 0
            self._add(part, url)
            found = _sha256(part)
            if found == digest:
                return
            part.truncate(0)
            if not begun:
                raise InputError(
                    f"{url}: SHA-256 is {found[:12]}..., but {url}.CHECKSUM says {digest[:12]}...; the file on the server "
                    "is corrupt, nothing was kept"
                )

    def _add(self, part: IO[bytes], url: str) -> None:
        for attempt in range(_TRIES):
            have = part.seek(0, os.SEEK_END)
            try:
                with self._open(url, have) as answer:
                    if answer.status != 206:  # the server begins at the beginning
                        part.truncate(0)
                        have = 0
                    length = answer.headers.get("Content-Length")
                    while chunk := answer.read(_CHUNK):
                        part.write(chunk)
                        have += len(chunk)
                        if self.stop.is_set():
                            raise KeyboardInterrupt
                    if length and answer.length:
                        raise http.client.IncompleteRead(b"", answer.length)
                return
            except urllib.error.HTTPError as error:
                if error.code != 416:
                    self._wait_or_raise(url, error, attempt)
                part.truncate(0)  # the part is longer than the file
            except _BROKEN as error:
                self._wait_or_raise(url, error, attempt)
            finally:
                part.flush()

    def _open(self, url: str, start: int = 0) -> Any:
        scheme, host, path, query, _ = urllib.parse.urlsplit(url)
        quoted = urllib.parse.urlunsplit((scheme, host, urllib.parse.quote(path), query, ""))
        headers = {"User-Agent": "tailrisk"} | ({"Range": f"bytes={start}-"} if start else {})
        return urllib.request.urlopen(urllib.request.Request(quoted, headers=headers), timeout=self.timeout)

    def _wait_or_raise(self, url: str, error: Exception, attempt: int) -> None:
        """Waits before another try, or says what is wrong if there is no point in one."""
        if isinstance(error, urllib.error.HTTPError):
            if error.code == 404:
                raise MissingError(f"{url}: the archive has no such file; check symbol, kind, market and day") from None
            if error.code not in _BUSY:
                raise InputError(
                    f"{url}: the server says {error.code} {error.reason}; try another --base-url"
                ) from None
        if isinstance(error, OSError) and error.errno in _DISK:
            raise error
        if attempt + 1 < _TRIES and not self.stop.wait(self.pause * 2**attempt):
            return
        reason = getattr(error, "reason", None) or error
        if isinstance(error, http.client.IncompleteRead):
            reason = f"{error.expected:,} bytes are missing"
        host = urllib.parse.urlsplit(url).netloc
        raise UnreachableError(
            f"{url}: cannot be had from {host} now ({reason}); check the network or --base-url, and run the command again: "
            "what has come so far is kept and continued"
        ) from None
