"""Pieces of texts: they are the text, cut where tokens begin, with so many tokens each."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.scoring.chunks import chunk_texts
from tamis.scoring.tokenizer import tokenize

TEXTS = st.lists(st.text(st.sampled_from("ab1_ \t\n.,!éßΣİ漢😀́"), max_size=40), max_size=6)


def pieces_of(texts: list[str], tokens: int) -> list[list[str]]:
    pieces, parents = chunk_texts(pa.array(texts, pa.large_string()), tokens)
    found: list[list[str]] = [[] for _ in texts]
    for piece, parent in zip(pieces.to_pylist(), parents.tolist(), strict=True):
        found[parent].append(piece)
    return found


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_pieces_are_the_text_and_hold_so_many_tokens(texts: list[str], tokens: int) -> None:
    for text, pieces in zip(texts, pieces_of(texts, tokens), strict=True):
        assert "".join(pieces) == text
        counts = tokenize(pa.array(pieces)).counts.tolist()
        assert sum(counts) == tokenize(pa.array([text])).counts[0]
        whole = counts[:-1] if "İ" not in text else []  # one character, two tokens: not cut in the middle
        assert whole == [tokens] * len(whole)
        assert all(re.match(r"\S", piece) for piece in pieces[1:])


def test_a_short_text_and_an_empty_one_stay_whole() -> None:
    assert pieces_of(["one two", "", "  "], 2) == [["one two"], [""], ["  "]]
    assert pieces_of(["one two three"], 2) == [["one two ", "three"]]


def test_a_slice_of_a_larger_array() -> None:
    pieces, parents = chunk_texts(pa.array(["a b c", "d e f g", "h"]).slice(1, 2), 2)
    assert pieces.to_pylist() == ["d e ", "f g", "h"]
    assert parents.tolist() == [0, 0, 1]


def test_no_tokens_per_piece_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        chunk_texts(pa.array(["a"]), 0)
