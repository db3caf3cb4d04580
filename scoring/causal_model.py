"""Causal language models in memory: one per process and device, and the losses of windows under them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import RecipeError, TamisError, one_line
from .lora_adapter import load_adapter
from .model_files import ModelFacts, load_tokenizer
from .token_batches import TokenBatches
from .token_loss import Head, token_losses
from .token_sequences import TokenSequences
from .windows import WindowBatch, Windows, gather_batch

if TYPE_CHECKING:
    import torch

_TILES = {"cpu": (512, 512), "cuda": (4096, 8192)}
"""Rows and columns of the logits that exist at a time: 1 MB, which a core's cache holds, and 128 MB."""


class ModelKey(NamedTuple):
    """Names a model in a process. dtype: of the matrix products, `float32` or `bfloat16`."""

    facts: ModelFacts
    device: str
    dtype: str


@dataclass
class Usage:
    """What a model was used for in this process. Seconds are of all threads together.

    tokens, padded: read by the model, without and with padding; waited, ran: seconds for the tokenizer and in the
    model.
    """

    tokens: int = 0
    padded: int = 0
    waited: float = 0.0
    ran: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **amounts: float) -> None:
        """Add to some of the numbers."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)


class Losses(NamedTuple):
    """nll, entropy: nats, float32[t], NaN where a token was not predicted; too_large: bool[n], documents that did not
    fit into memory."""

    nll: NDArray[np.float32]
    entropy: NDArray[np.float32]
    too_large: NDArray[np.bool_]


class CausalModel:
    """A model on its device, with its tokenizer.

    network: from token ids int64[b, l] to hidden states [b, l, d]. tokenizer: the library's, without truncation and
    padding; beginning: id of the token that begins a text, if the tokenizer has one; module: of torch, with the head.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        head: Head,
        tokenizer: Any,
        beginning: int | None,
        device: torch.device,
        module: Any = None,
    ) -> None:
        self.network, self.head, self.tokenizer, self.beginning = network, head, tokenizer, beginning
        self.device, self.module = device, module
        self.usage = Usage()
        self.tile = _TILES[device.type]
        self.batches = TokenBatches(device)

    def losses(self, sequences: TokenSequences, windows: Windows, batch_tokens: int) -> Losses:
        """Compute the losses of the tokens that windows predict.

        A window that does not fit into memory makes its document too large. batch_tokens: as of `TokenBatches.run`.
        """
        import torch

        nll = torch.full((len(sequences.tokens),), torch.nan, device=self.device)
        entropy = torch.full_like(nll, torch.nan)

        def compute(chosen: NDArray[np.int64]) -> None:
            batch = gather_batch(sequences.tokens, sequences.offsets, windows, chosen)
            positions = torch.from_numpy(batch.positions).to(self.device)
            nll[positions], entropy[positions] = self._of_batch(batch)
            self.usage.add(tokens=int(windows.inputs[chosen].sum()), padded=batch.inputs.size)

        too_large = np.zeros(len(sequences), np.bool_)
        too_large[windows.sequence[self.batches.run(windows.inputs, batch_tokens, compute)]] = True
        return Losses(nll.cpu().numpy(), entropy.cpu().numpy(), too_large)

    def _of_batch(self, batch: WindowBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return nll and entropy of what a batch predicts, float32[m]."""
        import torch

        inputs, rows, targets = (
            torch.from_numpy(array).to(self.device) for array in (batch.inputs, batch.rows, batch.targets)
        )
        with torch.inference_mode():
            hidden = self.network(inputs).flatten(0, 1)[rows].to(self.head.weight.dtype)
            return token_losses(hidden, targets, self.head, *self.tile)


_Model = TypeVar("_Model")
_models: dict[tuple[Any, int], Any] = {}
_loading = threading.Lock()
_numbers = itertools.count()
_worker = threading.local()


def causal_model(key: ModelKey) -> CausalModel:
    """Return the model for the calling thread, as `model_of_worker`.

    Raises TamisError for a model that cannot be loaded, or whose predictions are not those of a causal model with a
    linear head.
    """
    return model_of_worker(key, load_causal_model)


def model_of_worker(key: Any, load: Callable[[Any, int], _Model]) -> _Model:
    """Return the model for the calling thread: on its one device, or worker i's on device i modulo their number.

    It is loaded when it is asked for first, and stays: a process holds the weights of each model once per device.

    Args:
        key: names the model; has a `device`.
        load: loads it, from the key and the number of the device.
    """
    import torch

    if not hasattr(_worker, "number"):
        _worker.number = next(_numbers)
    device = _worker.number % torch.cuda.device_count() if key.device == "cuda" else 0
    with _loading:
        if (key, device) not in _models:
            _models[key, device] = load(key, device)
        model: _Model = _models[key, device]
        return model


def choose_device(device: str, dtype: str) -> tuple[str, str]:
    """Return what computes, `cpu` or `cuda`, and in which numbers; each may be `auto`.

    Raises RecipeError for a GPU that is not there.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise RecipeError("device: torch finds no GPU; say auto or cpu")
    chosen = "cuda" if device != "cpu" and there else "cpu"
    return chosen, {"cuda": "bfloat16", "cpu": "float32"}[chosen] if dtype == "auto" else dtype


def loaded_models(key: ModelKey) -> list[CausalModel]:
    """Return what `causal_model` has loaded for a key in this process, one for each device."""
    with _loading:
        return [model for (known, _), model in _models.items() if known == key]


def load_causal_model(key: ModelKey, device_number: int = 0) -> CausalModel:
    """Load a model from safetensors, without code of its own; see `causal_model`."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a run has its own
    device = torch.device("cpu" if key.device == "cpu" else f"cuda:{device_number}")
    dtype = getattr(torch, key.dtype)
    try:
        loaded_with: Any = AutoModelForCausalLM.from_pretrained(
            key.facts.folder,
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever the model's files make the library raise
        raise TamisError(f"{key.facts.folder} cannot be loaded: {one_line(error)}") from error
    model, found = loaded_with
    if found["missing_keys"]:
        raise TamisError(
            f"{key.facts.folder}: its files lack the weights {', '.join(sorted(found['missing_keys'])[:3])}"
        )
    if model.dtype != dtype:
        model = model.float()  # bfloat16 is then autocast, as in training
    if key.facts.adapter:
        load_adapter(model, Path(key.facts.adapter))
    model = model.to(device).eval().requires_grad_(False)

    def network(tokens: torch.Tensor) -> torch.Tensor:
        # padding is at the right, where no token sees it, so that no mask is needed
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden: torch.Tensor = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden

    tokenizer = load_tokenizer(Path(key.facts.tokenizer_folder))
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    head = _head(model, dtype, key.facts.folder)
    loaded = CausalModel(network, head, backend, tokenizer.bos_token_id, device, model)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        _check(model, loaded, key)
    return loaded


def _head(model: Any, dtype: torch.dtype, folder: str) -> Head:
    import torch

    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear):
        raise TamisError(f"{folder}: its head is a {type(layer).__name__}, where a linear layer is needed")
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    bias = None if layer.bias is None else layer.bias.float()
    return Head(layer.weight.to(dtype), bias, float(scale), None if cap is None else float(cap))


def _check(model: Any, loaded: CausalModel, key: ModelKey) -> None:
    """Raise TamisError unless our logits are the model's own, and a token changes nothing before it."""
    import torch

    tokens = torch.arange(8, device=loaded.device)[None] % len(loaded.head.weight)
    other = tokens.clone()
    other[0, -1] = 0
    near = 1e-3 if key.dtype == "float32" else 0.1
    try:
        hidden, changed = loaded.network(tokens), loaded.network(other)
        ours = loaded.head.logits(hidden[0].to(loaded.head.weight.dtype), 0, len(loaded.head.weight))
        theirs = model(input_ids=tokens, use_cache=False).logits[0].float()
        same = ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=near, atol=near)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise TamisError(f"{key.facts.folder} cannot be read as a causal language model: {one_line(error)}") from error
    if not same:
        raise TamisError(f"{key.facts.folder}: its logits are not its head's; this kind of model is not supported")
    if not torch.allclose(hidden[0, :-1].float(), changed[0, :-1].float(), rtol=near, atol=near):
        raise TamisError(f"{key.facts.folder}: tokens see those after them; a causal language model is needed")
