import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tamis.selectors.class_weights import (
    deferred_beta,
    effective_number,
    inverse_frequency,
    inverse_root,
    natural_beta,
)

COUNTS = np.array([1000, 100, 10, 1, 0])


def test_inverse_frequency_makes_classes_count_alike() -> None:
    weights = inverse_frequency(COUNTS)
    np.testing.assert_allclose(weights, [1111 / (4 * 1000), 1111 / (4 * 100), 1111 / (4 * 10), 1111 / 4, 0])
    np.testing.assert_allclose((COUNTS * weights)[:4], np.full(4, 1111 / 4))


def test_the_root_is_milder() -> None:
    weights = inverse_root(COUNTS)
    assert weights[3] / weights[0] == pytest.approx(np.sqrt(1000))


def test_effective_number_is_the_published_one() -> None:
    counts, beta = np.array([5000, 500, 50]), 0.999
    published = (1 - beta) / (1 - beta ** counts.astype(float))
    published *= 3 / published.sum()
    np.testing.assert_allclose(effective_number(counts, beta, "classes"), published, rtol=1e-9)
    weights = effective_number(counts, beta)
    np.testing.assert_allclose(weights / weights[0], published / published[0])
    assert counts @ weights == pytest.approx(counts.sum())


def test_effective_number_goes_from_equal_to_inverse_frequency() -> None:
    np.testing.assert_allclose(effective_number(COUNTS, 0.0), [1, 1, 1, 1, 0])
    np.testing.assert_allclose(effective_number(COUNTS, 1.0), inverse_frequency(COUNTS))
    np.testing.assert_allclose(effective_number(COUNTS, 1 - 1e-13), inverse_frequency(COUNTS), rtol=1e-9)
    np.testing.assert_allclose(effective_number(COUNTS, 1e-300), [1, 1, 1, 1, 0])


def test_beyond_the_effective_number_documents_count_no_more() -> None:
    weights = effective_number(np.array([10**12, 10**6, 1]), 0.99)  # 0.99**(10**6) underflows
    assert weights[0] == weights[1] and weights[2] / weights[1] == pytest.approx(100)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8).filter(any), st.floats(0, 1))
def test_means_are_one_and_rare_classes_never_weigh_less(counts: list[int], beta: float) -> None:
    n = np.array(counts)
    for make in (inverse_frequency, inverse_root, lambda c, scale: effective_number(c, beta, scale)):
        weights = make(n, scale="documents")
        assert np.isfinite(weights).all() and ((weights > 0) == (n > 0)).all()
        assert n @ weights == pytest.approx(n.sum(), rel=1e-9)
        order = np.argsort(n[n > 0])
        assert (np.diff(weights[n > 0][order]) <= 1e-9 * weights.max()).all()
        assert make(n, scale="classes")[n > 0].mean() == pytest.approx(1.0)


def test_reweighting_can_be_deferred() -> None:
    assert [deferred_beta(epoch, 0.9999, 160) for epoch in (0, 159, 160)] == [0.0, 0.0, 0.9999]
    assert natural_beta(4) == 0.75 and natural_beta(1) == 0.0


def test_nonsense_is_refused() -> None:
    for counts in (np.array([0, 0]), np.array([3, -1])):
        with pytest.raises(ValueError, match="counts"):
            inverse_frequency(counts)
    for beta in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="beta"):
            effective_number(COUNTS, beta)
    with pytest.raises(ValueError, match="power"):
        inverse_frequency(COUNTS, -1.0)
