"""Notes in the score store of what a run uses: one small file per run, whose modification time is the last use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from . import files
from .atomic import write_text
from .errors import TamisError

USES = "uses"
"""Folder of the notes: ROOT/uses/<run>.json. The name of no address: these end with a fingerprint."""


@dataclass(frozen=True)
class StoreUse:
    """What a run needs of the store: every shard (by fingerprint) at every address (by its folder), where there is one.

    Holds 80 bytes per shard of 32 MB.
    """

    addresses: list[str]
    shards: list[str]


def use_url(root: str, recipe: str, sources: str) -> str:
    """Return where a run notes its use. recipe, sources: its fingerprints; the same run again renews its own note."""
    name = hashlib.sha256(f"{recipe} {sources}".encode()).hexdigest()[:32]
    return f"{root}/{USES}/{name}.json"


def note_use(url: str, use: StoreUse) -> None:
    """Write a run's note, or renew it; raises OSError or TamisError where the store cannot be written."""
    write_text(url, json.dumps(asdict(use)) + "\n")


def read_use(url: str) -> StoreUse:
    """Read a note; raises FileNotFoundError, and TamisError when it cannot be understood."""
    try:
        content = json.loads(files.read_bytes(url))
    except ValueError as error:
        raise TamisError(f"{url}: cannot be read as a note of use; delete it and run again what you need") from error
    return _as_use(content, url)


def use_of_manifest(manifest: Mapping[str, Any], path: str) -> StoreUse:
    """Return what a finished run used, from its manifest; raises TamisError, naming `path`, where it does not say."""
    if "store_addresses" not in manifest or "store_shards" not in manifest:
        raise TamisError(f"{path}: does not say what it used of the store (an older Tamis made it); leave it out")
    return _as_use({"addresses": manifest["store_addresses"], "shards": manifest["store_shards"]}, path)


def _as_use(content: Any, path: str) -> StoreUse:
    lists: list[Any] = [content.get(key) if isinstance(content, dict) else None for key in ("addresses", "shards")]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise TamisError(f"{path}: does not say what a run used of the store")
    return StoreUse(*lists)
