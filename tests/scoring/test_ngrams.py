import hashlib
import itertools
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.scoring.ngrams import count_ngrams, sum_ngram_weights
from tamis.scoring.tokenizer import tokenize

WORDPUNCT = re.compile(r"\w+|[^\w\s]+")
TEXTS = st.lists(st.text(st.sampled_from("ab C.é字\n_1İΣ"), max_size=60), min_size=1, max_size=6)
HASHES = ["fast64", "sha256"]
# Long enough that the functions cut it into several slices.
CORPUS = pa.array([f"Text {n}, with words: " + f"alpha beta{n % 7} gamma. " * (n % 400) for n in range(150)])


def ngram_strings(value: str, ngrams: int) -> list[str]:
    tokens = WORDPUNCT.findall(value.lower())
    return [
        " ".join(tokens[first:stop])
        for first in range(len(tokens))
        for stop in range(first + 1, min(first + ngrams, len(tokens)) + 1)
    ]


def sha256_bucket(ngram: str, buckets: int) -> int:
    return int(hashlib.sha256(ngram.encode()).hexdigest(), 16) % buckets


@pytest.mark.parametrize(
    ("ngram", "buckets", "bucket"),
    [
        ("alice", 10_000, 6720),
        ("alice went", 10_000, 114),
        ("the", 10_000, 8288),
        ("the", 50_000, 28288),
        ("of the", 10_000, 2932),
        (".", 10_000, 3960),
        ("naïve", 10_000, 8184),
    ],
)
def test_published_sha256_buckets(ngram, buckets, bucket):
    words = WORDPUNCT.findall(ngram)
    counts = count_ngrams(pa.array([ngram]), len(words), buckets, "sha256")
    shorter = count_ngrams(pa.array(words), 1, buckets, "sha256") * (len(words) > 1)
    assert np.flatnonzero(counts - shorter).tolist() == [bucket]


@pytest.mark.parametrize("hash", HASHES)
def test_number_of_ngrams(hash):
    sentence = pa.array(["Alice went to the store"])
    assert [count_ngrams(sentence, n, 10_000, hash).sum() for n in (1, 2, 3, 5, 9)] == [5, 9, 12, 15, 15]
    assert count_ngrams(pa.array(["", " \n"]), 2, 10, hash).sum() == 0
    assert count_ngrams(pa.array([], pa.string()), 2, 10, hash).sum() == 0


