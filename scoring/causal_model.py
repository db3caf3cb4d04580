"""Causal language models in memory: one per process and device, and the losses of windows under them."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import RecipeError, TamisError, one_line
from .model_files import ModelFacts, load_tokenizer
from .token_loss import Head, token_losses
from .token_sequences import TokenSequences
from .windows import WindowBatch, Windows, gather_batch, longest_first, rows_within

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = {"cpu": 1024, "cuda": 32_768}
"""Default of the padded tokens in a batch, by device class."""

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
        self._budget: int | None = None  # lowered by what did not fit
        # a CPU's memory holds several batches: each worker computes its own, on one core
        self._turn: AbstractContextManager[Any] = contextlib.nullcontext() if device.type == "cpu" else threading.Lock()

    def losses(self, sequences: TokenSequences, windows: Windows, batch_tokens: int) -> Losses:
        """Compute the losses of the tokens that windows predict.

        Batches are cut from the windows in order of length. When one does not fit into memory, this and all later ones
        get half of its tokens; a window that does not fit alone makes its document too large.

        batch_tokens: most tokens in a batch, padding included; a longer window is a batch of its own.
        """
        import torch

        order, inputs = longest_first(windows), windows.inputs
        nll = torch.full((len(sequences.tokens),), torch.nan, device=self.device)
        entropy = torch.full_like(nll, torch.nan)
        too_large = np.zeros(len(sequences), np.bool_)
        done = 0
        while done < len(order):
            budget = min(batch_tokens, self._budget or batch_tokens)
            longest = int(inputs[order[done]])
            chosen = order[done : done + rows_within(longest, budget)]
            batch = gather_batch(sequences.tokens, sequences.offsets, windows, chosen)
            if self._fits(batch, nll, entropy):
                done += len(chosen)
                self.usage.add(tokens=int(inputs[chosen].sum()), padded=batch.inputs.size)
            elif len(chosen) > 1:
                self._budget = max(1, longest * len(chosen) // 2)
            else:
                too_large[windows.sequence[chosen]] = True
                done += 1
        return Losses(nll.cpu().numpy(), entropy.cpu().numpy(), too_large)

    def _fits(self, batch: WindowBatch, nll: torch.Tensor, entropy: torch.Tensor) -> bool:
        """Compute a batch and put its losses where they belong; False when memory does not suffice."""
        import torch

        arrays = (batch.inputs, batch.rows, batch.targets, batch.positions)
        try:
            inputs, rows, targets, positions = (torch.from_numpy(array).to(self.device) for array in arrays)
            with torch.inference_mode(), one_library_thread(self.device), self._turn:
                hidden = self.network(inputs).flatten(0, 1)[rows].to(self.head.weight.dtype)
                found = token_losses(hidden, targets, self.head, *self.tile)
                nll[positions], entropy[positions] = found
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory was what did not suffice."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def one_library_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, let torch compute on the calling thread alone: workers are Tamis' threads, one for each core."""
    import torch

    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    model = model.to(device).eval().requires_grad_(False)

    def network(tokens: torch.Tensor) -> torch.Tensor:
        # padding is at the right, where no token sees it, so that no mask is needed
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            hidden: torch.Tensor = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden

    tokenizer = load_tokenizer(Path(key.facts.folder))
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
