"""Each weight is feasible, and its weighted loss equals the least value of the dual, which is computed here on a grid.

Any feasible weights have at most, and any scalars of the dual at least, the value of the optimum: equality proves both.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tamis.selectors.robust_duals import (
    chi2_ball_threshold,
    chi2_penalty_threshold,
    cvar_cut,
    kl_ball_temperature,
    kl_cvar_threshold,
)
from tamis.selectors.robust_weights import (
    chi2_weights,
    cvar_weights,
    kl_cvar_weights,
    kl_weights,
    log_mean_exp,
    running_log_mean,
)

Floats = NDArray[np.float64]
LOSS = np.random.default_rng(3).gamma(2, 1.5, 25)
TIED = np.array([1.0, 4.0, 4.0, 0.5, 2.0, 4.0, 2.0])
LOSSES = st.lists(st.floats(0, 20).map(lambda x: round(x, 3)), min_size=1, max_size=25).map(np.array)


def kl_ball(loss: Floats, radius: float, counts: Floats | None = None) -> Floats:
    return kl_weights(loss, loss.max(), kl_ball_temperature(loss, radius, counts))


def chi2_ball(loss: Floats, radius: float, counts: Floats | None = None) -> Floats:
    return chi2_weights(loss, chi2_ball_threshold(loss, radius, counts), float(loss.max()))


def cvar(loss: Floats, alpha: float, counts: Floats | None = None) -> Floats:
    return cvar_weights(loss, cvar_cut(loss, alpha, counts))


def chi2_penalty(loss: Floats, strength: float, counts: Floats | None = None) -> Floats:
    return chi2_weights(loss, chi2_penalty_threshold(loss, strength, counts), float(loss.max()))


def kl_cvar(loss: Floats, alpha: float, counts: Floats | None = None) -> Floats:
    return kl_cvar_weights(loss, kl_cvar_threshold(loss, alpha, 1.0, counts), alpha, 1.0)


METHODS: dict[str, tuple[Callable[..., Floats], float]] = {
    "kl_ball": (kl_ball, 0.3), "chi2_ball": (chi2_ball, 0.5), "cvar": (cvar, 0.3), "chi2_penalty": (chi2_penalty, 2.0),
    "kl_cvar": (kl_cvar, 0.4),
}  # fmt: skip


def distribution(weights: Floats) -> Floats:
    assert np.isfinite(weights).all() and (weights >= 0).all() and weights.max() <= 1
    return weights / weights.sum()


def entropy_to_uniform(p: Floats) -> float:
    filled = p[p > 0]
    return float(filled @ np.log(filled * p.size))


def least(dual: Callable[[Floats], Floats], low: float, high: float) -> float:
    """Refine a grid around the least value of a convex function."""
    for _ in range(12):
        grid = np.linspace(low, high, 401)
        at = int(np.argmin(dual(grid)))
        low, high = grid[max(at - 1, 0)], grid[min(at + 1, 400)]
    return float(dual(grid).min())


@pytest.mark.parametrize("loss", [LOSS, TIED])
@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 3.5])
def test_kl_ball(loss: Floats, radius: float) -> None:
    p = distribution(kl_ball(loss, radius))
    assert entropy_to_uniform(p) <= radius + 1e-9
    dual = least(lambda x: np.array([t * radius + t * float(log_mean_exp(loss, t)) for t in np.exp(x)]), -9.0, 9.0)
    assert p @ loss == pytest.approx(dual, rel=1e-8 if kl_ball_temperature(loss, radius) else 1e-3)  # 0 is off the grid


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_kl_penalty(strength: float) -> None:
    p = distribution(kl_weights(LOSS, LOSS.max(), strength))
    assert p @ LOSS - strength * entropy_to_uniform(p) == pytest.approx(strength * float(log_mean_exp(LOSS, strength)))


@pytest.mark.parametrize("loss", [LOSS, TIED])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.3, 0.5, 0.77, 1.0])
def test_cvar(loss: Floats, alpha: float) -> None:
    weights = cvar(loss, alpha)
    p = distribution(weights)
    assert weights.mean() == pytest.approx(min(alpha, 1))
    assert p.max() <= 1 / (alpha * loss.size) + 1e-12
    dual = least(lambda eta: eta + np.maximum(loss - eta[:, None], 0).mean(1) / alpha, 0, 20)
    assert p @ loss == pytest.approx(dual, rel=1e-8)


@pytest.mark.parametrize("loss", [LOSS, TIED])
@pytest.mark.parametrize("radius", [0.001, 0.2, 1.0, 4.0, 20.0])
def test_chi2_ball(loss: Floats, radius: float) -> None:
    p = distribution(chi2_ball(loss, radius))
    assert 0.5 * np.mean((p.size * p - 1) ** 2) <= radius + 1e-9

    def dual(eta: Floats) -> Floats:
        return eta + math.sqrt(1 + 2 * radius) * np.sqrt((np.maximum(loss - eta[:, None], 0) ** 2).mean(1))

    assert p @ loss == pytest.approx(least(dual, -300, 20), rel=1e-7)


def test_a_small_chi2_ball_needs_moments_only() -> None:
    rho, std = 0.001, LOSS.std()
    p = distribution(chi2_ball(LOSS, rho))
    np.testing.assert_allclose(p * p.size, 1 + math.sqrt(2 * rho) * (LOSS - LOSS.mean()) / std, rtol=1e-9)
    assert p @ LOSS == pytest.approx(LOSS.mean() + math.sqrt(2 * rho) * std)
    assert chi2_ball_threshold(LOSS, rho) == pytest.approx(LOSS.mean() - std / math.sqrt(2 * rho))


@pytest.mark.parametrize("loss", [LOSS, TIED])
@pytest.mark.parametrize("strength", [0.05, 0.5, 2.0, 50.0])
def test_chi2_penalty(loss: Floats, strength: float) -> None:
    p = distribution(chi2_penalty(loss, strength))
    value = p @ loss - strength / 2 * np.mean((p.size * p - 1) ** 2)

    def dual(eta: Floats) -> Floats:
        return (np.maximum(loss - eta[:, None], 0) ** 2).mean(1) / (2 * strength) + strength / 2 + eta

    assert value == pytest.approx(least(dual, -100, 20), rel=1e-7)
    eta = chi2_penalty_threshold(loss, strength)
    assert np.maximum(loss - eta, 0).mean() == pytest.approx(strength)


@pytest.mark.parametrize("loss", [LOSS, TIED])
@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("strength", [0.05, 1.0, 20.0])
def test_kl_cvar(loss: Floats, alpha: float, strength: float) -> None:
    weights = kl_cvar_weights(loss, kl_cvar_threshold(loss, alpha, strength), alpha, strength)
    assert weights.mean() == pytest.approx(alpha)
    p = distribution(weights)

    def dual(eta: Floats) -> Floats:
        """η + mean of the conjugate of λ(w log w - w + 1) on 0 ≤ w ≤ 1/alpha: exponential, then linear."""
        t = (loss - eta[:, None]) / strength
        capped = t / alpha - (1 / alpha * math.log(1 / alpha) - 1 / alpha + 1)
        return eta + strength * np.where(t < -math.log(alpha), np.expm1(np.minimum(t, 5)), capped).mean(1)

    value = p @ loss - strength * entropy_to_uniform(p)
    assert value == pytest.approx(least(dual, -100, 30), rel=1e-7)


def test_kl_cvar_lies_between_cvar_and_uniform() -> None:
    cold = kl_cvar_weights(LOSS, kl_cvar_threshold(LOSS, 0.3, 1e-6), 0.3, 1e-6)
    np.testing.assert_allclose(cold, cvar(LOSS, 0.3), atol=1e-9)
    hot = kl_cvar_weights(LOSS, kl_cvar_threshold(LOSS, 0.3, 1e9), 0.3, 1e9)
    np.testing.assert_allclose(hot, np.full(LOSS.size, 0.3), rtol=1e-6)
    loose = kl_cvar_weights(LOSS, kl_cvar_threshold(LOSS, 1e-6, 1.0), 1e-6, 1.0)  # the cap never binds
    np.testing.assert_allclose(distribution(loose), distribution(kl_weights(LOSS, LOSS.max(), 1.0)), rtol=1e-9)


@given(LOSSES, st.sampled_from(sorted(METHODS)), st.integers(-50, 50), st.randoms(use_true_random=False))
def test_order_and_origin_of_losses_do_not_matter(loss: Floats, name: str, shift: int, random) -> None:
    method, argument = METHODS[name]
    p = distribution(method(loss, argument))
    order = random.sample(range(loss.size), loss.size)
    np.testing.assert_allclose(distribution(method(loss[order], argument)), p[order], atol=1e-12)
    moved = loss * 1024 + 1024 * shift  # exact, so that no tie or gap appears or goes
    scale = 1024.0 if name in ("chi2_penalty", "kl_cvar") else 1.0
    if name == "kl_cvar":
        again = kl_cvar_weights(moved, kl_cvar_threshold(moved, argument, scale), argument, scale)
    else:
        again = method(moved, argument * scale)
    np.testing.assert_allclose(distribution(again), p, atol=1e-7)


@given(LOSSES, st.sampled_from(sorted(METHODS)))
def test_higher_losses_weigh_more_and_equal_ones_alike(loss: Floats, name: str) -> None:
    method, argument = METHODS[name]
    weights = method(loss, argument)
    assert (np.diff(weights[np.argsort(loss)]) >= -1e-12).all()
    for value in set(loss):
        assert np.ptp(weights[loss == value]) == 0


@given(LOSSES, st.sampled_from(sorted(METHODS)), st.data())
def test_counts_stand_for_repeated_losses(loss: Floats, name: str, data: st.DataObject) -> None:
    counts = np.array(data.draw(st.lists(st.integers(0, 5), min_size=loss.size, max_size=loss.size)))
    assume(counts.sum() > 0)
    method, argument = METHODS[name]
    loss, counts = loss[counts > 0], counts[counts > 0]
    expected = method(np.repeat(loss, counts), argument)
    np.testing.assert_allclose(np.repeat(method(loss, argument, counts), counts), expected, atol=1e-9)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_equal_losses_weigh_alike(name: str) -> None:
    method, argument = METHODS[name]
    np.testing.assert_allclose(distribution(method(np.full(5, 3.3), argument)), np.full(5, 0.2))


def test_sets_of_no_size_weigh_alike() -> None:
    for weights in (kl_ball(LOSS, 0.0), chi2_ball(LOSS, 0.0), cvar(LOSS, 1.0), kl_cvar(LOSS, 1.0)):
        np.testing.assert_allclose(weights, np.ones(LOSS.size))
    for weights in (kl_ball(LOSS, 1e-14), chi2_ball(LOSS, 1e-14), chi2_penalty(LOSS, 1e9)):
        np.testing.assert_allclose(weights, np.ones(LOSS.size), rtol=1e-5)


@pytest.mark.parametrize("method", [kl_ball, chi2_ball])
def test_a_set_larger_than_the_batch_gives_all_to_the_largest(method: Callable[..., Floats]) -> None:
    np.testing.assert_array_equal(method(TIED, 50.0), TIED == 4)


def test_a_ball_that_just_fails_to_hold_the_largest_alone() -> None:
    radius = math.log(TIED.size / 3)
    assert kl_ball_temperature(TIED, radius + 1e-12) == 0
    assert 0 < kl_ball_temperature(TIED, radius - 1e-6) < 1
    radius = (TIED.size / 3 - 1) / 2
    assert chi2_ball_threshold(TIED, radius + 1e-9) == 2.0
    assert chi2_ball_threshold(TIED, radius - 1e-6) < 2.0


def test_losses_of_any_scale_are_solved() -> None:
    for scale in (1e-200, 1e-9, 1e9, 1e200):
        for method, argument in ((kl_ball, 0.3), (chi2_ball, 0.5), (cvar, 0.3)):
            np.testing.assert_allclose(method(LOSS * scale, argument), method(LOSS, argument), rtol=1e-8, atol=1e-12)
    outlier = np.append(LOSS, 1e12)
    for method in (kl_ball, chi2_ball):
        p = distribution(method(outlier, 0.5))
        assert 0.1 < p[-1] < 1


def test_bins_of_losses_are_nearly_as_good() -> None:
    """The state that merges: count and sum of losses per bin."""
    loss = np.random.default_rng(0).gamma(2, 1.5, 20_000)
    bins = (loss * 50).astype(np.int64)
    counts = np.bincount(bins)
    values = np.bincount(bins, loss) / np.maximum(counts, 1)
    assert kl_ball_temperature(values, 0.3, counts) == pytest.approx(kl_ball_temperature(loss, 0.3), rel=1e-4)
    assert chi2_ball_threshold(values, 1.0, counts) == pytest.approx(chi2_ball_threshold(loss, 1.0), abs=1e-3)
    assert chi2_penalty_threshold(values, 1.0, counts) == pytest.approx(chi2_penalty_threshold(loss, 1.0), abs=1e-3)
    assert kl_cvar_threshold(values, 0.2, 1.0, counts) == pytest.approx(kl_cvar_threshold(loss, 0.2, 1.0), abs=1e-3)
    binned = cvar_weights(values[bins], cvar_cut(values, 0.1, counts))
    assert binned.sum() == pytest.approx(2000)
    assert abs((binned @ loss) - (cvar(loss, 0.1) @ loss)) / 2000 < 0.02


def test_the_running_mean_is_one_of_exponentials() -> None:
    batches, u, smoothed = [LOSS[:8], LOSS[8:16], LOSS[16:]], None, None
    for batch in batches:
        mean = np.exp(batch / 2).mean()
        u = mean if u is None else 0.9 * u + 0.1 * mean
        smoothed = running_log_mean(smoothed, log_mean_exp(batch, 2.0), 0.1)
    assert float(smoothed) == pytest.approx(math.log(u))
    assert float(log_mean_exp(np.array([1e6, 1e6]), 1e-3)) == pytest.approx(1e9)  # no overflow


@pytest.mark.parametrize(
    "solve",
    [lambda x: kl_ball_temperature(x, -1.0), lambda x: chi2_ball_threshold(x, math.nan), lambda x: cvar_cut(x, 0.0),
     lambda x: cvar_cut(x, 1.1), lambda x: kl_cvar_threshold(x, 0.5, 0.0), lambda x: chi2_penalty_threshold(x, 0.0),
     lambda x: cvar_cut(np.append(x, np.nan), 0.5), lambda x: cvar_cut(x, 0.5, np.zeros(x.size)),
     lambda x: cvar_cut(x, 0.5, -np.ones(x.size)), lambda x: cvar_cut(x[:0], 0.5), lambda x: cvar_cut(x, 0.5, [1.0]),
     lambda x: chi2_weights(x, 5.0, 5.0)],
)  # fmt: skip
def test_what_cannot_be_solved_is_refused(solve: Callable[[Floats], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        solve(LOSS)


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_agrees_with_numpy(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    loss = TIED.astype(dtype)
    tensor = torch.tensor(loss, requires_grad=True)
    solvers: dict[str, Callable] = {
        "kl_ball": lambda x: kl_weights(x, x.max(), kl_ball_temperature(x, 0.3)),
        "chi2_ball": lambda x: chi2_weights(x, chi2_ball_threshold(x, 0.5), x.max()),
        "cvar": lambda x: cvar_weights(x, cvar_cut(x, 0.3)),
        "chi2_penalty": lambda x: chi2_weights(x, chi2_penalty_threshold(x, 2.0), x.max()),
        "kl_cvar": lambda x: kl_cvar_weights(x, kl_cvar_threshold(x, 0.4, 1.0), 0.4, 1.0),
    }
    found = solvers[name](tensor)
    assert not found.requires_grad and str(found.dtype) == f"torch.{dtype}"
    np.testing.assert_allclose(found.numpy(), solvers[name](loss), rtol=1e-6)
    torch.testing.assert_close(log_mean_exp(tensor, 2.0).item(), float(log_mean_exp(loss, 2.0)))
