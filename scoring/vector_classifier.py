"""The scorer `classifier` with `features`: a linear head on stored vectors, which tells a target from the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.errors import RecipeError
from ..connectors.keys import united
from .classifier_parameters import ClassifierParameters
from .cross_fitting import (
    LOG_ODDS,
    PROBABILITY,
    WEIGHTS,
    checked_heads,
    cross_fitted,
    held_out_lines,
    odds_columns,
    with_settings,
)
from .dense_classifier import train_on_vectors, vector_log_odds
from .derived_scorer import KEY, DerivedScorer
from .scorer import Documents, FittedScorer, LearnedScorer, ScoreColumn, Scorer, Statistic, digest, digest_arrays
from .token_sample import folds_of
from .vector_sample import sampled_vectors, trimmed_vectors, vectors_in
from .vectors import VECTORS, vectors_of, widened


class VectorClassifier(FittedScorer, DerivedScorer):
    """Log-odds that a document comes from the target and not from the corpus, by its embedding.

    The corpus's vectors are read from the store; a target's texts are embedded when it is first used. Halves, heads and
    columns are as in `Classifier`.
    """

    name = "classifier"
    version = 1
    Parameters = ClassifierParameters
    requires = "a score of the scorer `embedding`; a target"
    primary = LOG_ODDS
    parameters: ClassifierParameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._wanted: tuple[NDArray[np.bool_], NDArray[np.float16]] | None = None

    @property
    def columns(self) -> list[ScoreColumn]:
        """Log-odds, and the probability that they stand for."""
        return [LOG_ODDS, PROBABILITY]

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """That of the vectors, as far as the weights magnify it."""
        of_vectors = sum(scorer.tolerance for scorer in self.bound.values())
        return of_vectors * float(np.linalg.norm(self.state[WEIGHTS], axis=1).max()) if self.state else of_vectors

    @property
    def inputs(self) -> dict[str, str]:
        """The vectors."""
        return {"features": str(self.parameters.features)}

    def accepts(self, key: str, scorer: Scorer) -> str | None:
        """Vectors that are made of the text alone, since those of the target are made when it is read."""
        fits = scorer.primary.type == VECTORS and not isinstance(scorer, LearnedScorer)
        return None if fits else "a score of vectors, as of `embedding`,"

    @property
    def needs(self) -> list[str]:
        """What the vectors need, of a target too."""
        return [name for scorer in self.bound.values() for name in scorer.needs]

    @property
    def fits_corpus(self) -> bool:
        """Statistics are of the target alone; the corpus's vectors are stored."""
        return False

    @property
    def targets(self) -> list[str]:
        """Targets to be trained on."""
        return self.parameters.targets

    @property
    def sample(self) -> int:
        """See the parameter."""
        return self.parameters.sample

    @property
    def numerics(self) -> Mapping[str, object]:
        """What scores depend on: the vectors and the weights, but not where these came from."""
        return {**self.input_fingerprints, "state": digest_arrays(self.state)}

    @property
    def statistic_fingerprint(self) -> str:
        """Depends on the vectors, and on how many are taken."""
        return digest("vectors of a target", self.version, self.parameters.sample, self.input_fingerprints)

    def start(self) -> Statistic:
        """No vectors."""
        return {"vectors": np.zeros(0, np.uint64), "dimension": np.zeros(0, np.uint64)}

    def update(self, statistic: Statistic, documents: Documents, of_corpus: bool) -> None:
        """Add the vectors of a batch of a target to the sample."""
        (scorer,) = self.bound.values()
        vectors, there = vectors_of(scorer.score(documents)[""])
        if len(vectors):
            found = united(statistic["vectors"], sampled_vectors(vectors, documents.keys[there]))
            statistic["dimension"] = np.array([vectors.shape[1]], np.uint64)
            statistic["vectors"] = trimmed_vectors(found, self.parameters.sample * vectors.shape[1])

    def trimmed(self, statistic: Statistic) -> Statistic:
        """Keep the vectors of the lowest hashes, up to `sample`."""
        most = self.parameters.sample * int(statistic["dimension"].max(initial=1))
        return statistic | {"vectors": trimmed_vectors(statistic["vectors"], most)}

    def finish(self, corpus: Statistic, targets: Mapping[str, Statistic]) -> None:
        """Take the vectors of all targets together; raises RecipeError where there is none."""
        together = united(*(targets[name]["vectors"] for name in self.targets))
        dimension = max(int(targets[name]["dimension"].max(initial=0)) for name in self.targets)
        if not dimension:
            raise RecipeError("classifier: no document of the target has a vector")
        self._wanted = vectors_in(trimmed_vectors(together, self.parameters.sample * dimension), dimension)

    def fit(self, table: pa.Table) -> None:
        """Train on each half of the target and of the corpus's sample; raises RecipeError when one lacks documents."""
        assert self._wanted is not None
        p, (folds, wanted) = self.parameters, self._wanted
        plain, _ = vectors_of(table[p.features])
        if not len(plain):
            raise RecipeError("features: no document of the corpus has a vector")
        x = widened(np.concatenate([plain, wanted]))
        positive = np.repeat([False, True], [len(plain), len(wanted)])

        def trained(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
            return train_on_vectors(x[rows], positive[rows], p.l2, p.iterations)

        def odds(rows: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.where(rows, vector_log_odds(x, weights), 0.0))

        found = cross_fitted(positive, np.concatenate([folds_of(table[KEY].to_numpy()), folds]), trained, odds)
        self.restore(with_settings(found, self.input_fingerprints))

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use a saved state; raises RecipeError when it was trained on other vectors."""
        self.state = checked_heads(state, self.input_fingerprints)

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Log-odds, each by the head that has not seen the document; null for those without a vector."""
        assert documents.table is not None
        vectors, there = vectors_of(documents.table[str(self.parameters.features)])
        odds = np.zeros(len(documents))
        if len(vectors):
            weights, folds = self.state[WEIGHTS], folds_of(documents.keys[there])
            if vectors.shape[1] + 1 != weights.shape[1]:
                raise ValueError(f"vectors of {vectors.shape[1]} dimensions, where {weights.shape[1] - 1} were fitted")
            x = widened(vectors)
            odds[there] = np.where(folds, vector_log_odds(x, weights[0]), vector_log_odds(x, weights[1]))
        return odds_columns(odds, there)

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say how well held-out documents are told apart, and when there were few to learn from."""
        return held_out_lines(self.state)
