"""Opens a corpus: lists its files, checks their columns and cuts them into shards, from footers and first lines."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa

from . import jsonl, parquet, python_docs
from .corpus import EXTRA, Corpus, CorpusConfig
from .errors import RecipeError, TamisError, nearest
from .files import FileInfo, compression_of, expand, local_info, open_input
from .records import Piece
from .schemas import is_text, plain_schema, unify
from .shards import SHARD_BYTES, Shard, pack, with_fingerprints

READER_VERSION = 1
"""Rises when a reader would yield other rows or text for the same file."""

ARCHIVE_RATIO = 4
"""Text is taken to be so many times larger than its .gz or .zst file, for packing and progress only."""


@dataclass(frozen=True)
class Opened:
    """A corpus with its files and shards. unreadable: a line for each file that could not be opened, if skipped."""

    corpus: Corpus
    files: list[FileInfo]
    shards: list[Shard]
    unreadable: list[str]


def open_corpus(
    name: str,
    config: CorpusConfig,
    *,
    limit: int | None = None,
    skip_unreadable: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Opened:
    """List a corpus's files, check its columns, and cut it into shards.

    name: `corpus` or `targets.NAME`, for messages; limit: take only the first rows, in the order of paths.
    Raises RecipeError for missing columns, unfit types and patterns without files, TamisError for a file that cannot
    be opened, unless skip_unreadable.
    """
    unreadable: list[str] = []
    if config.format == "python-docs":
        files, pieces, schema = _open_python_docs(name, config)
    elif config.format == "parquet":
        files, pieces, schema, unreadable = _open_parquet(name, config, skip_unreadable, shard_bytes)
    else:
        files, pieces, schema = _open_jsonl(name, config, shard_bytes)
    _check_columns(name, config, schema)
    corpus = Corpus(name, config, schema, skip_unreadable)
    reader = {"version": READER_VERSION, "format": config.format, "text": config.text, "id": config.id}
    shards = pack(pieces, shard_bytes)
    if limit is not None:
        shards = _limited(corpus, shards, limit)
    return Opened(corpus, files, with_fingerprints(shards, reader), unreadable)


def _open_python_docs(name: str, config: CorpusConfig) -> tuple[list[FileInfo], list[list[Piece]], pa.Schema]:
    try:
        files = [local_info(path) for path in python_docs.list_files(config.paths)]
    except ValueError as error:
        raise RecipeError(f"{name}.paths: {error}") from error
    schema = pa.schema([(column, pa.string()) for column in python_docs.COLUMNS])
    return files, [[Piece(f.url, f.version, 0, f.size, f.size)] for f in files], schema


def _open_parquet(
    name: str, config: CorpusConfig, skip_unreadable: bool, shard_bytes: int
) -> tuple[list[FileInfo], list[list[Piece]], pa.Schema, list[str]]:
    files = expand(config.paths, f"{name}.paths")
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_footer_or_error, files))
    unreadable = [str(footer) for footer in footers if isinstance(footer, TamisError)]
    if unreadable and not skip_unreadable:
        raise TamisError(f"{unreadable[0]} (`errors: {{unreadable_shards: skip}}` leaves such files out)")
    pieces, schemas = [], {}
    for file, metadata in zip(files, footers, strict=True):
        if not isinstance(metadata, TamisError):
            pieces.append(parquet.cut(file, metadata, shard_bytes))
            schemas[file.url] = plain_schema(f"{name}: {file.url}", metadata.schema.to_arrow_schema())
    unified = unify(name, schemas)
    for url, schema in schemas.items():
        for column in unified.names if config.text in unified.names else ():
            if column not in schema.names:
                _check_missing(name, config, url, unified.field(column))
    return files, pieces, unified, unreadable


def _check_missing(name: str, config: CorpusConfig, url: str, field: pa.Field) -> None:
    if field.name in (config.text, config.id):
        raise RecipeError(f"{name}: {url} has no column `{field.name}`, unlike other files; leave it out of `paths`")
    if pa.types.is_fixed_size_list(field.type):  # Arrow 25 writes missing ones so that they cannot be read again
        raise RecipeError(f"{name}: {url} lacks the column `{field.name}` of {field.type}; leave it out of `paths`")


def _footer_or_error(file: FileInfo) -> parquet.pq.FileMetaData | TamisError:
    try:
        return parquet.footer(file.url)
    except TamisError as error:
        return error


def _open_jsonl(
    name: str, config: CorpusConfig, shard_bytes: int
) -> tuple[list[FileInfo], list[list[Piece]], pa.Schema]:
    files = expand(config.paths, f"{name}.paths")
    columns = list(dict.fromkeys(config.named_columns.values()))
    if EXTRA in columns:
        raise RecipeError(f"{name}: a field called `{EXTRA}` cannot be named; Tamis puts all other fields there")
    filled = next((file for file in files if file.size), None)
    if filled is not None:
        try:
            with open_input(filled.url) as source:
                jsonl.check_fields(source, columns, compression_of(filled.url))
        except ValueError as error:
            raise RecipeError(f"{name}: {filled.url}: {error}") from error
    schema = pa.schema([(column, pa.string()) for column in [*columns, EXTRA]])
    return files, [_cut_lines(file, shard_bytes) for file in files], schema


def _cut_lines(file: FileInfo, shard_bytes: int) -> list[Piece]:
    if compression_of(file.url):
        return [Piece(file.url, file.version, 0, file.size, file.size * ARCHIVE_RATIO)]
    cuts = [*range(0, file.size, shard_bytes), file.size]
    return [Piece(file.url, file.version, start, end, end - start) for start, end in itertools.pairwise(cuts)]


def _check_columns(name: str, config: CorpusConfig, schema: pa.Schema) -> None:
    """Refuse columns that are not there or cannot serve; a corpus without any file that can be opened has none."""
    for role, column in config.named_columns.items() if len(schema) else ():
        if column not in schema.names:
            raise RecipeError(f"{name}.{role}: there is no column `{column}`{nearest(column, schema.names)}")
        kind = schema.field(column).type
        fits = {
            "text": is_text(kind),
            "id": is_text(kind) or pa.types.is_integer(kind),
            "group": not pa.types.is_nested(kind),
        }
        if not fits[role]:
            wanted = {"text": "text is", "id": "text or integers are", "group": "plain values are"}[role]
            raise RecipeError(f"{name}.{role}: column `{column}` holds {kind}, where {wanted} needed")


def _limited(corpus: Corpus, shards: list[Shard], limit: int) -> list[Shard]:
    """Return the first shards, the last one cut, so that together they have `limit` rows."""
    chosen: list[Shard] = []
    for shard in shards:
        if limit <= 0:
            break
        capped = replace(shard, limit=limit)
        rows = shard.rows
        if rows is None:
            rows = sum(len(records.rows) + len(records.dead) for _, records in corpus.read(capped, []))
            chosen.append(shard if rows < limit else capped)
        else:
            chosen.append(shard if rows <= limit else capped)
        limit -= rows
    return chosen
