"""Coverage-centric choice: the hardest documents go, and the rest is sampled evenly over the range of a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from ..connectors.keys import keyed_bits
from .allocate import allocate
from .budget import budget, share
from .cuts import Cuts, Ranked
from .ordering import ascending
from .steps import RankStep

STRATA = 50

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]


class Stratified(RankStep):
    """Drop the hardest documents, and sample the others evenly over the range of a score: CCS, for large cuts.

    What is left is cut into strata of equal width of the score, from its least to its greatest value; strata get equal
    budgets, small ones are taken whole; in a stratum documents are sampled uniformly. A fraction to keep is of all
    documents, with the hardest. Source: Zheng et al. 2023 (arXiv 2210.15809): 50 strata, and the more dropped the less
    is kept, up to 0.3 where a tenth is kept.
    """

    method: Literal["stratified"]
    by: str
    strata: int = Field(STRATA, ge=1, le=1 << 16, description="how many")
    drop: float = Field(0.0, description="share of the documents that are dropped as the hardest, 0 to 1")
    hardness: str | None = Field(None, description="score that is highest for the hardest; default: that in `by`")

    noisy: ClassVar[bool] = True

    @field_validator("drop")
    @classmethod
    def _is_share(cls, drop: float) -> float:
        share(drop)
        return drop

    @model_validator(mode="after")
    def _divides_by_strata(self) -> Stratified:
        if self.divided_by is not None:
            raise ValueError("stratified divides its budget over strata, and takes no `within` or `allocate`")
        return self

    @property
    def ranked_by(self) -> list[str]:
        """The score, and that of hardness."""
        return list(dict.fromkeys([self.by, self.hardness or self.by]))

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """Order of the keyed noise."""
        return keyed_bits(seed, self.name, keys)

    def by_hardness(self, scores: Mapping[str, Float64]) -> UInt64:
        """Return the order in which the hardest come last, uint64[n]. scores: float64[n] by column, without NaN."""
        return ascending(scores[self.hardness or self.by])

    def easy(self, documents: Int64) -> Int64:
        """Return how many documents are left when the hardest are dropped. documents: int64[1]."""
        return documents - np.array([int(share(self.drop) * int(total)) for total in documents], np.int64)

    def budgets(self, everything: int, documents: Int64, tokens: Int64) -> Int64:
        """Return the budget of each stratum, int64[strata]: see `allocate`, equal.

        everything: documents, with those that are dropped; documents, tokens: of each stratum, int64[strata].
        """
        there = tokens if self.keep.weighted else documents
        total = budget(self.keep, np.array([everything]), tokens.sum(keepdims=True))[0]
        return allocate(there, min(int(total), int(there.sum())), "equal")


@dataclass(frozen=True)
class Strata:
    """The strata of a step as they were found.

    low, high: ends of the range of the score over the documents that are not dropped; easy: where the order of
    hardness is cut.
    """

    low: float
    high: float
    easy: Cuts

    def numbers(self, step: Stratified, scores: Mapping[str, Float64], keys: UInt64, positions: UInt64) -> Int64:
        """Return the stratum of each document, -1 for those that are dropped as the hardest, int64[n].

        scores: float64[n] by column, without NaN; keys, positions: uint64[n].
        """
        one = np.zeros(len(keys), np.int64)
        easy = self.easy.inside(Ranked(one, step.by_hardness(scores), keys, positions))
        of = stratum_of(np.clip(scores[step.by], self.low, self.high), self.low, self.high, step.strata)
        return np.where(easy, of, -1)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return them as named arrays, to be stored."""
        easy = {f"easy_{name}": values for name, values in self.easy.to_arrays().items()}
        return {"strata_range": np.array([self.low, self.high]), **easy}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self | None:
        """Restore what `to_arrays` gave; None where that is not among the arrays."""
        if "strata_range" not in arrays:
            return None
        low, high = arrays["strata_range"].tolist()
        easy = {name.removeprefix("easy_"): values for name, values in arrays.items() if name.startswith("easy_")}
        return cls(low, high, Cuts.from_arrays(easy))


def stratum_of(scores: Float64, low: float, high: float, strata: int = STRATA) -> NDArray[np.int64]:
    """Return in which of several strata of equal width each score lies.

    Args:
        scores: float64[n], from low to high.
        low, high: ends of the range, both included; where they are equal, all scores are in stratum 0.
        strata: how many.

    Returns:
        int64[n], 0 to strata - 1.
    """
    if not high > low:
        return np.zeros(len(scores), np.int64)
    width = high / strata - low / strata  # the difference of two large numbers may be infinite
    return np.clip(np.floor((scores - low) / width), 0, strata - 1).astype(np.int64)


def coverage_sample(
    scores: Float64,
    keys: NDArray[np.uint64],
    budget: int,
    seed: int,
    name: str,
    hardness: Float64 | None = None,
    drop: float = 0.0,
    strata: int = STRATA,
) -> NDArray[np.bool_]:
    """Choose documents evenly over the range of a score.

    What is hardest is dropped first; what is left is cut into strata of equal width of the score, from its least to
    its greatest value; the smallest stratum gets its share first, and all of a stratum that is smaller than that; in a
    stratum, documents are sampled uniformly, by keyed noise.

    Args:
        scores: float64[n], finite.
        keys: uint64[n], of the documents.
        budget: how many are chosen; fewer where fewer are left.
        seed: of the run.
        name: of the step.
        hardness: float64[n], high for what is likely mislabelled or noise; default: the scores.
        drop: share of the n documents that is dropped as hardest, rounded down.
        strata: how many.

    Returns:
        bool[n], the chosen ones.

    Raises:
        ValueError: a score is not finite.

    Source: CCS (Zheng et al. 2023, https://arxiv.org/abs/2210.15809): 50 strata, and from 0 to 30 % dropped, the more
        the smaller the budget. Its code cuts the range at 1.0001 times the greatest score, which leaves out the
        greatest one where that is negative; here both ends are in.
    """
    if not np.isfinite(scores).all():
        raise ValueError("strata need finite scores")
    chosen = np.zeros(len(scores), np.bool_)
    noise = keyed_bits(seed, name, keys)
    order = np.lexsort((keys, ascending(scores if hardness is None else hardness)))
    left = np.sort(order[: len(order) - int(share(drop) * len(order))])
    if not len(left):
        return chosen
    of = stratum_of(scores[left], float(scores[left].min()), float(scores[left].max()), strata)
    sizes = np.bincount(of, minlength=strata)
    budgets = allocate(sizes, budget, "equal")
    by_stratum = np.lexsort((noise[left], of))
    place = np.arange(len(left)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its stratum
    chosen[left[by_stratum[place < budgets[of[by_stratum]]]]] = True
    return chosen
