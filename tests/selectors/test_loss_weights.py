import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.array_namespace import as_floats, batch_mean_one, namespace
from tamis.selectors.loss_weights import (
    SHAPES,
    batch_weights,
    co_teaching,
    excess_loss,
    extremes,
    focal,
    kept_share,
    lin_upper,
    normalise_loss,
    quadratic,
    small_losses,
    temperature_at,
    tilt,
)

LOSS = np.array([0.3, 2.0, 1.1, 5.0, 2.7, 0.9])
LOSSES = st.lists(st.floats(0, 20), min_size=1, max_size=30).map(np.array)


def published(loss: NDArray[np.float64], name: str, r: float) -> list[float]:
    """The formulas of the paper, sample by sample, sum one."""
    low, high = min(loss), max(loss)
    h = [(2 * x - (high + low)) / max(high - low, 1e-6) for x in loss]
    s = [{"lin_upper": min(x + 1, 1), "quadratic": 1 - x * x, "extremes": abs(x)}[name] for x in h]
    e = [math.exp((x - max(s)) / r) for x in s]
    return [x / sum(e) for x in e]


@pytest.mark.parametrize("name", ["lin_upper", "quadratic", "extremes"])
@pytest.mark.parametrize("r", [0.1, 0.4, 1.0, 100.0])
def test_weights_are_those_of_the_paper_times_their_number(name: str, r: float) -> None:
    np.testing.assert_allclose(batch_weights(LOSS, name, r), len(LOSS) * np.array(published(LOSS, name, r)), rtol=1e-12)


@given(LOSSES, st.sampled_from(sorted(SHAPES)), st.floats(0.01, 100), st.randoms(use_true_random=False))
def test_weights_have_mean_one_and_ignore_order(loss: NDArray, name: str, temperature: float, random) -> None:
    weights = batch_weights(loss, name, temperature)
    assert np.isfinite(weights).all() and (weights >= 0).all()
    assert weights.mean() == pytest.approx(1.0)
    order = random.sample(range(loss.size), loss.size)
    np.testing.assert_allclose(batch_weights(loss[order], name, temperature), weights[order], rtol=1e-12)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_weights_do_not_see_the_unit_or_the_origin_of_losses(name: str) -> None:
    np.testing.assert_allclose(batch_weights(3 * LOSS + 7, name, 0.4), batch_weights(LOSS, name, 0.4), rtol=1e-12)


def test_shapes_prefer_what_their_names_say() -> None:
    h = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    np.testing.assert_array_equal(lin_upper(h), [0, 0.5, 1, 1, 1])
    np.testing.assert_array_equal(quadratic(h), [0, 0.75, 1, 0.75, 0])
    np.testing.assert_array_equal(extremes(h), [1, 0.5, 0, 0.5, 1])
    for shape in SHAPES.values():
        assert (shape(h) >= 0).all() and (shape(h) <= 1).all()


def test_uniform_is_uniform_and_upper_is_not_lin_upper() -> None:
    """Published code has a strategy `uniform` that is a tilt to high losses, and two strategies called `upper`."""
    np.testing.assert_array_equal(batch_weights(LOSS, "uniform", 0.1), np.ones(6))
    assert "upper" not in SHAPES
    plateau = (LOSS.min() + LOSS.max()) / 2 <= LOSS
    assert np.ptp(batch_weights(LOSS, "lin_upper")[plateau]) == 0 < np.ptp(batch_weights(LOSS, "linear")[plateau])


@pytest.mark.parametrize(("temperature", "ratio"), [(100, 0.990), (1.0, 0.368), (0.4, 0.082)])
def test_the_temperature_sets_the_least_weight(temperature: float, ratio: float) -> None:
    weights = batch_weights(LOSS, "lin_upper", temperature)
    assert weights.min() / weights.max() == pytest.approx(ratio, abs=5e-4)


