"""Weights of kept documents: signal, log weight, stabilisers, mean one; a pure function of scores once it is fitted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .stabilise import Monotone, SpreadStabiliser
from .weigh import ClassBalanced, Uniform
from .weigher import Fitted, Weigher

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Scores = Mapping[str, Float64]
OfScopes = list[Fitted | None]
"""What was learned of each scope; None for one without a document that has the signal."""


@dataclass(frozen=True)
class Weighing:
    """A weigher and its stabilisers, with all that was fitted to the kept documents.

    Attributes:
        weigher: of the recipe.
        fitted: what the weigher, and then each stabiliser, has learned of each scope; shorter while they are fitted.
        high: largest log weight of each scope; -inf where there is none, and all documents weigh 1.
        scale: makes the mean of a scope one.
        factor: makes the mean of the run one after documents of some groups were repeated by weight.
    """

    weigher: Weigher | Uniform
    fitted: list[OfScopes] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    factor: float = 1.0

    def scopes(self, groups: Int64) -> Int64:
        """Return the scope of each document, int64[n]: its group, or 0."""
        within = isinstance(self.weigher, Weigher) and self.weigher.within is not None
        return groups if within else np.zeros(len(groups), np.int64)

    def signal(self, scores: Scores, groups: Int64) -> Float64:
        """Return what is weighed by, float64[n], NaN where a score is missing.

        Raises:
            ValueError: a signal is +inf: it would take all weight from every other document.
        """
        if isinstance(self.weigher, Uniform):
            return np.full(len(groups), np.nan)
        if isinstance(self.weigher, ClassBalanced):
            return np.zeros(len(groups))
        signal = self.weigher.signal(scores)
        if np.isposinf(signal).any() or (self.weigher.fits and np.isneginf(signal).any()):
            raise ValueError(f"{' and '.join(self.weigher.scored_by)}: a score is infinite, which weighs nothing")
        return signal

    def log_weights(self, scores: Scores, groups: Int64) -> Float64:
        """Return log weights by what is fitted so far, float64[n], NaN for documents without one."""
        values = self.signal(scores, groups)
        if isinstance(self.weigher, Uniform) or not self.fitted:
            return values
        scopes = self.scopes(groups)
        first = groups if self.weigher.by_group else scopes
        values = _by_scope(values, first, self.fitted[0], self.weigher.log_weights)
        for stabiliser, fitted in zip(self.weigher.stabilise, self.fitted[1:], strict=False):
            values = _stabilised(stabiliser, values, scopes, fitted, scores)
        return values

    def weights(self, scores: Scores, groups: Int64, repeats: Float64 | None) -> Float64:
        """Return weights, float64[n], with mean one over the documents that it was fitted to.

        repeats: how often documents of each group count, float64[groups].
        """
        scopes, values = self.scopes(groups), self.log_weights(scores, groups)
        high = np.append(self.high, np.full(int(scopes.max(initial=0)) + 1, -np.inf))[scopes]
        known = ~np.isnan(values) & (high > -np.inf)
        weights = np.ones(len(values))
        with np.errstate(over="ignore"):
            weights[known] = np.exp(values[known] - high[known]) * np.array(self.scale)[scopes[known]]
        return weights * self.factor if repeats is None else weights * repeats[groups] * self.factor

    def with_stage(self, fitted: OfScopes) -> Weighing:
        """Return it with one more stage fitted."""
        return replace(self, fitted=[*self.fitted, fitted])

    def to_json(self) -> str:
        """Return all but the weigher; numbers come back bit for bit."""
        content = {"fitted": self.fitted, "high": self.high, "scale": self.scale, "factor": self.factor}
        return json.dumps(content) + "\n"

    @classmethod
    def from_json(cls, weigher: Weigher | Uniform, content: str) -> Weighing:
        """Return what `to_json` has written of the same weigher."""
        return cls(weigher, **json.loads(content))


def _stabilised(
    stabiliser: SpreadStabiliser | Monotone, values: Float64, scopes: Int64, fitted: OfScopes, scores: Scores
) -> Float64:
    if not isinstance(stabiliser, Monotone):
        return _by_scope(values, scopes, fitted, stabiliser.apply)
    both = np.stack([values, scores[stabiliser.by]], axis=1)
    return _by_scope(both, scopes, fitted, lambda two, of: stabiliser.apply_by(two[:, 0], two[:, 1], of))


def _by_scope(values: Float64, scopes: Int64, fitted: OfScopes, apply: Callable[[Float64, Fitted], Float64]) -> Float64:
    """Apply to the documents of each scope what is fitted to it; NaN where the first column is NaN, or nothing is."""
    first = values if values.ndim == 1 else values[:, 0]
    found = np.full(len(values), np.nan)
    rows = np.flatnonzero(~np.isnan(first))
    rows = rows[np.argsort(scopes[rows], kind="stable")]
    present, starts = np.unique(scopes[rows], return_index=True)
    for scope, part in zip(present.tolist(), np.split(rows, starts[1:]), strict=True):
        if scope < len(fitted) and (of := fitted[scope]) is not None:
            found[part] = apply(values[part], of)
    return found
