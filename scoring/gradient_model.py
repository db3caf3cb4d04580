"""Projected gradients of each document's loss under a causal language model, from batches of documents.

Hooks on linear layers see what a layer reads (a) and the derivatives of the loss by what it gives (s), for all windows
of a batch; both are projected at once, and their product for each window is all that is ever made of its gradient.
Weights get no gradient themselves, and what lies before the first layer that is asked for keeps no graph.
"""

from __future__ import annotations

import contextlib
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError
from .causal_model import CausalModel, is_out_of_memory, one_library_thread
from .gradient_projection import LayerProjection, Side
from .linear_layers import HEAD, is_linear
from .loss_gradient import loss_gradient
from .token_sequences import TokenSequences
from .windows import WindowBatch, Windows, gather_batch, longest_first, rows_within

if TYPE_CHECKING:
    import torch

_LOGIT_TILE = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits that exist at a time, by device class: 4 and 256 MB, three times as much while they are differentiated."""

_recording = threading.local()


class Gradients(NamedTuple):
    """features: of the sum of each document's token losses, projected, float32[n, d]; too_large: bool[n], documents
    that did not fit into memory."""

    features: NDArray[np.float32]
    too_large: NDArray[np.bool_]


class GradientModel:
    """A causal language model with projections of some of its layers, on its device.

    model: shared with all other uses of it; projections: by layer, as `linear_layers` names them.
    """

    def __init__(self, model: CausalModel, projections: dict[str, LayerProjection]) -> None:
        import torch

        self.model, self.device = model, model.device
        self.layers: dict[str, _Layer] = {}
        begin = 0
        for name, projection in projections.items():
            self.layers[name] = _on_device(projection, begin, self.device)
            begin += projection.size
        self.dimension = begin
        self.whole_head = None
        if HEAD in projections:
            self.whole_head = torch.from_numpy(projections[HEAD].outputs.as_matrix()).to(self.device)
        self._budget: int | None = None  # lowered by what did not fit
        self._turn: AbstractContextManager[Any] = contextlib.nullcontext()
        if self.device.type != "cpu":
            self._turn = threading.Lock()
        _hook_once(model.module)

    def gradients(self, sequences: TokenSequences, windows: Windows, batch_tokens: int) -> Gradients:
        """Compute the projected gradient of the sum of each document's losses.

        Windows of one document are added up; those of a batch do not touch. Batches are cut from the windows in order
        of length. When one does not fit into memory, this and all later ones get half of its tokens; a window that does
        not fit alone makes its document too large.

        Args:
            sequences: n documents.
            windows: of these, what is predicted and from what.
            batch_tokens: most tokens in a batch, padding included; a longer window is a batch of its own.
        """
        import torch

        order, inputs = longest_first(windows), windows.inputs
        features = torch.zeros((len(sequences), self.dimension), device=self.device)
        too_large = np.zeros(len(sequences), np.bool_)
        done = 0
        while done < len(order):
            budget = min(batch_tokens, self._budget or batch_tokens)
            longest = int(inputs[order[done]])
            chosen = order[done : done + rows_within(longest, budget)]
            batch = gather_batch(sequences.tokens, sequences.offsets, windows, chosen)
            found = self._of_batch(batch)
            if found is not None:
                features.index_add_(0, torch.from_numpy(windows.sequence[chosen]).to(self.device), found)
                done += len(chosen)
                self.model.usage.add(tokens=int(inputs[chosen].sum()), padded=batch.inputs.size)
            elif len(chosen) > 1:
                self._budget = max(1, longest * len(chosen) // 2)
            else:
                too_large[windows.sequence[chosen]] = True
                done += 1
        return Gradients(features.cpu().numpy(), too_large)

    def _of_batch(self, batch: WindowBatch) -> torch.Tensor | None:
        """Return the gradients of a batch's windows, float32[b, d]; None when memory does not suffice."""
        import torch

        try:
            with one_library_thread(self.device), self._turn:
                return self._differentiated(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _differentiated(self, batch: WindowBatch) -> torch.Tensor:
        import torch

        arrays = (batch.inputs, batch.rows, batch.targets)
        inputs, rows, targets = (torch.from_numpy(array).to(self.device) for array in arrays)
        recorder = _Recorder(self.layers, inputs.shape[0], inputs.shape[1], self.dimension, self.device)
        _recording.recorder = recorder
        try:
            with torch.set_grad_enabled(self.layers.keys() != {HEAD}):
                hidden = self.model.network(inputs).flatten(0, 1)
        finally:
            _recording.recorder = None
        head = self.model.head
        states = hidden.detach()[rows].to(head.weight.dtype)
        tile = max(1, _LOGIT_TILE[self.device.type] // len(head.weight))
        with torch.no_grad():
            slope = loss_gradient(states, targets, head, tile, self.whole_head)
            if slope.outputs is not None:
                recorder.add_rows(HEAD, states, slope.outputs, rows)
        if hidden.requires_grad:
            hidden.backward(torch.zeros_like(hidden).index_copy_(0, rows, slope.hidden.to(hidden.dtype)))
        missing = sorted(self.layers.keys() - recorder.seen)
        if missing:
            raise TamisError(f"layers: `{missing[0]}` was not used; name layers that every token goes through")
        return recorder.features


@dataclass(frozen=True)
class _TensorSide:
    size: int
    matrix: torch.Tensor | None
    rows: Any
    scale: float

    def applied(self, values: torch.Tensor) -> torch.Tensor:
        """Project the last axis, in float32."""
        if self.matrix is not None:
            return (values @ self.matrix.to(values.dtype)).float()
        return values[..., self.rows].float() * self.scale


@dataclass(frozen=True)
class _Layer:
    inputs: _TensorSide
    outputs: _TensorSide
    block: slice
    order: torch.Tensor | None
    signs: torch.Tensor | None

    def reduced(self, product: torch.Tensor) -> torch.Tensor:
        """Add up the numbers of products [b, outputs, inputs] as the projection says: [b, size]."""
        import torch

        flat = product.flatten(1)
        if self.order is None or self.signs is None:
            return flat
        padded = torch.nn.functional.pad(flat, (0, 1))
        return torch.einsum("bsg,sg->bs", padded[:, self.order], self.signs)


def _on_device(projection: LayerProjection, begin: int, device: torch.device) -> _Layer:
    import torch

    def tensor(array: NDArray[Any] | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(array).to(device)

    def side(given: Side) -> _TensorSide:
        rows = slice(None) if given.chosen is None else tensor(given.chosen)
        return _TensorSide(given.size, tensor(given.matrix), rows, given.scale)

    block = slice(begin, begin + projection.size)
    return _Layer(
        side(projection.inputs), side(projection.outputs), block, tensor(projection.order), tensor(projection.signs)
    )


class _Recorder:
    """Gathers the gradients of one batch: of b windows, each padded to `length` tokens."""

    def __init__(
        self, layers: dict[str, _Layer], windows: int, length: int, dimension: int, device: torch.device
    ) -> None:
        import torch

        self.layers, self.shape = layers, (windows, length)
        self.features = torch.zeros((windows, dimension), device=device)
        self.seen: set[str] = set()

    def forward(self, name: str, read: torch.Tensor, given: torch.Tensor) -> None:
        """Note what a layer reads, and ask for the derivatives by what it gives."""
        layer = self.layers.get(name)
        if layer is None:
            return
        if read.shape[:-1] != self.shape:
            raise TamisError(f"layers: `{name}` does not read every token once; name other layers")
        inputs = layer.inputs.applied(read.detach())
        if not given.requires_grad:
            given.requires_grad_()

        def backward(slope: torch.Tensor) -> None:
            self._add(name, inputs, layer.outputs.applied(slope))

        given.register_hook(backward)

    def add_rows(self, name: str, read: torch.Tensor, slope: torch.Tensor, rows: torch.Tensor) -> None:
        """Add a layer that only some tokens go through. read, slope: [m, ...]; rows: int64[m], which of the tokens."""
        inputs = self.layers[name].inputs.applied(read)
        padded = [
            values.new_zeros((self.shape[0] * self.shape[1], values.shape[1])).index_copy_(0, rows, values)
            for values in (inputs, slope)
        ]
        self._add(name, *(values.unflatten(0, self.shape) for values in padded))

    def _add(self, name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        # padding has no derivative: nothing that is predicted sees it
        layer = self.layers[name]
        self.features[:, layer.block] += layer.reduced(outputs.transpose(1, 2) @ inputs)
        self.seen.add(name)


_hooking = threading.Lock()


def _hook_once(module: Any) -> None:
    """Let the linear layers of a model tell the calling thread's recorder, where there is one, what they read."""
    with _hooking:
        if getattr(module, "_tamis_hooked", False):
            return
        head = module.get_output_embeddings()
        for name, layer in module.named_modules():
            if is_linear(layer) and layer is not head:
                layer.register_forward_hook(_hook_of(name))
        module._tamis_hooked = True


def _hook_of(name: str) -> Any:
    def hook(layer: Any, read: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
        recorder = getattr(_recording, "recorder", None)
        if recorder is not None:
            recorder.forward(name, read[0], given)

    return hook
