"""Losses of a model on held-out sequences, and how far two sets of them differ beyond chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..connectors.keys import keyed_uniform
from .packed_tokens import PackedTokens

if TYPE_CHECKING:
    import torch

Float64 = NDArray[np.float64]

RESAMPLES = 2000


def sequence_losses(model: Any, held_out: PackedTokens, device: torch.device, rows: int = 16) -> Float64:
    """Return the mean loss of each sequence, float64[sequences], nats per token. rows: read at a time."""
    import torch

    losses = []
    with torch.inference_mode():
        for first in range(0, len(held_out), rows):
            count = min(rows, len(held_out) - first)
            tokens = torch.from_numpy(held_out.sequences(first, count)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            flat = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
            )
            losses.append(flat.reshape(count, -1).mean(1).double().cpu().numpy())
    return np.concatenate(losses) if losses else np.zeros(0)


def mean_difference(losses: Float64, baseline: Float64) -> tuple[float, float, float]:
    """Return the mean of losses minus baseline, and its 95 % interval.

    Sequences and seeds are drawn anew with replacement (percentile bootstrap, Efron and Tibshirani 1993, 13.3), the
    same sequences for both sides, seeds of each side for itself. With one seed it knows nothing of other seeds.

    Args:
        losses: float64[seeds, sequences].
        baseline: float64[seeds of the baseline, sequences], of the same sequences.

    Returns:
        Mean, lower and upper end, in nats per token; the draws are keyed, and so the same each time.
    """
    draws = np.arange(RESAMPLES, dtype=np.uint64)

    def drawn(name: str, count: int) -> NDArray[np.int64]:
        """Return int64[RESAMPLES, count] from 0 to count - 1."""
        keys: NDArray[np.uint64] = (draws[:, None] << np.uint64(32)) | np.arange(count, dtype=np.uint64)
        return (keyed_uniform(0, name, keys.ravel()).reshape(keys.shape) * count).astype(np.int64)

    sequences = drawn("bootstrap sequences", losses.shape[1])
    means = []
    for name, side in (("bootstrap seeds", losses), ("bootstrap seeds of the baseline", baseline)):
        of_seeds = np.stack([row[sequences].mean(1) for row in side])
        chosen = drawn(name, len(side))
        means.append(np.take_along_axis(of_seeds.T, chosen, 1).mean(1))
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(losses.mean() - baseline.mean()), float(low), float(high)
