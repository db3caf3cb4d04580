"""Weighers offline: what they give for a corpus is what their method gives for one batch of all its documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from spreads import spread_of
from tamis.selectors.class_weights import effective_number
from tamis.selectors.loss_weights import batch_weights
from tamis.selectors.monotone import bin_moments
from tamis.selectors.robust_duals import chi2_ball_threshold, cvar_cut, kl_ball_temperature
from tamis.selectors.robust_weights import chi2_weights, cvar_weights, kl_cvar_weights
from tamis.selectors.spread import Grid
from tamis.selectors.stabilise import Monotone
from tamis.selectors.weigh import AnyWeigher, ClassBalanced
from tamis.selectors.weigher import Weigher
from tamis.selectors.weighing import Weighing

LOSS = np.random.default_rng(0).gamma(4, 0.8, 3000)


def weigher(**keys: Any) -> Weigher:
    return TypeAdapter(AnyWeigher).validate_python(keys)


def mean_one(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights / weights.mean()


def weights_by(loss: NDArray[np.float64], **keys: Any) -> NDArray[np.float64]:
    """Fit to a whole corpus at once and weigh it."""
    of = weigher(by="loss", **keys)
    signal = of.signal({"loss": loss, "reference": np.full(loss.size, 1.5)})
    fitted = of.fit(spread_of(signal)) if of.fits else {}
    return mean_one(np.exp(of.log_weights(signal, fitted)))


@pytest.mark.parametrize("shape", ["lin_upper", "quadratic", "extremes", "linear"])
def test_loss_with_the_whole_range_is_the_online_form(shape: str) -> None:
    found = weights_by(LOSS, method="loss", shape=shape, temperature=0.4, range=[0, 1])
    np.testing.assert_allclose(found, batch_weights(LOSS, shape, 0.4), rtol=1e-3)


def test_one_outlier_squeezes_the_others_only_without_quantiles() -> None:
    loss = np.append(LOSS, 1e4)
    squeezed = weights_by(loss, method="loss", range=[0, 1])[:-1]
    robust = weights_by(loss, method="loss")[:-1]
    assert np.ptp(squeezed) < 0.01 < 0.5 < np.ptp(robust)
    np.testing.assert_allclose(mean_one(robust), weights_by(LOSS, method="loss"), rtol=0.01)


def test_robust_weights_are_those_of_the_exact_solve() -> None:
    highest = LOSS.max()
    exact = {
        ("kl_penalty", ("temperature", 0.7)): np.exp(LOSS / 0.7),
        ("kl_ball", ("radius", 0.3)): np.exp(LOSS / kl_ball_temperature(LOSS, 0.3)),
        ("chi2_ball", ("radius", 0.5)): chi2_weights(LOSS, chi2_ball_threshold(LOSS, 0.5), highest),
        ("chi2_penalty", ("strength", 9.0)): LOSS - (LOSS.mean() - 9.0),  # no loss is below
        ("cvar", ("alpha", 0.2)): cvar_weights(LOSS, cvar_cut(LOSS, 0.2)),
    }
    for (ambiguity, number), expected in exact.items():
        found = weights_by(LOSS, method="dro", ambiguity=ambiguity, **dict([number]))
        np.testing.assert_allclose(found, mean_one(expected), rtol=1e-3, atol=2e-3, err_msg=ambiguity)
    capped = weights_by(LOSS, method="dro", ambiguity="kl_cvar", alpha=0.25, temperature=1.0)
    assert capped.max() == pytest.approx(4.0, rel=1e-3)
    assert mean_one(kl_cvar_weights(LOSS, 0.0, 0.25, 1.0)).max() < 4  # η matters


@pytest.mark.parametrize("ambiguity", ["kl_ball", "chi2_ball", "cvar", "kl_cvar", "chi2_penalty", "kl_penalty"])
def test_equal_losses_weigh_alike(ambiguity: str) -> None:
    number = {"kl_ball": {"radius": 0.3}, "chi2_ball": {"radius": 0.3}, "cvar": {"alpha": 0.1},
              "kl_cvar": {"alpha": 0.1, "temperature": 1.0}, "chi2_penalty": {"strength": 1.0},
              "kl_penalty": {"temperature": 1.0}}[ambiguity]  # fmt: skip
    np.testing.assert_allclose(weights_by(np.full(30, 2.5), method="dro", ambiguity=ambiguity, **number), 1.0)


def test_pointwise_weighers_are_their_formulas() -> None:
    p = np.exp(-LOSS)
    np.testing.assert_allclose(weights_by(LOSS, method="focal", gamma=0.5), mean_one((1 - p) ** 0.5))
    found = weights_by(LOSS, method="saturation_importance", saturation=5, importance=0.1)
    np.testing.assert_allclose(found, mean_one(p**5 * (1 - p) ** 0.1))
    found = weights_by(LOSS, method="excess_loss", reference="reference", temperature=2)
    np.testing.assert_allclose(found, mean_one(np.exp((LOSS - 1.5) / 2)))
    far = weigher(method="saturation_importance", by="loss", saturation=5, importance=0.1)
    assert np.isfinite(far.log_weights(np.array([900.0]), {})).all()  # exp(-4500) is zero, its logarithm is not


def test_small_loss_keeps_the_smallest() -> None:
    found = weights_by(LOSS, method="small_loss", noise_rate=0.3)
    kept = found > 1e-9
    assert kept.sum() == pytest.approx(0.7 * LOSS.size, abs=2)
    assert LOSS[kept].max() <= LOSS[~kept].min()


def test_class_balanced_is_by_what_is_kept() -> None:
    counts = np.array([900, 90, 0, 10])
    fitted = ClassBalanced(method="class_balanced", beta=0.99).fit_groups(counts)
    logs = np.array([of["log_weight"] for of in fitted])
    np.testing.assert_allclose(np.exp(logs), effective_number(counts, 0.99))
    groups = np.repeat([0, 1, 3], [900, 90, 10])
    weighing = Weighing(weigher(method="class_balanced", kind="inverse_frequency"))
    fitted = weighing.weigher.fit_groups(counts)
    logs = weighing.with_stage(fitted).log_weights({}, groups)
    sums = [np.exp(logs[groups == g]).sum() for g in (0, 1, 3)]
    np.testing.assert_allclose(sums, sums[0])


@pytest.mark.parametrize(
    ("keys", "says"),
    [({"method": "dro", "by": "a", "ambiguity": "cvar"}, "takes `alpha`"),
     ({"method": "dro", "by": "a", "ambiguity": "kl_ball", "radius": 1, "alpha": 1}, "takes `radius`"),
     ({"method": "loss", "by": "a", "range": [0.9, 0.1]}, "lower one first"),
     ({"method": "class_balanced", "within": "group"}, "would undo"),
     ({"method": "class_balanced", "kind": "inverse_root", "beta": 0.9}, "beta"),
     ({"method": "focal", "by": "a", "stabilise": [{"method": "temper"}]}, "either `temperature` or"),
     ({"method": "focal", "by": "a", "stabilise": [{"method": "mix_uniform", "share": 1, "effective_sample_size": 1}]},
      "either `share` or"),
     ({"method": "focal", "by": "a", "stabilise": [{"method": "monotone", "by": "b", "include_raw": True}]},
      "needs `reward`")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        weigher(**keys)


def test_scopes_and_stages_and_documents_without_a_score() -> None:
    """Two groups with their own temperature, mixed with uniform; one group was never fitted."""
    score = np.array([0.0, 2.0, 4.0, np.nan, 1.0, 3.0, 9.0])
    groups = np.array([0, 0, 1, 1, 1, 0, 2])
    stages = [{"method": "temper", "temperature": 2.0}, {"method": "clip", "ceiling": 1.0}]
    weighing = Weighing(weigher(method="importance", by="s", within="group", stabilise=stages))
    weighing = weighing.with_stage([{}, {}, None]).with_stage([{"temperature": 2.0}, {"temperature": 4.0}, None])
    weighing = weighing.with_stage([{"log_ceiling": 1.2}, {"log_ceiling": 9.0}, None])
    logs = weighing.log_weights({"s": score}, groups)
    np.testing.assert_allclose(logs, [0, 1, 1, np.nan, 0.25, 1.2, np.nan])
    restored = Weighing.from_json(weighing.weigher, weighing.to_json())
    assert restored == weighing
    with pytest.raises(ValueError, match="infinite"):
        weighing.log_weights({"s": np.array([np.inf])}, np.array([0]))


def test_monotone_calibration_rises_with_its_score() -> None:
    rng = np.random.default_rng(3)
    score = rng.random(4000)
    logs = 3 * score + rng.normal(size=4000)
    stabiliser = Monotone(method="monotone", by="s", max_variance=None)
    grid = Grid(float(score.min()), float(score.max()), 200)
    shape = (5, 200)
    moments = bin_moments(np.exp(logs - logs.max()), grid.place(score), rng.integers(0, 5, 4000), shape)
    fitted = stabiliser.calibrate(moments, grid, float(logs.max()))
    found = np.exp(stabiliser.apply_by(logs, np.append(score[:-1], np.nan), fitted))
    assert np.isnan(found[-1])
    order = np.argsort(grid.place(score[:-1]), kind="stable")
    assert (np.diff(found[:-1][order]) >= -1e-12).all()
    assert found[:-1].mean() == pytest.approx(1, rel=0.01)
    assert found[:-1].max() / found[:-1].min() > 3
