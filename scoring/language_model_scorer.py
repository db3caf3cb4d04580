"""The scorer `language_model`: how well a causal language model predicts a document."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.corpus_config import CorpusConfig
from ..connectors.keys import text_buffers
from ..connectors.records import one_array
from .causal_model import CausalModel, Losses, ModelKey, causal_model, choose_device, loaded_models
from .model_files import model_facts
from .model_parameters import ModelParameters, stride_within
from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters
from .token_batches import BATCH_TOKENS
from .token_sequences import TokenSequences, text_slices, tokenise
from .windows import cut_windows

SLICE_BYTES = 2 << 20
"""Text that is tokenised, sorted and scored together: some 500,000 tokens, 100 MB while they are made."""

_LARGEST_EXPONENT = 709.0
"""Perplexities beyond its exponential are no float64, and are told as that."""

_SLOW_TOKENIZER = 0.05, 10.0
"""Share of the time, and seconds, that a model may wait for its tokenizer before the user is told."""


class LanguageModelParameters(ModelParameters):
    """Parameters of `scorer: language_model`."""

    scorer: Literal["language_model"]
    stride: int | None = Field(
        None, ge=1, description="new tokens in each window of a document longer than that; default: half of `context`"
    )
    token_nll: bool = Field(False, description="also store the loss of every token")

    @model_validator(mode="after")
    def _stride_within_context(self) -> LanguageModelParameters:
        if self.context is not None and self.stride is not None and self.stride > self.context:
            raise ValueError(f"`stride: {self.stride}` leaves tokens out of windows of `context: {self.context}`")
        return self


@dataclass(frozen=True)
class _Prepared:
    """What the parameters come to, for a model and a corpus. response: column over which is scored, if not the text."""

    key: ModelKey
    context: int
    stride: int
    batch_tokens: int
    response: str | None


class LanguageModel(Scorer):
    """Mean loss, perplexity and entropy of a document's tokens under a causal language model.

    Every token of a text is predicted once from those before it: the first one from the tokenizer's token for the
    beginning of a text (BOS); when the tokenizer has none, the first token is not scored. No token for the end is
    added. With `prompt` and `response`, the model reads both, joined by an empty line and tokenised as one text, and
    the score is over the tokens that hold a character of the response.

    A document of more than `context` tokens (BOS included) is read in windows that begin `stride` tokens apart, and a
    token is predicted in the first window that reaches it, so from at least `context - stride` tokens before it.

    Source of the use: Ankner et al. 2024, "Perplexed by Perplexity" (https://arxiv.org/abs/2405.20541), which keep low,
    middle or high scores, whichever serves the corpus; Q-Tuning (https://arxiv.org/abs/2509.23873) adds the entropy.
    """

    name = "language_model"
    version = 1
    Parameters: ClassVar[type[ScorerParameters]] = LanguageModelParameters
    requires = "a causal language model in safetensors; pip install 'tamis[lm]', for a LoRA adapter 'tamis[lora]'"
    primary = ScoreColumn("", pa.float64(), "nats per token", "lower", "mean negative log-likelihood of a token")
    sized = "tokens"
    parameters: LanguageModelParameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._prepared: _Prepared | None = None

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """Batches of other shapes round differently: by 1e-6 in float32, in bfloat16 as its eight bits do."""
        bfloat16 = self._prepared is not None and self._prepared.key.dtype == "bfloat16"
        return 2e-2 if bfloat16 else 1e-3

    @property
    def columns(self) -> list[ScoreColumn]:
        """Everything that one forward pass gives; `token_nll` names the tokenizer that it belongs to."""
        columns = [
            self.primary,
            ScoreColumn("perplexity", pa.float64(), "tokens", "lower", "exponential of the mean loss"),
            ScoreColumn("bits_per_byte", pa.float64(), "bits per byte", "lower", "all losses over the scored text"),
            ScoreColumn("entropy", pa.float64(), "nats per token", "higher", "mean entropy of the predictions"),
            ScoreColumn("tokens", pa.int32(), "tokens", "none", "that were to be predicted"),
        ]
        if self.parameters.token_nll:
            tokenizer = self.tokenizer_fingerprint
            unit, told = f"nats; tokenizer {tokenizer}", "loss by token; null where not scored"
            columns.append(ScoreColumn("token_nll", pa.list_(pa.float16()), unit, "none", told, tokenizer))
        return columns

    @property
    def needs(self) -> list[str]:
        """The column with the response, where the corpus has one."""
        response = self._prepared and self._prepared.response
        return [response] if response else []

    @property
    def tokenizer_fingerprint(self) -> str:
        """Hex digits over the tokenizer, empty before `prepare`."""
        return self._prepared.key.facts.tokenizer if self._prepared else ""

    @property
    def numerics(self) -> Mapping[str, object]:
        """The model's files, the windows, and what computes."""
        if self._prepared is None:
            return super().numerics
        prepared, (facts, device, dtype) = self._prepared, self._prepared.key
        return {
            "weights": facts.weights,
            "tokenizer": facts.tokenizer,
            "context": prepared.context,
            "stride": prepared.stride,
            "device": device,
            "dtype": dtype,
            "over": "text" if prepared.response is None else "response",
            "token_nll": self.parameters.token_nll,
        }

    def prepare(self, corpus: CorpusConfig) -> None:
        """Look at the model's files, without loading it; raises RecipeError for what cannot be used."""
        p = self.parameters
        facts = model_facts(p.model, adapters=True)
        device, dtype = choose_device(p.device, p.dtype)
        context = p.context_of(facts)
        stride = stride_within(p.stride or -(-context // 2), context)
        batch_tokens = p.batch_tokens or BATCH_TOKENS[device]
        self._prepared = _Prepared(ModelKey(facts, device, dtype), context, stride, batch_tokens, corpus.response)

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the columns; a document without a predicted token, or too large for the memory, has null scores.

        `tokens` tells these apart: it is 0, or the number that was to be predicted. Memory: one slice of SLICE_BYTES of
        text (or one document, where that is longer) with 16 bytes a token, the tokens of the next, and a batch.
        """
        if self._prepared is None:
            raise RuntimeError("a language_model scorer is prepared before it scores")
        prepared, model = self._prepared, causal_model(self._prepared.key)
        sizes = np.diff(text_buffers(documents.text)[0])
        given = None
        if prepared.response is not None:
            assert documents.table is not None
            response = one_array(documents.table.column(prepared.response)).cast(pa.large_string())
            given = _characters(documents.text) - _characters(response)
            sizes_scored = np.diff(text_buffers(response)[0])
        else:
            sizes_scored = sizes
        parts = []
        for part, sequences in _tokenised_ahead(model, documents.text, text_slices(sizes, SLICE_BYTES), given):
            started = time.perf_counter()
            windows = cut_windows(sequences.lengths, sequences.first_scored, prepared.context, prepared.stride)
            losses = model.losses(sequences, windows, prepared.batch_tokens)
            parts.append(self._columns(sequences, losses, sizes_scored[part], model.beginning is not None))
            model.usage.add(ran=time.perf_counter() - started)
        return {
            column.suffix: pa.concat_arrays([pa.array([], column.type), *(part[column.suffix] for part in parts)])
            for column in self.columns
        }

    def findings(self, keys: NDArray[np.uint64], share: float) -> list[str]:
        """Say whether the model waited, as far as this process knows."""
        if self._prepared is None:
            return []
        used = [model.usage for model in loaded_models(self._prepared.key)]
        waited, ran = (sum(getattr(usage, name) for usage in used) for name in ("waited", "ran"))
        lines = []
        share_allowed, seconds_allowed = _SLOW_TOKENIZER
        if waited > max(share_allowed * (waited + ran), seconds_allowed):
            lines.append(
                f"{self.parameters.model}: the model waited for its tokenizer {waited / (waited + ran):.0%} of the time"
            )
        return lines

    def _columns(
        self, sequences: TokenSequences, losses: Losses, sizes: NDArray[np.int64], begins: bool
    ) -> dict[str, pa.Array]:
        """Return the columns of a slice. sizes: int64[n], bytes of the text that is scored."""
        n = len(sequences)
        wanted = sequences.scored
        scored = ~np.isnan(losses.nll)
        of = sequences.documents[scored]
        nll, entropy = (np.bincount(of, values[scored], n) for values in (losses.nll, losses.entropy))
        there = (wanted > 0) & ~losses.too_large & (np.bincount(of, minlength=n) == wanted)
        tokens = np.maximum(wanted, 1)
        mean = np.where(there, nll / tokens, 0)
        values = {
            "": mean,
            "perplexity": np.exp(np.minimum(mean, _LARGEST_EXPONENT)),
            "bits_per_byte": nll / np.maximum(sizes, 1) / np.log(2),
            "entropy": entropy / tokens,
        }
        columns = {suffix: pa.array(column, mask=~there) for suffix, column in values.items()}
        columns["tokens"] = pa.array(wanted.astype(np.int32))
        if self.parameters.token_nll:
            columns["token_nll"] = _token_lists(sequences, losses.nll, begins, there)
        return columns


def _characters(text: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.utf8_length(text), np.int64)


def _token_lists(
    sequences: TokenSequences, nll: NDArray[np.float32], begins: bool, there: NDArray[np.bool_]
) -> pa.Array:
    """Return the loss of each token of a document's text as float16, null where it was not predicted."""
    own = np.ones(len(nll), np.bool_)
    if begins:
        own[sequences.offsets[:-1]] = False  # the token for the beginning is not of the text
    lengths = sequences.lengths - begins
    values = nll[own]
    flat = pa.array(values.astype(np.float16), mask=np.isnan(values))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(~there))


def _tokenised_ahead(
    model: CausalModel, text: pa.Array, slices: list[slice], given: NDArray[np.int64] | None
) -> Iterator[tuple[slice, TokenSequences]]:
    """Yield slices of a text with their tokens; each is tokenised while the one before it is being scored."""

    def tokens(part: slice) -> TokenSequences:
        prompts = None if given is None else given[part]
        return tokenise(model.tokenizer, model.beginning, text[part.start : part.stop], prompts)

    with ThreadPoolExecutor(1, "tokenizer") as background:
        following = [background.submit(tokens, part) for part in slices[:1]]
        for i, part in enumerate(slices):
            started = time.perf_counter()
            sequences = following.pop().result()
            model.usage.add(waited=time.perf_counter() - started)
            following += [background.submit(tokens, after) for after in slices[i + 1 : i + 2]]
            yield part, sequences
