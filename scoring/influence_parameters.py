"""Parameters of the scorer `influence`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from .gradient_covariance import DAMPING
from .scorer import ScorerParameters


class InfluenceParameters(ScorerParameters):
    """Parameters of `scorer: influence`."""

    path_keys: ClassVar[tuple[str, ...]] = ("fitted",)

    scorer: Literal["influence"]
    gradients: str | list[str] = Field(description="name or names of scores of `gradients`: one for each checkpoint")
    target: str | list[str] | None = Field(None, description="name or names in `targets`; of several the best counts")
    curvature: Literal["none", "fisher", "diagonal", "datainf"] = Field(
        "fisher",
        description="none: plain products (TracIn, LESS); fisher: as LoGra and TRAK; diagonal: for gradients with "
        "`projection: pca`, as EK-FAC; datainf",
    )
    blocks: Literal["layer", "all"] = Field("layer", description="curvature for each layer (LoGra), or of all (TRAK)")
    normalise: Literal["norm", "self_influence", "none"] = Field(
        "norm", description="what a document is divided by, so that scores do not follow length"
    )
    rates: list[float] | None = Field(
        None, description="learning rates of the checkpoints; default: all count the same"
    )
    damping: float = Field(DAMPING, gt=0, description="added to the curvature, as a share of its mean eigenvalue")
    sample: int | None = Field(
        None,
        ge=1,
        description="documents to measure curvature on; default: 8 for each number of a block, 4,096 to 65,536",
    )
    fitted: str | None = Field(None, description="a saved state to use instead of fitting")

    @property
    def checkpoints(self) -> list[str]:
        """Names of the scores with gradients."""
        return [self.gradients] if isinstance(self.gradients, str) else self.gradients

    @property
    def targets(self) -> list[str]:
        """Names of the targets, none when a saved state is used."""
        return [self.target] if isinstance(self.target, str) else list(self.target or [])

    @model_validator(mode="after")
    def _fits(self) -> InfluenceParameters:
        if bool(self.targets) == (self.fitted is not None):
            raise ValueError("influence needs `target` or `fitted`, one of them")
        for key, names in (("gradients", self.checkpoints), ("target", self.targets)):
            if len(set(names)) != len(names) or (key == "gradients" and not names):
                raise ValueError(f"`{key}` names each score or target once, and at least one")
        if self.rates is not None and len(self.rates) != len(self.checkpoints):
            raise ValueError(f"{len(self.rates)} `rates` for {len(self.checkpoints)} checkpoints")
        if self.rates is not None and not all(0 < rate < float("inf") for rate in self.rates):
            raise ValueError("`rates` are positive numbers")
        if self.normalise == "self_influence" and self.curvature != "fisher":
            raise ValueError("`normalise: self_influence` is of `curvature: fisher`")
        return self
