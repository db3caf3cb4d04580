"""Files anywhere fsspec reaches: list, open for Arrow, write atomically."""

from __future__ import annotations

import glob as local_glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from .errors import RecipeError
from .reaching import reach, reaching, remote

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

_REMOTE_CACHE = {"cache_type": "blockcache", "block_size": 2 << 20, "cache_options": {"maxblocks": 16}}
"""How open remote files are cached: Parquet columns are read in turn, a little of each, which with the caches that back
ends choose themselves (s3fs: one window of 50 MB) transfers a file several times. 32 MB for each open file.
"""


_PASSWORD = re.compile(r"(\w[\w+.:-]*://)[^/@]*:[^/@]*@")


@dataclass(frozen=True)
class FileInfo:
    """A file as it stood when the run was planned. version: modification time (local, ns) or etag."""

    url: str
    size: int
    version: str


def is_local(url: str) -> bool:
    """Whether the URL is a path on this machine."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the path of a local URL, without its protocol."""
    return Path(url.removeprefix("file://"))


def absolute(url: str, base: Path) -> str:
    """Return a URL unchanged, and a path as an absolute one, relative to `base` and with `~` expanded.

    Where the path is a glob, signs of a glob in `base` are escaped. Raises RecipeError for a URL with a password, which
    would come to stand in messages and in the run.
    """
    if not is_local(url):
        if _PASSWORD.match(url):
            shown = _PASSWORD.sub(r"\1…@", url)
            raise RecipeError(f"{shown}: credentials do not belong in a URL; set them in the environment")
        return url
    path = local_path(url).expanduser()
    if path.is_absolute():
        return os.path.normpath(path)
    return os.path.normpath(Path(local_glob.escape(str(base)) if local_glob.has_magic(url) else base) / path)


def compression_of(url: str) -> str | None:
    """Return Arrow's name of the compression that the file's ending announces, or None."""
    return COMPRESSIONS.get(Path(url).suffix.lower())


def expand(patterns: Iterable[str], where: str) -> list[FileInfo]:
    """Return the files that paths and globs name, each once, sorted by URL.

    where: the recipe's key, for messages. Raises RecipeError for a pattern that matches no file.
    """
    found: dict[str, FileInfo] = {}
    for pattern in patterns:
        files = _expand_local(pattern) if is_local(pattern) else _expand_remote(pattern)
        if not files:
            hint = "check the path (it is relative to the recipe)" if is_local(pattern) else "check the URL"
            raise RecipeError(f"{where}: no file matches {pattern}; {hint}")
        found.update((file.url, file) for file in files)
    once: dict[str, FileInfo] = {}  # a link and the file that it points to are one source
    for url in sorted(found):
        once.setdefault(os.path.realpath(url) if is_local(url) else url, found[url])
    return list(once.values())


def _expand_local(pattern: str) -> list[FileInfo]:
    path = local_path(pattern)
    if path.is_dir():
        raise RecipeError(f"{pattern} is a folder; name its files, for example {pattern}/*.parquet")
    names = [str(path)] if path.is_file() else local_glob.glob(str(path), recursive=True)  # noqa: PTH207 - any base
    return [local_info(Path(name)) for name in names if Path(name).is_file()]


def file_info(url: str) -> FileInfo:
    """Return the present state of a file; raises FileNotFoundError, or TamisError when it cannot be reached."""
    if is_local(url):
        return local_info(local_path(url))

    def look() -> FileInfo:
        filesystem, path = remote(url)
        filesystem.invalidate_cache(path)  # listings are kept, and would never show a change
        return _describe(filesystem, filesystem.info(path))

    return reach(url, look)


def local_info(path: Path) -> FileInfo:
    """Return the present state of a local file."""
    status = path.stat()
    return FileInfo(str(path), status.st_size, str(status.st_mtime_ns))


