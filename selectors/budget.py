"""How much a rank choice keeps of each group, in exact integer arithmetic."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Keep:
    """What to keep of each group; exactly one of the three is given.

    Attributes:
        documents: number of documents, >= 0.
        fraction: share of the group's documents, 0 to 1; a string ("0.29") or a float, which is read as it prints.
        tokens: number of tokens, >= 0.

    Raises:
        ValueError: none or several are given, or one is out of range.
    """

    documents: int | None = None
    fraction: str | float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"keep takes one of documents, fraction and tokens, not {' and '.join(given) or 'none'}")
        if (self.documents or 0) < 0 or (self.tokens or 0) < 0:
            raise ValueError(f"keep: {given[0]} is negative")
        if self.fraction is not None:
            share(self.fraction)

    @property
    def weighted(self) -> bool:
        """Whether the budget is in tokens."""
        return self.tokens is not None


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
    assert keep.documents is not None, "Keep has exactly one"
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
