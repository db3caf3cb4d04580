"""Vectors in Parquet files: as bytes of fixed length, which are read eight times as fast as lists.

Parquet keeps for each number of a list where lists begin and end, and readers look at each. A column of lists of
float16 or int8 of one length is written as `fixed_size_binary`, little-endian, and read as lists again.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

KIND = b"vectors"
"""Key of the metadata of a field with vectors; the value names the type of their numbers."""

_KINDS = {b"float16": pa.float16(), b"int8": pa.int8()}


def packed(table: pa.Table) -> pa.Table:
    """Return a table with its lists of float16 or int8 as bytes, where they are of one length and without nulls inside.

    Lists that are null stay null. Without a copy where a column is in one piece and has no nulls.
    """
    for i, field in enumerate(table.schema):
        names = [name for name, kind in _KINDS.items() if field.type == pa.list_(kind)]
        column = _packed(table.column(i)) if names else None
        if column is not None:
            metadata = {**(field.metadata or {}), KIND: names[0]}
            table = table.set_column(i, pa.field(field.name, column.type, metadata=metadata), column)
    return table


def _packed(column: pa.ChunkedArray) -> pa.Array | None:
    whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    whole = whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)
    there = np.asarray(whole.is_valid())
    sizes, flat = np.diff(whole.offsets.to_numpy())[there], whole.flatten()
    if not len(sizes) or not sizes[0] or (sizes != sizes[0]).any() or flat.null_count:
        return None
    width = int(sizes[0]) * flat.type.bit_width // 8
    data = flat.buffers()[1].slice(flat.offset * flat.type.bit_width // 8, len(sizes) * width)
    if there.all():
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(whole), [None, data])
    spread = np.zeros((len(whole), width), np.uint8)
    spread[there] = np.frombuffer(data, np.uint8).reshape(-1, width)
    valid = pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(whole), [valid, pa.py_buffer(spread)])


def unpacked(table: pa.Table) -> pa.Table:
    """Return a table with the lists that `packed` was given, without a copy where a column is in one piece."""
    for i, field in enumerate(table.schema):
        kind = _KINDS.get((field.metadata or {}).get(KIND, b""))
        if kind is not None:
            column = table.column(i)
            whole = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
            table = table.set_column(i, _unpacked_field(field, kind), _unpacked(whole, kind))
    return table


def _unpacked_field(field: pa.Field, kind: pa.DataType) -> pa.Field:
    metadata = {key: value for key, value in field.metadata.items() if key != KIND}
    return pa.field(field.name, pa.list_(kind), metadata=metadata or None)


def _unpacked(column: pa.Array, kind: pa.DataType) -> pa.Array:
    size = column.type.byte_width * 8 // kind.bit_width
    begin, n = column.offset * size, len(column)
    values = pa.Array.from_buffers(kind, n * size, [None, column.buffers()[1]], offset=begin)
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * np.int32(size))
    return pa.ListArray.from_arrays(offsets, values, mask=column.is_null() if column.null_count else None)
