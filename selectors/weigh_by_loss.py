"""The methods of `weigh:` that go by a loss: its shape, robust optimisation, SatImp, focal, small and excess loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from .loss_weights import SHAPES, excess_loss, focal, normalise_loss
from .robust_duals import (
    CvarCut,
    chi2_ball_threshold,
    chi2_penalty_threshold,
    cvar_cut,
    kl_ball_temperature,
    kl_cvar_threshold,
)
from .robust_weights import chi2_weights, cvar_weights, kl_cvar_weights
from .spread import Grid, Spread
from .steps import MIN_TEMPERATURE
from .token_weights import satimp
from .weigher import ByScore, Fitted, Float64, log_of


class Loss(ByScore):
    """Weights by the loss under a frozen model: LinUpper, Quadratic or Extremes of dynamic reweighting, offline.

    Source: Sow et al., ICLR 2025, for batches. Normalising by quantiles of the corpus is ours.
    """

    method: Literal["loss"]
    shape: Literal["lin_upper", "quadratic", "extremes", "linear"] = "lin_upper"
    temperature: float = Field(1.0, ge=MIN_TEMPERATURE, description="least against most preferred is exp(-1/T)")
    range: tuple[float, float] = Field((0.01, 0.99), description="quantiles that count as lowest and highest loss")

    fits: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if not 0 <= self.range[0] < self.range[1] <= 1:
            raise ValueError("`range` is two quantiles from 0 to 1, the lower one first")
        return self

    def fit(self, spread: Spread) -> Fitted:
        """The two quantiles."""
        return {"low": spread.quantile(self.range[0]), "high": spread.quantile(self.range[1])}

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """The shaped loss over the temperature."""
        return SHAPES[self.shape](normalise_loss(signal, fitted["low"], fitted["high"])) / self.temperature


class Dro(ByScore):
    """The worst reweighting of the losses within an ambiguity set: distributionally robust optimisation.

    Source: Namkoong and Duchi 2016; Levy et al. 2020. From 65,536 values of the loss, or fewer with many groups.
    """

    method: Literal["dro"]
    ambiguity: Literal["kl_penalty", "kl_ball", "chi2_penalty", "chi2_ball", "cvar", "kl_cvar"]
    temperature: float | None = Field(None, gt=0, description="of kl_penalty and kl_cvar, in nats")
    radius: float | None = Field(None, ge=0, description="of kl_ball and chi2_ball")
    strength: float | None = Field(None, gt=0, description="of chi2_penalty, in nats")
    alpha: float | None = Field(None, gt=0, le=1, description="share of the worst losses, of cvar and kl_cvar")

    fits: ClassVar[bool] = True
    _TAKES: ClassVar[dict[str, set[str]]] = {
        "kl_penalty": {"temperature"},
        "kl_ball": {"radius"},
        "chi2_penalty": {"strength"},
        "chi2_ball": {"radius"},
        "cvar": {"alpha"},
        "kl_cvar": {"alpha", "temperature"},
    }

    @model_validator(mode="after")
    def _has_its_numbers(self) -> Self:
        given = {name for name in ("temperature", "radius", "strength", "alpha") if getattr(self, name) is not None}
        wanted = self._TAKES[self.ambiguity]
        if given != wanted:
            listed = " and ".join(f"`{name}`" for name in sorted(wanted))
            raise ValueError(f"`ambiguity: {self.ambiguity}` takes {listed}, and no other number")
        return self

    def fit(self, spread: Spread) -> Fitted:
        """The grid, and the scalars that solve the dual."""
        points, counts = spread.points()
        grid = {"low": spread.grid.low, "high": spread.grid.high, "bins": spread.grid.bins}
        match self.ambiguity:
            case "kl_penalty":
                return grid | {"temperature": self.temperature}
            case "kl_ball":
                return grid | {"temperature": kl_ball_temperature(points, self.radius or 0.0, counts)}
            case "chi2_penalty":
                return grid | {"threshold": chi2_penalty_threshold(points, self.strength or 0.0, counts)}
            case "chi2_ball":
                return grid | {"threshold": chi2_ball_threshold(points, self.radius or 0.0, counts)}
            case "cvar":
                return grid | cvar_cut(points, self.alpha or 1.0, counts)._asdict()
            case _:
                threshold = kl_cvar_threshold(points, self.alpha or 1.0, self.temperature or 1.0, counts)
                return grid | {"threshold": threshold}

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """The closed forms; a loss beyond those that were fitted counts as the largest."""
        signal = np.minimum(signal, fitted["high"])
        match self.ambiguity:
            case "kl_penalty" | "kl_ball":
                if fitted["temperature"] == 0:
                    return np.where(signal >= fitted["high"], 0.0, -np.inf)
                return (signal - fitted["high"]) / fitted["temperature"]
            case "chi2_penalty" | "chi2_ball":
                return log_of(chi2_weights(signal, fitted["threshold"], fitted["high"]))
            case "cvar":
                return log_of(_cut(signal, fitted))
            case _:
                return log_of(kl_cvar_weights(signal, fitted["threshold"], self.alpha or 1.0, self.temperature or 1.0))


class SaturationImportance(ByScore):
    """p ** saturation · (1 - p) ** importance, p being exp(-loss): SatImp for whole documents.

    Source: Yang et al., ICML 2025, who weigh tokens; see `output.token_weights` for those.
    """

    method: Literal["saturation_importance"]
    saturation: float = Field(ge=0, description="5 in both published uses, for tokens")
    importance: float = Field(ge=0, description="the authors recommend 0.1, their later code 1.0")

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """Of the mean loss."""
        return log_of(satimp(signal, 0.0, self.importance)) - self.saturation * np.maximum(signal, 0.0)


class Focal(ByScore):
    """(1 - p) ** gamma, p being exp(-loss): hard documents weigh more. Source: Lin et al., ICCV 2017."""

    method: Literal["focal"]
    gamma: float = Field(2.0, ge=0)

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """Of the mean loss."""
        return log_of(focal(signal, self.gamma))


class SmallLoss(ByScore):
    """The smallest losses weigh 1 and the others 0: Co-teaching's guard against wrong labels, offline.

    Small is also easy or learned already. As a selection it is the step `bottom`. Source: Han et al., NeurIPS 2018.
    """

    method: Literal["small_loss"]
    noise_rate: float = Field(ge=0, lt=1, description="share of the largest losses that weigh 0")

    fits: ClassVar[bool] = True

    def signal(self, scores: Mapping[str, Float64]) -> Float64:
        """Minus the loss."""
        return -scores[self.by]

    def fit(self, spread: Spread) -> Fitted:
        """Where the smallest losses end; equal ones share what is left."""
        points, counts = spread.points()
        grid = {"low": spread.grid.low, "high": spread.grid.high, "bins": spread.grid.bins}
        return grid | cvar_cut(points, 1.0 - self.noise_rate, counts)._asdict()

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """0 or -inf, and in between for those at the cut."""
        return log_of(_cut(signal, fitted))


class ExcessLoss(ByScore):
    """Weights proportional to exp((loss - reference loss) / temperature): learnable and not yet learned weighs more.

    Source: RHO-LOSS and Rho-1 choose by this excess (Mindermann et al. 2022, Lin et al. 2024); as a weight it is ours.
    """

    method: Literal["excess_loss"]
    reference: str = Field(description="column with the losses under the reference")
    temperature: float = Field(1.0, ge=MIN_TEMPERATURE, description="in nats; above 1 flattens the weights")

    @property
    def scored_by(self) -> list[str]:
        """Both losses."""
        return [self.by, self.reference]

    def signal(self, scores: Mapping[str, Float64]) -> Float64:
        """The excess."""
        return np.asarray(excess_loss(scores[self.by], scores[self.reference]))

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """The excess over the temperature."""
        return signal / self.temperature


def _cut(signal: Float64, fitted: Fitted) -> Any:
    """Weigh by a cut on the grid, from the same numbers that were counted."""
    grid = Grid(fitted["low"], fitted["high"], fitted["bins"])
    return cvar_weights(grid.rounded(signal), CvarCut(fitted["threshold"], fitted["share"]))
