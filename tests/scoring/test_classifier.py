"""The optimum is one, signs swap with the classes, and separable documents are separated."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.scoring.classifier import Features, area_under_curve, document_features, log_odds, train
from tamis.scoring.token_sample import words_of
from tamis.scoring.tokenizer import Tokens, tokenize

BUCKETS = 1 << 12
WANTED = [
    "the mean of the sample",
    "a proof of the theorem",
    "we prove the lemma",
    "the sample mean",
    "lemma and proof",
]
OTHERS = ["buy cheap watches now", "click here", "cheap cheap cheap", "watches for you", "win the prize now", "you win"]
SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


def features_of(texts: list[str], ngrams: int = 2) -> tuple[Tokens, Features]:
    tokens = tokenize(pa.array(texts, pa.string()))
    return tokens, document_features(tokens.offsets, words_of(tokens), ngrams, BUCKETS)


def dense(features: Features) -> NDArray[np.float64]:
    matrix = np.zeros((len(features.starts) - 1, BUCKETS))
    for i in range(len(matrix)):
        part = slice(features.starts[i], features.starts[i + 1])
        matrix[i, features.buckets[part]] = features.values[part]
    return matrix


def test_features_are_roots_of_shares() -> None:
    texts = ["a b a b a", "", "one", "b a a a a a a a b"]
    _, features = features_of(texts)
    for i, text in enumerate(texts):
        words = text.split()
        counts = Counter(words) + Counter(itertools.pairwise(words))
        expected = sorted(math.sqrt(count / sum(counts.values())) for count in counts.values())
        found = np.sort(features.values[features.starts[i] : features.starts[i + 1]])
        assert found == pytest.approx(expected, rel=1e-6)
    assert (dense(features) ** 2).sum(axis=1) == pytest.approx([1, 0, 1, 1], rel=1e-6)


def test_the_gradient_vanishes_at_the_result() -> None:
    _, features = features_of(WANTED + OTHERS)
    positive = np.arange(11) < 5
    l2 = 0.01
    weights = train(features, positive, BUCKETS, l2, 500)
    matrix = np.hstack([dense(features), np.ones((11, 1))])
    signs, shares = np.where(positive, 1, -1), np.where(positive, 0.5 / 5, 0.5 / 6)

    def loss(point: NDArray[np.float64]) -> float:
        return float(shares @ np.log1p(np.exp(-signs * (matrix @ point))) + l2 / 2 * point[:-1] @ point[:-1])

    slope = -shares * signs / (1 + np.exp(signs * (matrix @ weights)))
    gradient = matrix.T @ slope + l2 * np.append(weights[:-1], 0)
    assert np.linalg.norm(gradient) < 2e-5
    random = np.random.default_rng(0)
    assert all(loss(weights) < loss(weights + 0.1 * random.normal(size=BUCKETS + 1)) for _ in range(20))


def test_swapping_the_classes_changes_signs_only() -> None:
    _, features = features_of(WANTED + OTHERS)
    positive = np.arange(11) < 5
    weights, swapped = (train(features, classes, BUCKETS, 1e-4, 50) for classes in (positive, ~positive))
    assert np.array_equal(weights, -swapped) and np.abs(weights).max() > 1


def test_separable_documents_are_separated() -> None:
    tokens, features = features_of(WANTED + OTHERS)
    positive = np.arange(11) < 5
    weights = train(features, positive, BUCKETS, 1e-5, 100)
    odds = log_odds(tokens.offsets, words_of(tokens), np.ones(11, np.bool_), weights, 2)
    assert area_under_curve(odds[positive], odds[~positive]) == 1
    assert (odds[positive] > 2).all() and (odds[~positive] < -2).all()
    assert odds == pytest.approx(dense(features) @ weights[:-1] + weights[-1], rel=1e-5)


def test_only_chosen_documents_are_scored_and_the_empty_one_has_the_bias() -> None:
    tokens, features = features_of(["good good", "bad", ""])
    weights = train(features, np.array([True, False, False]), BUCKETS, 0.1, 50)
    odds = log_odds(tokens.offsets, words_of(tokens), np.array([False, True, True]), weights, 2)
    assert odds[0] == 0 and odds[2] == weights[-1] and odds[1] < odds[2]


def test_both_classes_weigh_the_same() -> None:
    """A word that is as frequent in both classes says nothing, however many documents each one has."""
    texts = ["x", "y"] + ["x", "y"] * 40
    tokens, features = features_of(texts, 1)
    weights = train(features, np.arange(len(texts)) < 2, BUCKETS, 1e-4, 100)
    odds = log_odds(tokens.offsets, words_of(tokens), np.ones(len(texts), np.bool_), weights, 1)
    assert odds == pytest.approx(np.zeros(len(texts)), abs=1e-3)


@given(SCORES, SCORES)
def test_area_is_the_share_of_pairs_in_order(positive: list[int], negative: list[int]) -> None:
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    area = area_under_curve(np.array(positive, float), np.array(negative, float))
    assert area == pytest.approx(sum(pairs) / len(pairs))


def test_one_class_is_refused() -> None:
    _, features = features_of(WANTED)
    for positive in (np.ones(5, np.bool_), np.zeros(5, np.bool_)):
        with pytest.raises(ValueError, match="both classes"):
            train(features, positive, BUCKETS, 1e-4, 10)
