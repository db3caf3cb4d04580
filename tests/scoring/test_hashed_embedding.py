"""Hashed embeddings keep the likeness of n-gram distributions, and do not depend on how texts are batched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.scoring.hashed_embedding import hashed_embeddings
from tamis.scoring.tokenizer import tokenize


def embedded(texts: list[str], ngrams: int = 1, dimension: int = 256, seed: int = 0) -> NDArray[np.float32]:
    return hashed_embeddings(tokenize(pa.array(texts, pa.large_string())), ngrams, dimension, seed)


def likeness(one: str, other: str, ngrams: int) -> float:
    """Bhattacharyya coefficient of the n-gram distributions, from the words themselves."""
    counts = []
    for text in (one, other):
        words = text.split()
        grams = [tuple(words[i : i + k]) for k in range(1, ngrams + 1) for i in range(len(words) - k + 1)]
        counts.append(Counter(grams))
    shares = [{gram: n / count.total() for gram, n in count.items()} for count in counts]
    return sum(np.sqrt(share * shares[1].get(gram, 0)) for gram, share in shares[0].items())


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_products_are_the_likeness_of_ngram_distributions(ngrams: int) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.zipf(1.5, 60) % 40) for _ in range(30)]
    vectors = embedded(texts, ngrams, 4096)
    wanted = np.array([[likeness(one, other, ngrams) for other in texts] for one in texts])
    error = vectors @ vectors.T - wanted
    assert abs(error).max() < 5 / np.sqrt(4096) and np.sqrt((error**2).mean()) < 1 / np.sqrt(4096)
    smaller = embedded(texts, ngrams, 64)
    assert np.sqrt(((smaller @ smaller.T - wanted) ** 2).mean()) < 1 / np.sqrt(64)


def test_the_projection_is_unbiased() -> None:
    texts = ["a b c d e f", "a b x y z w"]
    products = [np.prod(embedded(texts, dimension=64, seed=seed), axis=0).sum() for seed in range(300)]
    assert np.mean(products) == pytest.approx(1 / 3, abs=4 * np.std(products) / np.sqrt(300))
    assert np.std(products) > 0.05  # seeds give different projections


@given(st.lists(st.text("ab c.é", max_size=20), max_size=12), st.randoms())
def test_a_vector_depends_on_its_text_alone(texts: list[str], random: object) -> None:
    whole = embedded(texts, 2, 64)
    order = list(range(len(texts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert np.array_equal(embedded([texts[i] for i in order], 2, 64), whole[order])
    for text, vector in zip(texts, whole, strict=True):
        assert np.array_equal(embedded([text], 2, 64)[0], vector)
        empty = not tokenize(pa.array([text], pa.large_string())).hashes.size
        assert np.linalg.norm(vector) == pytest.approx(0 if empty else 1, abs=1e-6)


def test_repetition_and_case_change_nothing_and_order_only_beyond_single_words() -> None:
    same = embedded(["one two three", "One two THREE", "one two three one two three"])
    assert np.allclose(same[0], same[1:], atol=1e-6)
    assert np.allclose(*embedded(["a b c", "c b a"]), atol=1e-6)
    assert not np.allclose(*embedded(["a b c", "c b a"], ngrams=2), atol=1e-2)


def test_impossible_sizes_are_refused() -> None:
    for ngrams, dimension in ((1, 0), (1, 65), (0, 64)):
        with pytest.raises(ValueError, match="no multiple of 64"):
            embedded(["a"], ngrams, dimension)
