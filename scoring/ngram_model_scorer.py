"""The scorer `ngram_model`: how surprising the words of a document are to an n-gram model of a target or the corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.errors import RecipeError
from ..connectors.keys import keyed_uniform, text_buffers, united
from .ngram_model import NgramModel, count_in_tables, document_losses
from .scorer import Documents, FittedScorer, ScoreColumn, ScorerParameters, Statistic, digest, digest_arrays
from .token_sample import LONGEST, documents_of, folds_of, sampled_tokens, trimmed, words_of
from .tokenizer import TOKENIZER_VERSION

COUNTS, EVENTS, SAMPLED, SETTINGS = "counts", "events", "sampled", "settings"
CROWDED = 0.75
"""From this share of the buckets in use on, documents come in another order (rank correlation below 0.98)."""


class NgramModelParameters(ScorerParameters):
    """Parameters of `scorer: ngram_model`."""

    path_keys: ClassVar[tuple[str, ...]] = ("fitted",)

    scorer: Literal["ngram_model"]
    target: str | None = Field(None, description="name in `targets`; default: fit on the corpus itself")
    ngrams: int = Field(3, ge=1, le=8)
    buckets: int = Field(
        1 << 20, ge=1, le=1 << 28, description="of each order; 12 bytes each, twice for the corpus; want one per token"
    )
    max_tokens: int = Field(2_000_000, ge=LONGEST, description="to fit on, a keyed sample; 8 bytes each")
    fit_fraction: float = Field(0.1, gt=0, le=1, description="share of the corpus to take that sample from")
    vocabulary: int = Field(1_000_000, ge=2, description="words there are, with those that were never seen")
    strength: float = Field(1.5, ge=0.01, le=100, description="of shorter contexts against longer ones")
    min_tokens: int = Field(20, ge=1, description="shorter documents get no score")
    fitted: str | None = Field(None, description="a saved state to use instead of fitting")

    @model_validator(mode="after")
    def _fits(self) -> NgramModelParameters:
        if self.target is not None and self.fitted is not None:
            raise ValueError("ngram_model takes `target` or `fitted`, not both")
        return self


class NgramModelScorer(FittedScorer):
    """Mean loss per word of a smoothed n-gram model: low where the words follow each other as in what it was fitted on.

    A model of the corpus itself is two models, each of one half of the documents by key, and a document is scored by
    the one that has not seen it. Words are lower-cased and white space is not modelled, so bits_per_byte is below that
    of a model of bytes.
    """

    name = "ngram_model"
    version = 1
    Parameters = NgramModelParameters
    requires = "text; a target, or the corpus itself"
    primary = ScoreColumn("", pa.float64(), "nats per token", "lower", "mean negative log-likelihood of the words")
    parameters: NgramModelParameters

    def __init__(self, parameters: NgramModelParameters) -> None:
        super().__init__(parameters)
        self._models: list[NgramModel] = []

    @property
    def fits_corpus(self) -> bool:
        """Only a model of the corpus reads it."""
        return self.parameters.target is None and self.parameters.fitted is None

    @property
    def targets(self) -> list[str]:
        """The target, if there is one."""
        return [self.parameters.target] if self.parameters.target is not None else []

    @property
    def columns(self) -> list[ScoreColumn]:
        """Loss, perplexity, and bits per byte."""
        return [
            self.primary,
            ScoreColumn("perplexity", pa.float64(), "per token", "lower", "exp of the mean loss"),
            ScoreColumn("bits_per_byte", pa.float64(), "bits per byte", "lower", "loss of all words per byte of text"),
        ]

    @property
    def numerics(self) -> Mapping[str, object]:
        """What scores depend on: parameters, tokenizer and fitted state, but not where that came from."""
        exclude = {"target", "fitted", "fit_fraction", "max_tokens"}
        parameters = self.parameters.model_dump(mode="json", exclude=exclude)
        return parameters | {"tokenizer": TOKENIZER_VERSION, "state": digest_arrays(self.state)}

    @property
    def statistic_fingerprint(self) -> str:
        """Depends on which tokens are sampled, not on how they are counted."""
        p = self.parameters
        share = p.fit_fraction if self.fits_corpus else None
        return digest(self.name, self.version, TOKENIZER_VERSION, share, p.max_tokens)

    def _counting(self) -> dict[str, object]:
        p = self.parameters
        return {"tokenizer": TOKENIZER_VERSION, "ngrams": p.ngrams, "buckets": p.buckets}

    def start(self) -> Statistic:
        """No tokens; documents and tokens that were sampled, before trimming."""
        return {"tokens": np.zeros(0, np.uint64), SAMPLED: np.zeros(2, np.int64)}

    def update(self, statistic: Statistic, documents: Documents, of_corpus: bool) -> None:
        """Add a batch's tokens to the sample."""
        p, tokens = self.parameters, documents.tokens
        rows = np.ones(len(documents), np.bool_)
        if of_corpus and p.fit_fraction < 1:
            rows = keyed_uniform(0, "fit_fraction", documents.keys) < p.fit_fraction
        found = united(statistic["tokens"], sampled_tokens(tokens, documents.keys, rows))
        statistic["tokens"] = trimmed(found, p.max_tokens)
        statistic[SAMPLED] = statistic[SAMPLED] + np.array([np.count_nonzero(rows), tokens.counts[rows].sum()])

    def trimmed(self, statistic: Statistic) -> Statistic:
        """Keep the documents of the lowest hashes, up to `max_tokens`."""
        return statistic | {"tokens": trimmed(statistic["tokens"], self.parameters.max_tokens)}

    def finish(self, corpus: Statistic, targets: Mapping[str, Statistic]) -> None:
        """Count n-grams; raises RecipeError when there are none, or too few documents for two halves."""
        p = self.parameters
        statistic = targets[p.target] if p.target is not None else corpus
        offsets, words, fold = documents_of(trimmed(statistic["tokens"], p.max_tokens))
        folds = np.zeros(len(fold), np.int64) if p.target is not None else fold.astype(np.int64)
        models = 2 if p.target is None else 1
        counts = np.zeros((models, p.ngrams, p.buckets), np.int64)
        events = np.zeros((models, 2), np.int64)
        lengths = np.diff(offsets)
        for model in range(models):
            chosen = folds == model
            documents, tokens = int(np.count_nonzero(chosen)), int(lengths[chosen].sum())
            if not tokens:
                what = f"target {p.target}" if p.target is not None else "half of the sampled corpus"
                raise RecipeError(f"ngram_model: the {what} has no words to fit on; is it empty, or too small?")
            part = np.append(0, np.cumsum(lengths[chosen]))
            count_in_tables(part, words[np.repeat(chosen, lengths)], counts[model])
            events[model] = documents, tokens + documents
        settings = np.frombuffer(json.dumps(self._counting(), sort_keys=True).encode(), dtype=np.uint8)
        self.restore({COUNTS: counts, EVENTS: events, SAMPLED: statistic[SAMPLED], SETTINGS: settings})

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use a saved state; raises RecipeError when other n-grams were counted for it."""
        p = self.parameters
        try:
            saved = json.loads(state[SETTINGS].tobytes())
            counts, events, sampled = state[COUNTS], state[EVENTS], state[SAMPLED]
        except (KeyError, ValueError) as error:
            raise RecipeError("ngram_model: the file in `fitted` is not a state of ngram_model") from error
        if saved != self._counting():
            raise RecipeError(
                f"ngram_model: the state in `fitted` was made with {saved}, the recipe has {self._counting()}"
            )
        shape = (len(counts), p.ngrams, p.buckets)
        if counts.shape != shape or len(counts) not in (1, 2) or events.shape != (len(counts), 2) or len(sampled) != 2:
            raise RecipeError("ngram_model: the file in `fitted` does not hold the counts of a model")
        self.state = dict(state)
        self._models = [
            NgramModel(tables.astype(np.float32), float(tokens), float(documents), p.vocabulary, p.strength)
            for tables, (documents, tokens) in zip(counts, events.tolist(), strict=True)
        ]

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Losses, null for documents of fewer than `min_tokens` tokens."""
        tokens = documents.tokens
        words, lengths = words_of(tokens), tokens.counts
        long_enough = lengths >= self.parameters.min_tokens
        losses = np.zeros(len(documents))
        unseen_by = ~folds_of(documents.keys) if len(self._models) > 1 else np.zeros(len(documents), np.bool_)
        for number, model in enumerate(self._models):
            losses += document_losses(tokens.offsets, words, long_enough & (unseen_by == number), model)
        mean = losses / np.maximum(lengths, 1)
        sizes = np.diff(text_buffers(documents.text)[0])
        bits = losses / np.log(2) / np.maximum(sizes, 1)
        columns = {"": mean, "perplexity": np.exp(mean), "bits_per_byte": bits}
        return {suffix: pa.array(values, mask=~long_enough) for suffix, values in columns.items()}

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say when n-grams share buckets too often, and when the model saw little or left much out."""
        p = self.parameters
        lines = []
        counts, events = self.state[COUNTS], self.state[EVENTS]
        used = np.count_nonzero(counts[:, -1]) / counts[:, -1].size
        if used > CROWDED:
            lines.append(
                f"{used:.0%} of the buckets of {p.ngrams}-grams are in use, so that counts mix; raise `buckets`"
            )
        tokens, sampled = int((events[:, 1] - events[:, 0]).sum()), int(self.state[SAMPLED][1])
        if p.target is not None and sampled > tokens:
            lines.append(f"fitted on {tokens:,} of {sampled:,} tokens; for more raise `max_tokens` and `buckets`")
        elif self.fits_corpus and sampled > 4 * p.max_tokens:
            enough = p.fit_fraction * 2 * p.max_tokens / sampled
            lines.append(f"fitted on {tokens:,} of {sampled:,} sampled tokens; `fit_fraction: {enough:.1g}` is enough")
        elif self.fits_corpus and p.fit_fraction < 1 and tokens < p.max_tokens / 4:
            lines.append(f"fitted on {tokens:,} tokens of the corpus only; raise `fit_fraction`")
        return lines
