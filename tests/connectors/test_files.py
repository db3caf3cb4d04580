"""Files are absent or whole, and patterns name exactly the files that are there."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec
import pytest
from tamis.connectors import files
from tamis.connectors.atomic import Written, write_atomically, write_text
from tamis.connectors.errors import RecipeError


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of its own in fsspec's memory file system."""
    folder = f"memory://{uuid.uuid4().hex}"
    yield folder
    filesystem, path = fsspec.core.url_to_fs(folder)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


class TestWriteAtomically:
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, error: type[BaseException]) -> None:
        (tmp_path / "a").write_bytes(b"old")

        def write(file: IO[bytes]) -> None:
            file.write(b"half of the new")
            file.flush()
            assert (tmp_path / "a").read_bytes() == b"old"
            raise error

        with pytest.raises(error):
            write_atomically(str(tmp_path / "a"), write)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_bytes() == b"old"

    @pytest.mark.parametrize("content", [b"", b"x" * 300_000])
    def test_tells_size_and_hash_and_makes_folders(self, tmp_path: Path, memory: str, content: bytes) -> None:
        for url in (str(tmp_path / "new" / "deep" / "a"), f"{memory}/new/deep/a"):
            written = write_atomically(url, lambda file: file.write(content))
            assert written == Written(len(content), hashlib.sha256(content).hexdigest())
            assert files.read_bytes(url) == content

    def test_hash_is_that_of_the_file_when_the_writer_went_back(self, tmp_path: Path) -> None:
        def write(file: IO[bytes]) -> None:
            file.write(b"....tail")
            file.seek(0)
            file.write(b"head")

        written = write_atomically(f"file://{tmp_path}/a", write)
        assert written == Written(8, hashlib.sha256(b"headtail").hexdigest())

    def test_a_failure_elsewhere_leaves_the_old_file(self, memory: str) -> None:
        write_text(f"{memory}/a", "old")
        with pytest.raises(ZeroDivisionError):
            write_atomically(f"{memory}/a", lambda file: file.write(b"x" * (1 // 0)))
        assert files.read_bytes(f"{memory}/a") == b"old"


class TestExpand:
    def names(self, folder: Path, *patterns: str) -> list[str]:
        found = files.expand([f"{folder}/{pattern}" for pattern in patterns], "corpus.paths")
        return [os.path.relpath(file.url, folder) for file in found]

    def test_globs_name_each_file_once_sorted_and_no_folders(self, tmp_path: Path) -> None:
        for name in ("b.txt", "a.txt", "deep/er/c.txt", "d.txt/inside", ".a.txt.tmp-1"):
            write_text(str(tmp_path / name), "")
        assert self.names(tmp_path, "*.txt", "a.*", "b.txt") == ["a.txt", "b.txt"]
        assert self.names(tmp_path, "**/*.txt") == ["a.txt", "b.txt", "deep/er/c.txt"]

    def test_a_name_with_magic_characters_is_that_file_first(self, tmp_path: Path) -> None:
        for name in ("part[1].txt", "part1.txt"):
            write_text(str(tmp_path / name), "")
        assert self.names(tmp_path, "part[1].txt") == ["part[1].txt"]

    def test_what_is_not_there_or_a_folder_is_refused_with_its_place(self, tmp_path: Path, memory: str) -> None:
        write_text(f"{memory}/a", "")
        for url in (f"{tmp_path}/nothing.txt", f"{tmp_path}/*.txt", f"{memory}/nothing", f"{memory}/*.txt"):
            with pytest.raises(RecipeError, match=r"targets\.x\.paths: no file matches"):
                files.expand([url], "targets.x.paths")
        for folder in (str(tmp_path), memory):
            with pytest.raises(RecipeError, match=r"is a folder; name its files"):
                files.expand([folder], "corpus.paths")

    def test_size_and_version_follow_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_text("12345")
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))
        assert files.expand([str(path)], "") == [files.FileInfo(str(path), 5, "1234567890123456789")]

    def test_elsewhere(self, memory: str) -> None:
        for name in ("b.txt", "a.txt", "c.json", "d.txt/inside"):
            write_text(f"{memory}/{name}", name)
        found = files.expand([f"{memory}/*.txt", f"{memory}/c.json"], "corpus.paths")
        assert [file.url.rsplit("/", 1)[1] for file in found] == ["a.txt", "b.txt", "c.json"]
        assert [file.size for file in found] == [5, 5, 6]
        with files.open_input(found[0].url) as source:
            source.seek(2)
            assert source.read() == b"txt"


class TestFolders:
    def test_names_in(self, tmp_path: Path, memory: str) -> None:
        for folder in (str(tmp_path), memory):
            assert files.names_in(f"{folder}/none") == set()
            for name in ("a.txt", "b.txt", "deep/c.txt"):
                write_text(f"{folder}/x/{name}", "")
            assert files.names_in(f"{folder}/x") == {"a.txt", "b.txt", "deep"}

    def test_delete_and_exists(self, tmp_path: Path, memory: str) -> None:
        for folder in (str(tmp_path), memory):
            write_text(f"{folder}/a", "")
            assert files.exists(f"{folder}/a")
            files.delete(f"{folder}/a")
            files.delete(f"{folder}/a")
            assert not files.exists(f"{folder}/a")


def test_paths_are_relative_to_their_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert files.absolute("../a/*.txt", tmp_path / "b") == f"{tmp_path}/a/*.txt"
    assert files.absolute("~/a", tmp_path) == f"{tmp_path}/home/a"
    assert files.absolute("/x/./y", tmp_path) == "/x/y"
    assert files.absolute("file:///x/y", tmp_path) == "/x/y"
    assert files.absolute("s3://bucket/../a", tmp_path) == "s3://bucket/../a"


def test_compression_is_told_by_the_ending() -> None:
    endings = {"a.jsonl": None, "a.jsonl.GZ": "gzip", "s3://b/a.zst": "zstd", "a.gz.jsonl": None}
    assert {name: files.compression_of(name) for name in endings} == endings
