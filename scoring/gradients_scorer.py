"""The scorer `gradients`: a document's loss gradient under a causal language model, projected to a vector."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError, one_line
from ..connectors.keys import text_buffers
from ..connectors.records import one_array
from .adam_direction import AdamState, adam_direction, load_adam_state, sign_direction
from .causal_model import BATCH_TOKENS, ModelKey, causal_model, choose_device
from .gradient_model import GradientModel
from .gradient_projection import BLOW_UP, Kind, LayerProjection, layer_projections
from .linear_layers import chosen_layers, layers_of
from .model_files import model_facts
from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters, digest
from .token_sequences import TokenSequences, text_slices, tokenise
from .vectors import VECTORS, vector_column
from .windows import cut_windows

CONTEXT = 1024
"""Default of the tokens in a window, for models that can read as many."""

SLICE_BYTES, SLICE_DOCUMENTS = 2 << 20, 2048
"""Text and documents whose gradients are held together, in float32."""

LARGEST = float(np.finfo(np.float16).max)

Update = Literal["sgd", "sign", "adam"]


class GradientsParameters(ScorerParameters):
    """Parameters of `scorer: gradients`."""

    path_keys: ClassVar[tuple[str, ...]] = ("optimizer",)

    scorer: Literal["gradients"]
    model: str = Field(description="folder of a causal language model in Hugging Face format, or its name on the hub")
    layers: list[str] = Field(
        ["all"], min_length=1, description="names of linear layers, * for anything; all: but the head; head: it alone"
    )
    dimension: int = Field(4096, ge=1, le=1 << 16, description="numbers in all, stored in 2 bytes each")
    projection: Kind | None = Field(
        None, description="random signs, or coordinates of the gradient; default: coordinates for sign and adam"
    )
    update: Update = Field("sgd", description="what of the gradient: itself, its signs, or the step Adam would make")
    optimizer: str | None = Field(None, description="of adam: safetensors with exp_avg.NAME and exp_avg_sq.NAME")
    seed: int = Field(0, ge=0, lt=1 << 31, description="of the projection; the same for all that is compared")
    context: int | None = Field(
        None, ge=1, description="tokens that the model reads at once; default: 1024, or what it can where that is less"
    )
    stride: int | None = Field(None, ge=1, description="new tokens in each window of a longer document; default: all")
    max_tokens: int | None = Field(None, ge=1, description="tokens of a document that are read; default: all")
    batch_tokens: int | None = Field(
        None, ge=1, description="tokens in a batch, padding included; default: 1,024 on a CPU, 32,768 on a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrix products; auto: bfloat16 on a GPU, float32 on a CPU"
    )

    @model_validator(mode="after")
    def _fits(self) -> GradientsParameters:
        if (self.optimizer is not None) != (self.update == "adam"):
            raise ValueError("`update: adam` needs `optimizer`, and nothing else does")
        if self.update != "sgd" and self.projection == "random":
            raise ValueError(f"`update: {self.update}` is of single coordinates; say `projection: coordinates`")
        return self

    def resolved(self, base: Path) -> Self:
        """Return the same with absolute paths, where `model` is a folder seen from `base`."""
        found = super().resolved(base)
        folder = base / Path(self.model).expanduser()
        return found.model_copy(update={"model": str(folder)}) if folder.is_dir() else found


@dataclass(frozen=True)
class _Prepared:
    key: ModelKey
    layers: dict[str, tuple[int, int]]
    projection: Kind
    context: int
    stride: int
    batch_tokens: int
    response: str | None
    optimizer: str


class Gradients(Scorer):
    """Gradient of a document's mean token loss by the weights of linear layers, projected to a vector.

    Inner products of vectors are, up to the projection, those of whole gradients: what a small step of training on one
    document does for the loss on another. The scorer `influence` makes scores of them. Layers are hooked, and their
    gradients projected token by token (LoGra, Choe et al. 2024, https://arxiv.org/abs/2405.13954); biases, norms and
    embeddings have no part. With `layers: [head]`, no layer is differentiated, and a document costs a forward pass.

    A document of more than `context` tokens is read in windows that begin `stride` tokens apart, each token predicted
    once, and their gradients are added up. `norm` is that of the projected gradient, and with `update: sgd` an estimate
    of GraNd (Paul et al. 2021, https://arxiv.org/abs/2107.07075), which is of one model here.

    float16 changes the cosine of two vectors by 0.0001 at most, far less than the projection does; scores are of this
    projection and seed, and comparable only with each other.

    A mean over tokens, as in LESS (Xia et al. 2024, https://arxiv.org/abs/2402.04333): its norm falls with length,
    that of a sum rises. Either follows length, so that scores of `influence` are normalised unless told otherwise.
    """

    name = "gradients"
    version = 1
    Parameters: ClassVar[type[ScorerParameters]] = GradientsParameters
    requires = "a causal language model in safetensors; pip install 'tamis[lm]'"
    primary = ScoreColumn("", VECTORS, "nats per unit of weight", "none", "projected gradient of the mean token loss")
    sized = "tokens"
    parameters: GradientsParameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._prepared: _Prepared | None = None

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """float16 keeps eleven bits; batches of other shapes round differently, in bfloat16 as its eight bits do."""
        bfloat16 = self._prepared is not None and self._prepared.key.dtype == "bfloat16"
        return 5e-2 if bfloat16 else 2e-3

    @property
    def columns(self) -> list[ScoreColumn]:
        """The vector, its norm, and the tokens that it is of."""
        return [
            self.primary,
            ScoreColumn("norm", pa.float32(), "nats per unit of weight", "higher", "of the vector, before rounding"),
            ScoreColumn("tokens", pa.int32(), "tokens", "none", "that were to be predicted"),
        ]

    @property
    def needs(self) -> list[str]:
        """The column with the response, where the corpus has one."""
        response = self._prepared and self._prepared.response
        return [response] if response else []

    @property
    def blocks(self) -> list[int]:
        """How many numbers of the vector belong to each layer, in order."""
        return [projection.size for projection in self._projections().values()]

    @property
    def numerics(self) -> Mapping[str, object]:
        """The model's files, layers and projection, windows, and what computes."""
        if self._prepared is None:
            return super().numerics
        prepared, p, (facts, device, dtype) = self._prepared, self.parameters, self._prepared.key
        return {
            "weights": facts.weights,
            "tokenizer": facts.tokenizer,
            "layers": prepared.layers,
            "dimension": p.dimension,
            "projection": [prepared.projection, BLOW_UP, p.seed],
            "update": [p.update, prepared.optimizer],
            "windows": [prepared.context, prepared.stride, p.max_tokens],
            "device": device,
            "dtype": dtype,
            "over": "text" if prepared.response is None else "response",
        }

    def prepare(self, corpus: CorpusConfig) -> None:
        """Look at the model's files, without loading it; raises RecipeError for what cannot be used."""
        p = self.parameters
        facts = model_facts(p.model)
        device, dtype = choose_device(p.device, p.dtype)
        context = p.context or min(CONTEXT, facts.longest or CONTEXT)
        if facts.longest is not None and context > facts.longest:
            raise RecipeError(f"context: the model reads at most {facts.longest:,} tokens, not {context:,}")
        stride = p.stride or context
        if stride > context:
            raise RecipeError(f"stride: {stride:,} leaves tokens out of windows of {context:,}; say at most that")
        layers = chosen_layers(layers_of(facts.folder), p.layers)
        if p.dimension < len(layers):
            raise RecipeError(f"dimension: {p.dimension:,} numbers are fewer than the {len(layers):,} layers")
        projection = p.projection or ("random" if p.update == "sgd" else "coordinates")
        optimizer = "" if p.optimizer is None else _sha256(p.optimizer)
        batch_tokens = p.batch_tokens or BATCH_TOKENS[device]
        self._prepared = _Prepared(
            ModelKey(facts, device, dtype),
            layers,
            projection,
            context,
            stride,
            batch_tokens,
            corpus.response,
            optimizer,
        )

    def score(self, documents: Documents) -> dict[str, pa.Array]:
        """Return the columns; a document without a predicted token, or too large for the memory, has no vector.

        Memory: 2 bytes a dimension and document; for a slice of SLICE_BYTES of text or SLICE_DOCUMENTS documents 4
        bytes more, and 50 a token; and one batch with its graph.
        """
        return self._scored(documents, self.parameters.update)

    def of_target(self, documents: Documents) -> pa.Array:
        """Return the vectors of documents whose loss is to fall: plain gradients, whatever `update` is."""
        return self._scored(documents, "sgd")[""]

    def _scored(self, documents: Documents, update: Update) -> dict[str, pa.Array]:
        prepared, model = self._ready(), self._model()
        given = self._prompts(documents)
        sizes = np.diff(text_buffers(documents.text)[0])
        vectors = np.zeros((len(documents), model.dimension), np.float16)
        norms, tokens = np.zeros(len(documents), np.float32), np.zeros(len(documents), np.int32)
        there = np.zeros(len(documents), np.bool_)
        for part in text_slices(np.maximum(sizes, SLICE_BYTES // SLICE_DOCUMENTS), SLICE_BYTES):
            prompts = None if given is None else given[part]
            text = documents.text[part.start : part.stop]
            sequences = tokenise(model.model.tokenizer, model.model.beginning, text, prompts)
            lengths = self._lengths_read(sequences)
            windows = cut_windows(lengths, sequences.first_scored, prepared.context, prepared.stride)
            tokens[part] = np.maximum(lengths - sequences.first_scored, 0)
            found = model.gradients(sequences, windows, prepared.batch_tokens)
            there[part] = (tokens[part] > 0) & ~found.too_large
            found.features[:] /= np.maximum(tokens[part], 1)[:, None]
            features = self._updated(found.features, update)
            norms[part] = np.linalg.norm(features, axis=1)
            vectors[part] = np.clip(features, -LARGEST, LARGEST)
        return {"": vector_column(vectors, there), "norm": pa.array(norms, mask=~there), "tokens": pa.array(tokens)}

    def _ready(self) -> _Prepared:
        if self._prepared is None:
            raise RuntimeError("a gradients scorer is prepared before it scores")
        return self._prepared

    def _projections(self) -> dict[str, LayerProjection]:
        prepared, p = self._ready(), self.parameters
        return layer_projections(prepared.layers, p.dimension, prepared.projection, p.seed)

    def _model(self) -> GradientModel:
        """Return the model with its projections; made once for each device of the process."""
        prepared, p = self._ready(), self.parameters
        model = causal_model(prepared.key)
        name = digest(prepared.layers, p.dimension, prepared.projection, p.seed)
        with _making:
            if (id(model), name) not in _models:
                _models[id(model), name] = GradientModel(model, self._projections())
            return _models[id(model), name]

    def _prompts(self, documents: Documents) -> NDArray[np.int64] | None:
        """Return how many characters of each text are given, int64[n]; None where all of it is to be predicted."""
        response = self._ready().response
        if response is None or documents.table is None or response not in documents.table.column_names:
            return None  # a target may be of plain texts
        answers = one_array(documents.table.column(response)).cast(pa.large_string())
        return _characters(documents.text) - _characters(answers)

    def _lengths_read(self, sequences: TokenSequences) -> NDArray[np.int64]:
        most = self.parameters.max_tokens
        return sequences.lengths if most is None else np.minimum(sequences.lengths, most)

    def _updated(self, features: NDArray[np.float32], update: Update) -> NDArray[np.float32]:
        if update == "sgd":
            return features
        if update == "sign":
            return sign_direction(features, self._scales())
        return adam_direction(features, self._scales(), self._adam_state())

    def _scales(self) -> NDArray[np.float32]:
        """Return what each coordinate was multiplied by, float32[d]."""
        parts = [np.full(one.size, one.inputs.scale * one.outputs.scale) for one in self._projections().values()]
        return np.concatenate(parts).astype(np.float32)

    def _adam_state(self) -> AdamState:
        assert self.parameters.optimizer is not None
        return load_adam_state(self.parameters.optimizer, self._projections())


_models: dict[tuple[int, str], GradientModel] = {}
_making = threading.Lock()


def _sha256(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"optimizer: {path} cannot be read: {one_line(error)}") from error


def _characters(text: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.utf8_length(text), np.int64)
