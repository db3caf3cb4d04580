"""The run directory: built beside its final place under a lock, committed by a rename."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from . import files
from .atomic import sync_folder, write_text
from .errors import RecipeError, TamisError

MANIFEST = "manifest.json"
SEAL = "content_sha256"
EARLIER = "earlier_sources.parquet"
"""In a run that continues others: the files that those have read, with their state."""

LOCK = "lock"
FINGERPRINT = "recipe.fingerprint"
LOG = "log.jsonl"
"""What the run said and when; not among the manifest's `files`, since it differs from run to run."""


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Return a finished run's manifest, None where there is no finished run."""
    path = run / MANIFEST
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_bytes()))
    except ValueError as error:
        raise TamisError(
            f"{path}: cannot be read as JSON: {error}; choose another output or use --overwrite"
        ) from error


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with the SHA-256 of its content, by which `verify` sees whether somebody changed it."""
    content = {key: value for key, value in manifest.items() if key != SEAL}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return content | {SEAL: digest}


def state_url(run: Path | str, score: str) -> str:
    """Return where a run keeps the state of a fitted scorer."""
    return f"{run}/fitted/{score}.npz"


def cuts_url(run: Path | str, number: int, step: str) -> str:
    """Return where a run keeps the cuts of a step. number: its place in `select`."""
    return f"{run}/fitted/{number}-{step}.npz"


def weights_url(run: Path | str) -> str:
    """Return where a run keeps what is fitted of its weights, unless all are 1."""
    return f"{run}/fitted/weights.json"


class RunDirectory:
    """The output of one run.

    path: its final place. While it is built it is the sibling `.NAME.partial`, which holds the lock. dead_owner: who
    held that lock and is gone, once `building`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial") if path.name else path
        self.replaced = path.with_name(f".{path.name}.replaced") if path.name else path
        self.dead_owner: str | None = None
        self._seen: dict[str, Any] | None = None

    def check(self, recipe: str, sources: str, overwrite: bool) -> bool:
        """Return whether a finished run of this recipe and these sources is already there.

        recipe, sources: fingerprints. Raises RecipeError when something else is in the way and not to be overwritten.
        """
        if not self.path.name:
            raise RecipeError(f"{self.path} cannot be an output path; name a folder that need not exist yet")
        self._seen = read_manifest(self.path) if self.path.exists() else None
        if self.path.exists():
            if self._seen is None:
                raise RecipeError(f"{self.path} exists and is not a run of Tamis; choose another output path")
            if not overwrite:
                same_recipe = self._seen.get("recipe_fingerprint") == recipe
                if same_recipe and self._seen.get("sources_fingerprint") == sources:
                    return True
                what = "source files" if same_recipe else "recipe"
                advice = "choose another output or use --overwrite"
                raise RecipeError(f"{self.path} holds a run of another {what}; {advice}")
        for folder in (self.partial, self.replaced):
            ours = {LOCK, FINGERPRINT, MANIFEST}
            if folder.exists() and any(folder.iterdir()) and not any((folder / name).exists() for name in ours):
                raise RecipeError(f"{folder} is in the way and not from Tamis; move it")
        started = self.partial / FINGERPRINT
        if started.exists() and started.read_text() != recipe and not overwrite:
            raise RecipeError(f"{self.partial} is an unfinished run of another recipe; finish that or use --overwrite")
        return False

    @contextmanager
    def building(self, recipe: str) -> Iterator[Path]:
        """Hold the lock on the partial directory, emptied: what a run before it scored is in the score store.

        A failure removes it; only a killed process leaves something behind. Raises TamisError when another process
        is building the same output.
        """
        with self._locked() as lock:
            try:
                lock.seek(0)
                self.dead_owner = lock.read().strip() or None
                lock.truncate(0)
                started = time.strftime("%Y-%m-%d %H:%M:%S")
                lock.write(f"process {os.getpid()} on {socket.gethostname()} since {started}")
                lock.flush()
                self._empty()
                write_text(str(self.partial / FINGERPRINT), recipe)
                yield self.partial
            except BaseException:
                files.remove_tree(self.partial)
                raise

    @contextmanager
    def _locked(self) -> Iterator[TextIO]:
        """Hold the lock file of the partial directory; made anew when its owner took it away meanwhile."""
        path = self.partial / LOCK
        while True:
            self.partial.mkdir(parents=True, exist_ok=True)
            with path.open("a+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    lock.seek(0)
                    owner = lock.read().strip()
                    raise TamisError(f"{self.path} is being built by {owner}; wait or stop that") from error
                if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    yield lock
                    return

    def _empty(self) -> None:
        for child in self.partial.iterdir():
            if child.is_dir():
                files.remove_tree(child)
            elif child.name != LOCK:
                child.unlink()

    def commit(self) -> None:
        """Put the partial directory in its final place; an older run there is deleted after that.

        Raises TamisError when something came there since `check`.
        """
        if self.path.exists() and (self._seen is None or read_manifest(self.path) != self._seen):
            raise TamisError(f"{self.path} was changed by somebody else during the run; choose another output path")
        files.remove_tree(self.replaced)
        if self.path.exists():
            self.path.rename(self.replaced)
        self.partial.rename(self.path)
        for name in (LOCK, FINGERPRINT):
            (self.path / name).unlink()
        sync_folder(self.path.parent)
        files.remove_tree(self.replaced)
