"""Text encoders in memory: one per process and device, and the vectors of texts under them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError, one_line
from .model_files import ModelFacts, load_tokenizer
from .token_batches import TokenBatches

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "cls", "last_token"]
Long = Literal["truncate", "mean"]


class EncoderKey(NamedTuple):
    """Names an encoder in a process.

    dtype: as of `ModelKey`; context: tokens that it reads at a time; long: what is read of a longer text, its first
    `context` tokens or all of them in windows.
    """

    facts: ModelFacts
    device: str
    dtype: str
    context: int
    pooling: Pooling
    long: Long = "truncate"


class EncoderModel:
    """A model on its device, with its tokenizer.

    network: from token ids and mask, both int64[b, l], to the last layer [b, l, d]. tokenizer: the library's, which
    adds special tokens and cuts texts at the model's context. long: as of `EncoderKey`.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        tokenizer: Any,
        pooling: Pooling,
        dimension: int,
        device: torch.device,
        long: Long = "truncate",
    ) -> None:
        self.long = long
        self.network, self.tokenizer, self.pooling, self.dimension = network, tokenizer, pooling, dimension
        self.device = device
        self.batches = TokenBatches(device)

    def embed(self, texts: Sequence[str], batch_tokens: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Embed texts, each cut at the model's context.

        With `long: mean` what is cut off makes further windows, each with its special tokens; the text's vector is the
        mean of those of its windows, by their numbers of tokens, brought to length one.

        Args:
            texts: n texts.
            batch_tokens: as of `TokenBatches.run`.

        Returns:
            float16[n, d], rows of length one; bool[n], False for a text that did not fit into memory alone, or whose
            vector is not finite.
        """
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)
        if self.long == "truncate" or not encoded:
            return self._embedded([np.array(one.ids, np.int64) for one in encoded], batch_tokens)
        windows = [[one, *one.overflowing] for one in encoded]
        tokens = [np.array(window.ids, np.int64) for of_text in windows for window in of_text]
        vectors, fits = self._embedded(tokens, batch_tokens)
        starts = np.concatenate([[0], np.cumsum([len(of_text) for of_text in windows])[:-1]])
        weights = np.fromiter(map(len, tokens), np.float32, len(tokens))[:, None]
        sums = np.add.reduceat(vectors * weights, starts, axis=0)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        return (sums / np.where(norms > 0, norms, 1)).astype(np.float16), np.logical_and.reduceat(fits, starts)

    def _embedded(
        self, tokens: list[NDArray[np.int64]], batch_tokens: int
    ) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Embed sequences of tokens; as `embed` otherwise."""
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        vectors = np.zeros((len(tokens), self.dimension), np.float16)
        there = np.flatnonzero(lengths > 0)
        fits = np.zeros(len(tokens), np.bool_)

        def compute(batch: NDArray[np.int64]) -> None:
            chosen = there[batch]
            vectors[chosen] = self._pooled([tokens[i] for i in chosen.tolist()], lengths[chosen])
            fits[chosen] = np.isfinite(vectors[chosen]).all(axis=1)

        self.batches.run(lengths[there], batch_tokens, compute)
        return vectors, fits

    def _pooled(self, tokens: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the vectors of a batch. lengths: int64[b], the longest first."""
        import torch

        inputs = np.zeros((len(tokens), int(lengths[0])), np.int64)
        for row, text in zip(inputs, tokens, strict=True):
            row[: len(text)] = text
        with torch.inference_mode():
            ids, sizes = torch.from_numpy(inputs).to(self.device), torch.from_numpy(lengths).to(self.device)
            mask = torch.arange(inputs.shape[1], device=self.device)[None] < sizes[:, None]
            hidden = self.network(ids, mask.long()).float()
            vectors = torch.nn.functional.normalize(pooled(hidden, mask, self.pooling), dim=1)
            found: NDArray[np.float16] = vectors.half().cpu().numpy()
            return found


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Turn the vectors of a text's tokens into one.

    Args:
        hidden: float32[b, l, d], the last layer; mask: bool[b, l], False where there is padding, at the right.
        pooling: mean of the tokens, or the vector of the first one (cls) or of the last one.
    """
    import torch

    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last_token":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def load_encoder(key: EncoderKey, device_number: int = 0) -> EncoderModel:
    """Load an encoder from safetensors, without code of its own; for `model_of_worker`.

    Raises TamisError for a model that cannot be loaded or lacks weights.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
    from transformers.utils import logging

    logging.disable_progress_bar()  # a run has its own
    device = torch.device("cpu" if key.device == "cpu" else f"cuda:{device_number}")
    folder = key.facts.folder
    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        kind = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
        loaded_with: Any = kind.from_pretrained(
            folder, dtype="auto", use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # whatever the model's files make the library raise
        raise TamisError(f"{folder} cannot be loaded: {one_line(error)}") from error
    model, found = loaded_with
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))  # a head, not used here
    if missing:
        raise TamisError(f"{folder}: its files lack the weights {', '.join(missing[:3])}")
    dtype = getattr(torch, key.dtype)
    if model.dtype != dtype:
        model = model.float()  # bfloat16 is then autocast, as in training
    model.config.use_cache = False
    model = model.to(device).eval().requires_grad_(False)

    def network(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden: torch.Tensor = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return hidden

    tokenizer = Tokenizer.from_str(load_tokenizer(Path(folder)).backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(key.context)
    return EncoderModel(network, tokenizer, key.pooling, key.facts.dimension, device, key.long)
