"""Influence against explicit solves of regressions and against retraining; and where published code differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.scoring.datainf import datainf_queries
from tamis.scoring.diagonal_curvature import diagonal_queries
from tamis.scoring.feature_products import feature_products
from tamis.scoring.gradient_covariance import GradientCovariance, self_influence
from tamis.scoring.gradient_projection import layer_projections
from tamis.scoring.less import less_scores, unit_rows
from tamis.scoring.linear_head import el2n, grand, head_gradients, logistic_residuals, softmax_residuals, with_bias
from tamis.scoring.trak import trak_scores

Float64 = NDArray[np.float64]
RIDGE = 0.02


def ranks(values: Float64) -> Float64:
    return np.argsort(np.argsort(values)).astype(np.float64)


def spearman(first: Float64, second: Float64) -> float:
    return float(np.corrcoef(ranks(np.asarray(first)), ranks(np.asarray(second)))[0, 1])


class Regression:
    """Softmax regression with a ridge on points of unlike spread, trained to its optimum by Newton's method."""

    def __init__(self, classes: int, n: int = 400, features: int = 8, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        spread = np.geomspace(3, 0.2, features)
        self.inputs = with_bias(random.normal(size=(n, features)) * spread)
        truth = np.random.default_rng(99).normal(size=(classes, features + 1))
        logits = self.inputs @ truth.T + random.gumbel(size=(n, classes))
        self.labels = logits.argmax(axis=1)
        self.classes, self.n = classes, n
        self.weights = self.trained(np.ones(n))
        self.residuals = softmax_residuals(self.inputs, self.labels, self.weights)
        self.gradients = head_gradients(self.inputs, self.residuals)

    def trained(self, document_weights: Float64) -> Float64:
        weights = np.zeros((self.classes, self.inputs.shape[1]))
        for _ in range(15):
            residuals = softmax_residuals(self.inputs, self.labels, weights).astype(np.float64)
            slope = (residuals * document_weights[:, None]).T @ self.inputs / self.n + RIDGE * weights
            step = np.linalg.solve(self.hessian(weights, document_weights), slope.ravel())
            weights = weights - step.reshape(weights.shape)
        return weights

    def hessian(self, weights: Float64, document_weights: Float64) -> Float64:
        logits = self.inputs @ weights.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        blocks = (p[:, :, None] * np.eye(self.classes) - p[:, :, None] * p[:, None]) * document_weights[:, None, None]
        whole = np.einsum("nab,nc,nd->acbd", blocks, self.inputs, self.inputs, optimize=True) / self.n
        size = weights.size
        return whole.reshape(size, size) + RIDGE * np.eye(size)


@pytest.mark.parametrize("classes", [2, 4])
def test_fisher_is_an_explicit_solve_and_nearer_to_the_hessian_than_products(classes: int) -> None:
    train, held_out = Regression(classes), Regression(classes, n=30, seed=1)
    residuals = softmax_residuals(held_out.inputs, held_out.labels, train.weights)
    query = head_gradients(held_out.inputs, residuals).mean(axis=0, keepdims=True)
    size = train.gradients.shape[1]
    fisher = train.gradients.T.astype(np.float64) @ train.gradients / train.n
    explicit = train.gradients @ np.linalg.solve(fisher + 0.1 * np.trace(fisher) / size * np.eye(size), query[0])
    stored = train.gradients.astype(np.float16)
    covariance = GradientCovariance.of(stored, [size])
    found, _ = feature_products(stored, covariance.preconditioned(query, 0.1).astype(np.float32))
    assert spearman(found[:, 0], explicit) > 0.999
    exact = train.gradients @ np.linalg.solve(train.hessian(train.weights, np.ones(train.n)), query[0])
    plain = train.gradients @ query[0]
    by_fisher, by_product = spearman(found[:, 0], exact), spearman(plain, exact)
    print(f"{classes} classes: against the exact Hessian {by_fisher:.3f}, product {by_product:.3f}")
    assert by_fisher > max(by_product, 0.8)


def test_helpful_documents_lower_the_loss_when_they_count_more() -> None:
    train, held_out = Regression(3, n=60), Regression(3, n=30, seed=1)
    query = head_gradients(held_out.inputs, softmax_residuals(held_out.inputs, held_out.labels, train.weights))

    def loss(weights: Float64) -> float:
        logits = held_out.inputs @ weights.T
        normaliser = np.log(np.exp(logits).sum(axis=1))
        return float((normaliser - logits[np.arange(30), held_out.labels]).mean())

    gained = []
    for i in range(60):
        document_weights = np.ones(60)
        document_weights[i] += 0.5
        gained.append(loss(train.weights) - loss(train.trained(document_weights)))
    blocks = [train.gradients.shape[1]]
    covariance = GradientCovariance.of(train.gradients, blocks)
    mean = query.mean(axis=0, keepdims=True)
    scores = {
        "fisher": train.gradients @ covariance.preconditioned(mean)[0],
        "datainf": train.gradients @ datainf_queries(train.gradients, mean, blocks)[0],
        "product": train.gradients @ mean[0],
        "less": less_scores([train.gradients], [[query]], [1.0]),
    }
    found = {name: spearman(np.array(gained), one) for name, one in scores.items()}
    assert min(found.values()) > 0.3, found
    assert found["fisher"] == max(found.values()) > 0.8


def test_logistic_regression_is_softmax_regression_of_two_classes() -> None:
    train = Regression(2)
    one = logistic_residuals(train.inputs, train.labels, train.weights[1] - train.weights[0])
    np.testing.assert_allclose(np.concatenate([-one, one], axis=1), train.residuals, atol=1e-5)
    extreme = logistic_residuals(np.array([[900.0], [-900.0]], np.float32), np.array([1, 1]), np.ones(1))
    np.testing.assert_allclose(extreme[:, 0], [0, -1])


def test_head_gradients_are_differences_of_losses() -> None:
    train, step = Regression(3, n=12, features=3), 1e-4

    def losses(weights: Float64) -> Float64:
        logits = train.inputs.astype(np.float64) @ weights.T
        return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(12), train.labels]

    for place in np.ndindex(train.weights.shape):
        change = np.zeros_like(train.weights)
        change[place] = step
        slope = (losses(train.weights + change) - losses(train.weights - change)) / (2 * step)
        flat = np.ravel_multi_index(place, train.weights.shape)
        np.testing.assert_allclose(train.gradients[:, flat], slope, atol=1e-4)
    np.testing.assert_allclose(grand(train.inputs, train.residuals), np.linalg.norm(train.gradients, axis=1), rtol=1e-5)
    hardest = np.argmax([losses(train.weights)], axis=1)[0]
    assert el2n(train.residuals)[hardest] >= np.median(el2n(train.residuals))


