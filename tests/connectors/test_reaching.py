"""Remote file systems that fail for a while are tried again; what will not pass is told at once and names the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from tamis.connectors import files, reaching
from tamis.connectors.atomic import write_text
from tamis.connectors.errors import RecipeError, TamisError

URL = "unsteady://folder/file.txt"


class Unsteady(MemoryFileSystem):
    """A file system in memory whose every operation fails as often as `errors` has items."""

    protocol = "unsteady"
    store: dict[str, Any] = {}
    errors: list[Exception] = []
    tries = 0

    @classmethod
    def stumble(cls) -> None:
        Unsteady.tries += 1
        if cls.errors:
            raise cls.errors.pop()

    def info(self, path: str, **options: Any) -> Any:
        self.stumble()
        return super().info(path, **options)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self.stumble()
        return super().open(path, mode)

    def put_file(self, source: str, target: str, **options: Any) -> None:
        self.stumble()
        super().put_file(source, target)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self.stumble()
        return super().ls(path, detail=detail)


@pytest.fixture(autouse=True)
def unsteady(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Unsteady]]:
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    monkeypatch.setattr(reaching, "PAUSE", 0.0)
    Unsteady.errors.clear()
    write_text(URL, "content")
    Unsteady.tries = 0
    yield Unsteady
    Unsteady.store.clear()


OPERATIONS: dict[str, Callable[[], object]] = {
    "info": lambda: files.file_info(URL),
    "open": lambda: files.read_bytes(URL),
    "write": lambda: write_text(URL, "content"),
    "list": lambda: files.names_in("unsteady://folder"),
    "expand": lambda: files.expand(["unsteady://folder/*.txt"], "corpus.paths"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_passes_is_tried_again(operation: str) -> None:
    steady = OPERATIONS[operation]()
    Unsteady.errors += [ConnectionResetError("reset"), TimeoutError("slow"), OSError("503 Slow Down")]
    assert OPERATIONS[operation]() == steady
    assert not Unsteady.errors


@pytest.mark.parametrize("operation", OPERATIONS)
def test_tries_are_bounded(operation: str) -> None:
    Unsteady.errors += [ConnectionResetError("connection reset by peer")] * 100
    with pytest.raises(TamisError, match=r"unsteady://folder.*connection reset by peer"):
        OPERATIONS[operation]()
    each = 2 if operation == "expand" else 1  # fsspec's own glob asks twice
    assert 100 - len(Unsteady.errors) == reaching.ATTEMPTS * each


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (PermissionError("403"), TamisError),
        (FileNotFoundError("404"), FileNotFoundError),
        (ValueError("no such region"), TamisError),
    ],
)
def test_what_stays_is_told_at_once(fault: Exception, expected: type[Exception]) -> None:
    Unsteady.errors.append(fault)
    with pytest.raises(expected, match=r"unsteady://folder/file.txt"):
        files.read_bytes(URL)
    assert Unsteady.tries == 1


def test_a_recipe_error_is_not_tried_again() -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        files.expand(["unsteady://folder"], "corpus.paths")
    assert Unsteady.tries <= 3


def test_a_read_that_fails_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with files.open_input(URL) as source:
        assert source.read(3) == b"con"
        broken = [OSError("gone for a moment")]
        whole = MemoryFile.read

        def read(file: MemoryFile, size: int = -1) -> bytes:
            if broken:
                raise broken.pop()
            return bytes(whole(file, size))

        monkeypatch.setattr(MemoryFile, "read", read)
        assert source.read() == b"tent"
        assert not broken
