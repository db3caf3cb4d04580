"""How shards are grouped into output parts, and how columns of the corpus are named in the data files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tamis.connectors.records import Piece
from tamis.connectors.shards import Shard
from tamis.pipelines.emit import DATA_FILE_BYTES, PART_BYTES, output_parts, source_names

SHARDS = st.lists(
    st.tuples(st.integers(0, PART_BYTES), st.integers(0, 3), st.integers(0, DATA_FILE_BYTES)), min_size=1, max_size=40
)


@given(SHARDS)
def test_parts_hold_every_shard_once_in_order_and_are_bounded(drawn: list[tuple[int, int, int]]) -> None:
    shards = [Shard(i, (Piece("a", "", 0, 1, size),)) for i, (size, _, _) in enumerate(drawn)]
    kept = {i: (documents, size if documents else 0) for i, (_, documents, size) in enumerate(drawn)}
    parts = output_parts(shards, {i: [i] for i in range(len(shards))}, kept)
    assert [shard for part in parts for shard, _ in part.shards] == shards
    named = [part.data_file for part in parts if part.data_file is not None]
    assert named == [f"part-{i:06d}.parquet" for i in range(len(named))]
    for part in parts:
        indices = [shard.index for shard, _ in part.shards]
        assert (part.data_file is not None) == any(kept[i][0] for i in indices)
        assert sum(kept[i][1] for i in indices[:-1]) < DATA_FILE_BYTES
        assert sum(shard.bytes for shard, _ in part.shards[:-1]) < PART_BYTES


def test_columns_of_the_corpus_never_clash_with_ours() -> None:
    columns = ["text", "key", "source_key", "weight"]
    assert list(source_names(columns).values()) == ["text", "source_source_key", "source_key", "source_weight"]
    assert list(source_names(["key", "text"]).values()) == ["source_key", "text"]