def test_the_limits_of_the_temperature() -> None:
    np.testing.assert_array_equal(batch_weights(LOSS, "linear", math.inf), np.ones(6))
    np.testing.assert_array_equal(batch_weights(LOSS, "linear", 0.0), [0, 0, 0, 6, 0, 0])
    np.testing.assert_allclose(batch_weights(LOSS, "linear", 1e-3), [0, 0, 0, 6, 0, 0], atol=1e-12)
    with pytest.raises(ValueError, match="temperature"):
        batch_weights(LOSS, "linear", -1.0)


def test_equal_losses_weigh_alike_and_a_sequence_without_labels_nothing() -> None:
    np.testing.assert_array_equal(batch_weights(np.full(4, 2.5)), np.ones(4))
    weights = batch_weights(np.append(LOSS, np.nan))
    np.testing.assert_array_equal(weights, np.append(batch_weights(LOSS), 0.0))
    np.testing.assert_array_equal(batch_weights(np.full(2, np.nan)), [0, 0])


def test_no_weight_is_clipped() -> None:
    assert batch_weights(np.append(np.zeros(999), 1.0), "linear", 0.1).max() > 900


def test_the_tilt_is_the_optimum_under_a_kl_penalty() -> None:
    signal, r = np.array([0.2, 1.0, 0.5]), 0.7
    best = tilt(signal, 1.0, r) / tilt(signal, 1.0, r).sum()
    grid = np.array([(a, b, 1 - a - b) for a in np.linspace(0.01, 0.98, 98) for b in np.linspace(0.01, 0.99 - a, 98)])

    def objective(w: NDArray) -> NDArray:
        return w @ signal - r * (w * np.log(3 * w)).sum(-1)

    assert objective(best) >= objective(grid).max() > objective(best) - 1e-3


def test_losses_beyond_robust_edges_are_at_the_edge() -> None:
    np.testing.assert_array_equal(normalise_loss(np.array([0.0, 1.0, 2.0, 3.0, 99.0]), 1.0, 3.0), [-1, -1, 0, 1, 1])


def test_a_signal_of_minus_infinity_has_no_weight() -> None:
    for temperature in (0.0, 1.0, math.inf):
        np.testing.assert_array_equal(tilt(np.array([-np.inf, np.nan, 2.0]), 2.0, temperature), [0, 0, 1])


def test_the_schedule_is_constant_between_its_steps() -> None:
    schedule = ((0, math.inf), (1000, 1.0), (15000, 0.5))
    assert [temperature_at(step, schedule) for step in (0, 999, 1000, 14999, 15000, 10**9)] == [
        math.inf, math.inf, 1.0, 1.0, 0.5, 0.5,
    ]  # fmt: skip
    for wrong in ((), ((1, 1.0),), ((0, 1.0), (0, 2.0))):
        with pytest.raises(ValueError, match="schedule"):
            temperature_at(5, wrong)


def test_excess_is_current_minus_reference() -> None:
    np.testing.assert_array_equal(excess_loss(np.array([3.0, 1.0]), np.array([1.0, 2.0])), [2.0, -1.0])


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_co_teaching_never_drops_more_than_the_noise_and_does_not_jump(exponent: float) -> None:
    """The published code ramps to noise**exponent and then jumps."""
    kept = [kept_share(epoch / 100, 0.3, 10, exponent) for epoch in range(12_000)]
    assert kept[0] == 1.0 and kept[-1] == pytest.approx(0.7) and min(kept) >= 0.7 - 1e-12
    assert all(a >= b for a, b in pairwise(kept))
    assert max(a - b for a, b in pairwise(kept[1:])) < 0.002
    assert kept_share(4, 0.3, 10) == pytest.approx(1 - 0.3 * 4 / 10)


@given(LOSSES, st.integers(0, 30))
def test_small_losses_are_the_smallest(loss: NDArray, k: int) -> None:
    k = min(k, loss.size)
    kept = small_losses(loss, k / loss.size)
    assert kept.sum() == k
    assert not kept.any() or kept.all() or loss[kept].max() <= loss[~kept].min()


