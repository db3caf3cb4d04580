"""The scorer `embedding`: a vector for each document, for clusters, duplicates and coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError
from ..connectors.keys import text_buffers
from .causal_model import choose_device, model_of_worker
from .encoder_model import EncoderKey, Long, Pooling, load_encoder
from .hashed_embedding import SIGNS_PER_HASH, hashed_embeddings
from .model_files import model_facts
from .model_parameters import ModelParameters
from .scorer import Documents, ScoreColumn, Scorer
from .token_batches import BATCH_TOKENS
from .token_sequences import text_slices
from .tokenizer import TOKENIZER_VERSION
from .vectors import VECTORS, vector_column

HASHED = "hashed"
DIMENSION = 256
CONTEXT = 512
"""Default of the tokens that a model reads of a text."""

SLICE_BYTES = 2 << 20
"""Text that is tokenised, sorted and embedded together."""

_OF_MODELS = ("pooling", "prefix", "context", "long", "batch_tokens")
_OF_HASHED = ("ngrams", "dimension")


class EmbeddingParameters(ModelParameters):
    """Parameters of `scorer: embedding`."""

    scorer: Literal["embedding"]
    model: str = Field(HASHED, description="folder or hub name of a Hugging Face model, or `hashed`: none is needed")
    context: int | None = Field(
        None, ge=1, description="tokens that are read at a time; default: 512, or what the model can where that is less"
    )
    long: Long = Field(
        "truncate",
        description="of a text of more tokens: its beginning is read, as encoders are mostly used (truncate), or all "
        "of it in windows, whose vectors' mean counts (mean)",
    )
    pooling: Pooling | None = Field(
        None, description="default: last_token for a causal language model, as SemDeDup does, else mean"
    )
    prefix: str = Field("", description="put before each text, where the model wants that")
    ngrams: int = Field(1, ge=1, le=8, description="of `hashed`: longest n-gram of words")
    dimension: int = Field(DIMENSION, ge=1, le=4096, description="of `hashed`: a multiple of 64")

    @model_validator(mode="after")
    def _fits(self) -> EmbeddingParameters:
        hashed = self.model == HASHED
        for key in _OF_MODELS if hashed else _OF_HASHED:
            if key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` is not for `model: {self.model}`")
        if self.dimension % SIGNS_PER_HASH:
            raise ValueError(f"dimension: {self.dimension} is no multiple of {SIGNS_PER_HASH}")
        return self

    def resolved(self, base: Path) -> Self:
        """Return the same with an absolute path, where `model` is a folder seen from `base`."""
        return self if self.model == HASHED else super().resolved(base)


class Embedding(Scorer):
    """A vector of length one for each document, stored once in float16, for every later use.

    With a model: its last layer over the first `context` tokens of the text, or over all windows of so many, pooled.
    With `hashed`: the text's hashed words under a random projection, which needs no model (see `hashed_embedding`).

    Source of pooling the last token of a causal language model: SemDeDup (https://arxiv.org/abs/2303.09540).
    """

    name = "embedding"
    version = 1
    Parameters = EmbeddingParameters
    requires = "text; for a model: safetensors, and pip install 'tamis[lm]'"
    primary = ScoreColumn("", VECTORS, "vector of length one", "none", "the document's embedding")
    parameters: EmbeddingParameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._key: EncoderKey | None = None
        self._batch_tokens = 0

    @property
    def hashed(self) -> bool:
        """Whether there is no model."""
        return self.parameters.model == HASHED

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """float16 keeps eleven bits; batches of other shapes round differently, in bfloat16 as its eight bits do."""
        if self.hashed:
            return 0.0
        return 2e-2 if self._key is not None and self._key.dtype == "bfloat16" else 2e-3

    @property
    def columns(self) -> list[ScoreColumn]:
        """The vector."""
        return [self.primary]

    @property
    def numerics(self) -> Mapping[str, object]:
        """The words and the projection, or the model's files and what computes."""
        p = self.parameters
        if self.hashed:
            return {"tokenizer": TOKENIZER_VERSION, "ngrams": p.ngrams, "dimension": p.dimension}
        if self._key is None:
            return super().numerics
        facts, device, dtype, context, pooling, long = self._key
        return {
            "weights": facts.weights,
            "tokenizer": facts.tokenizer,
            "context": context,
            "pooling": pooling,
            "prefix": p.prefix,
            "device": device,
            "dtype": dtype,
            **({"long": long} if long != "truncate" else {}),
        }

    def prepare(self, corpus: CorpusConfig) -> None:
        """Look at the model's files, without loading it; raises RecipeError for what cannot be used."""
        if self.hashed:
            return
        p, facts = self.parameters, model_facts(self.parameters.model, causal=False)
        if not facts.dimension:
            raise RecipeError(f"model: the configuration in {facts.folder} does not tell the size of its vectors")
        device, dtype = choose_device(p.device, p.dtype)
        context = p.context_of(facts, CONTEXT)
        pooling: Pooling = p.pooling or ("last_token" if facts.causal else "mean")
        self._key = EncoderKey(facts, device, dtype, context, pooling, p.long)
        self._batch_tokens = p.batch_tokens or BATCH_TOKENS[device]

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the vectors; null for a text without words, or too large for the memory.

        Memory: 2 bytes a dimension and document, and while a model works one slice of SLICE_BYTES of text.
        """
        if self.hashed:
            p, tokens = self.parameters, documents.tokens
            vectors = hashed_embeddings(tokens, p.ngrams, p.dimension).astype(np.float16)
            return {"": vector_column(vectors, tokens.counts > 0)}
        if self._key is None:
            raise RuntimeError("an embedding scorer is prepared before it scores")
        model = model_of_worker(self._key, load_encoder)
        vectors = np.zeros((len(documents), self._key.facts.dimension), np.float16)
        there = np.asarray(pc.not_equal(pc.utf8_trim_whitespace(documents.text), ""))
        sizes = np.diff(text_buffers(documents.text)[0])
        for part in text_slices(sizes, SLICE_BYTES):
            texts = documents.text[part.start : part.stop].to_pylist()
            prefixed = [self.parameters.prefix + text for text in texts] if self.parameters.prefix else texts
            vectors[part], fits = model.embed(prefixed, self._batch_tokens)
            there[part] &= fits
        return {"": vector_column(vectors, there)}
