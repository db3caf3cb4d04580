"""What the weights of a run are like, in figures and in plain words for whoever trains with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .diagnostics import effective_sample_size
from .spread import Spread
from .tail import coefficient_of_variation, fit_tail, hill_index, hill_length, reliable_shape

NEAR_ZERO = 1e-3
"""A weight below this share of the mean is next to nothing."""


@dataclass(frozen=True)
class WeightSummary:
    """What is known of the weights of a run; None is not measured, NaN could not be.

    Sums are relative to the largest weight where that is not given. Shares are from 0 to 1: `top_5_percent_share` of
    the weight is on the top 5 % of documents; `near_zero_share` of documents have next to no weight; `affinity` is the
    overlap of unweighted and weighted scores, the mean root of weights with mean one.
    """

    n: int
    sum_w: float
    sum_w2: float
    largest: float = 1.0
    top_1_percent_share: float | None = None
    pareto_k: float | None = None
    hill: float | None = None
    top_5_percent_share: float | None = None
    near_zero_share: float | None = None
    affinity: float | None = None

    def figures(self) -> dict[str, float | None]:
        """Return what a manifest says of the weights; None for what could not be measured."""
        variation = coefficient_of_variation(self.n, self.sum_w, self.sum_w2)
        found = {
            "effective_sample_size": effective_sample_size(self.sum_w, self.sum_w2),
            "max_over_mean": self.largest * self.n / self.sum_w if self.sum_w > 0 else None,
            "top_1_percent_share": self.top_1_percent_share,
            "top_5_percent_share": self.top_5_percent_share,
            "near_zero_share": self.near_zero_share,
            "coefficient_of_variation": variation,
            "affinity": self.affinity,
            "pareto_k": self.pareto_k if variation > 0 else None,
            "hill_index": self.hill if variation > 0 else None,
        }
        return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


def equal_weights(documents: int) -> WeightSummary:
    """Describe weights that are all alike."""
    n = float(documents)
    share = [_heaviest(documents, percent) / n if n else 0.0 for percent in (1, 5)]
    return WeightSummary(
        documents, n, n, top_1_percent_share=share[0], top_5_percent_share=share[1], near_zero_share=0.0, affinity=1.0
    )


def summarise(spread: Spread) -> WeightSummary:
    """Describe weights by the spread of their logarithms.

    Args:
        spread: with the `tail_length(n)` + 1 largest.

    Returns:
        Sums and the Pareto shape are exact; the other figures too where the largest reach, else from the grid.
    """
    values, counts = spread.points()
    if not values.size:
        return WeightSummary(spread.documents, 0.0, 0.0)
    high, n, total = spread.grid.high, spread.documents, spread.total
    idle = int(counts[values - high < math.log(NEAR_ZERO * total / n)].sum()) + n - int(counts.sum())
    top = {percent: spread.top(_heaviest(n, percent)) for percent in (1, 5)}
    share = {percent: float(np.exp(heavy - high) @ number) / total for percent, (heavy, number) in top.items()}
    heavy, number = spread.top(hill_length(n) + 1) if hill_length(n) else (np.empty(0), np.empty(0, np.int64))
    few_kinds = np.unique(spread.largest).size < spread.largest.size / 2  # as of groups: a tail says nothing of them
    return WeightSummary(
        n,
        total,
        spread.squares,
        pareto_k=None if few_kinds else fit_tail(spread.largest).shape,
        hill=None if few_kinds else hill_index(heavy, number),
        top_1_percent_share=share[1],
        top_5_percent_share=share[5],
        near_zero_share=idle / n,
        affinity=min(float(np.exp((values - high) / 2) @ counts) / math.sqrt(n * total), 1.0),
    )


def _heaviest(documents: int, percent: int) -> int:
    """Number of documents in the heaviest per cent, at least one."""
    return -(-documents * percent // 100)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with weights. kind: which gate says so; grade: critical or warning."""

    kind: str
    grade: str
    says: str


def findings(weights: WeightSummary) -> list[Finding]:
    """Say in plain words what is wrong with weights, the gravest of each kind only.

    Args:
        weights: what was measured.

    Returns:
        One finding per gate that is failed.

    Source: gates of causal judge evaluation (cimo-labs/cje, its diagnostics); k as in Vehtari et al., JMLR 2024.
    """
    if weights.n < 2:
        return []
    if not weights.sum_w > 0:
        return [Finding("sum", "critical", "all weights are zero")]
    found = _effective(weights)
    variation = coefficient_of_variation(weights.n, weights.sum_w, weights.sum_w2)
    if variation > 0:  # equal weights have no tail to speak of
        found += _pareto(weights) + _hill(weights)
    if variation > 2:
        says = f"weights vary widely: their standard deviation is {variation:.1f} times their mean"
        found.append(Finding("variation", "warning", says))
    return found + _shares(weights)


def _effective(weights: WeightSummary) -> list[Finding]:
    size = effective_sample_size(weights.sum_w, weights.sum_w2)
    says = f"{weights.n:,} weighted documents say as much as {size:,.0f} equally weighted ones ({size / weights.n:.1%})"
    return _graded("effective sample size", size / weights.n, 0.10, 0.30, says)


def _pareto(weights: WeightSummary) -> list[Finding]:
    k = weights.pareto_k
    if k is None or k < reliable_shape(weights.n):
        return []
    if math.isnan(k):
        says = "the tail of the weights could not be fitted, so how heavy it is remains unknown"
        return [Finding("tail", "warning", says)]
    if k >= 1:
        says = f"the tail of the weights is so heavy (k = {k:.2f}) that averages need not settle at all"
        return [Finding("tail", "critical", says)]
    return [Finding("tail", "warning", f"the tail is heavy (k = {k:.2f}): averages are biased by the few largest")]


def _hill(weights: WeightSummary) -> list[Finding]:
    alpha = weights.hill
    if alpha is None or alpha >= 2:
        return []
    if math.isnan(alpha):
        says = "the tail index of the weights could not be estimated, so how heavy it is remains unknown"
        return [Finding("tail index", "warning", says)]
    missing = "mean" if alpha < 1 else "variance"
    says = f"the weights may have no finite {missing} (tail index {alpha:.2f})"
    return [Finding("tail index", "critical" if alpha < 1 else "warning", says)]


def _shares(weights: WeightSummary) -> list[Finding]:
    found = []
    if (top := weights.top_5_percent_share) is not None and top > 0.30:
        found.append(Finding("share", "warning", f"5 % of the documents hold {top:.0%} of the weight"))
    if (idle := weights.near_zero_share) is not None and idle > 0.85:
        found.append(Finding("idle", "warning", f"{idle:.0%} of the documents have next to no weight"))
    if (both := weights.affinity) is not None:
        says = f"scores with and without weights overlap by only {both:.0%}"
        found += _graded("affinity", both, 0.5, 0.85, says)
    return found


def _graded(kind: str, value: float, critical: float, good: float, says: str) -> list[Finding]:
    if value >= good:
        return []
    return [Finding(kind, "warning" if value >= critical else "critical", says)]
