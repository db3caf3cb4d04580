"""Mean loss of each of a few documents under a model of transformers that is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .token_sequences import TokenSequences
from .windows import cut_windows, gather_batch, longest_first, rows_within

if TYPE_CHECKING:
    import torch


def document_losses(
    model: Any, sequences: TokenSequences, context: int, device: torch.device, batch_tokens: int = 4096
) -> NDArray[np.float64]:
    """Return the mean negative log-likelihood of each document's tokens.

    Args:
        model: causal, of transformers, in eval mode.
        sequences: n documents; one of more than `context` tokens is read in windows without overlap.
        context: most tokens that are read at once.
        device: where the model is.
        batch_tokens: most tokens in a batch, padding included.

    Returns:
        float64[n], nats per token; NaN where no token is predicted.
    """
    import torch

    windows = cut_windows(sequences.lengths, sequences.first_scored, context, context)
    order, owner = longest_first(windows), sequences.documents
    sums, done = np.zeros(len(sequences)), 0
    while done < len(order):
        chosen = order[done : done + rows_within(int(windows.inputs[order[done]]), batch_tokens)]
        batch = gather_batch(sequences.tokens, sequences.offsets, windows, chosen)
        inputs, rows, targets = (torch.from_numpy(a).to(device) for a in (batch.inputs, batch.rows, batch.targets))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)[rows].float()
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        np.add.at(sums, owner[batch.positions], losses.double().cpu().numpy())
        done += len(chosen)
    return np.where(sequences.scored > 0, sums / np.maximum(sequences.scored, 1), np.nan)
