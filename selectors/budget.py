"""How much a rank choice keeps of each group, in exact integer arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..connectors.settings import Settings
from .allocate import Mode

Int64 = NDArray[np.int64]

GROUP = "group"
"""What steps divide documents by, where no column is named."""

MOST_REPEATED = 1000.0
"""More than a few repetitions of a document are worth little; so many are surely a slip."""


class Keep(Settings):
    """An amount: exactly one of documents, fraction and tokens. A fraction is read as the decimal that it prints as."""

    documents: int | None = Field(None, lt=2**63)
    fraction: float | None = None
    tokens: int | None = Field(None, lt=2**63)

    @model_validator(mode="after")
    def _exactly_one(self) -> Keep:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"takes one of documents, fraction and tokens, not {' and '.join(given) or 'none'}")
        if (self.documents or 0) < 0 or (self.tokens or 0) < 0:
            raise ValueError(f"{given[0]} is negative")
        if self.fraction is not None:
            share(self.fraction)
        return self

    def scaled(self, factor: float) -> Keep:
        """Return the amount for a sample; a fraction stays what it is."""
        if self.amount is None:
            return self
        name = "tokens" if self.weighted else "documents"
        return Keep.model_validate({name: round(self.amount * factor)})

    @property
    def weighted(self) -> bool:
        """Whether the budget is in tokens."""
        return self.tokens is not None

    @property
    def amount(self) -> int | None:
        """Documents or tokens; None for a fraction."""
        return self.documents if self.tokens is None else self.tokens


def _bound(value: Any) -> Any:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    if not 0 <= value <= 1:
        raise ValueError(f"{value} is not a share of the total, 0 to 1; write {{documents: N}} or {{tokens: N}}")
    return {"fraction": value}


Bound = Annotated[Keep, BeforeValidator(_bound)]
"""A floor or a ceiling of a group: a number is a share of the total, anything else an amount."""


class Bounds(Settings):
    """What one group gets at least and at most: a share of the total (0.05), {documents: N} or {tokens: N}."""

    min: Bound | None = None
    max: Bound | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Bounds:
        if self.min is not None and self.max is not None:
            shares = (self.min.fraction, self.max.fraction)
            amounts = (self.min.amount, self.max.amount)
            for low, high in (shares, amounts):
                if low is not None and high is not None and low > high:
                    raise ValueError(f"min {low} is above max {high}")
        return self


class Allocate(Settings):
    """How one total is split over groups.

    A share is of what is kept in all: of `keep`, or of all that is there where that is less. It is rounded to whole
    documents or tokens so that a group never gets less than its `min` or more than its `max`.
    """

    by: str = Field(GROUP, description="group, or a column of whole numbers from 0 on, as of clusters")
    mode: Mode = "proportional"
    score: str | None = Field(None, description="with score_weighted: groups get shares like the means of this score")
    per_group: dict[str, Bounds] = Field(
        {}, description="min and max by group, or by number: 0.05, {documents: N} or {tokens: N}"
    )
    default: Bounds = Field(Bounds(), description="min and max of each other group that has documents")
    repeat: float = Field(
        1.0,
        ge=1,
        le=MOST_REPEATED,
        description="documents of a group smaller than its min weigh up to so many times as much",
    )

    @field_validator("per_group", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        """YAML reads a group such as 2024 as a number."""
        return {str(k) if type(k) is int else k: v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits(self) -> Allocate:
        if (self.mode == "score_weighted") != (self.score is not None):
            raise ValueError("`score` and the mode score_weighted go together; give both or none")
        if self.repeat > 1 and all(bounds.min is None for bounds in self.bounds):
            raise ValueError("`repeat` goes with a `min`, which small groups reach by repetition")
        if self.repeat > 1 and self.by != GROUP:
            raise ValueError("`repeat` goes with `by: group`")
        return self

    @property
    def bounds(self) -> list[Bounds]:
        """Of all named groups, and of the others."""
        return [*self.per_group.values(), self.default]

    def scaled(self, factor: float) -> Allocate:
        """Return the split for a sample: amounts scaled, shares as they are."""

        def of(bounds: Bounds) -> Bounds:
            low, high = (end.scaled(factor) if end is not None else None for end in (bounds.min, bounds.max))
            return bounds.model_copy(update={"min": low, "max": high})

        per_group = {group: of(bounds) for group, bounds in self.per_group.items()}
        return self.model_copy(update={"per_group": per_group, "default": of(self.default)})

    def refuse_impossible(self, keep: Keep) -> None:
        """Raise ValueError where no corpus could satisfy the bounds.

        Args:
            keep: the total that is split.
        """
        unit, other = ("tokens", "documents") if keep.weighted else ("documents", "tokens")
        ends = [end for bounds in self.bounds for end in (bounds.min, bounds.max) if end is not None]
        if any(end.amount is not None and end.weighted != keep.weighted for end in ends):
            raise ValueError(f"allocate: the total is in {unit}, so bounds cannot be in {other}")
        floors = [bounds.min for bounds in self.per_group.values() if bounds.min is not None]
        shares = sum((share(floor.fraction) for floor in floors if floor.fraction is not None), Fraction(0))
        amounts = sum(floor.amount for floor in floors if floor.amount is not None)
        if shares > 1:
            raise ValueError(f"allocate: the `min` of all groups add up to {float(shares):g} of the total; lower some")
        if keep.amount is not None and shares * keep.amount + amounts > keep.amount:
            whole = float(shares * keep.amount + amounts)
            raise ValueError(
                f"allocate: the `min` of all groups add up to {whole:g} of {keep.amount} {unit}; lower some"
            )


def share(value: str | float) -> Fraction:
    """Read a share as the decimal number that it is written as: 0.29 is 29/100, not the float64 next to it.

    Args:
        value: a number from 0 to 1, or its text.

    Returns:
        The exact fraction.

    Raises:
        ValueError: it is no number, or not between 0 and 1.
    """
    try:
        exact = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is not a number between 0 and 1") from None
    if not 0 <= exact <= 1:
        raise ValueError(f"{value!r} is not a number between 0 and 1")
    return exact


def budget(keep: Keep, documents: Int64, tokens: Int64) -> Int64:
    """Give each group's budget, in documents, or in tokens where `keep.weighted`.

    Args:
        keep: what to keep of each group.
        documents: documents of each group, int64[groups].
        tokens: tokens of each group, int64[groups].

    Returns:
        int64[groups], never above what the group has. A fraction is rounded down, so that no group exceeds it.
    """
    if keep.fraction is not None:
        part = share(keep.fraction)
        return _floor(part.numerator, documents, 0, documents, part.denominator)
    if keep.tokens is not None:
        return np.minimum(tokens, keep.tokens)
    assert keep.documents is not None
    return np.minimum(documents, keep.documents)


def band_start(center: str | float, kept: Int64, total: Int64) -> Int64:
    """Give the start of the run of `kept` that lies around a quantile of the order.

    `clip(round(center * total - kept / 2), 0, total - kept)`, half rounded up: the run that grows around one centre
    contains the smaller ones. For tokens it is the start on the axis of token mass: skip the longest prefix of at most
    so many tokens, then take the longest run of at most `kept`. Since whole documents are taken, a run of tokens need
    not contain a smaller one.

    Args:
        center: quantile from 0 to 1 around which the run lies; 0.5 is around the median.
        kept: size of the run in each group (see `budget`), int64[groups].
        total: documents or tokens of each group, int64[groups].

    Returns:
        int64[groups], documents or tokens before the run.

    Raises:
        ValueError: `center` is not between 0 and 1.
    """
    middle = share(center)
    kept = np.minimum(kept, total)
    start = _floor(2 * middle.numerator, total, middle.denominator, kept - 1, 2 * middle.denominator)
    return np.clip(start, 0, total - kept)


def _floor(factor: int, values: Int64, minus: int, others: Int64, divisor: int) -> Int64:
    """floor((factor * values - minus * others) / divisor), in Python integers (a step per group) if 64 bits are few."""
    if max(factor * int(values.max(initial=0)) + minus * int(np.abs(others).max(initial=0)), divisor) < 2**63:
        return (factor * values - minus * others) // divisor
    return ((factor * values.astype(object) - minus * others.astype(object)) // divisor).astype(np.int64)
