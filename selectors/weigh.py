"""The `weigh:` part of a recipe: how much each kept document counts in training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.settings import Settings
from .class_weights import effective_number, inverse_frequency, natural_beta
from .steps import MIN_TEMPERATURE
from .weigh_by_loss import Dro, ExcessLoss, Focal, Loss, SaturationImportance, SmallLoss
from .weigher import ByScore, Fitted, Float64, Weigher, log_of


class Uniform(Settings):
    """Every kept document weighs 1."""

    method: Literal["uniform"] = "uniform"

    @property
    def needs(self) -> list[str]:
        """No score."""
        return []


class Importance(ByScore):
    """Weights proportional to exp(score / temperature): importance weights, where the score is a log ratio.

    Source: importance weights as in DSIR (arXiv 2302.03169), tempered.
    """

    method: Literal["importance"]
    temperature: float = Field(1.0, ge=MIN_TEMPERATURE, description="above 1 flattens the weights")

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """The score over the temperature."""
        return signal / self.temperature


class ClassBalanced(Weigher):
    """Weights of groups by their kept documents: one over the effective number of samples, or inverse frequency.

    Source: Cui et al., CVPR 2019 (effective number).
    """

    method: Literal["class_balanced"]
    kind: Literal["effective_number", "inverse_frequency", "inverse_root"] = "effective_number"
    beta: float | None = Field(None, ge=0, le=1, description="of effective_number; default (N - 1) / N of N documents")

    by_group: ClassVar[bool] = True

    @model_validator(mode="after")
    def _weighs_groups(self) -> Self:
        if self.within is not None:
            raise ValueError("weighs groups against each other, which `within: group` would undo")
        if self.beta is not None and self.kind != "effective_number":
            raise ValueError("`beta` goes with `kind: effective_number`")
        return self

    def fit_groups(self, documents: NDArray[np.int64]) -> list[Fitted]:
        """Return what each group weighs, from how many of its documents are kept, int64[groups]."""
        match self.kind:
            case "effective_number":
                beta = natural_beta(int(documents.sum())) if self.beta is None else self.beta
                weights = effective_number(documents, beta)
            case kind:
                weights = inverse_frequency(documents, 1.0 if kind == "inverse_frequency" else 0.5)
        return [{"log_weight": float(value)} for value in log_of(weights)]

    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """That of the group."""
        return np.full(len(signal), fitted["log_weight"])


AnyWeigher = Annotated[
    Uniform | Importance | Loss | Dro | SaturationImportance | Focal | ClassBalanced | SmallLoss | ExcessLoss,
    Field(discriminator="method"),
]
WEIGHERS: tuple[type[Settings], ...] = (
    Uniform,
    Importance,
    Loss,
    Dro,
    SaturationImportance,
    Focal,
    ClassBalanced,
    SmallLoss,
    ExcessLoss,
)
