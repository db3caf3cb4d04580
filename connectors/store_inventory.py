"""What lies in a score store, when it was last used, and what no run has used for long."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from . import files
from .errors import RecipeError
from .store_use import USES, StoreUse, read_use

DAY = 86_400
TEMPORARY_AGE = DAY
"""Temporary files are of killed processes when they are older, in seconds: a shard is written in less."""

_ADDRESS = re.compile(r"(?P<name>[\w.-]+)-(?P<fingerprint>[0-9a-f]{8,64})")
_RESULT = re.compile(r"(?P<shard>[0-9a-f]{32})\.(?:parquet|npz)")
_NOTE = re.compile(r"[0-9a-f]{32}\.json")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.(?:parquet|npz|json)\.tmp-\d+-\d+")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Under which keys fsspec's back ends tell when a file was written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of a name. modified: seconds since 1970; links are of the kind `other`."""

    name: str
    kind: Literal["file", "folder", "other"]
    bytes: int
    modified: float


@dataclass(slots=True)
class StoreFile:
    """A file of the store. used: when it was written or a run that needs it last noted so, whichever is later."""

    folder: str
    name: str
    bytes: int
    modified: float
    used: float

    @property
    def shard(self) -> str:
        """Fingerprint of its shard; of a note, its name."""
        return self.name.split(".", 1)[0]


@dataclass(frozen=True)
class AddressSummary:
    """The results at one address. used: the last use of any of them, seconds since 1970, None where there is none."""

    name: str
    fingerprint: str
    shards: int
    bytes: int
    used: float | None

    @property
    def folder(self) -> str:
        """Name of the folder in the store."""
        return f"{self.name}-{self.fingerprint}"


@dataclass
class Inventory:
    """What a store held when it was listed. Holds some 400 bytes per file.

    results: files by address folder and shard; notes: of uses; temporary: unfinished files; others: how many entries
    do not look like the store's, links among them, and are left alone.
    """

    root: str
    results: dict[str, dict[str, StoreFile]] = field(default_factory=dict)
    notes: list[StoreFile] = field(default_factory=list)
    temporary: list[StoreFile] = field(default_factory=list)
    others: int = 0

    def summaries(self) -> list[AddressSummary]:
        """Return one entry per address, by name, the last used first."""
        found = []
        for folder, by_shard in self.results.items():
            matched = _ADDRESS.fullmatch(folder)
            assert matched
            used = max((file.used for file in by_shard.values()), default=None)
            size = sum(file.bytes for file in by_shard.values())
            found.append(AddressSummary(matched["name"], matched["fingerprint"], len(by_shard), size, used))
        return sorted(found, key=lambda address: (address.name, -(address.used or 0), address.fingerprint))


def take_inventory(root: str) -> Inventory:
    """List a store; raises RecipeError when there is none, or the folder is none."""
    inventory = Inventory(root)
    try:
        entries = list(_entries(root))
    except FileNotFoundError as error:
        raise RecipeError(f"{root}: there is no store; the first run makes it") from error
    except NotADirectoryError as error:
        raise RecipeError(f"{root} is a file; name a store, or a recipe that ends with .yaml") from error
    folders = [e.name for e in entries if e.kind == "folder" and (_ADDRESS.fullmatch(e.name) or e.name == USES)]
    if entries and not folders:
        raise RecipeError(f"{root} is not a score store: nothing in it looks like one")
    inventory.others = len(entries) - len(folders)
    with ThreadPoolExecutor(1 if files.is_local(root) else 16) as pool:
        listings = pool.map(lambda folder: _listing(f"{root}/{folder}"), folders)
        for folder, listing in zip(folders, listings, strict=True):
            _sort(inventory, folder, listing)
    _find_uses(inventory)
    return inventory


def unused(inventory: Inventory, before: float, keep: Iterable[StoreUse] = ()) -> list[list[StoreFile]]:
    """Return what can go, in units that go together.

    before: what was used then or later stays, seconds since 1970; keep: what these runs used stays anyhow. A shard's
    unreadable documents go with its `document` columns, and after them: without them these would not add up.
    """
    kept: dict[str, set[str]] = {}
    for use in keep:
        for address in use.addresses:
            kept.setdefault(address, set()).update(use.shards)

    def needed(file: StoreFile) -> bool:
        return file.used >= before or file.shard in kept.get(file.folder, ())

    units = []
    for folder, by_shard in inventory.results.items():
        companions = inventory.results.get(_companion(folder), {})
        if folder.startswith("dead-"):  # those with a companion are in its unit
            by_shard = {shard: file for shard, file in by_shard.items() if shard not in companions}
            companions = {}
        for shard, file in by_shard.items():
            unit = [file, *([companions[shard]] if shard in companions else [])]
            if not any(needed(one) for one in unit):
                units.append(unit)
    units += [[note] for note in inventory.notes if note.used < before]
    abandoned = time.time() - TEMPORARY_AGE
    return units + [[file] for file in inventory.temporary if file.modified < abandoned]


