"""Text encoders in memory: one per process and device, and the vectors of texts under them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError, one_line
from .causal_model import is_out_of_memory, one_library_thread
from .model_files import ModelFacts, load_tokenizer
from .windows import rows_within

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "cls", "last_token"]


class EncoderKey(NamedTuple):
    """Names an encoder in a process. dtype: as of `ModelKey`; context: tokens of a text that it reads."""

    facts: ModelFacts
    device: str
    dtype: str
    context: int
    pooling: Pooling


class EncoderModel:
    """A model on its device, with its tokenizer.

    network: from token ids and mask, both int64[b, l], to the last layer [b, l, d]. tokenizer: the library's, which
    adds special tokens and cuts texts at the model's context.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        tokenizer: Any,
        pooling: Pooling,
        dimension: int,
        device: torch.device,
    ) -> None:
        self.network, self.tokenizer, self.pooling, self.dimension = network, tokenizer, pooling, dimension
        self.device = device
        self._budget: int | None = None  # lowered by what did not fit
        # a CPU's memory holds several batches: each worker computes its own, on one core
        self._turn: AbstractContextManager[Any] = contextlib.nullcontext() if device.type == "cpu" else threading.Lock()

    def embed(self, texts: Sequence[str], batch_tokens: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """Embed texts, each cut at the model's context.

        Batches are cut from the texts in order of length. When one does not fit into memory, this and all later ones
        get half of its tokens.

        Args:
            texts: n texts.
            batch_tokens: most tokens in a batch, padding included; a longer text is a batch of its own.

        Returns:
            float16[n, d], rows of length one; bool[n], False for a text that did not fit into memory alone, or whose
            vector is not finite.
        """
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)
        tokens = [np.array(one.ids, np.int64) for one in encoded]
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        vectors = np.zeros((len(tokens), self.dimension), np.float16)
        fits = lengths > 0
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(fits)]
        done = 0
        while done < len(order):
            budget = min(batch_tokens, self._budget or batch_tokens)
            longest = int(lengths[order[done]])
            chosen = order[done : done + rows_within(longest, budget)]
            found = self._pooled([tokens[i] for i in chosen.tolist()], lengths[chosen])
            if found is None and len(chosen) > 1:
                self._budget = max(1, longest * len(chosen) // 2)
                continue
            if found is None:
                fits[chosen] = False
            else:
                vectors[chosen] = found
                fits[chosen] = np.isfinite(found).all(axis=1)
            done += len(chosen)
        return vectors, fits

    def _pooled(self, tokens: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> NDArray[np.float16] | None:
        """Return the vectors of a batch, None when memory does not suffice. lengths: int64[b], the longest first."""
        import torch

        inputs = np.zeros((len(tokens), int(lengths[0])), np.int64)
        for row, text in zip(inputs, tokens, strict=True):
            row[: len(text)] = text
        try:
            with torch.inference_mode(), one_library_thread(self.device), self._turn:
                ids, sizes = torch.from_numpy(inputs).to(self.device), torch.from_numpy(lengths).to(self.device)
                mask = torch.arange(inputs.shape[1], device=self.device)[None] < sizes[:, None]
                hidden = self.network(ids, mask.long()).float()
                vectors = torch.nn.functional.normalize(pooled(hidden, mask, self.pooling), dim=1)
                found: NDArray[np.float16] = vectors.half().cpu().numpy()
                return found
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


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
    return EncoderModel(network, tokenizer, key.pooling, key.facts.dimension, device)
