"""The scorer `gradients`: a document's loss gradient under a causal language model, projected to a vector."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError, TamisError
from ..connectors.keys import text_buffers
from ..connectors.records import one_array
from .adam_direction import optimizer_digest, updated
from .causal_model import ModelKey, causal_model, choose_device
from .gradient_features import LARGEST, GradientFeatures
from .gradient_model import GradientModel
from .gradient_projection import BLOW_UP, LayerProjection, layer_projections
from .gradients_parameters import GradientsParameters, Storage, Update
from .linear_layers import chosen_layers, layers_of
from .model_files import model_facts
from .model_parameters import stride_within
from .quantised_vectors import quantised
from .scorer import Documents, ScoreColumn, Scorer, ScorerParameters, digest
from .token_batches import BATCH_TOKENS
from .token_influence import token_influences
from .token_sequences import TokenSequences, text_slices, tokenise
from .vectors import QUANTISED, VECTORS, vector_column
from .windows import cut_windows

SLICE_BYTES, SLICE_DOCUMENTS = 2 << 20, 2048
"""Text and documents whose gradients are held together, in float32."""


@dataclass(frozen=True)
class _Prepared:
    key: ModelKey
    layers: dict[str, tuple[int, int]]
    projection: Literal["random", "coordinates", "pca"]
    context: int
    stride: int
    batch_tokens: int
    response: str | None
    optimizer: str


class Gradients(GradientFeatures):
    """Gradient of a document's mean token loss by the weights of linear layers, projected to a vector.

    Inner products of vectors are, up to the projection, those of whole gradients: what a small step of training on one
    document does for the loss on another. The scorer `influence` makes scores of them. Layers are hooked, and their
    gradients projected token by token (LoGra, Choe et al. 2024, https://arxiv.org/abs/2405.13954); biases, norms and
    embeddings have no part. With `layers: [head]`, no layer is differentiated, and a document costs a forward pass.
    Where `model` is a LoRA adapter in PEFT's format, `layers: [all]` means its matrices alone, as in LESS.

    A document of more than `context` tokens is read in windows that begin `stride` tokens apart, each token predicted
    once, and their gradients are added up. `norm` is that of the projected gradient, and with `update: sgd` an estimate
    of GraNd (Paul et al. 2021, https://arxiv.org/abs/2107.07075), which is of one model here.

    float16 changes the cosine of two vectors by 0.0001 at most, far less than the projection does. `storage: int8`
    takes half of the bytes: on 1,200 documents of mixed text and a small model with 1,024 dimensions, scores of
    influence keep a rank correlation of 0.99998 with those of float32, and of 0.9999 under Fisher curvature. Scores are
    of this projection and seed, and comparable only with each other. On a CPU that multiplies bfloat16 numbers (AMX),
    `dtype: bfloat16` is faster for models of 15M parameters and more.

    A mean over tokens, as in LESS (Xia et al. 2024, https://arxiv.org/abs/2402.04333): its norm falls with length,
    that of a sum rises. Either follows length, so that scores of `influence` are normalised unless told otherwise.
    """

    name = "gradients"
    version = 1
    Parameters: ClassVar[type[ScorerParameters]] = GradientsParameters
    requires = "a causal language model in safetensors; pip install 'tamis[lm]', for a LoRA adapter 'tamis[lora]'"
    primary = ScoreColumn("", VECTORS, "nats per unit of weight", "none", "projected gradient of the mean token loss")
    sized = "tokens"
    parameters: GradientsParameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._prepared: _Prepared | None = None

    @classmethod
    def of(cls, parameters: Any) -> Scorer:
        """Return the one that is fitted where the projection is."""
        from .gradients_pca_scorer import PCAGradients  # is made of this one

        return PCAGradients(parameters) if parameters.projection == "pca" else cls(parameters)

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        """float16 keeps eleven bits, int8 seven; batches of other shapes round differently, in bfloat16 as eight do."""
        bfloat16 = self._prepared is not None and self._prepared.key.dtype == "bfloat16"
        return 5e-2 if bfloat16 else 5e-3 if self.parameters.storage == "int8" else 2e-3

    @property
    def columns(self) -> list[ScoreColumn]:
        """The vector, its norm, and the tokens that it is of."""
        stored = VECTORS if self.parameters.storage == "float16" else QUANTISED
        return [
            replace(self.primary, type=stored),
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
            "storage": p.storage,
        }

    def prepare(self, corpus: CorpusConfig) -> None:
        """Look at the model's files, without loading it; raises RecipeError for what cannot be used."""
        p = self.parameters
        facts = model_facts(p.model, adapters=True)
        device, dtype = choose_device(p.device, p.dtype)
        context = p.context_of(facts)
        stride = stride_within(p.stride or context, context)
        layers = chosen_layers(layers_of(facts.folder, facts.adapter), p.layers)
        if p.dimension < len(layers):
            raise RecipeError(f"dimension: {p.dimension:,} numbers are fewer than the {len(layers):,} layers")
        projection = p.projection or ("random" if p.update == "sgd" else "coordinates")
        optimizer = "" if p.optimizer is None else optimizer_digest(p.optimizer)
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
        return self._scored(documents, self.parameters.update, self.parameters.storage)

    def of_target(self, documents: Documents) -> pa.Array:
        """Return the vectors of documents whose loss is to fall: plain gradients, whatever `update` is."""
        return self._scored(documents, "sgd", "float16")[""]

    def _scored(self, documents: Documents, update: Update, storage: Storage) -> dict[str, pa.Array]:
        prepared, model = self._ready(), self._model()
        given = self._prompts(documents)
        sizes = np.diff(text_buffers(documents.text)[0])
        vectors: NDArray[Any] = np.zeros((len(documents), model.dimension), np.float16)
        if storage == "int8":
            vectors = quantised(vectors)
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
            features = updated(found.features, update, self._projections, self.parameters.optimizer)
            norms[part] = np.linalg.norm(features, axis=1)
            fitting = np.clip(features, -LARGEST, LARGEST)
            vectors[part] = quantised(fitting) if storage == "int8" else fitting
        return {"": vector_column(vectors, there), "norm": pa.array(norms, mask=~there), "tokens": pa.array(tokens)}

    def on_tokens(self, documents: Documents, query: NDArray[np.float32]) -> tuple[NDArray[np.float32], TokenSequences]:
        """Return what each token adds to the product of its document's vector with a query, and the tokens.

        query: float32[d]. Returns float32[t], which add up to the product for each document, up to float16's rounding.
        Raises TamisError where `update` is not sgd: a step is no sum over tokens.
        """
        if self.parameters.update != "sgd":
            raise TamisError(f"with `update: {self.parameters.update}` a vector is no sum over tokens")
        prepared, model = self._ready(), self._model().model
        sequences = tokenise(model.tokenizer, model.beginning, documents.text, self._prompts(documents))
        lengths = self._lengths_read(sequences)
        windows = cut_windows(lengths, sequences.first_scored, prepared.context, prepared.stride)
        found = token_influences(model, self._projections(), query, sequences, windows, prepared.batch_tokens)
        predicted = np.maximum(lengths - sequences.first_scored, 1)
        return found / predicted.astype(np.float32)[sequences.documents], sequences

    def characters(self, text: str) -> NDArray[np.int64]:
        """Return where the tokens of a text begin and end in it, int64[t, 2]; the one for the beginning is at 0."""
        model = self._model().model
        found: list[tuple[int, int]] = model.tokenizer.encode(text, add_special_tokens=False).offsets
        return np.array([(0, 0)] * (model.beginning is not None) + found, np.int64).reshape(-1, 2)

    def _ready(self) -> _Prepared:
        if self._prepared is None:
            raise RuntimeError("a gradients scorer is prepared before it scores")
        return self._prepared

    def _projections(self) -> dict[str, LayerProjection]:
        prepared, p = self._ready(), self.parameters
        assert prepared.projection != "pca"
        return layer_projections(prepared.layers, p.dimension, prepared.projection, p.seed)

    def _model(self) -> GradientModel:
        """Return the model with its projections; made once for each device of the process."""
        prepared, p = self._ready(), self.parameters
        model = causal_model(prepared.key)
        name = digest(prepared.layers, p.dimension, self.numerics["projection"])
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


_models: dict[tuple[int, str], GradientModel] = {}
_making = threading.Lock()


def _characters(text: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.utf8_length(text), np.int64)
