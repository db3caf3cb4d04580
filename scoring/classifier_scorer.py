"""The scorer `classifier`: a quality filter that is trained to tell a target from the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import keyed_uniform, united
from .classifier import document_features, log_odds, train
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
from .scorer import Documents, FittedScorer, ScoreColumn, Scorer, Statistic, digest, digest_arrays
from .token_sample import documents_of, folds_of, sampled_tokens, trimmed, words_of
from .tokenizer import TOKENIZER_VERSION
from .vector_classifier import VectorClassifier


class Classifier(FittedScorer):
    """Log-odds that a document comes from the target and not from the corpus, both being as likely.

    Target and corpus are halved by key, and one classifier is trained on each half; a document is scored by the one
    that has not seen it. Else documents of the corpus that were trained on as examples of what is not wanted would get
    lower scores than others like them.
    """

    name = "classifier"
    version = 1
    Parameters = ClassifierParameters
    requires = "text; a target"
    primary = LOG_ODDS
    parameters: ClassifierParameters

    @classmethod
    def of(cls, parameters: Any) -> Scorer:
        """Return the one with n-grams, or the one with the vectors of `features`."""
        return cls(parameters) if parameters.features is None else VectorClassifier(parameters)

    @property
    def targets(self) -> list[str]:
        """Targets to be trained on."""
        return self.parameters.targets

    @property
    def columns(self) -> list[ScoreColumn]:
        """Log-odds, and the probability that they stand for."""
        return [LOG_ODDS, PROBABILITY]

    @property
    def numerics(self) -> Mapping[str, object]:
        """What scores depend on: the features and the weights, but not where these came from."""
        return self._features() | {"min_tokens": self.parameters.min_tokens, "state": digest_arrays(self.state)}

    @property
    def statistic_fingerprint(self) -> str:
        """Depends on which tokens are sampled, not on what is learnt from them."""
        p = self.parameters
        return digest(self.name, self.version, TOKENIZER_VERSION, p.fit_fraction, p.max_tokens, p.min_tokens)

    def _features(self) -> dict[str, object]:
        p = self.parameters
        return {"tokenizer": TOKENIZER_VERSION, "ngrams": p.ngrams, "buckets": p.buckets}

    def start(self) -> Statistic:
        """No tokens."""
        return {"tokens": np.zeros(0, np.uint64)}

    def update(self, statistic: Statistic, documents: Documents, of_corpus: bool) -> None:
        """Add a batch's tokens to the sample."""
        p, tokens = self.parameters, documents.tokens
        rows = tokens.counts >= p.min_tokens
        if of_corpus and p.fit_fraction < 1:
            rows &= keyed_uniform(0, "fit_fraction", documents.keys) < p.fit_fraction
        found = united(statistic["tokens"], sampled_tokens(tokens, documents.keys, rows))
        statistic["tokens"] = trimmed(found, p.max_tokens)

    def trimmed(self, statistic: Statistic) -> Statistic:
        """Keep the documents of the lowest hashes, up to `max_tokens`."""
        return statistic | {"tokens": trimmed(statistic["tokens"], self.parameters.max_tokens)}

    def finish(self, corpus: Statistic, targets: Mapping[str, Statistic]) -> None:
        """Train on each half and measure on the other; raises RecipeError when a half lacks documents."""
        p = self.parameters
        wanted = united(*(targets[name]["tokens"] for name in self.targets))
        samples = [documents_of(trimmed(sample, p.max_tokens)) for sample in (corpus["tokens"], wanted)]
        sizes = [len(fold) for _, _, fold in samples]
        offsets = np.append(samples[0][0], samples[0][0][-1] + samples[1][0][1:])
        words = np.concatenate([words for _, words, _ in samples])
        folds = np.concatenate([fold for _, _, fold in samples])
        positive = np.repeat([False, True], sizes)

        def trained(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
            features = document_features(*_chosen(offsets, words, rows), p.ngrams, p.buckets)
            return train(features, positive[rows], p.buckets, p.l2, p.iterations)

        def odds(rows: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return log_odds(offsets, words, rows, weights, p.ngrams)

        kind = f"of {p.min_tokens} tokens "
        found = cross_fitted(positive, folds, trained, odds, kind, "; raise `fit_fraction`")
        self.restore(with_settings(found, self._features()))

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use a saved state; raises RecipeError when it was trained on other features."""
        self.state = checked_heads(state, self._features(), self.parameters.buckets + 1)

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Log-odds, null for documents of fewer than `min_tokens` tokens."""
        p, tokens = self.parameters, documents.tokens
        long_enough = tokens.counts >= p.min_tokens
        words, folds = words_of(tokens), folds_of(documents.keys)
        odds = np.zeros(len(documents))
        for half in (0, 1):
            rows = long_enough & (folds != half)
            odds += log_odds(tokens.offsets, words, rows, self.state[WEIGHTS][half], p.ngrams)
        return odds_columns(odds, long_enough)

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say how well held-out documents are told apart, and when there were few to learn from."""
        return held_out_lines(self.state)


def _chosen(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], rows: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Offsets and words of some of the documents."""
    lengths = np.diff(offsets)
    return np.append(0, np.cumsum(lengths[rows])), words[np.repeat(rows, lengths)]
