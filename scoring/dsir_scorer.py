"""The scorer `dsir`: parameters, fitting and scoring of documents with the numerics of `dsir` and `ngrams`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator

from ..connectors.errors import RecipeError
from ..connectors.keys import keyed_uniform
from .dsir import kl_reduction, log_ratio, pooled_target
from .ngrams import NgramHash, count_ngrams, sum_ngram_weights
from .scorer import Documents, FittedScorer, ScoreColumn, ScorerParameters, Statistic, digest, digest_arrays
from .tokenizer import TOKENIZER_VERSION

RAW = "corpus"
TARGET_PREFIX = "target "
SETTINGS = "settings"


class DSIRParameters(ScorerParameters):
    """Parameters of `scorer: dsir`; the defaults are the published ones, but for the hash."""

    path_keys: ClassVar[tuple[str, ...]] = ("fitted",)

    scorer: Literal["dsir"]
    target: str | list[str] | None = Field(None, description="name or names in `targets`")
    proportions: list[PositiveFloat] | None = Field(
        None, description="shares of several targets; default: pooled counts"
    )
    ngrams: int = Field(2, ge=1, le=8)
    buckets: int = Field(10_000, ge=1, le=1 << 24, description="8 bytes each, for the corpus and every target")
    min_tokens: int = Field(100, ge=0, description="shorter documents get no score")
    smoothing: float = Field(0.0, ge=0, description="added to every bucket count of a target")
    hash: NgramHash = Field("fast64", description="sha256 has the buckets of data-selection 1.0.3")
    fit_fraction: float = Field(1.0, gt=0, le=1, description="share of the corpus to fit on, a keyed sample")
    normalise: Literal["none", "tokens"] = Field("none", description="none is the published form")
    fitted: str | None = Field(None, description="a saved state to use instead of fitting")

    @property
    def targets(self) -> list[str]:
        """Names of the targets, none when a saved state is used."""
        return [self.target] if isinstance(self.target, str) else list(self.target or [])

    @model_validator(mode="after")
    def _fits(self) -> DSIRParameters:
        if bool(self.targets) == (self.fitted is not None):
            raise ValueError("dsir needs `target` or `fitted`, one of them")
        if self.targets and self.proportions is not None and len(self.proportions) != len(self.targets):
            raise ValueError("dsir needs as many `proportions` as targets")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("dsir names a target twice")
        return self


class DSIR(FittedScorer):
    """Log importance weight of hashed n-grams: the sum over a document's n-grams of ln p_target - ln p_corpus.

    With several targets the primary column scores their pool (or their mixture by `proportions`), and
    `<name>_<target>` each target by itself.
    """

    name = "dsir"
    version = 1
    Parameters = DSIRParameters
    requires = "text; a target"
    primary = ScoreColumn("", pa.float64(), "nats", "higher", "log importance weight")
    describes_selection = True
    parameters: DSIRParameters

    def __init__(self, parameters: DSIRParameters) -> None:
        super().__init__(parameters)
        self._log_ratios = np.zeros((0, parameters.buckets))

    @property
    def targets(self) -> list[str]:
        """Targets to be fitted on."""
        return self.parameters.targets

    @property
    def columns(self) -> list[ScoreColumn]:
        """The pool of the targets, then each one where there are several."""
        unit = "nats" if self.parameters.normalise == "none" else "nats per token"
        names = self._target_names()
        suffixes = ["", *(names if len(names) > 1 else [])]
        return [replace(self.primary, suffix=suffix, unit=unit) for suffix in suffixes]

    def _target_names(self) -> list[str]:
        return self.targets or [n.removeprefix(TARGET_PREFIX) for n in self.state if n.startswith(TARGET_PREFIX)]

    @property
    def numerics(self) -> Mapping[str, object]:
        """What scores depend on: parameters, tokenizer and fitted state, but not where that came from."""
        parameters = self.parameters.model_dump(mode="json", exclude={"target", "fitted", "fit_fraction"})
        # the targets' order is that of their proportions and columns
        state = {"state": digest_arrays(self.state), "targets": self._target_names()}
        return parameters | {"tokenizer": TOKENIZER_VERSION, **state}

    @property
    def statistic_fingerprint(self) -> str:
        """Depends on what is counted, not on how counts become a score."""
        return digest(self.name, self.version, self._counting(), self.parameters.fit_fraction)

    def _counting(self) -> dict[str, object]:
        p = self.parameters
        return {"tokenizer": TOKENIZER_VERSION, "ngrams": p.ngrams, "buckets": p.buckets, "hash": p.hash}

    def start(self) -> Statistic:
        """Counts of zero, int64[buckets]."""
        return {"counts": np.zeros(self.parameters.buckets, dtype=np.int64)}

    def update(self, statistic: Statistic, documents: Documents, of_corpus: bool) -> None:
        """Count a batch's n-grams; of the corpus only a keyed sample where `fit_fraction` says so."""
        p = self.parameters
        rows = None
        if of_corpus and p.fit_fraction < 1:
            rows = keyed_uniform(0, "fit_fraction", documents.keys) < p.fit_fraction
        statistic["counts"] += count_ngrams(documents.text, p.ngrams, p.buckets, p.hash, rows, documents.tokens)

    def finish(self, corpus: Statistic, targets: Mapping[str, Statistic]) -> None:
        """Keep the counts of corpus and targets; raises RecipeError when one of them is empty."""
        state = {RAW: corpus["counts"]} | {TARGET_PREFIX + name: targets[name]["counts"] for name in self.targets}
        for name, counts in state.items():
            if not counts.any():
                raise RecipeError(f"dsir: the {name} has no words to fit on; is it empty, or its text column another?")
        settings = json.dumps(self._counting(), sort_keys=True).encode()
        self.restore(state | {SETTINGS: np.frombuffer(settings, dtype=np.uint8)})

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Use a saved state; raises RecipeError when other n-grams were counted for it."""
        try:
            saved = json.loads(state[SETTINGS].tobytes())
            names = [name for name in state if name.startswith(TARGET_PREFIX)]
            by_target = [state[name] for name in names]
            raw = state[RAW]
        except (KeyError, ValueError) as error:
            raise RecipeError("dsir: the file in `fitted` is not a state of dsir") from error
        shape = (self.parameters.buckets,)
        if not names or any(counts.shape != shape or counts.dtype != np.int64 for counts in (raw, *by_target)):
            raise RecipeError("dsir: the file in `fitted` does not hold the counts of a corpus and its targets")
        if saved != self._counting():
            raise RecipeError(f"dsir: the state in `fitted` was made with {saved}, the recipe has {self._counting()}")
        if self.parameters.proportions is not None and len(self.parameters.proportions) != len(names):
            raise RecipeError(f"dsir: the state in `fitted` has {len(names)} targets, `proportions` has another number")
        self.state = dict(state)
        smoothing = self.parameters.smoothing
        pools = [pooled_target(by_target, self.parameters.proportions, smoothing)]
        pools += [pooled_target([counts], None, smoothing) for counts in by_target if len(by_target) > 1]
        self._log_ratios = np.stack([log_ratio(pool, raw) for pool in pools])

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Log importance weights, null for documents of fewer than `min_tokens` tokens."""
        p = self.parameters
        sums = sum_ngram_weights(documents.text, self._log_ratios, p.ngrams, p.hash, documents.tokens)
        tokens = documents.tokens.counts
        if p.normalise == "tokens":
            sums = sums / np.maximum(tokens, 1)[:, np.newaxis]
        return {
            column.suffix: pa.array(sums[:, i], mask=tokens < p.min_tokens) for i, column in enumerate(self.columns)
        }

    def describe_selection(self, selected: Statistic) -> dict[str, float]:
        """KL reduction of the kept documents (methods 1.5), against the pool and against each of several targets."""
        counts = selected["counts"]
        if not counts.any():
            return {}
        names = self._target_names()
        by_target = {name: self.state[TARGET_PREFIX + name] for name in names}
        pool = pooled_target(list(by_target.values()), self.parameters.proportions)
        reductions = {"kl_reduction": kl_reduction(pool, self.state[RAW], counts)}
        if len(names) > 1:
            for name, target in by_target.items():
                reductions[f"kl_reduction_{name}"] = kl_reduction(target, self.state[RAW], counts)
        return reductions
