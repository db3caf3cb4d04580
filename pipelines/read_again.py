"""Reads one document of a finished run again from its source, for people who look at it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..connectors import parquet
from ..connectors.corpus import Corpus
from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import TamisError
from ..connectors.files import FileInfo, compression_of, file_info, open_input
from ..connectors.records import Piece
from ..connectors.shards import Shard
from ..scoring.scorer import Documents
from .reading import read_documents

READ_BYTES = 256 << 20
"""At most so much of a source is decoded to reach a document,"""

SKIP_BYTES = 4 << 30
"""or skipped, where lines are all that must be counted."""

_BLOCK = 8 << 20


def read_again(config: CorpusConfig, source: str, version: str, row: int, key: int) -> str:
    """Return a document's text; see `document_again`."""
    return str(document_again(config, source, version, row, key).text[0].as_py())


def document_again(
    config: CorpusConfig, source: str, version: str, row: int, key: int, columns: Sequence[str] = ()
) -> Documents:
    """Return a document alone, with columns of the corpus. Holds a batch of documents.

    source, row: as in the decisions; version: of the file when the run was made. Raises TamisError, in one line, when
    the file is gone or changed, or the document lies too far into it.
    """
    try:
        file = file_info(source)
    except FileNotFoundError as error:
        raise TamisError(f"{source} is gone") from error
    if file.version != version:
        raise TamisError(f"{source} has changed since the run")
    piece, first_row = _piece(config, file, row)
    read = 0
    for _, batch in read_documents(Corpus("corpus", config, pa.schema([])), Shard(0, (piece,)), list(columns)):
        found = np.flatnonzero((batch.rows == row - first_row) & (batch.documents.keys == np.uint64(key)))
        if len(found):
            chosen = found[:1]
            text = batch.documents.text.take(pa.array(chosen))
            return Documents(text, batch.documents.keys[chosen], None, batch.table.take(pa.array(chosen)))
        read += batch.table.nbytes
        if batch.next_row > row - first_row:
            break
        if read > READ_BYTES:
            raise TamisError(f"it lies more than {READ_BYTES >> 20} MB into {source}")
    raise TamisError(f"{source} does not hold it at row {row} any more")


def _piece(config: CorpusConfig, file: FileInfo, row: int) -> tuple[Piece, int]:
    """Return the smallest part of a file that can be read alone and holds a row, and the number of its first row."""
    if config.format == "parquet":
        for piece in parquet.cut(file, parquet.footer(file.url), shard_bytes=1):
            first_row, rows = piece.first_row or 0, piece.rows or 0
            if first_row <= row < first_row + rows:
                return piece, first_row
    if config.format == "jsonl" and not compression_of(file.url):
        start = _line_start(file.url, row)
        return Piece(file.url, file.version, start, start + 1, 0), row
    return Piece(file.url, file.version, 0, file.size, file.size), 0


def _line_start(url: str, line: int) -> int:
    """Return where a line begins, in bytes."""
    position = 0
    with open_input(url) as source:
        while line > 0 and (block := bytes(source.read(_BLOCK))):
            ends = block.count(b"\n")
            if ends >= line:
                return position + int(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))[line - 1]) + 1
            position, line = position + len(block), line - ends
            if position > SKIP_BYTES:
                raise TamisError(f"it lies more than {SKIP_BYTES >> 30} GB into {url}")
    return position