def test_projected_head_gradients_keep_inner_products_on_average() -> None:
    train = Regression(5, n=40, features=30)
    exact = train.gradients @ train.gradients.T
    found = np.zeros_like(exact)
    for seed in range(60):
        projection = layer_projections({"head": (31, 5)}, 48, "random", seed, blow_up=2)["head"]
        small = head_gradients(train.inputs, train.residuals, projection)
        assert small.shape == (40, 48)
        found += small @ small.T / 60
    assert np.abs(found - exact).mean() < 0.15 * np.abs(exact).mean()
    assert np.mean(np.diag(found) / np.diag(exact)) == pytest.approx(1, abs=0.05)


@given(
    st.integers(1, 30),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 10),
)
def test_datainf_is_the_mean_of_inverses(n: int, blocks: list[int], seed: int, damping: float) -> None:
    random = np.random.default_rng(seed)
    features, queries = random.normal(size=(n, sum(blocks))), random.normal(size=(2, sum(blocks)))
    expected, begin = np.zeros_like(queries), 0
    for size in blocks:
        part = features[:, begin : begin + size]
        level = damping * (part**2).mean()
        inverses = [np.linalg.inv(np.outer(row, row) + level * np.eye(size)) for row in part]
        expected[:, begin : begin + size] = queries[:, begin : begin + size] @ np.mean(inverses, axis=0)
        begin += size
    found = datainf_queries(features, queries, blocks, damping)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert (np.diag(found @ queries.T) > 0).all()  # a gradient like the target's own is helpful, not harmful


def test_a_diagonal_curvature_is_fishers_where_coordinates_do_not_correlate() -> None:
    random = np.random.default_rng(0)
    orthogonal, _ = np.linalg.qr(random.normal(size=(200, 12)))
    features, queries = orthogonal * np.geomspace(30, 0.1, 12), random.normal(size=(3, 12))
    for blocks in ([12], [5, 7]):
        found = diagonal_queries(features, queries, blocks, 0.2)
        np.testing.assert_allclose(found, GradientCovariance.of(features, blocks).preconditioned(queries, 0.2))


def test_a_layer_without_gradients_has_no_curvature() -> None:
    features, queries = np.zeros((4, 3)), np.ones((2, 3))
    features[:, 0] = 2
    np.testing.assert_allclose(diagonal_queries(features, queries, [1, 2], 0.5), [[1 / 6, 2, 2]] * 2)


