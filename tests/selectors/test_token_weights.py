import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.token_weights import keep_highest, prior, q_tuning, rho_1, satimp, sstoken_score

RNG = np.random.default_rng(1)
LOSS, REFERENCE = RNG.gamma(1, 2, (4, 12)), RNG.gamma(1, 2, (4, 12))
LABELLED = RNG.random((4, 12)) < 0.7
LABELLED[3] = False


@pytest.mark.parametrize("importance", [0.1, 1.0])
def test_satimp_is_largest_where_its_formula_says(importance: float) -> None:
    """The authors recommend 0.1, their contribution to OpenUnlearning 1.0: 0.98 and 0.833."""
    p = np.linspace(1e-4, 1 - 1e-4, 9999)
    weights = satimp(-np.log(p), 5.0, importance)
    np.testing.assert_allclose(weights, p**5 * (1 - p) ** importance, rtol=1e-9)
    assert p[np.argmax(weights)] == pytest.approx(5 / (5 + importance), abs=1e-4)


def test_satimp_has_no_default_for_what_is_disputed() -> None:
    with pytest.raises(TypeError, match="importance"):
        satimp(LOSS, 5.0)


def test_satimp_keeps_its_factors_apart() -> None:
    p = np.exp(-LOSS)
    np.testing.assert_allclose(satimp(LOSS, 5.0, 0.0), p**5)
    np.testing.assert_allclose(satimp(LOSS, 0.0, 2.0), (1 - p) ** 2)
    np.testing.assert_array_equal(satimp(np.array([0.0, -1e-9, np.inf]), 5.0, 1.0), [0, 0, 0])


def test_prior_is_its_formula() -> None:
    p = np.array([0.01, 0.20, 0.81])
    weights = prior(-np.log(p), np.ones(3, bool))
    np.testing.assert_allclose(weights, 3 * (1 - p) / (1 - p).sum())


def test_prior_has_mean_one_in_each_sequence_even_where_all_is_known_by_heart() -> None:
    reference = np.where(np.arange(4)[:, None] == 1, 0.0, REFERENCE)
    weights = prior(reference, LABELLED)
    assert (weights[~LABELLED] == 0).all()
    np.testing.assert_array_equal(weights[1], LABELLED[1])
    for row in (0, 1, 2):
        assert weights[row][LABELLED[row]].mean() == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.integers(0, 5) | st.sampled_from([math.inf, -math.inf]), st.booleans()), max_size=20),
    st.floats(0, 1),
)
def test_the_highest_tokens_are_kept(tokens: list[tuple[float, bool]], share: float) -> None:
    score = np.array([value for value, _ in tokens], np.float64)
    labelled = np.array([label for _, label in tokens], bool)
    kept = keep_highest(score, labelled, share)
    order = sorted((i for i in range(len(tokens)) if labelled[i]), key=lambda i: (-score[i], i))
    assert sorted(np.flatnonzero(kept)) == sorted(order[: math.ceil(share * len(order) - 1e-9)])


def test_a_share_that_is_whole_is_not_rounded_up() -> None:
    assert 0.07 * 100 > 7  # in floating point
    assert keep_highest(np.arange(100.0), np.ones(100, bool), 0.07).sum() == 7
    with pytest.raises(ValueError, match="share"):
        keep_highest(LOSS, LABELLED, 1.1)


def test_rho_1_and_sstoken_look_in_opposite_directions() -> None:
    current, reference = np.array([3.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0])
    every = np.ones(3, bool)
    np.testing.assert_array_equal(rho_1(current, reference, every, 0.3), [True, False, False])
    fell = sstoken_score(current, reference, every)
    np.testing.assert_array_equal(keep_highest(fell, every, 0.3), [False, True, False])
    np.testing.assert_allclose(fell, [0.0, 1.0, 0.5], atol=1e-8)


def test_sstoken_scales_within_each_response() -> None:
    attention = RNG.random((4, 12))
    score = sstoken_score(LOSS, REFERENCE, LABELLED, attention, 0.25)
    for row in range(3):
        fall = (REFERENCE - LOSS)[row][LABELLED[row]]
        scaled = (fall - fall.min()) / (np.ptp(fall) + 1e-8)
        np.testing.assert_allclose(score[row][LABELLED[row]], 0.25 * scaled + 0.75 * attention[row][LABELLED[row]])
    assert (score[~LABELLED] == 0).all() and np.isfinite(score).all()
    np.testing.assert_array_equal(
        sstoken_score(LOSS + 5, REFERENCE, LABELLED) > 0.5, sstoken_score(LOSS, REFERENCE, LABELLED) > 0.5
    )


def brute_q_tuning(loss: NDArray, labelled: NDArray, share: float, weight: float) -> list[int]:
    ppl = np.exp(loss)
    score = {}
    for t in np.flatnonzero(labelled):
        before = ppl[t - 1] if t > 0 and labelled[t - 1] else ppl[t]
        after = ppl[t + 1] if t + 1 < loss.size and labelled[t + 1] else ppl[t]
        score[t] = (1 - weight) * ppl[t] + weight * (before + after)
    return sorted(sorted(score, key=lambda t: (score[t], t))[: math.ceil(share * len(score) - 1e-9)])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_q_tuning_keeps_the_lowest(share: float, weight: float) -> None:
    kept = q_tuning(LOSS, LABELLED, share, weight)
    for row in range(4):
        assert list(np.flatnonzero(kept[row])) == brute_q_tuning(LOSS[row], LABELLED[row], share, weight)


def test_q_tuning_adds_both_neighbours_whole() -> None:
    """Halving the sum, as a port does, would keep the second token here: 10 + 12 / 2 < 14 + 3 < 10 + 12."""
    ppl = np.array([6.0, 10.0, 6.0, 1.5, 14.0, 1.5])
    kept = q_tuning(np.log(ppl), np.array([True] * 6), 4 / 6)
    assert not kept[1] and kept[4]


def test_q_tuning_survives_any_loss() -> None:
    loss = np.array([1.0, 1e5, np.inf, np.nan, 2.0], np.float32)
    np.testing.assert_array_equal(q_tuning(loss, np.ones(5, bool), 0.25), [False, False, False, False, True])


METHODS: dict[str, Callable] = {
    "satimp": lambda a, _, __: satimp(a, 5.0, 0.1),
    "prior": lambda _, b, mask: prior(b, mask),
    "rho_1": lambda a, b, mask: rho_1(a, b, mask, 0.6),
    "sstoken": lambda a, b, mask: sstoken_score(a, b, mask),
    "q_tuning": lambda a, _, mask: q_tuning(a, mask, 0.5),
}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_torch_agrees_with_numpy(name: str) -> None:
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(array, requires_grad=array.dtype != bool) for array in (LOSS, REFERENCE, LABELLED)]
    found = METHODS[name](*tensors)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), METHODS[name](LOSS, REFERENCE, LABELLED), rtol=1e-12)
    halves = METHODS[name](tensors[0].to(torch.bfloat16), tensors[1].to(torch.bfloat16), tensors[2])
    assert halves.dtype in (torch.float32, torch.bool)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_sequences_do_not_see_each_other(name: str) -> None:
    whole = METHODS[name](LOSS, REFERENCE, LABELLED)
    for row in range(4):
        np.testing.assert_array_equal(METHODS[name](LOSS[row], REFERENCE[row], LABELLED[row]), whole[row])