def delete(inventory: Inventory, units: list[list[StoreFile]]) -> list[StoreFile]:
    """Delete units of files that are as they were listed, then address folders that this emptied.

    Returns the deleted files. A run that goes on at the same time scores again what it misses.
    """
    with ThreadPoolExecutor(1 if files.is_local(inventory.root) else 16) as pool:
        deleted = [file for unit in pool.map(lambda unit: _delete_unit(inventory.root, unit), units) for file in unit]
    if files.is_local(inventory.root):
        for folder in {file.folder for file in deleted}:
            with contextlib.suppress(OSError):  # it holds something still, or again
                os.rmdir(files.local_path(inventory.root) / folder)  # noqa: PTH106 - never more than an empty folder
    return deleted


def _delete_unit(root: str, unit: list[StoreFile]) -> list[StoreFile]:
    urls = [f"{root}/{file.folder}/{file.name}" for file in unit]
    # a result that was written anew since it was listed is in use
    if any(_modified(url) not in (file.modified, None) for url, file in zip(urls, unit, strict=True)):
        return []
    for url in urls:
        files.delete(url)
    return unit


def _companion(folder: str) -> str:
    """Return the folder whose files go with those of this one."""
    name, fingerprint = folder.rsplit("-", 1)
    other = {"document": "dead", "dead": "document"}.get(name)
    return f"{other}-{fingerprint}" if other else ""


def _sort(inventory: Inventory, folder: str, listing: list[Entry]) -> None:
    """Put a folder's files where they belong by their names."""
    if folder != USES:
        inventory.results[folder] = {}
    for entry in listing:
        file = StoreFile(folder, entry.name, entry.bytes, entry.modified, entry.modified)
        if entry.kind != "file":
            inventory.others += 1
        elif _TEMPORARY.fullmatch(entry.name):
            inventory.temporary.append(file)
        elif folder != USES and (matched := _RESULT.fullmatch(entry.name)):
            inventory.results[folder][matched["shard"]] = file
        elif folder == USES and _NOTE.fullmatch(entry.name):
            inventory.notes.append(file)
        else:
            inventory.others += 1


def _find_uses(inventory: Inventory) -> None:
    """Set when each result was last used; holds one note at a time, the newest first, each file being found once."""
    waiting = {folder: set(by_shard) for folder, by_shard in inventory.results.items()}
    for note in sorted(inventory.notes, key=lambda note: -note.modified):
        try:
            use = read_use(f"{inventory.root}/{USES}/{note.name}")
        except FileNotFoundError:  # pruned meanwhile, by somebody else
            continue
        shards = set(use.shards)
        for folder in set(use.addresses) & set(waiting):
            found = waiting[folder] & shards
            waiting[folder] -= found
            for shard in found:
                file = inventory.results[folder][shard]
                file.used = max(file.modified, note.modified)


def _listing(folder: str) -> list[Entry]:
    try:
        return list(_entries(folder))
    except FileNotFoundError:  # removed meanwhile
        return []


def _entries(folder: str) -> Iterator[Entry]:
    """Yield what a folder holds; raises FileNotFoundError."""
    if not files.is_local(folder):
        with files.reached(folder) as (filesystem, path):
            for info in filesystem.ls(path, detail=True):
                name = str(info["name"]).rstrip("/").rsplit("/", 1)[-1]
                kind: Literal["file", "folder"] = "folder" if info["type"] == "directory" else "file"
                yield Entry(name, kind, int(info.get("size") or 0), _time_of(info))
        return
    with os.scandir(files.local_path(folder)) as found:
        for entry in found:
            with contextlib.suppress(FileNotFoundError):  # renamed or deleted since
                yield _local_entry(entry.name, entry.stat(follow_symlinks=False))


def _local_entry(name: str, status: os.stat_result) -> Entry:
    kind: Literal["file", "folder", "other"] = "other"
    if stat.S_ISREG(status.st_mode):
        kind = "file"
    elif stat.S_ISDIR(status.st_mode):
        kind = "folder"
    return Entry(name, kind, status.st_size, status.st_mtime)


def _modified(url: str) -> float | None:
    """Return when a file was written, seconds since 1970; None when it is gone."""
    try:
        if files.is_local(url):
            return files.local_path(url).lstat().st_mtime
        with files.reached(url) as (filesystem, path):
            return _time_of(filesystem.info(path))
    except FileNotFoundError:
        return None


def _time_of(info: dict[str, Any]) -> float:
    """Return when a remote file was written; where a back end does not tell, it counts as just written."""
    told = next((info[key] for key in _TIMES if info.get(key) is not None), None)
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    if isinstance(told, datetime):
        return told.timestamp()
    return float(told) if isinstance(told, int | float) else time.time()
