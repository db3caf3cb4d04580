"""Sketches, band hashes and similarities against sets of tuples of words."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.scoring.minhash import RECALL, Bands, Sketches, band_hashes, jaccard
from tamis.scoring.minhash_scorer import MinHash, MinHashParameters
from tamis.scoring.scorer import Documents
from tamis.scoring.shingles import FACTORS, PERMUTATIONS, SALTS, SAMPLE, SKETCH_BYTES, sketches

TEXTS = st.lists(st.text(st.sampled_from("abcdeAB _-.,\n\u0130\u00df\u4e2d\u0645é7Σ"), max_size=80), max_size=8)
FEW_WORDS = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=40).map(" ".join), min_size=2, max_size=8)


def shingles_of(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1))} if words else set()


def sketch(texts: list[str], length: int = 5) -> Sketches:
    return Sketches.of(sketches(pa.array(texts, pa.string()), length)).checked("test")


def similarity(a: set[object], b: set[object]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def word_texts(counts: list[int], seed: int) -> list[str]:
    """Texts of so many different words each, which share the first of them with all longer ones."""
    words = np.random.default_rng(seed).permutation(max(counts))
    return [" ".join(f"w{word}" for word in words[:count]) for count in counts]


@settings(deadline=None)
@given(TEXTS, st.integers(1, 6))
def test_holds_one_hash_for_each_shingle(texts: list[str], length: int) -> None:
    found = sketches(pa.array(texts, pa.string()), length)
    expected = [shingles_of(text, length) for text in texts]
    assert [None if one is None else len(one) // 4 for one in found.to_pylist()] == [len(e) or None for e in expected]
    by_set: dict[frozenset[tuple[str, ...]], bytes] = {}
    for one, content in zip(found.to_pylist(), expected, strict=True):
        assert by_set.setdefault(frozenset(content), one) == one
    assert len(set(by_set.values())) == len(by_set)


@settings(deadline=None)
@given(FEW_WORDS, st.integers(1, 3))
def test_similarity_of_small_sets_is_exact(texts: list[str], length: int) -> None:
    pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts))]
    first, second = np.array(pairs).T
    expected = [similarity(shingles_of(texts[i], length), shingles_of(texts[j], length)) for i, j in pairs]
    np.testing.assert_array_equal(jaccard(sketch(texts, length), first, second), expected)


def test_similarity_of_large_sets_is_near() -> None:
    errors = []
    for seed in range(30):
        texts = word_texts([300, 600, 1000, 2000], seed)
        found = jaccard(sketch(texts, 1), np.array([0, 0, 1, 2]), np.array([1, 2, 2, 3]))
        errors.append(found - [0.5, 0.3, 0.6, 0.5])
    error = np.array(errors)
    assert np.abs(error.mean(0)).max() < 4 * 0.03 / np.sqrt(30), "unbiased, even where the sizes differ"
    assert 0.01 < error.std() < 0.5 / np.sqrt(SAMPLE)


def test_signatures_are_the_minima_of_the_permutations() -> None:
    text = " ".join(f"w{i}" for i in range(SAMPLE + 40))
    (long,) = sketches(pa.array([text]), 1).to_pylist()
    assert len(long) == SKETCH_BYTES
    hashes = [np.frombuffer(sketches(pa.array([word]), 1)[0].as_py(), "<u4")[0] for word in text.split()]
    assert np.frombuffer(long[: 4 * SAMPLE], "<u4").tolist() == sorted(hashes)[:SAMPLE]
    permuted = (np.array(hashes)[:, None] ^ SALTS) * FACTORS
    smallest = permuted.min(0).astype(np.uint32) * np.uint32(0x9E3779B1)
    assert np.frombuffer(long[4 * SAMPLE :], "<u2").tolist() == (smallest >> 16).tolist()


@pytest.mark.parametrize("words", [SAMPLE, SAMPLE + 1])
def test_bands_of_stored_and_of_made_signatures_agree(words: int) -> None:
    """A text of SAMPLE words has no stored signature, one with one more has; the two share nearly all values."""
    one, other = word_texts([words, words + 1], seed=1)
    rows = np.flatnonzero(np.diff(band_hashes(sketch([one, other], 1), Bands(PERMUTATIONS, 1)), axis=0)[0] == 0)
    assert len(rows) >= PERMUTATIONS - 5
    assert (band_hashes(sketch([one] * 2, 1), Bands(2, 64)) != 0).all()


def test_bands_collide_as_often_as_they_should() -> None:
    bands, shared, total = Bands(16, 4), 0, 0
    for seed in range(150):
        found = band_hashes(sketch(word_texts([60, 90], seed), 1), bands)
        shared, total = shared + int((found[0] == found[1]).any()), total + 1
    expected = bands.probability(2 / 3)
    assert abs(shared / total - expected) < 4 * np.sqrt(expected * (1 - expected) / total)


def test_bands_at_different_places_never_meet() -> None:
    hashes = band_hashes(sketch(word_texts([50] * 3, 0), 1), Bands(PERMUTATIONS, 1))
    assert len(np.unique(hashes[0])) == PERMUTATIONS
    assert not band_hashes(sketch([" . ", "a"], 1), Bands(4, 4))[0].any(), "a text without words has no bands"


@settings(deadline=None)
@given(st.floats(0.05, 1))
def test_bands_are_the_most_selective_ones_that_find_enough(threshold: float) -> None:
    bands = Bands.for_threshold(threshold)
    assert bands.count * bands.rows <= PERMUTATIONS
    assert bands.probability(threshold) >= RECALL
    rows = bands.rows + 1
    assert rows > PERMUTATIONS // 2 or Bands(PERMUTATIONS // rows, rows).probability(threshold) < RECALL


@settings(deadline=None, max_examples=25)
@given(FEW_WORDS)
def test_batches_and_order_do_not_matter(texts: list[str]) -> None:
    array = pa.array(texts, pa.large_string())
    whole = sketches(array, 2)
    assert whole.to_pylist() == [sketches(array.slice(i, 1), 2)[0].as_py() for i in range(len(texts))]
    rows = np.arange(len(texts))[::-1].copy()
    taken = Sketches.of(whole).take(rows)
    bands = Bands(5, 4)
    np.testing.assert_array_equal(band_hashes(taken, bands), band_hashes(Sketches.of(whole), bands)[rows])


def test_what_is_no_sketch_is_refused() -> None:
    with pytest.raises(ValueError, match="near holds what is no sketch"):
        Sketches.of(pa.array([b"abc"], pa.large_binary())).checked("near")


def test_scorer() -> None:
    texts = pa.array(["One two three four five six", "", "?!"], pa.large_string())
    scorer, other = (MinHash(MinHashParameters(scorer="minhash", words=words)) for words in (5, 3))
    column = scorer.score(Documents(texts, np.arange(3, dtype=np.uint64)))[""]
    assert column.type == scorer.primary.type
    assert [value and len(value) for value in column.to_pylist()] == [8, None, None]
    assert scorer.fingerprint != other.fingerprint
