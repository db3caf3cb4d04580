"""The steps of `select:` in a recipe: what each needs, and how it ranks or judges documents."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, field_validator, model_validator

from ..connectors.keys import keyed_bits, keyed_gumbel
from ..connectors.settings import Settings
from .budget import GROUP, Allocate, Keep, share
from .ordering import ascending, descending

NAME = re.compile(r"[\w.-]+", re.ASCII)
"""Names of steps and scores: they become columns, reasons and file names."""

NO_SCORE = "no_score"
"""Reason of a document that lacks a score which a step needs."""

MIN_TEMPERATURE = 1e-9
"""Below it scores divided by the temperature would overflow."""

Float64 = NDArray[np.float64]
UInt64 = NDArray[np.uint64]


class Step(Settings):
    """Base of all steps. A step's name keys its noise and is the reason of what it drops."""

    method: str
    name: str = Field("", description="keys the step's noise and names its reason; default method_by")

    @property
    def needs(self) -> list[str]:
        """Score columns that the step reads; a document without one of them is dropped as `no_score`."""
        return []

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"`{name}` is not a name; letters, digits, `_`, `.` and `-` only")
        if name == NO_SCORE:
            raise ValueError(f"`{name}` is the reason of documents without a score; choose another name")
        return name

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: object) -> object:
        if isinstance(values, dict) and not values.get("name"):
            by = values.get("by")
            parts = [str(values.get("method", "")), *(by if isinstance(by, list) else [by] if by else [])]
            return values | {"name": "_".join(map(str, parts))}
        return values