@given(st.integers(1, 40), st.integers(0, 39), st.integers(0, 2**32 - 1))
def test_covariances_of_parts_add_up(n: int, cut: int, seed: int) -> None:
    features, blocks = np.random.default_rng(seed).normal(size=(n, 5)), [2, 3]
    parts = [GradientCovariance.of(part, blocks) for part in (features[:cut], features[cut:])]
    merged, whole = parts[0].merged(parts[1]), GradientCovariance.of(features, blocks)
    assert merged.count == whole.count == n
    for first, second in zip(merged.sums, whole.sums, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-12, atol=1e-12)
    own = [row @ whole.preconditioned(row[None])[0] for row in features]
    np.testing.assert_allclose(self_influence(features, whole.whitening()), own, rtol=1e-4)


def test_a_covariance_refuses_what_it_cannot_invert() -> None:
    covariance = GradientCovariance.of(np.zeros((3, 4)), [4])
    np.testing.assert_allclose(covariance.preconditioned(np.ones((1, 4)), 0.5), 2)  # a layer without gradients
    for wrong, damping in ((covariance, 0.0), (GradientCovariance.of(np.zeros((0, 4)), [4]), 0.1)):
        with pytest.raises(ValueError, match="needs features, and a damping"):
            wrong.damped(damping)
    with pytest.raises(ValueError, match="blocks of 3"):
        GradientCovariance.of(np.zeros((3, 4)), [3])


def test_less_needs_normalised_documents() -> None:
    """Documents of one direction and of growing noise, like short texts: without lengths of one the noisy ones win."""
    random = np.random.default_rng(0)
    direction = random.normal(size=200)
    noise = np.repeat([0.5, 8.0], 100)[:, None]
    features = direction + noise * random.normal(size=(200, 200))
    examples = [[direction + random.normal(size=(m, 200))] for m in (3, 7)]  # subtasks of unlike size
    chosen = np.argsort(-less_scores([features], examples, [1.0]))[:100]
    assert (chosen < 100).all()
    plain = features @ examples[0][0].mean(axis=0)
    assert np.mean(np.argsort(-plain)[:20] >= 100) > 0.5
    np.testing.assert_allclose(less_scores([features * 5], examples, [1.0]), less_scores([features], examples, [1.0]))


def test_less_weighs_checkpoints_by_rate_and_takes_the_best_subtask() -> None:
    random = np.random.default_rng(1)
    features = [random.normal(size=(6, 9)) for _ in range(2)]
    subtasks = [[random.normal(size=(m, 9)) for _ in range(2)] for m in (2, 5)]
    found = less_scores(features, subtasks, [3e-5, 1e-5])
    for i in range(6):
        by_subtask = []
        for subtask in subtasks:
            cosines = [
                np.mean([f[i] @ q / np.linalg.norm(f[i]) / np.linalg.norm(q) for q in examples])
                for f, examples in zip(features, subtask, strict=True)
            ]
            by_subtask.append(0.75 * cosines[0] + 0.25 * cosines[1])
        assert found[i] == pytest.approx(max(by_subtask))
    with pytest.raises(ValueError, match="positive"):
        less_scores(features, subtasks, [1.0, 0.0])
    assert (unit_rows(np.zeros((1, 3))) == 0).all()


def test_trak_takes_its_two_means_apart() -> None:
    random = np.random.default_rng(2)
    features = [random.normal(size=(20, 4)) for _ in range(3)]
    queries = [random.normal(size=(2, 4)) for _ in range(3)]
    unlearnt = [random.uniform(size=20) for _ in range(3)]
    found = trak_scores(features, queries, unlearnt, 0.1)
    products = [f @ np.linalg.inv(f.T @ f + 0.1 * np.eye(4)) @ q.T for f, q in zip(features, queries, strict=True)]
    np.testing.assert_allclose(found, np.mean(products, axis=0) * np.mean(unlearnt, axis=0)[:, None])
    together = np.mean([p * u[:, None] for p, u in zip(products, unlearnt, strict=True)], axis=0)
    assert np.abs(found - together).max() > 1e-3


@given(st.integers(0, 20), st.integers(1, 70), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_products_are_those_of_float32(n: int, d: int, q: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    bits = random.integers(0, 0x7C00, (n, d)) | random.integers(0, 2, (n, d)) << 15  # every finite float16
    features = bits.astype(np.uint16).view(np.float16)
    queries = random.normal(size=(q, d)).astype(np.float32)
    found, lengths = feature_products(features, queries)
    exact = features.astype(np.float64)
    scale = np.abs(exact) @ np.abs(queries.T.astype(np.float64))
    assert (np.abs(found - exact @ queries.T) <= 1e-5 * scale).all()
    np.testing.assert_allclose(lengths, np.linalg.norm(exact, axis=1), rtol=1e-5, atol=1e-20)


def test_products_refuse_queries_of_another_size() -> None:
    with pytest.raises(ValueError, match="queries of 3"):
        feature_products(np.zeros((2, 4), np.float16), np.zeros((1, 3), np.float32))
