"""The run directory: built beside its final place under a lock, committed by a rename."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import files
from .errors import RecipeError, TamisError

MANIFEST = "manifest.json"
LOCK = "lock"
FINGERPRINT = "recipe.fingerprint"


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


class RunDirectory:
    """The output of one run.

    path: its final place. While it is built it is the sibling `.NAME.partial`, which holds the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")

    def check(self, recipe: str, sources: str, overwrite: bool) -> bool:
        """Return whether a finished run of this recipe and these sources is already there.

        recipe, sources: fingerprints. Raises RecipeError when something else is in the way and not to be overwritten.
        """
        if self.path.exists() and not overwrite:
            manifest = read_manifest(self.path)
            if manifest is None:
                raise RecipeError(f"{self.path} exists and is not a run of Tamis; choose another output path")
            if (manifest.get("recipe_fingerprint"), manifest.get("sources_fingerprint")) == (recipe, sources):
                return True
            what = "recipe" if manifest.get("recipe_fingerprint") != recipe else "source files"
            raise RecipeError(f"{self.path} holds a run of another {what}; choose another output or use --overwrite")
        if self.path.exists() and read_manifest(self.path) is None:
            raise RecipeError(f"{self.path} exists and is not a run of Tamis; --overwrite replaces runs only")
        started = self.partial / FINGERPRINT
        if started.exists() and started.read_text() != recipe and not overwrite:
            raise RecipeError(f"{self.partial} is an unfinished run of another recipe; finish that or use --overwrite")
        return False

    @contextmanager
    def building(self, recipe: str) -> Iterator[Path]:
        """Hold the lock on the partial directory, emptied: what a run before it scored is in the score store.

        A failure empties it again; only a killed process leaves something behind. Raises TamisError when another
        process is building the same output.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        with (self.partial / LOCK).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise TamisError(f"{self.path} is being built by {lock.read().strip()}; wait or stop that") from error
            lock.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {started}")
            lock.flush()
            self._empty()
            files.write_text(str(self.partial / FINGERPRINT), recipe)
            try:
                yield self.partial
            except BaseException:
                files.remove_tree(self.partial)
                raise

    def _empty(self) -> None:
        for child in self.partial.iterdir():
            if child.is_dir():
                files.remove_tree(child)
            elif child.name != LOCK:
                child.unlink()

    def commit(self) -> None:
        """Put the partial directory in its final place; an older run there is deleted after that."""
        for name in (LOCK, FINGERPRINT):
            (self.partial / name).unlink(missing_ok=True)
        old = self.path.with_name(f".{self.path.name}.old")
        files.remove_tree(old)
        if self.path.exists():
            self.path.rename(old)
        self.partial.rename(self.path)
        files.sync_folder(self.path.parent)
        files.remove_tree(old)
