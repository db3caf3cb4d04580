"""Spans of a text: sentences, and the tokens that belong to each."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

_END = re.compile(
    r"""[.!?\u2026]["'\u201d\u2019\u00bb)\]]*\s+|[\u3002\uff01\uff1f]["\u201d\u300d\u300f]*\s*|\s*\n\s*"""
)
"""Where a sentence ends, with the white space after it; a line is one at least, as in code and tables."""


def sentence_spans(text: str) -> Int64:
    """Cut a text into sentences: each ends with its mark (and quotes) and white space, or with its line.

    Abbreviations before a space end one too. Returns int64[m, 2], first character and the one after the last, which
    cover the text in order; none for an empty text.
    """
    ends = [match.end() for match in _END.finditer(text) if match.start() > 0]
    bounds = np.unique(np.array([0, *ends, len(text)], np.int64))
    return np.stack([bounds[:-1], bounds[1:]], axis=1)


def span_of_tokens(tokens: Int64, spans: Int64) -> Int64:
    """Return which span each token belongs to: that of its last character, since it may begin with the space before.

    Args:
        tokens: int64[t, 2], first character and the one after the last; both 0 for a token that is not of the text.
        spans: int64[m, 2], which cover the text in order, m >= 1.

    Returns:
        int64[t].
    """
    last = np.maximum(tokens[:, 1] - 1, 0)
    return np.searchsorted(spans[:, 1], last, side="right").clip(0, len(spans) - 1)
