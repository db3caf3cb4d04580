import hashlib
import itertools
import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tamis.scoring.dsir import kl_reduction, log_ratio, pooled_target
from tamis.scoring.ngrams import count_ngrams, sum_ngram_weights

TARGET = ["The mean of the sample is 3.14.", "We prove the theorem; the proof is short."]
RAW = ["Buy now!!! Cheap watches", "The proof of the pudding is in the eating.", "def f(x): return x_1 + 3.14", ""]
COUNTS = hnp.arrays(np.int64, 12, elements=st.integers(0, 1000)).filter(lambda counts: counts.sum() > 0)


def published_buckets(value: str, buckets: int) -> list[int]:
    """Unigrams and bigrams of the published features, in plain Python."""
    tokens = re.findall(r"\w+|[^\w\s]+", value.lower())
    grams = tokens + [" ".join(pair) for pair in itertools.pairwise(tokens)]
    return [int(hashlib.sha256(gram.encode()).hexdigest(), 16) % buckets for gram in grams]


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_log_importance_weights_are_the_published_ones(smoothing):
    buckets = 500
    target = [published_buckets(value, buckets) for value in TARGET]
    raw = [published_buckets(value, buckets) for value in RAW]
    p = [sum(each.count(j) for each in target) + smoothing for j in range(buckets)]
    q = [sum(each.count(j) for each in raw) for j in range(buckets)]
    delta = [math.log(p[j] / sum(p) + 1e-8) - math.log(q[j] / sum(q) + 1e-8) for j in range(buckets)]
    expected = [math.fsum(delta[j] for j in each) for each in raw]

    counts = [count_ngrams(pa.array(values), 2, buckets, "sha256") for values in (TARGET, RAW)]
    ours = log_ratio(counts[0], counts[1], smoothing)
    assert np.allclose(ours, delta, rtol=1e-12, atol=1e-12)
    assert np.allclose(
        sum_ngram_weights(pa.array(RAW), ours[None], 2, "sha256")[:, 0], expected, rtol=1e-12, atol=1e-11
    )


def test_only_the_target_is_smoothed():
    ratio = log_ratio(np.array([3, 0]), np.array([0, 2]), smoothing=1.0)
    assert ratio == pytest.approx([math.log(0.8 + 1e-8) - math.log(1e-8), math.log(0.2 + 1e-8) - math.log(1 + 1e-8)])


@given(COUNTS, COUNTS)
def test_log_ratio_laws(target, raw):
    assert np.isfinite(log_ratio(target, raw)).all()
    assert np.allclose(log_ratio(target, raw), -log_ratio(raw, target), rtol=0, atol=1e-12)
    assert np.allclose(log_ratio(7 * target, raw), log_ratio(target, raw), rtol=0, atol=1e-6)
    assert np.array_equal(log_ratio(raw, raw), np.zeros(12))


@given(COUNTS, COUNTS, st.floats(0, 10))
def test_pooling_laws(first, second, smoothing):
    assert np.allclose(
        pooled_target([first, second], None, smoothing), pooled_target([first + second], None, smoothing)
    )
    sizes = [float(first.sum()), float(second.sum())]
    # Without smoothing, proportions by size are the published pooling.
    assert np.allclose(pooled_target([first, second], sizes), pooled_target([first, second]))
    assert np.allclose(pooled_target([first, second], [3, 0], smoothing), pooled_target([first], None, smoothing))
    assert pooled_target([first, second], [2, 6], smoothing).sum() == pytest.approx(1)


def test_pooling_with_proportions_weighs_targets_not_their_sizes():
    pooled = pooled_target([np.array([1000, 0]), np.array([0, 1])], [1, 3])
    assert pooled == pytest.approx([0.25, 0.75])
    assert np.allclose(log_ratio(pooled, np.array([1, 1])), np.log([0.5, 1.5]), atol=1e-7)


@given(COUNTS, COUNTS, COUNTS)
def test_kl_reduction_is_a_difference_of_divergences(target, raw, selected):
    p, q, s = (counts / counts.sum() for counts in (target, raw, selected))

    def divergence(other):
        return sum(a * (math.log(a + 1e-8) - math.log(b + 1e-8)) for a, b in zip(p, other, strict=True))

    reduction = kl_reduction(target, raw, selected)
    assert reduction == pytest.approx(divergence(q) - divergence(s), rel=1e-9, abs=1e-9)
    assert kl_reduction(target, raw, raw) == 0
    assert kl_reduction(target, raw, target) >= reduction - 1e-6


def test_empty_corpora_are_refused_in_words():
    some, none = np.array([1, 2]), np.array([0, 0])
    with pytest.raises(ValueError, match="the target has no n-grams"):
        log_ratio(none, some, smoothing=1.0)
    with pytest.raises(ValueError, match="the raw corpus has no n-grams"):
        log_ratio(some, none)
    with pytest.raises(ValueError, match="same buckets"):
        log_ratio(some, np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="smoothing"):
        log_ratio(some, some, smoothing=-1)
    with pytest.raises(ValueError, match="target 2 has no n-grams"):
        pooled_target([some, none], [1, 1])
    with pytest.raises(ValueError, match="selection has no n-grams"):
        kl_reduction(some, some, none)
    for proportions in ([1.0], [0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="proportions"):
            pooled_target([some, some], proportions)
    with pytest.raises(ValueError, match="at least one"):
        pooled_target([])
