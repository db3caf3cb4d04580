"""Columns of vectors: lists of float16 or of bytes (`quantised_vectors`), of one length, null where there is none.

Not fixed-size lists: of these, Arrow (as of 25) cannot read a Parquet file that has nulls.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .half_floats import single
from .quantised_vectors import restored

VECTORS, QUANTISED = pa.list_(pa.float16()), pa.list_(pa.int8())


def vector_column(vectors: NDArray[Any], there: NDArray[np.bool_]) -> pa.Array:
    """Return vectors as an Arrow column, list<float16> or list<int8>.

    Args:
        vectors: float16[n, d], or int8[n, w] of `quantised`.
        there: bool[n], False where the value is null.
    """
    sizes = np.where(there, vectors.shape[1], 0)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    if offsets[-1] >= 1 << 31:
        raise ValueError(f"{len(vectors):,} vectors of {vectors.shape[1]:,} do not fit into one column; cut the shard")
    flat = np.ascontiguousarray(vectors if there.all() else vectors[there]).reshape(-1)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat), mask=pa.array(~there))


def widened(vectors: NDArray[np.floating], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return vectors as float32, exactly, four times as fast as NumPy does for float16.

    Args:
        vectors: float16 or float32 [n, d], finite; in rows.
        out: float32[n, d], in rows, to write into; default: a new array, or float32 as it is.
    """
    if vectors.dtype != np.float16:
        if out is None:
            return np.ascontiguousarray(vectors, np.float32)
        out[:] = vectors
        return out
    out = np.empty(vectors.shape, np.float32) if out is None else out
    _widen(np.ascontiguousarray(vectors).view(np.uint16), out)
    return out


def vectors_of(column: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """Return the vectors of a column, without a copy where it is of float16 and in one piece.

    Args:
        column: list<float16> or, in bytes, list<int8>, of n rows, m of them not null.

    Returns:
        float16[m, d], of the rows that have one, and bool[n], which these are; d is 0 where there is none.

    Raises:
        ValueError: the lists differ in length.
    """
    if isinstance(column, pa.ChunkedArray):
        chunks = column.chunks or [pa.array([], column.type)]
        column = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    there = np.asarray(column.is_valid())
    flat, rows = column.flatten(), int(np.count_nonzero(there))
    if not rows:
        return np.zeros((0, 0), np.float16), there
    in_bytes = column.type == QUANTISED
    values: NDArray[Any] = np.frombuffer(flat.buffers()[1], np.int8 if in_bytes else np.float16)
    values = values[flat.offset : flat.offset + len(flat)]
    sizes = np.diff(column.offsets.to_numpy())[there]
    if flat.null_count or (sizes != sizes[0]).any():
        raise ValueError("the vectors of a column differ in length")
    found: NDArray[Any] = values.reshape(rows, -1)
    return (restored(found) if in_bytes else found), there


@numba.njit(nogil=True, cache=True)
def _widen(halves: Any, wide: Any) -> None:
    for i in range(len(halves)):
        for j in range(halves.shape[1]):
            wide[i, j] = single(halves[i, j])
