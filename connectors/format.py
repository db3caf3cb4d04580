"""What a file format must be able to do; one module per format implements it."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from .corpus_config import CorpusConfig
from .errors import RecipeError, nearest
from .files import FileInfo, compression_of, expand
from .records import Piece, Records

EXTRA = "extra"
"""Column of the data files that holds, as one JSON object, the fields of a line that the recipe does not name."""

ARCHIVE_RATIO = 4
"""Text is taken to be so many times larger than its .gz or .zst file, for packing and progress only."""


@dataclass(frozen=True)
class Listing:
    """What a format finds at the paths of a corpus.

    files: in path order; pieces: for each file that can be read, its parts; schema: the columns that the data files
    will have; unreadable: a line for each file that was left out.
    """

    files: list[FileInfo]
    pieces: list[list[Piece]]
    schema: pa.Schema
    unreadable: list[str] = field(default_factory=list)


class Format(ABC):
    """Finds and reads the files of one format."""

    typed: ClassVar[bool] = True
    """Whether the schema says what a column holds, so that columns unfit for text or ids can be refused."""

    @abstractmethod
    def find(self, name: str, config: CorpusConfig, shard_bytes: int, skip_unreadable: bool) -> Listing:
        """Find the files of a corpus and cut them. name: of the corpus, for messages.

        Raises RecipeError for what the recipe must mend, TamisError for a file that cannot be opened.
        """

    def check_needs(
        self, config: CorpusConfig, files: Sequence[FileInfo], schema: pa.Schema, columns: Sequence[str]
    ) -> None:
        """Raise RecipeError for a column, wanted besides those that the recipe names, that is not there."""
        for column in columns:
            if column not in schema.names:
                raise RecipeError(f"the corpus has no column `{column}`{nearest(column, schema.names)}")

    @abstractmethod
    def read(self, config: CorpusConfig, piece: Piece, columns: Sequence[str] | None) -> Iterator[Records]:
        """Read a piece. columns: those wanted at least, None for all of the schema.

        The same rows come whatever the columns. Raises TamisError when the file cannot be read on.
        """


class LineFormat(Format):
    """Base of text formats without types: named columns come as text, all other fields in the column `extra`."""

    typed = False

    def find(self, name: str, config: CorpusConfig, shard_bytes: int, skip_unreadable: bool) -> Listing:
        """Find the files, and look into the first that is not empty for the named columns."""
        files = expand(config.paths, f"{name}.paths")
        columns = list(dict.fromkeys(config.named_columns.values()))
        if EXTRA in columns:
            raise RecipeError(f"{name}: a field called `{EXTRA}` cannot be named; Tamis puts all other fields there")
        try:
            self._check_first(config, files, columns)
        except RecipeError as error:
            raise RecipeError(f"{name}: {error}") from error
        schema = pa.schema([(column, pa.string()) for column in [*columns, EXTRA]])
        return Listing(files, [self.cut(file, shard_bytes) for file in files], schema)

    def check_needs(
        self, config: CorpusConfig, files: Sequence[FileInfo], schema: pa.Schema, columns: Sequence[str]
    ) -> None:
        """Look for the columns in the first file that is not empty."""
        self._check_first(config, files, columns)

    def _check_first(self, config: CorpusConfig, files: Sequence[FileInfo], columns: Sequence[str]) -> None:
        filled = next((file for file in files if file.size), None)
        if filled is not None:
            try:
                self.check(config, filled, columns)
            except ValueError as error:
                raise RecipeError(f"{filled.url}: {error}") from error

    @abstractmethod
    def check(self, config: CorpusConfig, file: FileInfo, columns: Sequence[str]) -> None:
        """Raise ValueError for a column that the beginning of the file does not have."""

    def cut(self, file: FileInfo, shard_bytes: int) -> list[Piece]:
        """Cut a file into parts that can be read by themselves; by default by bytes at any place."""
        return cut_by_bytes(file, shard_bytes)


def cut_by_bytes(file: FileInfo, shard_bytes: int) -> list[Piece]:
    """Cut a file by bytes at any place, an archive not at all."""
    if compression_of(file.url):
        return [Piece(file.url, file.version, 0, file.size, file.size * ARCHIVE_RATIO)]
    cuts = [*range(0, file.size, shard_bytes), file.size]
    return [Piece(file.url, file.version, start, end, end - start) for start, end in itertools.pairwise(cuts)]


def wanted(config: CorpusConfig, columns: Sequence[str] | None) -> list[str]:
    """Return the columns that a reader without types declares: the named ones, and those asked for besides."""
    return list(dict.fromkeys([*config.named_columns.values(), *(columns or ())]))
