"""Samples of vectors: what goes in comes out, in any order and however it was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.keys import united
from tamis.scoring.token_sample import folds_of
from tamis.scoring.vector_sample import sampled_vectors, trimmed_vectors, vectors_in


def some(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, d)).astype(np.float16), rng.integers(0, 1 << 63, n).astype(np.uint64)


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(1, 7), st.integers(1, 5), st.integers(0, 25))
def test_parts_give_the_whole(n: int, d: int, parts: int, most: int) -> None:
    vectors, keys = some(n, d)
    whole = trimmed_vectors(united(sampled_vectors(vectors, keys)), most * d)
    trimmed = [
        trimmed_vectors(united(sampled_vectors(vectors[i::parts], keys[i::parts])), most * d) for i in range(parts)
    ]
    assert np.array_equal(trimmed_vectors(united(*trimmed, trimmed[0]), most * d), whole)
    folds, found = vectors_in(whole, d)
    assert len(found) == min(n, most)
    by_vector = {tuple(row): fold for row, fold in zip(vectors.tolist(), folds_of(keys).tolist(), strict=True)}
    assert {tuple(row): fold for row, fold in zip(found.tolist(), folds.tolist(), strict=True)}.items() <= (
        by_vector.items()
    )


def test_copies_that_differ_by_their_rounding_count_once() -> None:
    vectors, keys = some(5, 4)
    near = np.nextafter(vectors, np.float16(9))
    both = united(sampled_vectors(vectors, keys), sampled_vectors(near, keys))
    _, found = vectors_in(both, 4)
    assert len(found) == 5
    assert np.array_equal(np.sort(found[:, 0]), np.sort(np.where(vectors > 0, vectors, near)[:, 0]))