def test_a_share_that_is_whole_is_not_rounded_down() -> None:
    assert 0.29 * 100 < 29  # in floating point
    assert small_losses(np.arange(100.0), 0.29).sum() == 29
    assert small_losses(np.arange(100.0), 0.299).sum() == 29


def test_peers_choose_for_each_other_and_never_what_has_no_loss() -> None:
    mine, yours = np.array([1.0, 2.0, np.nan, 4.0]), np.array([9.0, 1.0, 2.0, 1.0])
    to_me, to_you = co_teaching(mine, yours, 0.5)
    np.testing.assert_array_equal(to_me, [False, True, False, True])
    np.testing.assert_array_equal(to_you, [True, True, False, False])
    np.testing.assert_array_equal(small_losses(mine, 1.0), [True, True, False, True])


def test_focal_weighs_by_the_chance_of_being_wrong() -> None:
    p = np.array([0.1, 0.5, 0.999999999])
    np.testing.assert_allclose(focal(-np.log(p), 2.0), (1 - p) ** 2, rtol=1e-6)
    np.testing.assert_allclose(focal(np.array([1e-14]), 1.0), 1e-14, rtol=1e-9)  # not 1 - exp(-loss)
    np.testing.assert_array_equal(focal(np.array([0.0, 3.0, -1e-9]), 0.0), [1, 1, 1])
    np.testing.assert_array_equal(focal(np.array([0.0, -1e-9]), 0.5), [0, 0])


def test_focal_takes_the_loss_before_class_weights() -> None:
    """Published LDAM code takes exp(-class weight · loss) for a probability."""
    loss, class_weight = -np.log(np.array([0.2, 0.2])), np.array([1.0, 3.0])
    weights = focal(loss, 1.0)
    assert weights[0] == weights[1] == pytest.approx(0.8)
    assert focal(loss * class_weight, 1.0)[1] != pytest.approx(0.8)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("temperature", [0.0, 0.4, math.inf])
def test_torch_agrees_with_numpy(name: str, temperature: float) -> None:
    torch = pytest.importorskip("torch")
    loss = np.append(LOSS, np.nan)
    tensor = torch.tensor(loss, requires_grad=True)
    found = batch_weights(tensor, name, temperature)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), batch_weights(loss, name, temperature), rtol=1e-12)


def test_torch_agrees_on_masks_focal_and_schedules_of_halves() -> None:
    torch = pytest.importorskip("torch")
    loss = np.array([1.0, 0.25, np.nan, 0.25, 4.0])
    np.testing.assert_array_equal(small_losses(torch.tensor(loss), 0.4).numpy(), small_losses(loss, 0.4))
    np.testing.assert_allclose(focal(torch.tensor(loss), 2.0).numpy(), focal(loss, 2.0), rtol=1e-12)
    half = focal(torch.tensor([1e-4], dtype=torch.bfloat16), 1.0)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(1e-4, rel=1e-2)  # 1 - exp(-1e-4) is 0 in halves
    through = torch.tensor([0.5], requires_grad=True)
    assert focal(through, 2.0, detach=False).requires_grad and not focal(through, 2.0).requires_grad


def test_only_arrays_and_tensors_are_taken() -> None:
    with pytest.raises(TypeError, match="list"):
        namespace([1.0])
    assert as_floats(np.array([1, 2])).dtype == np.float64
    assert as_floats(np.array([1, 2], np.float16)).dtype == np.float32


def test_the_mean_is_one_over_what_is_known_in_each_sequence() -> None:
    weights = np.array([[1.0, 3.0, 9.0], [0.0, 0.0, 5.0], [1.0, 1.0, 1.0]])
    known = np.array([[True, True, False], [True, True, False], [False, False, False]])
    np.testing.assert_array_equal(batch_mean_one(weights, known), [[0.5, 1.5, 0], [1, 1, 0], [0, 0, 0]])
