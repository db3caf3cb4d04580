"""Shards cover the corpus in order, are bounded, and change only where files change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.records import Piece
from tamis.connectors.shards import Shard, pack, with_fingerprints

SHARD_BYTES = 1000


def make_file(number: int, sizes: list[int]) -> list[Piece]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        Piece(f"/data/{number:05d}.jsonl", "v", start, start + size, size)
        for start, size in zip(starts, sizes, strict=True)
    ]


corpora = st.lists(
    st.one_of(st.lists(st.integers(1, 300), max_size=1), st.lists(st.integers(0, 3000), max_size=5)), max_size=80
).map(lambda sizes: [make_file(i, file) for i, file in enumerate(sizes)])


@given(corpora)
@settings(deadline=None)
def test_every_piece_is_in_one_shard_in_order(corpus: list[list[Piece]]) -> None:
    shards = pack(corpus, SHARD_BYTES)
    assert [piece for shard in shards for piece in shard.pieces] == [piece for file in corpus for piece in file]
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.pieces for shard in shards)


@given(corpora)
@settings(deadline=None)
def test_shards_are_bounded_and_cut_files_are_not_mixed(corpus: list[list[Piece]]) -> None:
    cut = {file[0].url for file in corpus if len(file) > 1}
    for shard in pack(corpus, SHARD_BYTES):
        assert sum(piece.bytes for piece in shard.pieces[:-1]) < SHARD_BYTES
        assert len(shard.pieces) == 1 or not cut.intersection(piece.url for piece in shard.pieces)


def test_small_files_make_few_shards() -> None:
    files = [make_file(i, [SHARD_BYTES // 32]) for i in range(4000)]
    full = 4000 * (SHARD_BYTES // 32) / SHARD_BYTES
    assert full < len(pack(files, SHARD_BYTES)) < 3 * full


def fingerprints(files: list[list[Piece]]) -> set[str]:
    return {shard.fingerprint for shard in with_fingerprints(pack(files, SHARD_BYTES), {})}


def test_an_added_or_removed_small_file_changes_few_shards() -> None:
    files = [make_file(i, [20 + i % 30]) for i in range(500)]
    before = fingerprints(files)
    assert len(before) > 25
    changed = []
    for i in range(0, 500, 17):
        removed = fingerprints(files[:i] + files[i + 1 :])
        added = fingerprints([*files[:i], make_file(10_000 + i, [35]), *files[i:]])
        changed += [len(removed - before), len(added - before)]
    # its own pack, and those after it only until the next end that a hash made
    assert max(changed) <= 6
    assert sum(changed) / len(changed) < 2


class TestFingerprint:
    piece = Piece("/a.parquet", "12", 0, 3, 900, 0, 10)

    def of(self, piece: Piece | None = None, index: int = 0, limit: int | None = None, **reader: object) -> str:
        return with_fingerprints([Shard(index, (piece or self.piece,), limit=limit)], reader)[0].fingerprint

    @pytest.mark.parametrize(
        "change", [{"url": "/b.parquet"}, {"version": "13"}, {"bytes": 901}, {"start": 1}, {"end": 4}, {"rows": 9}]
    )
    def test_follows_the_file_and_the_range(self, change: dict[str, object]) -> None:
        assert self.of(replace(self.piece, **change)) != self.of()  # type: ignore[arg-type]

    def test_follows_reader_and_limit_and_not_the_place(self) -> None:
        others = [self.of(text="a"), self.of(text="b"), self.of(text="a", id="x"), self.of(limit=3), self.of(limit=4)]
        assert len({self.of(), *others}) == 6
        assert self.of(index=5) == self.of()
        assert self.of(text="a", id="x") == self.of(id="x", text="a")
        assert set(self.of()) <= set("0123456789abcdef")


def test_rows_are_known_only_where_all_footers_tell() -> None:
    known = Piece("/a.parquet", "1", 0, 1, 5, 0, 10)
    unknown = Piece("/a.jsonl", "1", 0, 1, 7)
    assert Shard(0, (known, known)).rows == 20
    assert Shard(0, (known, known), limit=15).rows == 15
    assert Shard(0, (known, known), limit=25).rows == 20
    assert Shard(0, (known, unknown)).rows is None
    assert Shard(0, (known, unknown)).bytes == 12
