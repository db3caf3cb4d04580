"""Vectors survive columns, files and slices, nulls included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tamis.scoring.vectors import vector_column, vectors_of

VECTORS = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float16)
THERE = np.random.default_rng(1).random(50) < 0.8


def test_vectors_survive_files_slices_and_chunks(tmp_path: Path) -> None:
    column = vector_column(VECTORS, THERE)
    pq.write_table(pa.table({"v": column}), tmp_path / "v.parquet")
    stored = pq.read_table(tmp_path / "v.parquet")["v"]
    for start, stop in ((0, 50), (7, 31), (20, 20), (49, 50)):
        for read in (column[start:stop], stored.slice(start, stop - start)):
            vectors, there = vectors_of(read)
            assert np.array_equal(there, THERE[start:stop])
            assert np.array_equal(vectors.reshape(-1, 8), VECTORS[start:stop][there])
    mixed = pa.chunked_array([column[10:20], column[:0], column[3:5]])
    assert np.array_equal(
        vectors_of(mixed)[0], np.concatenate([VECTORS[10:20][THERE[10:20]], VECTORS[3:5][THERE[3:5]]])
    )


def test_no_vector_at_all() -> None:
    for column in (vector_column(VECTORS, np.zeros(50, bool)), pa.chunked_array([], pa.list_(pa.float16()))):
        vectors, there = vectors_of(column)
        assert not len(vectors) and not there.any() and len(there) == len(column)


def test_lists_that_are_no_vectors_are_refused() -> None:
    for lists in ([[1.0, 2.0], [1.0]], [[1.0, None]]):
        ragged = pa.array(
            [[None if x is None else np.float16(x) for x in one] for one in lists], pa.list_(pa.float16())
        )
        with pytest.raises(ValueError, match="differ in length"):
            vectors_of(ragged)