@given(TEXTS, st.integers(1, 4), st.sampled_from([1, 7, 10_000, 2**16]), st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_sha256_counts_and_sums_agree_with_hashlib(values, ngrams, buckets, seed):
    expected = np.zeros((len(values), buckets), np.int64)
    weights = np.random.default_rng(seed).normal(size=(2, buckets))
    sums = np.zeros((len(values), 2))
    for row, value in enumerate(values):
        for ngram in ngram_strings(value, ngrams):
            expected[row, sha256_bucket(ngram, buckets)] += 1
            sums[row] += weights[:, sha256_bucket(ngram, buckets)]
    text = pa.array(values)
    assert np.array_equal(count_ngrams(text, ngrams, buckets, "sha256"), expected.sum(axis=0))
    assert np.array_equal(sum_ngram_weights(text, weights, ngrams, "sha256"), sums)
    rows = np.random.default_rng(seed).random(len(values)) < 0.5
    assert np.array_equal(count_ngrams(text, ngrams, buckets, "sha256", rows), expected[rows].sum(axis=0))


@given(TEXTS, st.integers(1, 4))
@settings(deadline=None, max_examples=150)
def test_fast64_counts_ngrams_as_a_dictionary_of_strings_does(values, ngrams):
    # With 2**20 buckets, different n-grams of so short texts practically never share one.
    counts = count_ngrams(pa.array(values), ngrams, 2**20)
    strings = [ngram for value in values for ngram in ngram_strings(value, ngrams)]
    expected = sorted(strings.count(ngram) for ngram in set(strings))
    assert sorted(counts[counts > 0].tolist()) == expected


@pytest.mark.parametrize("hash", HASHES)
def test_results_do_not_depend_on_batches_or_shared_tokens(hash):
    text = CORPUS if hash == "fast64" else CORPUS[:30]
    weights = np.random.default_rng(0).normal(size=(3, 1000))
    counts = count_ngrams(text, 3, 1000, hash)
    sums = sum_ngram_weights(text, weights, 3, hash)
    for cuts in ([0, 1, 2, len(text)], [*range(0, len(text), 13), len(text)]):
        parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
        assert np.array_equal(sum(count_ngrams(part, 3, 1000, hash) for part in parts), counts)
        assert np.array_equal(np.concatenate([sum_ngram_weights(part, weights, 3, hash) for part in parts]), sums)
    tokens = tokenize(text)
    assert np.array_equal(count_ngrams(text, 3, 1000, hash, tokens=tokens), counts)
    assert np.array_equal(sum_ngram_weights(text, weights, 3, hash, tokens=tokens), sums)
    assert np.array_equal(sum_ngram_weights(text, weights[1:2], 3, hash)[:, 0], sums[:, 1])
    rows = np.arange(len(text)) % 3 == 0
    chosen = count_ngrams(text.filter(pa.array(rows)), 3, 1000, hash)
    assert np.array_equal(count_ngrams(text, 3, 1000, hash, rows), chosen)
    assert np.array_equal(count_ngrams(text, 3, 1000, hash, rows, tokens), chosen)


@pytest.mark.parametrize("buckets", [1, 2, 10_000, 65_537])
@pytest.mark.parametrize("hash", HASHES)
def test_weights_of_one_sum_to_the_number_of_ngrams(hash, buckets):
    text = CORPUS[:20]
    expected = [len(ngram_strings(value, 2)) for value in text.to_pylist()]
    assert sum_ngram_weights(text, np.ones((1, buckets)), 2, hash)[:, 0].tolist() == expected
    assert count_ngrams(text, 2, buckets, hash).sum() == sum(expected)


@given(TEXTS)
@settings(deadline=None, max_examples=50)
def test_sums_are_counts_times_weights(values):
    weights = np.random.default_rng(0).normal(size=(2, 97))
    sums = sum_ngram_weights(pa.array(values), weights)
    counts = np.stack([count_ngrams(pa.array([value]), 2, 97) for value in values])
    assert np.allclose(sums, counts @ weights.T, rtol=1e-12, atol=1e-12)


def test_fast64_spreads_bigrams_evenly_and_knows_their_order():
    words = [f"{a}x {b}y" for a in range(300) for b in range(300)]
    counts = count_ngrams(pa.array(words), 2, 9973) - count_ngrams(pa.array(words), 1, 9973)
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(chi_square - 9972) < 5 * np.sqrt(2 * 9972)
    one, other = (count_ngrams(pa.array([value]), 2, 2**20) for value in ("a b", "b a"))
    assert np.count_nonzero(one != other) == 2


def test_one_document_longer_than_a_slice_and_the_largest_number_of_buckets():
    value = "one two " * 60_000
    assert count_ngrams(pa.array([value]), 2, 1000).sum() == 239_999
    assert sum_ngram_weights(pa.array(["x", value, "y"]), np.ones((1, 10)))[:, 0].tolist() == [1, 239_999, 1]
    bucket = sum_ngram_weights(pa.array(["word"]), np.arange(2.0**22)[None], 1)[0, 0]
    assert bucket == int(tokenize(pa.array(["word"])).hashes[0]) >> 42


def test_what_makes_no_features_is_refused():
    text = pa.array(["a"])
    with pytest.raises(ValueError, match="ngrams"):
        count_ngrams(text, 0)
    with pytest.raises(ValueError, match="buckets"):
        count_ngrams(text, 2, 0)
    with pytest.raises(ValueError, match="buckets"):
        count_ngrams(text, 2, 2**31 + 1)
    with pytest.raises(ValueError, match="fast64, sha256"):
        sum_ngram_weights(text, np.ones((1, 5)), 2, "md5")
    with pytest.raises(ValueError, match="nulls"):
        count_ngrams(pa.array(["a", None]))
