"""Projected gradients of each document's loss under a causal language model, from batches of documents.

Hooks on linear layers see what a layer reads (a) and the derivatives of the loss by what it gives (s), for all windows
of a batch; both are projected at once, and their product for each window is all that is ever made of its gradient.
Weights get no gradient themselves, and what lies before the first layer that is asked for keeps no graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..connectors.errors import TamisError
from .causal_model import CausalModel
from .gradient_projection import LayerProjection
from .gradient_recorder import GradientRecorder, Recorder, hook_once, on_device, recording
from .linear_layers import HEAD
from .loss_gradient import loss_gradient
from .token_batches import TokenBatches
from .token_sequences import TokenSequences
from .windows import WindowBatch, Windows, gather_batch

if TYPE_CHECKING:
    import torch


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
        self.layers = {}
        begin = 0
        for name, projection in projections.items():
            self.layers[name] = on_device(projection, begin, self.device)
            begin += projection.size
        self.dimension = begin
        self.whole_head = None
        if HEAD in projections:
            self.whole_head = torch.from_numpy(projections[HEAD].outputs.as_matrix()).to(self.device)
        self.batches = TokenBatches(self.device)  # of its own: gradients need more memory than losses
        hook_once(model.module)

    def gradients(self, sequences: TokenSequences, windows: Windows, batch_tokens: int) -> Gradients:
        """Compute the projected gradient of the sum of each document's losses.

        Windows of one document are added up; those of a batch do not touch. A window that does not fit into memory
        makes its document too large.

        Args:
            sequences: n documents.
            windows: of these, what is predicted and from what.
            batch_tokens: as of `TokenBatches.run`.
        """
        import torch

        features = torch.zeros((len(sequences), self.dimension), device=self.device)

        def compute(chosen: NDArray[np.int64]) -> None:
            batch = gather_batch(sequences.tokens, sequences.offsets, windows, chosen)
            found = self._of_batch(batch)
            features.index_add_(0, torch.from_numpy(windows.sequence[chosen]).to(self.device), found)
            self.model.usage.add(tokens=int(windows.inputs[chosen].sum()), padded=batch.inputs.size)

        too_large = np.zeros(len(sequences), np.bool_)
        too_large[windows.sequence[self.batches.run(windows.inputs, batch_tokens, compute)]] = True
        return Gradients(features.cpu().numpy(), too_large)

    def _of_batch(self, batch: WindowBatch) -> torch.Tensor:
        """Return the gradients of a batch's windows, float32[b, d]."""
        recorder = GradientRecorder(self.layers, batch.inputs.shape, self.dimension, self.device)
        differentiate(self.model, batch, recorder, self.whole_head)
        return recorder.features


def differentiate(
    model: CausalModel, batch: WindowBatch, recorder: Recorder, whole_head: torch.Tensor | None = None
) -> None:
    """Show a recorder its layers, with the derivatives of the sum of a batch's losses.

    Args:
        model: hooked (`hook_once`).
        batch: of windows.
        recorder: of the batch's shape; a `GradientRecorder` where the head is among its layers.
        whole_head: float32[v, k], projection of the derivatives by the logits, where the head is among its layers.

    Raises:
        TamisError: a layer is not used, or not by every token once.
    """
    import torch

    arrays = (batch.inputs, batch.rows, batch.targets)
    inputs, rows, targets = (torch.from_numpy(array).to(model.device) for array in arrays)
    with recording(recorder), torch.set_grad_enabled(recorder.names != {HEAD}):
        hidden = model.network(inputs).flatten(0, 1)
    head = model.head
    states = hidden.detach()[rows].to(head.weight.dtype)
    with torch.no_grad():
        slope = loss_gradient(states, targets, head, *model.tile, whole_head)
        if slope.outputs is not None and isinstance(recorder, GradientRecorder):
            recorder.add_rows(HEAD, states, slope.outputs, rows)
    if hidden.requires_grad:
        hidden.backward(torch.zeros_like(hidden).index_copy_(0, rows, slope.hidden.to(hidden.dtype)))
    missing = sorted(recorder.names - recorder.seen)
    if missing:
        raise TamisError(f"layers: `{missing[0]}` was not used; name layers that every token goes through")
