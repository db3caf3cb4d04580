"""The `stabilise:` part of a recipe: guards for weights of any origin, on log weights, fitted to their spread."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.settings import Settings
from .diagnostics import temperature_for_ess
from .monotone import MonotoneCalibration, monotone
from .spread import Grid, Spread
from .tail import ParetoTail, fit_tail, pareto_smooth

Float64 = NDArray[np.float64]
Fitted = dict[str, Any]

FOLDS = 5
"""Of monotone calibration, as published."""

MONOTONE_BINS = 1000
"""Bins of the score; the sums of a scope take 0.4 MB."""


def clip_ceiling(sum_w: float, n: int) -> float:
    """Give the ceiling mean · sqrt(n), which costs no consistency as n grows.

    Args:
        sum_w: sum of the weights of the corpus.
        n: their number, > 0.

    Returns:
        The ceiling, in the unit of the weights.

    Source: Ionides, Truncated Importance Sampling, 2008.
    """
    return sum_w / math.sqrt(n)


def uniform_share(n: int, sum_w: float, sum_w2: float, wanted: float) -> float:
    """Find the share of equal weights to mix in, so that weights have a wanted effective sample size.

    Args:
        n: weights.
        sum_w: their sum, > 0.
        sum_w2: sum of their squares.
        wanted: effective sample size in documents, above 0 to n.

    Returns:
        0, where they have it already, to 1, where `wanted` is n.

    Raises:
        ValueError: all weights are zero, or `wanted` is out of range.

    Source: ESS = n / (1 + Var w) for weights of mean one, whose variance the mixture shrinks by (1 - share)².
    """
    if not (sum_w > 0 and 0 < wanted <= n):
        raise ValueError(f"no mixture of {n} weights of sum {sum_w} has an effective sample size of {wanted}")
    variance = n * sum_w2 / (sum_w * sum_w) - 1.0
    ceiling = n / wanted - 1.0
    return 1.0 - math.sqrt(ceiling / variance) if variance > ceiling else 0.0


class Stabiliser(Settings):
    """Base of the guards."""

    method: str

    @property
    def needs(self) -> list[str]:
        """Score columns."""
        return []


class SpreadStabiliser(Stabiliser):
    """Base of the guards that look at the weights alone."""

    @abstractmethod
    def fit(self, spread: Spread) -> Fitted:
        """Learn what is needed of the spread of the log weights in one scope."""

    @abstractmethod
    def apply(self, log_weights: Float64, fitted: Fitted) -> Float64:
        """Return other log weights, float64[n]."""


def _one_of(model: Settings, first: str, second: str) -> None:
    if (getattr(model, first) is None) == (getattr(model, second) is None):
        raise ValueError(f"takes either `{first}` or `{second}`")


class Clip(SpreadStabiliser):
    """No weight above a multiple of the mean; by default the root of the number of documents (Ionides 2008)."""

    method: Literal["clip"]
    ceiling: float | None = Field(None, gt=0, description="in multiples of the mean before; default sqrt(n)")

    def fit(self, spread: Spread) -> Fitted:
        """The ceiling as a log weight."""
        mean = spread.total / spread.documents
        ceiling = clip_ceiling(spread.total, spread.documents) if self.ceiling is None else self.ceiling * mean
        return {"log_ceiling": spread.grid.high + math.log(ceiling)}

    def apply(self, log_weights: Float64, fitted: Fitted) -> Float64:
        """Truncate."""
        return np.minimum(log_weights, fitted["log_ceiling"])


class MixUniform(SpreadStabiliser):
    """Mix with equal weights, by a share or so that the effective sample size is a wanted share of the documents."""

    method: Literal["mix_uniform"]
    share: float | None = Field(None, ge=0, le=1, description="of equal weights; no document falls below it")
    effective_sample_size: float | None = Field(None, gt=0, le=1, description="as a share of the documents")

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        _one_of(self, "share", "effective_sample_size")
        return self

    def fit(self, spread: Spread) -> Fitted:
        """The share, and the mean to mix with."""
        share, n = self.share, spread.documents
        if share is None:
            share = uniform_share(n, spread.total, spread.squares, (self.effective_sample_size or 1.0) * n)
        return {"share": share, "log_mean": spread.grid.high + math.log(spread.total / n)}

    def apply(self, log_weights: Float64, fitted: Fitted) -> Float64:
        """Mix."""
        share = fitted["share"]
        if share in (0, 1):
            return log_weights if share == 0 else np.full(len(log_weights), fitted["log_mean"])
        return np.logaddexp(log_weights + math.log1p(-share), fitted["log_mean"] + math.log(share))


class Temper(SpreadStabiliser):
    """Flatten by a power, given or found for a wanted effective sample size; weights are never sharpened to it."""

    method: Literal["temper"]
    temperature: float | None = Field(None, gt=0, description="weights become w ** (1 / temperature)")
    effective_sample_size: float | None = Field(None, gt=0, le=1, description="as a share of the documents")

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        _one_of(self, "temperature", "effective_sample_size")
        return self

    def fit(self, spread: Spread) -> Fitted:
        """The temperature."""
        if self.temperature is not None:
            return {"temperature": self.temperature}
        high = spread.grid.low + spread.grid.bins * spread.grid.spacing  # the last bin's upper edge, as it is counted
        wanted = (self.effective_sample_size or 1.0) * spread.documents
        return {"temperature": max(temperature_for_ess(spread.counts, spread.grid.low, high, wanted), 1.0)}

    def apply(self, log_weights: Float64, fitted: Fitted) -> Float64:
        """Divide."""
        return log_weights / fitted["temperature"]


class ParetoSmooth(SpreadStabiliser):
    """Replace the largest weights by quantiles of the Pareto distribution that fits them (Vehtari et al. 2024)."""

    method: Literal["pareto_smooth"]

    def fit(self, spread: Spread) -> Fitted:
        """The tail; it is kept whole, 16 bytes for each of some 3 sqrt(n) weights."""
        tail = fit_tail(spread.largest)
        return {"cutoff": tail.cutoff, "raw": tail.raw.tolist(), "smoothed": tail.smoothed.tolist()}

    def apply(self, log_weights: Float64, fitted: Fitted) -> Float64:
        """Smooth what lies in the tail."""
        tail = ParetoTail(math.nan, fitted["cutoff"], np.array(fitted["raw"]), np.array(fitted["smoothed"]))
        return pareto_smooth(log_weights, tail)


class Monotone(Stabiliser):
    """Calibrate weights to rise or fall with a score: SIMCal-W, with its influence function corrected."""

    method: Literal["monotone"]
    by: str = Field(description="the score; a document without it weighs 1")
    reward: str | None = Field(None, description="column whose weighted mean is to vary least; chooses the mixture")
    include_raw: bool = Field(False, description="whether raw weights are mixed in; needs `reward`")
    effective_sample_size: float = Field(0.2, gt=0, le=1, description="at least, as a share of the documents")
    max_variance: float | None = Field(1.0, ge=0, description="of weights with mean one; null: no such limit")

    @property
    def needs(self) -> list[str]:
        """The score, and the reward."""
        return [self.by, *([self.reward] if self.reward is not None else [])]

    @model_validator(mode="after")
    def _has_reward(self) -> Self:
        if self.include_raw and self.reward is None:
            raise ValueError("`include_raw` needs `reward`, which says how much of the raw weights to mix in")
        return self

    def calibrate(self, moments: Float64, score: Grid, log_scale: float) -> Fitted:
        """Learn from the sums of `monotone.bin_moments` of weights exp(log weight - log_scale)."""
        found = monotone(
            moments, self.reward is not None, self.include_raw, self.effective_sample_size, self.max_variance
        )
        value = {"value": found.value.tolist(), "raw_share": found.raw_share}
        return {"low": score.low, "high": score.high, "log_scale": log_scale, **value}

    def apply_by(self, log_weights: Float64, score: Float64, fitted: Fitted) -> Float64:
        """Return calibrated log weights, NaN where the score is missing."""
        known = ~np.isnan(score)
        calibration = MonotoneCalibration(np.array(fitted["value"]), fitted["raw_share"], np.empty(0), 0.0)
        bins = Grid(fitted["low"], fitted["high"], len(fitted["value"])).place(score[known])
        found = np.full(len(log_weights), np.nan)
        with np.errstate(divide="ignore"):
            found[known] = np.log(calibration.apply(np.exp(log_weights[known] - fitted["log_scale"]), bins))
        return found


AnyStabiliser = Annotated[Clip | MixUniform | Temper | ParetoSmooth | Monotone, Field(discriminator="method")]
STABILISERS: tuple[type[Stabiliser], ...] = (Clip, MixUniform, Temper, ParetoSmooth, Monotone)
