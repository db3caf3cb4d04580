"""Cuts texts into pieces of a number of tokens, at the places where tokens begin."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import text_buffers
from .lowercase import CLASS, MARK, SPACE, character_tables, decode

_DOTTED_I = 0x130  # its lower case is a letter and a mark: two tokens in one character


def chunk_texts(text: pa.Array, tokens: int) -> tuple[pa.Array, NDArray[np.int64]]:
    """Cut every text into pieces of `tokens` tokens; the last piece has the rest.

    A piece begins where a token begins and reaches to the next piece, so that the pieces of a text are the text. A text
    with no more tokens than that, or without any, is one piece.

    Args:
        text: n texts (string-like Arrow array) without nulls, valid UTF-8.
        tokens: words of the DSIR tokenizer per piece, >= 1.

    Returns:
        The pieces, large_string[m], and the number of each one's text, int64[m], ascending.

    Raises:
        ValueError: `tokens` is below 1, or the array has nulls.
    """
    if tokens < 1:
        raise ValueError(f"a piece needs at least 1 token, not {tokens}")
    offsets, data = text_buffers(text)
    properties, _ = character_tables()
    counts = _cut(offsets, data, properties, tokens, np.empty(0, np.int64))
    cuts = np.empty(counts.sum() + 1, np.int64)
    _cut(offsets, data, properties, tokens, cuts)
    cuts[-1] = offsets[-1]
    pieces = pa.Array.from_buffers(pa.large_string(), len(cuts) - 1, [None, pa.py_buffer(cuts), pa.py_buffer(data)])
    return pieces, np.repeat(np.arange(len(text)), counts)


@numba.njit(nogil=True, cache=True)
def _cut(offsets: Any, data: Any, properties: Any, tokens: Any, cuts: Any) -> Any:
    """Pieces per text; their first bytes go into `cuts`, unless that is empty."""
    counts = np.zeros(offsets.size - 1, np.int64)
    found = 0
    for i in range(offsets.size - 1):
        begun = 0  # tokens that began in the piece
        before = SPACE
        position, end = offsets[i], offsets[i + 1]
        start = position
        while True:
            if cuts.size:
                cuts[found] = start
            found += 1
            counts[i] += 1
            start = -1
            while position < end and start < 0:
                point, length = np.int64(data[position]), 1
                if point >= 0x80:
                    point, length = decode(data, position, end)
                kind = properties[point] & CLASS
                if kind != SPACE and kind != before:
                    if begun >= tokens:
                        start = position
                        begun = 0
                        break
                    begun += 1
                before = kind
                if point == _DOTTED_I:
                    before = MARK
                    begun += 1
                position += length
            if start < 0:
                break
    return counts
