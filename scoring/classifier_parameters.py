"""What recipes say of the scorer `classifier`, whichever features it has."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from .scorer import ScorerParameters
from .token_sample import LONGEST

_OF_NGRAMS = ("ngrams", "buckets", "max_tokens", "fit_fraction", "min_tokens")
_OF_VECTORS = ("sample",)


class ClassifierParameters(ScorerParameters):
    """Parameters of `scorer: classifier`."""

    path_keys: ClassVar[tuple[str, ...]] = ("fitted",)

    scorer: Literal["classifier"]
    target: str | list[str] | None = Field(None, description="name or names in `targets`, taken together")
    ngrams: int = Field(2, ge=1, le=8)
    buckets: int = Field(1 << 18, ge=1, le=1 << 26, description="16 bytes each, and 200 while training")
    max_tokens: int = Field(
        5_000_000, ge=LONGEST, description="of either class to train on, a keyed sample; 50 bytes each while training"
    )
    fit_fraction: float = Field(0.1, gt=0, le=1, description="share of the corpus to take the other class from")
    l2: float = Field(1e-5, gt=0, description="strength of the regularisation, against the mean loss")
    iterations: int = Field(100, ge=1, le=10_000, description="of L-BFGS, at most")
    min_tokens: int = Field(20, ge=1, description="shorter documents are not learnt from, and get no score")
    features: str | None = Field(
        None, description="a score of `scorer: embedding`, whose vectors are the features instead of n-grams"
    )
    sample: int = Field(
        10_000, ge=2, description="of `features`: documents of either class to train on; 8 bytes a dimension each"
    )
    fitted: str | None = Field(None, description="a saved state to use instead of fitting")

    @property
    def targets(self) -> list[str]:
        """Names of the targets, none when a saved state is used."""
        return [self.target] if isinstance(self.target, str) else list(self.target or [])

    @model_validator(mode="after")
    def _fits(self) -> ClassifierParameters:
        if bool(self.targets) == (self.fitted is not None):
            raise ValueError("classifier needs `target` or `fitted`, one of them")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("classifier names a target twice")
        for key in _OF_NGRAMS if self.features is not None else _OF_VECTORS:
            if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` is for {'n-grams' if self.features is not None else '`features`'} only")
        return self
