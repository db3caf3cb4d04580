"""Texts as tokens: what stands before them, and which tokens are a response's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
pytest.importorskip("torch")

from tamis.scoring.token_sequences import text_slices, tokenise
from tiny_models import byte_tokenizer

TEXTS = ["", "a", "Question: what?\n\n Answer, a long one.", "日本語 😀 text", "e\u0301 \r\n\t"]
TOKENIZER = byte_tokenizer(TEXTS).backend_tokenizer


def strings(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


@pytest.mark.parametrize("beginning", [None, 0])
def test_tokens_spell_the_texts(beginning: int | None) -> None:
    found = tokenise(TOKENIZER, beginning, strings(TEXTS))
    head = [] if beginning is None else [beginning]
    for i, text in enumerate(TEXTS):
        tokens = found.tokens[found.offsets[i] : found.offsets[i + 1]].tolist()
        assert tokens[: len(head)] == head
        assert TOKENIZER.decode(tokens[len(head) :]) == text
    assert found.first_scored.tolist() == [1] * len(TEXTS)
    empty = tokenise(TOKENIZER, beginning, strings([]))
    assert len(empty) == 0
    assert empty.offsets.tolist() == [0]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TEXTS[2:]), st.sampled_from(["", "The answer. 😀", " x", "\nno", "日本"]), st.booleans())
def test_a_response_has_the_tokens_with_its_characters(prompt: str, response: str, begins: bool) -> None:
    text = prompt + "\n\n" + response
    found = tokenise(TOKENIZER, 0 if begins else None, strings([text]), np.array([len(text) - len(response)]))
    tokens, first = found.tokens.tolist(), int(found.first_scored[0])
    given_text, scored = TOKENIZER.decode(tokens[begins:first]), TOKENIZER.decode(tokens[first:])
    if not response:
        assert first == len(tokens)
    elif not scored.startswith("\ufffd"):  # a character may be cut into tokens, of which each holds it
        assert scored.endswith(response)
        assert (prompt + "\n\n").startswith(given_text)
        after = TOKENIZER.decode(tokens[first + 1 :])
        assert "\ufffd" in after or len(after) < len(response)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_slices_are_neighbours_of_bounded_size(sizes: list[int], limit: int) -> None:
    slices = text_slices(np.array(sizes, np.int64), limit)
    assert [i for part in slices for i in range(part.start, part.stop)] == list(range(len(sizes)))
    assert all(sum(sizes[part][1:]) < limit for part in slices)
