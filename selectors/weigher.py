"""What every method of `weigh:` is: see `weigh` for the methods themselves.

A weigher turns scores into one signal per document, is fitted to how the signal is spread over the kept documents of a
scope (the corpus, or each group), and gives a log weight for each; `weighing.Weighing` makes their mean one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..connectors.settings import Settings
from .spread import Spread
from .stabilise import AnyStabiliser

Float64 = NDArray[np.float64]

Fitted = dict[str, Any]
"""What a weigher or a stabiliser has learned of one scope: numbers, lists of numbers."""


class Weigher(Settings):
    """Base of the methods that weigh. A kept document without the scores weighs 1, the mean."""

    method: str
    within: Literal["group"] | None = Field(None, description="group: fit within each group, and make its mean one")
    stabilise: list[AnyStabiliser] = Field([], description="what is done to the weights afterwards, in order")

    fits: ClassVar[bool] = False
    """Whether weights depend on how the signal is spread."""

    by_group: ClassVar[bool] = False
    """Whether a group is what is weighed."""

    @property
    def scored_by(self) -> list[str]:
        """Score columns that the signal is made of."""
        return []

    @property
    def needs(self) -> list[str]:
        """All score columns, those of stabilisers too."""
        return list(dict.fromkeys([*self.scored_by, *(name for step in self.stabilise for name in step.needs)]))

    def signal(self, scores: Mapping[str, Float64]) -> Float64:
        """Return float64[n] from the columns of `scored_by`, NaN where one is missing."""
        return scores[self.scored_by[0]]

    def fit(self, spread: Spread) -> Fitted:
        """Learn what is needed of the spread of the signal in one scope."""
        return {}

    @abstractmethod
    def log_weights(self, signal: Float64, fitted: Fitted) -> Float64:
        """Return float64[n] up to a constant; -inf weighs 0. signal: without NaN."""


class ByScore(Weigher):
    """Base of weighers by one score."""

    by: str

    @property
    def scored_by(self) -> list[str]:
        """The score."""
        return [self.by]


def log_of(weights: Any) -> Float64:
    """Return the logarithm, float64[n]; -inf of 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(weights, np.float64))
