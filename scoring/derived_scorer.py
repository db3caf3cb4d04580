"""Scorers that work on stored columns of other scores instead of text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.errors import RecipeError, nearest
from .scorer import LearnedScorer, Scorer

KEY = "key"
"""Column of a sample with the documents' keys."""


class DerivedScorer(LearnedScorer):
    """Turns columns of other scores of the recipe into columns; the corpus is not read for it.

    `score` is given documents whose `table` has the primary column of each score in `inputs`, under that score's name,
    and whose text is null.
    """

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.bound: dict[str, Scorer] = {}

    @property
    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Names of the scores that it works on, by the key of the recipe that names each."""

    @abstractmethod
    def accepts(self, key: str, scorer: Scorer) -> str | None:
        """Say what is wanted instead where an input is of the wrong kind, in a few words; None where it is right."""

    def bind(self, scorers: Mapping[str, Scorer]) -> None:
        """Look up the scorers whose columns it works on; their fingerprints become part of its own.

        Args:
            scorers: of the recipe, by name of the score.

        Raises:
            RecipeError: one is missing or of the wrong kind.
        """
        for key, name in self.inputs.items():
            if name not in scorers:
                raise RecipeError(f"{key}: no score is called `{name}`{nearest(name, scorers)}")
            wanted = self.accepts(key, scorers[name])
            if wanted is not None:
                kind = scorers[name].name
                raise RecipeError(f"{key}: `{name}` is of the scorer `{kind}`, where {wanted} is needed")
            self.bound[name] = scorers[name]

    @property
    def input_fingerprints(self) -> dict[str, str]:
        """Fingerprints of what it works on."""
        return {key: self.bound[name].fingerprint for key, name in self.inputs.items()}

    @property
    def sample(self) -> int:
        """Documents to be fitted on, a keyed sample; 0 where nothing is fitted."""
        return 0

    def fit(self, table: pa.Table) -> None:
        """Set `state` from a sample. table: the input columns and KEY, each document once, ordered by keyed noise."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Set `state` to a saved one; raises RecipeError when it was fitted with other parameters or inputs."""
        self.state = dict(state)


def bind_all(scorers: Mapping[str, Scorer]) -> None:
    """Bind the derived scorers of a recipe.

    Raises:
        RecipeError: a score that one works on is missing or of the wrong kind, or two work on each other.
    """
    for score, scorer in scorers.items():
        if isinstance(scorer, DerivedScorer):
            try:
                scorer.bind(scorers)
            except RecipeError as error:
                raise RecipeError(f"scores.{score}.{error}") from error
    derived_in_order(scorers)


def derived_in_order(scorers: Mapping[str, Scorer]) -> dict[str, DerivedScorer]:
    """Return the derived scorers, each after those that it works on; raises RecipeError for a circle."""
    waiting = {score: s for score, s in scorers.items() if isinstance(s, DerivedScorer)}
    ordered: dict[str, DerivedScorer] = {}
    while waiting:
        ready = [score for score, s in waiting.items() if not waiting.keys() & set(s.inputs.values())]
        if not ready:
            circle = ", ".join(f"`{score}`" for score in waiting)
            raise RecipeError(f"scores: {circle} work on each other; one of them must work on something else")
        ordered |= {score: waiting.pop(score) for score in ready}
    return ordered