def _expand_remote(pattern: str) -> list[FileInfo]:
    def look() -> list[FileInfo]:
        filesystem, path = remote(pattern)
        filesystem.invalidate_cache()
        if not local_glob.has_magic(path):
            infos = [found] if (found := _info(filesystem, path)) is not None else []
            if infos and infos[0]["type"] == "directory":
                raise RecipeError(f"{pattern} is a folder; name its files, for example {pattern}/*.parquet")
        else:
            with ThreadPoolExecutor(16) as pool:
                infos = list(pool.map(filesystem.info, filesystem.glob(path)))
        return [_describe(filesystem, info) for info in infos if info["type"] != "directory"]

    return reach(pattern, look)


def _info(filesystem: Any, path: str) -> dict[str, Any] | None:
    """Return what is there, None for nothing. Not by `exists`, which takes any failure for an absence."""
    try:
        return dict(filesystem.info(path))
    except FileNotFoundError:
        return None


def _describe(filesystem: Any, info: dict[str, Any]) -> FileInfo:
    version = next((info[k] for k in ("ETag", "etag", "mtime", "LastModified", "last_modified") if k in info), "")
    return FileInfo(filesystem.unstrip_protocol(info["name"]), int(info["size"] or 0), str(version))


class _RemoteFile:
    """A remote file as Arrow reads it, whose errors name it."""

    def __init__(self, url: str, file: Any) -> None:
        self.url = url
        self.file = file

    @property
    def closed(self) -> bool:
        return bool(self.file.closed)

    def read(self, size: int = -1) -> bytes:
        return reach(self.url, lambda: bytes(self.file.read(size)))  # a failed read leaves the position as it was

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def close(self) -> None:
        self.file.close()


def open_input(url: str) -> pa.NativeFile:
    """Open a file for Arrow, seekable; local files without Python in between.

    Raises FileNotFoundError, and TamisError when a remote file cannot be reached, now or while it is read.
    """
    if is_local(url):
        return pa.OSFile(str(local_path(url)), "rb")

    def attempt() -> Any:
        filesystem, path = remote(url)
        filesystem.invalidate_cache(path)
        return filesystem.open(path, "rb", **_REMOTE_CACHE)

    return pa.PythonFile(_RemoteFile(url, reach(url, attempt)), mode="r")


def exists(url: str) -> bool:
    """Whether a file is there."""
    if is_local(url):
        return local_path(url).exists()

    def look() -> bool:
        filesystem, path = remote(url)
        filesystem.invalidate_cache(path)
        return _info(filesystem, path) is not None

    return reach(url, look)


def names_in(folder: str) -> set[str]:
    """Return the names of the files in a folder; empty when there is no such folder."""
    if is_local(folder):
        path = local_path(folder)
        return set(os.listdir(path)) if path.is_dir() else set()  # noqa: PTH208 - ten thousands of names, no Path each

    def look() -> set[str]:
        filesystem, path_name = remote(folder)
        filesystem.invalidate_cache(path_name)
        try:
            names = filesystem.ls(path_name, detail=False)
        except FileNotFoundError:
            return set()
        return {str(name).rstrip("/").rsplit("/", 1)[-1] for name in names}

    return reach(folder, look)


@contextmanager
def reached(url: str) -> Iterator[tuple[Any, str]]:
    """Give the fsspec file system of a remote URL, its listings not cached, and the path in it; errors name the URL."""
    with reaching(url):
        filesystem, path = remote(url)
        filesystem.invalidate_cache(path)
        yield filesystem, path


def read_bytes(url: str) -> bytes:
    """Return the content of a small file."""
    with open_input(url) as source:
        return bytes(source.read())


def delete(url: str) -> None:
    """Delete a file; no error when it is absent."""
    if is_local(url):
        local_path(url).unlink(missing_ok=True)
        return

    filesystem, path = remote(url)

    def remove() -> None:
        filesystem.invalidate_cache(path)
        if _info(filesystem, path) is not None:
            filesystem.rm_file(path)

    reach(url, remove)


def remove_tree(folder: Path) -> None:
    """Delete a local folder with all it holds; no error when it is absent."""
    if folder.exists():
        shutil.rmtree(folder)
