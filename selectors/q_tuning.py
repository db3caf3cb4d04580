"""Q-Tuning's triage of documents: perplexity against entropy, cut into four quadrants by their quantiles.

Quadrants: 1, high perplexity and high entropy (noise); 2, high and low (a valuable misconception); 3, low and low
(redundant); 4, low and high (calibration). 2 and 4 are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .cuts import Cuts
from .ordering import ascending, inverse
from .steps import Float64, RankStep, UInt64

PLACE = "place in the plane of perplexity and entropy"
"""The score that ranks, see `Plane.place`; no column has a space in its name."""

EXTREME = 1000
"""Of so many documents one may be left out at each end of a scale."""

OUTSIDE = 1.0
"""Places from here on are those of documents outside of the quadrants 2 and 4."""


@dataclass(frozen=True)
class Distribution:
    """How a score is distributed over the candidates.

    Attributes:
        low, high: the smallest and the largest value; low < high.
        ends: int64[bins + 1], how many documents lie before each edge of bins of equal width from low to high.
    """

    low: float
    high: float
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, low: float, high: float, counts: NDArray[np.int64]) -> Self:
        """Return the distribution with these counts in bins of equal width, int64[bins]."""
        return cls(low, high, np.concatenate([[0], np.cumsum(counts)]))

    def shares(self, values: Float64) -> tuple[Float64, Float64]:
        """Return the shares of all documents that lie below and above values; those in the same bin are neither.

        values: float64[n], without NaN.
        """
        bins, total = len(self.ends) - 1, max(int(self.ends[-1]), 1)
        place = np.clip((values - self.low) * (bins / (self.high - self.low)), 0, bins - 1).astype(np.int64)
        return self.ends[place] / total, (total - self.ends[place + 1]) / total

    def scaled(self, values: Float64) -> Float64:
        """Return values from 0 to 1, the extremes of the documents but for one in EXTREME at each end; float64[n]."""
        bins, total = len(self.ends) - 1, int(self.ends[-1])
        first = np.searchsorted(self.ends[1:], total // EXTREME, side="right")
        last = np.searchsorted(self.ends, total - total // EXTREME)
        low, high = (self.low + edge * ((self.high - self.low) / bins) for edge in (first, last))
        return np.clip((values - low) / max(high - low, np.finfo(np.float64).tiny), 0.0, 1.0)


@dataclass(frozen=True)
class Plane:
    """The plane of perplexity and entropy. loss: the logarithm of the perplexity, nats per token."""

    loss: Distribution
    entropy: Distribution

    def place(self, loss: Float64, entropy: Float64) -> Float64:
        """Return where documents come in the order in which the method keeps them, the first ones lowest.

        Below 0.5 of a document in quadrant 2 or 4: the alpha from which on its quadrant holds it, that is the share of
        documents beyond it, on the axis where they are more. Algorithm 1 looks by bisection for the alpha that gives
        the wanted number; to keep so many in this order is the same. From OUTSIDE on of a document that is in neither
        up to alpha = 0.5: 2 - |P - E| of loss and entropy, each scaled by its extremes, which is the method's fill.

        Args:
            loss, entropy: float64[n], without NaN.

        Returns:
            float64[n], 0 to 2.

        Source: Q-Tuning, arXiv 2509.23873, Algorithm 1, for a whole corpus in place of a batch. alpha ends at 0.5 as in
        the text (the algorithm says 0.49), so that no document lies between all quadrants. The fill scales the
        logarithm of the perplexity, and leaves out one document in EXTREME at each end: of a corpus, unlike of a
        batch, a few enormous perplexities would make all others the same.
        """
        (low_loss, high_loss), (low_entropy, high_entropy) = self.loss.shares(loss), self.entropy.shares(entropy)
        alpha = np.minimum(np.maximum(high_loss, low_entropy), np.maximum(low_loss, high_entropy))
        gap = np.abs(self.loss.scaled(loss) - self.entropy.scaled(entropy))
        return np.where(alpha < 0.5, alpha, OUTSIDE + (1.0 - gap))

    def quadrant(self, loss: Float64, entropy: Float64) -> NDArray[np.int8]:
        """Return the quadrant of documents when the plane is cut at the medians, int8[n], 1 to 4; see `place`."""
        (low_loss, high_loss), (low_entropy, high_entropy) = self.loss.shares(loss), self.entropy.shares(entropy)
        two, four = np.maximum(high_loss, low_entropy), np.maximum(low_loss, high_entropy)
        rest = np.where(high_loss < low_loss, 1, 3)
        return np.where(np.minimum(two, four) < 0.5, np.where(two <= four, 2, 4), rest).astype(np.int8)

    def to_arrays(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        """Return the plane as named arrays, to be stored."""
        axes = {"plane_loss": self.loss, "plane_entropy": self.entropy}
        ends = {f"{name}_ends": axis.ends for name, axis in axes.items()}
        return ends | {f"{name}_range": np.array([axis.low, axis.high]) for name, axis in axes.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self | None:
        """Restore what `to_arrays` gave; None where that is not among the arrays."""
        if "plane_loss_ends" not in arrays:
            return None

        def axis(name: str) -> Distribution:
            low, high = arrays[f"{name}_range"].tolist()
            return Distribution(low, high, arrays[f"{name}_ends"])

        return cls(axis("plane_loss"), axis("plane_entropy"))


class QTuning(RankStep):
    """Keep documents of high perplexity and low entropy, or of low and high: Q-Tuning's triage of samples.

    They are triaged over the whole corpus, once, by a model as it is; the paper does it in every batch of training.
    Needs the score NAME of a language_model and its NAME_entropy. See `Plane.place` for the order.
    """

    method: Literal["q_tuning"]
    by: str = Field(description="score of a language_model; published: keep a fraction of 0.125 to 0.5")

    @property
    def ranked_by(self) -> list[str]:
        """Mean loss and mean entropy."""
        return [self.by, f"{self.by}_entropy"]

    def rank(self, scores: Mapping[str, Float64], keys: UInt64, seed: int, pick: int, temperature: float) -> UInt64:
        """The places, which the decided step adds to the scores: lowest first."""
        return ascending(scores[PLACE])

    def notes(self, cuts: Cuts) -> list[str]:
        """Return what the user should know of a cut, a line each."""
        if not (~cuts.everything & (inverse(cuts.rank) >= OUTSIDE)).any():
            return []
        return [f"{self.name}: quadrants 2 and 4 are kept whole; what `keep` asks beyond them is from 1 and 3"]
