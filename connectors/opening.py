"""Opens a corpus: lists its files, checks their columns and cuts them into shards, from footers and first lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from .contents import is_chat
from .corpus import FORMATS, Corpus
from .corpus_config import CorpusConfig
from .errors import RecipeError, nearest
from .files import FileInfo
from .schemas import is_text
from .shards import Shard, pack, with_fingerprints

Ranges = tuple[tuple[int, int], ...]
"""Ranges of rows of a file, each (first, end)."""

_WHOLE = 1 << 60
"""Bytes of a shard that holds any file."""

READER_VERSION = 2
"""Rises when a reader would yield other rows or text for the same file."""


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
    shard_bytes: int | None = None,
    chosen: Callable[[FileInfo], bool] | None = None,
    first_shard: int = 0,
    only: Mapping[str, Ranges] | None = None,
) -> Opened:
    """List a corpus's files, check its columns, and cut it into shards.

    name: `corpus` or `targets.NAME`, for messages; limit: take only the first rows, in the order of paths;
    shard_bytes: instead of the recipe's; chosen: which files are taken, of those that the patterns name; first_shard:
    index of the first shard; only: read nothing but these rows of these files, each file as one shard.
    Raises RecipeError for missing columns, unfit types and patterns without files, TamisError for a file that cannot
    be opened, unless skip_unreadable.
    """
    format = FORMATS[config.format]
    shard_bytes = shard_bytes or (config.shard_bytes if only is None else _WHOLE)
    found = format.find(name, config, shard_bytes, skip_unreadable)
    _check_columns(name, config, found.schema, format.typed)
    corpus = Corpus(name, config, found.schema, skip_unreadable)
    taken = [file for file in found.files if (chosen is None or chosen(file)) and (only is None or file.url in only)]
    urls = {file.url for file in taken}
    pieces = [of_file for of_file in found.pieces if not of_file or of_file[0].url in urls]
    if only is None:
        packed = pack(pieces, shard_bytes)
    else:
        whole = [piece for of_file in pieces for piece in of_file]
        packed = [Shard(index, (piece,), only=only[piece.url]) for index, piece in enumerate(whole)]
    shards = [replace(shard, index=first_shard + shard.index) for shard in packed]
    if limit is not None:
        shards = _limited(corpus, shards, limit)
    reader = {"version": READER_VERSION, **config.reader_options}
    return Opened(corpus, taken, with_fingerprints(shards, reader), found.unreadable)


def _check_columns(name: str, config: CorpusConfig, schema: pa.Schema, typed: bool) -> None:
    """Refuse columns that are not there or cannot serve; a corpus without any file that can be opened has none."""
    for role, column in config.named_columns.items() if len(schema) else ():
        if column not in schema.names:
            raise RecipeError(f"{name}.{role}: there is no column `{column}`{nearest(column, schema.names)}")
        if not typed:
            continue
        kind = schema.field(column).type
        fits = {
            "text": is_text(kind),
            "prompt": is_text(kind),
            "response": is_text(kind),
            "messages": is_chat(kind),
            "id": is_text(kind) or pa.types.is_integer(kind),
            "group": not pa.types.is_nested(kind),
        }
        if not fits[role]:
            wanted = {
                "id": "text or integers are",
                "group": "plain values are",
                "messages": "a list of structs with role and content (or from and value), or its JSON, is",
            }.get(role, "text is")
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
