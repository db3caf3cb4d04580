"""The beginnings of a few shards of a corpus, chosen by their fingerprints: what `tamis plan` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from ..connectors import files
from ..connectors.opening import Opened
from ..connectors.records import Piece
from ..connectors.shards import Shard, with_fingerprints

SAMPLE_SHARDS = 8
SAMPLE_BYTES = 3 << 20
"""So much is read of the beginning of each sampled shard,"""

ARCHIVE_ROWS = 1000
"""or so many documents, where a shard cannot be cut by bytes."""


def sampled(opened: Opened) -> Opened:
    """Return a corpus with the beginnings of a few of its shards, chosen by their fingerprints."""
    chosen = sorted(opened.shards, key=lambda shard: hashlib.sha256(shard.fingerprint.encode()).digest())
    few = sorted(chosen[:SAMPLE_SHARDS], key=lambda shard: shard.index)
    if byte_count(opened.shards) <= SAMPLE_SHARDS * SAMPLE_BYTES:
        few = opened.shards
    cut = [_beginning(replace(shard, index=index)) for index, shard in enumerate(few)]
    return replace(opened, shards=with_fingerprints(cut, {"sample of": [shard.fingerprint for shard in few]}))


def _beginning(shard: Shard) -> Shard:
    """Return the first SAMPLE_BYTES of a shard, about."""
    pieces: list[Piece] = []
    left = SAMPLE_BYTES
    for piece in shard.pieces:
        if left <= 0:
            break
        pieces.append(piece)
        left -= piece.bytes
    last = pieces[-1]
    if left >= 0:
        return replace(shard, pieces=tuple(pieces))
    part = (last.bytes + left) / last.bytes
    if last.rows is not None:
        rows = max(1, int(last.rows * part))
        before = sum(piece.rows or 0 for piece in pieces[:-1])
        limit = before + rows if shard.limit is None else min(shard.limit, before + rows)
        return replace(shard, pieces=tuple(pieces), limit=limit)
    if files.compression_of(last.url) is None and last.end - last.start == last.bytes:
        pieces[-1] = replace(last, end=last.start + max(1, last.bytes + left), bytes=max(1, last.bytes + left))
        return replace(shard, pieces=tuple(pieces))
    return replace(shard, pieces=tuple(pieces), limit=min(shard.limit or ARCHIVE_ROWS, ARCHIVE_ROWS))


def first_rows(opened: Opened) -> Opened:
    """Return a corpus with a few documents of its first shard."""
    return replace(opened, shards=[replace(shard, limit=32, fingerprint="first") for shard in opened.shards[:1]])


def byte_count(shards: Sequence[Shard]) -> float:
    """Return the uncompressed bytes that the shards hold, or, where a limit cuts them, about that share of them."""
    total = 0.0
    for shard in shards:
        rows = [piece.rows for piece in shard.pieces]
        whole = sum(rows) if None not in rows else 0  # type: ignore[arg-type]
        total += shard.bytes * (min(1.0, shard.limit / whole) if shard.limit is not None and whole else 1.0)
    return total


def row_count(opened: Opened) -> int | None:
    """Return how many documents a corpus has, where its files say so."""
    rows = [shard.rows for shard in opened.shards]
    return None if None in rows else sum(rows)  # type: ignore[arg-type]