class Threshold(Step):
    """Keep documents whose score lies between two bounds, both included."""

    method: Literal["threshold"]
    by: str
    min: float | None = None
    max: float | None = None

    @property
    def needs(self) -> list[str]:
        """The score that is compared."""
        return [self.by]

    @model_validator(mode="after")
    def _has_bound(self) -> Threshold:
        if self.min is None and self.max is None:
            raise ValueError("threshold needs `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"threshold: min {self.min} is above max {self.max}; nothing would be kept")
        if any(bound is not None and np.isnan(bound) for bound in (self.min, self.max)):
            raise ValueError("a bound is not a number")
        return self

    def passes(self, score: Float64) -> NDArray[np.bool_]:
        """Return which scores lie within the bounds."""
        low = -np.inf if self.min is None else self.min
        high = np.inf if self.max is None else self.max
        return (score >= low) & (score <= high)


class RankStep(Step):
    """Base of steps that put documents in an order and keep a run of it, in total or within each group.

    `keep` is in total, or `within` each group, or one total that `allocate` splits over the groups.
    """

    keep: Keep
    within: str | None = Field(
        None, description="group, or a column of whole numbers: `keep` is the budget of each group or number"
    )
    allocate: Allocate | None = Field(None, description="splits `keep` over the groups, or over the numbers")

    noisy: ClassVar[bool] = False
    """Whether the order depends on the documents' keys, beyond ties."""

    highest_first: ClassVar[bool] = False
    """Whether the ranks are those of `descending`."""

    @model_validator(mode="after")
    def _one_way_to_groups(self) -> Self:
        if self.allocate is not None:
            if self.within is not None:
                raise ValueError("takes `within` (a budget of each group) or `allocate` (a total for all), not both")
            self.allocate.refuse_impossible(self.keep)
        return self

    @property
    def divided_by(self) -> str | None:
        """What each group of documents, with a cut of its own, has in common: `group`, or a score; None: one cut."""
        return self.allocate.by if self.allocate is not None else self.within

    @property
    def by_group(self) -> bool:
        """Whether each group has a cut of its own."""
        return self.divided_by is not None

    @property
    def ranked_by(self) -> list[str]:
        """The scores that make the order."""
        return []

    @property
    def needs(self) -> list[str]:
        """The scores that make the order, then those that weigh and divide the budget."""
        weighs = self.allocate.score if self.allocate is not None else None
        divides = None if self.divided_by == GROUP else self.divided_by
        return list(dict.fromkeys([*self.ranked_by, *(name for name in (weighs, divides) if name is not None)]))

    @abstractmethod
    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Return uint64[n], small first.

        scores: float64[n] by column, without NaN; keys: document keys; pick: which of `picks`; temperature: see
        Resample.
        """

    @property
    def picks(self) -> list[Fraction]:
        """Shares of the budget that are taken one after another; all but resampling by several scores take one."""
        return [Fraction(1)]


class ByScore(RankStep):
    """Base of steps whose order is that of one score."""

    by: str

    @property
    def ranked_by(self) -> list[str]:
        """The score that ranks."""
        return [self.by]


class Top(ByScore):
    """Keep the documents with the highest scores."""

    method: Literal["top"]
    highest_first: ClassVar[bool] = True

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Highest score first."""
        return descending(scores[self.by])


class Bottom(ByScore):
    """Keep the documents with the lowest scores."""

    method: Literal["bottom"]

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Lowest score first."""
        return ascending(scores[self.by])


class Centered(RankStep):
    """Base of steps that keep a run of the order around a quantile."""

    center: float = Field(0.5, description="quantile in the middle of the run; a run that would overhang is shifted")

    @field_validator("center")
    @classmethod
    def _is_share(cls, center: float) -> float:
        share(center)
        return center


class Band(Centered, ByScore):
    """Keep a run of the order around a quantile: the middle scores for center 0.5."""

    method: Literal["band"]

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Lowest score first."""
        return ascending(scores[self.by])


class Sample(RankStep):
    """Keep a uniform sample, keyed by document: the same documents whatever the order and the sharding."""

    method: Literal["sample"]
    noisy: ClassVar[bool] = True

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Order of the keyed noise."""
        return keyed_bits(seed, self.name, keys)


class Perturbed(RankStep):
    """Base of steps that sample without replacement, with probability proportional to exp(score / temperature)."""

    noisy: ClassVar[bool] = True
    highest_first: ClassVar[bool] = True
    temperature: float | None = Field(None, ge=MIN_TEMPERATURE, description="above 1 flattens; default 1, as published")
    effective_sample_size: float | None = Field(
        None, gt=0, le=1, description="instead of a temperature: share of the documents that the weights are worth"
    )

    @model_validator(mode="after")
    def _one_temperature(self) -> Self:
        if self.temperature is not None and self.effective_sample_size is not None:
            raise ValueError(f"{self.method} takes `temperature` or `effective_sample_size`, not both")
        return self

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Highest perturbed score first; each pick has noise of its own."""
        name = self.name if pick == 0 else f"{self.name}/{pick}"
        return descending(scores[self.ranked_by[pick]] / temperature + keyed_gumbel(seed, name, keys))


class Resample(Perturbed):
    """Sample without replacement with probability proportional to exp(score / temperature): Gumbel top-k.

    With several scores and `proportions` the documents are drawn score after score, each from what the ones before it
    left, as DSIR does for separate targets. Source: DSIR (arXiv 2302.03169); temperature 1 is the published form.
    """

    method: Literal["resample"]
    by: str | list[str]
    proportions: list[PositiveFloat] | None = Field(None, description="shares of the budget for several scores in `by`")

    @model_validator(mode="after")
    def _fits(self) -> Resample:
        if not self.by or (isinstance(self.by, list) and len(self.by) != len(self.proportions or [])):
            raise ValueError("resample by several scores needs as many `proportions`")
        if isinstance(self.by, list) and len(set(self.by)) != len(self.by):
            raise ValueError("resample names a score twice in `by`")
        if isinstance(self.by, str) and self.proportions is not None:
            raise ValueError("`proportions` go with several scores in `by`")
        if isinstance(self.by, list) and self.effective_sample_size is not None:
            raise ValueError("`effective_sample_size` goes with one score in `by`")
        return self

    @property
    def ranked_by(self) -> list[str]:
        """The scores that are log weights."""
        return [self.by] if isinstance(self.by, str) else list(self.by)

    @property
    def picks(self) -> list[Fraction]:
        """The proportions, normalised exactly."""
        shares = [Fraction(str(p)) for p in self.proportions or [1]]
        return [s / sum(shares) for s in shares]
