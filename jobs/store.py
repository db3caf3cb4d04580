"""What `tamis store` does and prints: what lies in a score store, and what no run has used for long."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..connectors.errors import RecipeError, printable
from ..connectors.files import absolute, is_local, local_path
from ..connectors.run_directory import MANIFEST, read_manifest
from ..connectors.store_inventory import AddressSummary, Inventory, StoreFile, delete, take_inventory, unused
from ..connectors.store_use import StoreUse, use_of_manifest

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@dataclass
class Pruning:
    """What was or would be pruned. older_than: as the user wrote it; files: deleted, or to be deleted."""

    older_than: str
    deleted: bool
    files: list[StoreFile]

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(file.bytes for file in self.files)


def store_of(place: str) -> str:
    """Return the store that a path, a URL or a recipe names; raises RecipeError."""
    if is_local(place) and local_path(place).suffix in (".yaml", ".yml") and not local_path(place).is_dir():
        from .recipe import read_recipe

        return str(read_recipe(local_path(place)).store)
    return absolute(place, Path.cwd())


def age(text: str) -> timedelta:
    """Return the time span of `30d`, `12h` or `2w`; raises RecipeError."""
    matched = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if not matched:
        raise RecipeError(f"--older-than {printable(text, 100)}: write 30d, 12h or 2w")
    return timedelta(**{_UNITS[matched[2]]: int(matched[1])})


def uses_of(runs: Sequence[Path]) -> Iterator[StoreUse]:
    """Yield what finished runs need of the store.

    runs: run directories, or folders of them. Raises RecipeError where there is no run, TamisError where one does not
    tell: then nothing may be pruned.
    """
    for path in runs:
        found = [path] if (path / MANIFEST).exists() else sorted(child.parent for child in path.glob(f"*/{MANIFEST}"))
        if not found:
            raise RecipeError(f"--keep {path}: there is no finished run")
        for run in found:
            yield use_of_manifest(read_manifest(run) or {}, str(run))


def prune(inventory: Inventory, older_than: str, keep: Sequence[Path], really: bool) -> Pruning:
    """Find what was not used for so long and is not needed by kept runs, and delete it where that is `really` meant."""
    before = time.time() - age(older_than).total_seconds()
    units = unused(inventory, before, uses_of(keep))
    found = delete(inventory, units) if really else [file for unit in units for file in unit]
    return Pruning(older_than, really, found)


def store_report(place: str, pruning: tuple[str, Sequence[Path], bool] | None, as_json: bool) -> str:
    """Return what a store holds, as text or JSON, and prune it where `pruning` (older than, keep, really) is given."""
    inventory = take_inventory(store_of(place))
    summaries = inventory.summaries()
    pruned = prune(inventory, *pruning) if pruning else None
    return _as_json(inventory, summaries, pruned) if as_json else _as_text(inventory, summaries, pruned)


def _pruned_by_folder(pruned: Pruning | None) -> dict[str, list[StoreFile]]:
    by_folder: dict[str, list[StoreFile]] = {}
    for file in pruned.files if pruned else []:
        if not file.name.startswith("."):
            by_folder.setdefault(file.folder, []).append(file)
    return by_folder


def _as_json(inventory: Inventory, summaries: list[AddressSummary], pruned: Pruning | None) -> str:
    gone = _pruned_by_folder(pruned)
    addresses: list[dict[str, Any]] = []
    for address in summaries:
        files = gone.get(address.folder, [])
        used = datetime.fromtimestamp(address.used, UTC).isoformat(timespec="seconds") if address.used else None
        entry = {"name": address.name, "fingerprint": address.fingerprint, "shards": address.shards}
        entry |= {"bytes": address.bytes, "last_used": used}
        if pruned:
            entry["pruned"] = {"shards": len(files), "bytes": sum(file.bytes for file in files)}
        addresses.append(entry)
    content: dict[str, Any] = {"store": inventory.root, "addresses": addresses, "notes": len(inventory.notes)}
    temporary = inventory.temporary
    content["temporary"] = {"files": len(temporary), "bytes": sum(file.bytes for file in temporary)}
    content["others"] = inventory.others
    if pruned:
        content["pruned"] = {"older_than": pruned.older_than, "deleted": pruned.deleted}
        content["pruned"] |= {"files": len(pruned.files), "bytes": pruned.bytes}
    return json.dumps(content, allow_nan=False)


def _as_text(inventory: Inventory, summaries: list[AddressSummary], pruned: Pruning | None) -> str:
    console = Console(width=110, record=True, file=io.StringIO(), color_system=None, markup=False, emoji=False)
    console.print(_table(summaries, pruned))
    size = sum(address.bytes for address in summaries)
    console.print(f"{inventory.root}: {_megabytes(size)} in all", highlight=False, soft_wrap=True)
    if inventory.temporary:
        left = sum(file.bytes for file in inventory.temporary)
        console.print(f"unfinished files: {len(inventory.temporary):,}, {_megabytes(left)}", highlight=False)
    if inventory.others:
        told = "1 entry is" if inventory.others == 1 else f"{inventory.others:,} entries are"
        console.print(f"{told} not of the store, and left alone", highlight=False)
    if pruned:
        files = "1 file" if len(pruned.files) == 1 else f"{len(pruned.files):,} files"
        what = f"{files}, {_megabytes(pruned.bytes)}, not used for {pruned.older_than}"
        told = f"deleted: {what}" if pruned.deleted else f"to be deleted: {what}; nothing is deleted without --yes"
        console.print(told, highlight=False, soft_wrap=True)
    return console.export_text().rstrip("\n")


def _table(summaries: list[AddressSummary], pruned: Pruning | None) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("scorer", "fingerprint"):
        table.add_column(name, no_wrap=True)
    for name in ("shards", "MB", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    if pruned:
        table.add_column("deleted" if pruned.deleted else "to be deleted", justify="right", no_wrap=True)
    gone = _pruned_by_folder(pruned)
    for address in summaries:
        used = datetime.fromtimestamp(address.used).astimezone().strftime("%Y-%m-%d %H:%M") if address.used else ""
        row = [address.name, address.fingerprint, f"{address.shards:,}", f"{address.bytes / 1e6:,.1f}", used]
        table.add_row(*row, *([f"{len(gone.get(address.folder, [])):,}"] if pruned else []))
    return table


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
