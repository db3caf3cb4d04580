"""Shards, the unit of work: runs of pieces of files, cut by size and by names, never by the number of workers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from .records import Piece

SHARD_BYTES = 32 << 20
"""Uncompressed bytes of text and other columns in one shard, about."""


@dataclass(frozen=True)
class Shard:
    """A unit of work.

    index: its place in the order (path, position in the file); fingerprint: 32 hex digits over URLs, sizes,
    modification times or etags, ranges and reader options (content is never read for it); limit: read at most so many
    rows, for `--limit`; only: read only the rows in these ranges (first, end) of the one piece.
    """

    index: int
    pieces: tuple[Piece, ...]
    fingerprint: str = ""
    limit: int | None = None
    only: tuple[tuple[int, int], ...] | None = None

    @property
    def bytes(self) -> int:
        """Uncompressed size, estimated for archives."""
        return sum(piece.bytes for piece in self.pieces)

    @property
    def rows(self) -> int | None:
        """Rows that footers announce, at most `limit`; None where a format does not tell, and with `only`."""
        if self.only is not None:
            return None
        total = 0
        for piece in self.pieces:
            if piece.rows is None:
                return None
            total += piece.rows
        return total if self.limit is None else min(total, self.limit)


def pack(files: Iterable[list[Piece]], shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Form shards from the pieces of each file, files in path order.

    A file that was cut makes one shard per piece. Whole small files are packed until `shard_bytes`; a pack also ends
    where the hash of a path says so (with a probability that makes such ends twice as frequent as full packs), so that
    an added or removed file changes its own pack and not all that follow.
    """
    shards: list[Shard] = []
    open_pack: list[Piece] = []

    def close() -> None:
        if open_pack:
            shards.append(Shard(len(shards), tuple(open_pack)))
            open_pack.clear()

    for pieces in files:
        if len(pieces) > 1:
            close()
            # a list, not a generator: the indices count from the length before
            shards.extend([Shard(len(shards) + i, (piece,)) for i, piece in enumerate(pieces)])
            continue
        open_pack.extend(pieces)
        if pieces and (sum(p.bytes for p in open_pack) >= shard_bytes or _ends_pack(pieces[0], shard_bytes)):
            close()
    close()
    return shards


def _ends_pack(piece: Piece, shard_bytes: int) -> bool:
    share = int.from_bytes(hashlib.blake2b(piece.url.encode(), digest_size=8).digest()) / 2**64
    return share < 2 * piece.bytes / shard_bytes


def with_fingerprints(shards: Iterable[Shard], reader: Mapping[str, object]) -> list[Shard]:
    """Return the shards with their fingerprints. reader: the options that change what a reader yields."""
    return [replace(shard, fingerprint=_fingerprint(shard, reader)) for shard in shards]


def _fingerprint(shard: Shard, reader: Mapping[str, object]) -> str:
    pieces = [asdict(piece) for piece in shard.pieces]
    only = [] if shard.only is None else [shard.only]
    content = json.dumps([pieces, shard.limit, dict(reader), *only], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
