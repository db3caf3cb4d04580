"""The scorer `classifier`: a quality filter that is trained to tell a target from the corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.errors import RecipeError
from ..connectors.keys import keyed_uniform, united
from .classifier import area_under_curve, document_features, log_odds, train
from .scorer import Documents, FittedScorer, ScoreColumn, ScorerParameters, Statistic, digest, digest_arrays
from .token_sample import LONGEST, documents_of, folds_of, sampled_tokens, trimmed, words_of
from .tokenizer import TOKENIZER_VERSION

WEIGHTS, HELD_OUT, DOCUMENTS, SETTINGS = "weights", "held out", "documents", "settings"
FEW = 50
"""Documents of a class, from each half, below which a head says little."""


class ClassifierParameters(ScorerParameters):
    """Parameters of `scorer: classifier`."""

    path_keys: ClassVar[tuple[str, ...]] = ("fitted",)

    scorer: Literal["classifier"]
    target: str | list[str] | None = Field(None, description="name or names in `targets`, taken together")
    ngrams: int = Field(2, ge=1, le=8)
    buckets: int = Field(1 << 18, ge=1, le=1 << 26, description="16 bytes each, and 200 while training")
    max_tokens: int = Field(
        5_000_000, ge=LONGEST, description="of either class to train on, a keyed sample; 50 bytes each while training"
    )
    fit_fraction: float = Field(0.1, gt=0, le=1, description="share of the corpus to take the other class from")
    l2: float = Field(1e-5, gt=0, description="strength of the regularisation, against the mean loss")
    iterations: int = Field(100, ge=1, le=10_000, description="of L-BFGS, at most")
    min_tokens: int = Field(20, ge=1, description="shorter documents are not learnt from, and get no score")
    fitted: str | None = Field(None, description="a saved state to use instead of fitting")

    @property
    def targets(self) -> list[str]:
        """Names of the targets, none when a saved state is used."""
        return [self.target] if isinstance(self.target, str) else list(self.target or [])

    @model_validator(mode="after")
    def _fits(self) -> ClassifierParameters:
        if bool(self.targets) == (self.fitted is not None):
            raise ValueError("classifier needs `target` or `fitted`, one of them")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("classifier names a target twice")
        return self


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
    primary = ScoreColumn("", pa.float64(), "nats", "higher", "log-odds of target against corpus")
    parameters: ClassifierParameters

    @property
    def targets(self) -> list[str]:
        """Targets to be trained on."""
        return self.parameters.targets

    @property
    def columns(self) -> list[ScoreColumn]:
        """Log-odds, and the probability that they stand for."""
        return [
            self.primary,
            ScoreColumn("probability", pa.float64(), "probability", "higher", "of the target, were both as likely"),
        ]

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
        folds = np.concatenate([fold for _, _, fold in samples]).astype(np.int64)
        positive = np.repeat([False, True], sizes)
        documents = np.array([[np.count_nonzero((positive == c) & (folds == f)) for c in (0, 1)] for f in (0, 1)])
        for name, number in (("corpus", documents[:, 0].min()), ("target", documents[:, 1].min())):
            if not number:
                share = "; raise `fit_fraction`" if name == "corpus" else ""
                raise RecipeError(
                    f"classifier: the {name} has too few documents of {p.min_tokens} tokens to be halved{share}"
                )
        weights, odds = np.zeros((2, p.buckets + 1)), np.zeros(len(folds))
        for half in (0, 1):
            part_offsets, part_words = _chosen(offsets, words, folds == half)
            features = document_features(part_offsets, part_words, p.ngrams, p.buckets)
            weights[half] = train(features, positive[folds == half], p.buckets, p.l2, p.iterations)
            odds += log_odds(offsets, words, folds != half, weights[half], p.ngrams)
        right = [np.mean(odds[positive] > 0), np.mean(odds[~positive] < 0)]
        held_out = np.array([area_under_curve(odds[positive], odds[~positive]), np.mean(right)])
        settings = np.frombuffer(json.dumps(self._features(), sort_keys=True).encode(), dtype=np.uint8)
        self.restore({WEIGHTS: weights, HELD_OUT: held_out, DOCUMENTS: documents, SETTINGS: settings})

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use a saved state; raises RecipeError when it was trained on other features."""
        try:
            saved = json.loads(state[SETTINGS].tobytes())
            shapes = [state[name].shape for name in (WEIGHTS, HELD_OUT, DOCUMENTS)]
        except (KeyError, ValueError) as error:
            raise RecipeError("classifier: the file in `fitted` is not a state of classifier") from error
        if saved != self._features():
            raise RecipeError(
                f"classifier: the state in `fitted` was made with {saved}, the recipe has {self._features()}"
            )
        if shapes != [(2, self.parameters.buckets + 1), (2,), (2, 2)]:
            raise RecipeError("classifier: the file in `fitted` does not hold the weights of a classifier")
        self.state = dict(state)

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Log-odds, null for documents of fewer than `min_tokens` tokens."""
        p, tokens = self.parameters, documents.tokens
        long_enough = tokens.counts >= p.min_tokens
        words, folds = words_of(tokens), folds_of(documents.keys)
        odds = np.zeros(len(documents))
        for half in (0, 1):
            rows = long_enough & (folds != half)
            odds += log_odds(tokens.offsets, words, rows, self.state[WEIGHTS][half], p.ngrams)
        tail = np.exp(-np.abs(odds))
        probability = np.where(odds >= 0, 1.0, tail) / (1 + tail)
        return {"": pa.array(odds, mask=~long_enough), "probability": pa.array(probability, mask=~long_enough)}

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say how well held-out documents are told apart, and when there were few to learn from."""
        area, accuracy = self.state[HELD_OUT].tolist()
        corpus, target = self.state[DOCUMENTS].sum(axis=0).tolist()
        told = f"AUC {area:.3f}, balanced accuracy {accuracy:.3f}"
        lines = [
            f"held out, {target:,} documents of the target and {corpus:,} of the corpus are told apart with {told}"
        ]
        for name, number in zip(("corpus", "target"), self.state[DOCUMENTS].min(axis=0).tolist(), strict=True):
            if number < FEW:
                lines.append(f"one half of the {name} had only {number} documents to train on")
        return lines


def _chosen(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], rows: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Offsets and words of some of the documents."""
    lengths = np.diff(offsets)
    return np.append(0, np.cumsum(lengths[rows])), words[np.repeat(rows, lengths)]
