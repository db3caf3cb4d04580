"""Vectors that are written as bytes are read as the lists that they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.packed_vectors import packed, unpacked
from tamis.connectors.score_store import Address, ScoreStore
from tamis.connectors.shards import Shard


def lists(there: list[bool], size: int, kind: pa.DataType, seed: int = 0) -> pa.Array:
    random = np.random.default_rng(seed)
    rows = [random.integers(-100, 100, size).astype(kind.to_pandas_dtype()) if one else None for one in there]
    return pa.array(rows, pa.list_(kind))


@settings(deadline=None)
@given(
    st.lists(st.booleans(), max_size=20),
    st.integers(0, 5),
    st.sampled_from([pa.float16(), pa.int8(), pa.float32()]),
    st.integers(0, 20),
)
def test_columns_come_back(there: list[bool], size: int, kind: pa.DataType, cut: int) -> None:
    column = lists(there, size, kind)
    field = pa.field("score", column.type, metadata={"tokenizer": "x"})
    table = pa.table([pa.chunked_array([column[:cut], column[cut:]], column.type)], schema=pa.schema([field]))
    in_bytes = packed(table)
    bytes_wanted = any(there) and size > 0 and kind != pa.float32()
    assert pa.types.is_fixed_size_binary(in_bytes.schema[0].type) == bytes_wanted
    for given_table in (in_bytes, in_bytes.slice(3)):
        found = unpacked(given_table)
        found.validate(full=True)
        assert found.equals(table.slice(len(table) - len(given_table)), check_metadata=True)


@pytest.mark.parametrize("column", [[[1.0], [1.0, 2.0]], [[1.0, None]], [[]], [None]])
def test_lists_of_unlike_length_or_with_nulls_stay(column: list[list[float | None] | None]) -> None:
    table = pa.table({"token_nll": pa.array(column, pa.list_(pa.float16()))})
    assert packed(table).equals(table) and unpacked(table).equals(table)


def test_the_store_keeps_bytes_and_returns_lists(tmp_path: Path) -> None:
    store, address, shard = ScoreStore(str(tmp_path)), Address("gradients", "x"), Shard(0, (), "f" * 32)
    table = pa.table({"score": lists([True, False, True], 70, pa.float16()), "norm": [1.0, None, 2.0]})
    store.write_table(address, shard, table, {})
    assert pq.read_schema(store.url(address, shard).removeprefix("file://")).field("score").type == pa.binary(140)
    assert store.read_table(address, shard).equals(table)
    assert store.read_table(address, shard, ["norm"]).equals(table.select(["norm"]))
