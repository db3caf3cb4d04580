"""The linear head on vectors against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tamis.scoring.dense_classifier import train_on_vectors, vector_log_odds


def two_classes(n: int, positives: int, d: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    positive = np.arange(n) % (n // positives) == 0
    x = rng.normal(size=(n, d)) + np.where(positive, 0.5, 0)[:, None] * np.arange(d)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), positive


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_weights_are_those_of_scikit_learn(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, positive = two_classes(300, 50, 6)
    shares = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    theirs = linear_model.LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000)
    theirs.fit(x.astype(np.float64), positive, sample_weight=shares)
    ours = train_on_vectors(x, positive, l2, 1000)
    np.testing.assert_allclose(ours, [*theirs.coef_[0], *theirs.intercept_], rtol=1e-2, atol=2e-3)
    np.testing.assert_allclose(vector_log_odds(x, ours), theirs.decision_function(x), atol=5e-3)


def test_swapping_the_classes_changes_signs_only() -> None:
    x, positive = two_classes(120, 40, 5)
    np.testing.assert_array_equal(train_on_vectors(x, positive, 1e-3, 100), -train_on_vectors(x, ~positive, 1e-3, 100))


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes need documents"):
        train_on_vectors(np.ones((3, 2), np.float32), np.zeros(3, bool), 1e-3, 10)
