"""Files that are either absent or whole, and what killed processes leave of them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import TamisError
from .files import is_local, local_path
from .reaching import reach, remote

_PART = re.compile(r"\..+\.tmp-(?P<host>[^-]+)-(?P<process>\d+)-\d+")
"""Names of files that are being written."""

FOREIGN_SECONDS = 7 * 24 * 3600
"""A file that a process of another machine has begun and not touched for so long is taken for abandoned."""


@dataclass(frozen=True)
class Written:
    """What was written: bytes and the SHA-256 of the content."""

    bytes: int
    sha256: str


def write_atomically(url: str, write: Callable[[IO[bytes]], object]) -> Written:
    """Write a file so that it is either absent or whole.

    write: receives a binary file to fill. Local files are written under a temporary name in the same folder, synced
    and renamed; elsewhere the finished file is uploaded in one put. Raises TamisError where the disk is full.
    """
    if not is_local(url):
        with _with_space(url), tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            written = _fill(part, write)
            filesystem, path = remote(url)
            reach(url, lambda: filesystem.put_file(str(part), path))
        return written
    target = local_path(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.tmp-{_host()}-{os.getpid()}-{threading.get_ident()}")
    with _with_space(url):
        try:
            written = _fill(part, write)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return written


@contextmanager
def _with_space(url: str) -> Iterator[None]:
    """Name the file for which there is no space. Arrow raises errors without a number, so the text counts too."""
    try:
        yield
    except OSError as error:
        full = next((n for n in (errno.ENOSPC, errno.EDQUOT) if n == error.errno or os.strerror(n) in str(error)), None)
        if full is None:
            raise
        raise TamisError(f"{url}: {os.strerror(full)}; make space and run the same command: it resumes") from error


def _fill(part: Path, write: Callable[[IO[bytes]], object]) -> Written:
    with part.open("w+b") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Written(file.seek(0, os.SEEK_END), digest)


def write_text(url: str, text: str) -> Written:
    """Write a text file atomically, as UTF-8."""
    return write_atomically(url, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Make renames in a local folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> int:
    """Delete what processes that are gone have left half-written in a local folder; returns how many files.

    Of another machine's processes it is not known whether they are gone: their files are deleted when FOREIGN_SECONDS
    old.
    """
    deleted = 0
    with os.scandir(folder) as entries:
        parts = [(entry, found) for entry in entries if (found := _PART.fullmatch(entry.name))]
    for entry, found in parts:
        try:
            if found["host"] == _host():
                abandoned = not Path(f"/proc/{found['process']}").exists() if _HAS_PROC else _is_old(entry)
            else:
                abandoned = _is_old(entry)
            if abandoned:
                Path(entry.path).unlink()
                deleted += 1
        except FileNotFoundError:
            continue  # it has been finished meanwhile
    return deleted


_HAS_PROC = Path("/proc/self").exists()


def _is_old(entry: os.DirEntry[str]) -> bool:
    return time.time() - entry.stat().st_mtime > FOREIGN_SECONDS


def _host() -> str:
    """This machine's name, as it stands in names of files."""
    return re.sub(r"[^\w.]", "_", socket.gethostname())
