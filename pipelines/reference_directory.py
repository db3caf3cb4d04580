"""Where a reference model is made, and put in its place: a folder beside it that a killed training goes on from."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..connectors.atomic import sweep, sync_folder, write_text
from ..connectors.errors import RecipeError, TamisError
from ..connectors.files import remove_tree
from ..connectors.run_directory import FINGERPRINT, LOCK

FIGURES = "training.json"
"""In the model's folder: what it was trained on, and how that went."""


class ReferenceDirectory:
    """The folder of a model. path: its final place; partial: where it is made, `.NAME.partial` beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self.replaced = path.with_name(f".{path.name}.replaced")

    def check(self, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
        """Return the figures of a finished model of this job, None where it is to be trained.

        Raises RecipeError when something else is in the way and not to be overwritten.
        """
        found = _figures(self.path) if self.path.exists() else None
        if found is not None and not overwrite:
            if found.get("fingerprint") != fingerprint:
                raise RecipeError(f"reference.path: {self.path} holds another recipe's model; use --overwrite")
            return found
        mark = self.partial / FINGERPRINT
        if mark.exists():
            if mark.read_text() != fingerprint and not overwrite:
                what = "is an unfinished training of another recipe or other files"
                raise RecipeError(f"reference.path: {self.partial} {what}; finish that or use --overwrite")
        elif self.partial.exists() and any(child.name != LOCK for child in self.partial.iterdir()):
            raise RecipeError(f"reference.path: {self.partial} is in the way and not from Tamis; move it")
        return None

    @contextmanager
    def building(self, fingerprint: str) -> Iterator[Path]:
        """Hold the lock on the partial folder, with what an earlier process of the same job has left in it.

        Raises TamisError when another process is training the model.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        with (self.partial / LOCK).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TamisError(f"{self.path} is being trained by another process; wait or stop that") from error
            if not (self.partial / LOCK).exists():
                raise TamisError(f"{self.path} was trained by another process just now; run again")
            mark = self.partial / FINGERPRINT
            if not mark.exists() or mark.read_text() != fingerprint:
                self._empty()
                write_text(str(mark), fingerprint)
            sweep(self.partial)
            yield self.partial

    def _empty(self) -> None:
        for child in self.partial.iterdir():
            if child.is_dir():
                remove_tree(child)
            elif child.name != LOCK:
                child.unlink()

    def commit(self, model: Path) -> None:
        """Put the finished model, a folder of the partial one, in its place; an older one there is deleted after."""
        sync_files(model)
        remove_tree(self.replaced)
        if self.path.exists():
            self.path.rename(self.replaced)
        model.rename(self.path)
        sync_folder(self.path.parent)
        remove_tree(self.partial)
        remove_tree(self.replaced)


def _figures(path: Path) -> dict[str, Any]:
    """Return the figures of the model in a folder; raises RecipeError where there is none of ours."""
    if not (path / FIGURES).exists():
        raise RecipeError(f"reference.path: {path} is there, and not a model that Tamis trained; choose another path")
    try:
        return dict(json.loads((path / FIGURES).read_bytes()))
    except ValueError as error:
        raise RecipeError(f"reference.path: {path / FIGURES} cannot be read: {error}; move the folder") from error


def sync_files(folder: Path) -> None:
    """Make a folder's files survive a power cut."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
