"""Batches of weighted documents, and the loss that they weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

LABELS_PAD = -100
"""What PyTorch's losses ignore as a label."""


def weighted_collate(documents: Sequence[Mapping[str, Any]], pad: int = 0) -> dict[str, Any]:
    """Make a batch of documents; a `collate_fn` of DataLoader.

    Args:
        documents: b dictionaries as `RunDataset` gives them, after `transform`.
        pad: fills up `input_ids`. `labels` are filled up with -100, other sequences with 0.

    Returns:
        `weight` float32[b], `key` uint64[b]; each sequence of numbers as a tensor [b, longest], filled up on the right;
        other numbers as a tensor [b]; all else as a list. With sequences, `mask` bool[b, longest], true where the first
        of them has a value, unless the documents bring one.
    """
    batch: dict[str, Any] = {}
    mask = None
    for name in documents[0]:
        values = [document[name] for document in documents]
        if name == "key":
            batch[name] = torch.from_numpy(np.array(values, np.uint64))
        elif name == "weight":
            batch[name] = torch.tensor(values, dtype=torch.float32)
        elif _is_sequence(values[0]):
            batch[name], there = _padded(values, {"input_ids": pad, "labels": LABELS_PAD}.get(name, 0))
            mask = there if mask is None else mask
        elif all(isinstance(value, bool | int | float) for value in values):
            batch[name] = torch.tensor(values)
        else:
            batch[name] = values
    return batch if mask is None else {"mask": mask, **batch}


def _is_sequence(value: Any) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.ndim == 1
    return isinstance(value, list | tuple) and all(isinstance(part, bool | int | float | np.number) for part in value)


def _padded(values: Sequence[Any], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [b, longest] and where there are values."""
    rows = [torch.as_tensor(value) for value in values]
    kind = next((row.dtype for row in rows if len(row)), torch.int64)
    rows = [row.to(kind) for row in rows]  # an empty list would be one of floats
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def weight_sum(
    weights: torch.Tensor,
    mask: torch.Tensor | None = None,
    token_weights: torch.Tensor | None = None,
    group: Any = None,
) -> torch.Tensor:
    """Return the sum of |weight| over all ranks, which `weighted_loss` divides by.

    Over tokens, or over documents where neither mask nor token weights are given.

    Args: as there. To accumulate gradients, sum it over the batches of a step first and give it to `weighted_loss`.
    """
    total = _applied(weights.detach(), mask, token_weights).abs().sum(dtype=torch.float32)
    if _distributed():
        torch.distributed.all_reduce(total, group=group)
    return total


def weighted_loss(
    per_token_loss: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor | None = None,
    token_weights: torch.Tensor | None = None,
    group: Any = None,
    *,
    total: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of a batch, so that gradients averaged over ranks are those of the global batch.

    With a_it = weight_i * token_weight_it where the mask is true, else 0, the loss of the global batch is
    sum(a * loss) / sum(|a|), over the tokens of all ranks. A rank returns its part of the first sum times the number
    of ranks, over the second: DistributedDataParallel and FSDP average gradients, and the mean over ranks is the
    global loss. Without weights (all 1) it is the mean over tokens; where all are 0, it is 0.

    Args:
        per_token_loss: float[b, t], or float[b] where a document has one loss (then without mask and token weights).
        weights: float[b], of documents; may be negative.
        mask: bool[b, t], the tokens that count; None: all. What is masked may be infinite.
        token_weights: float[b, t], on top of the documents' weights.
        group: process group of torch.distributed over which the batch is spread; None: all ranks, if initialised.
        total: of `weight_sum`, where the batch is one of several in a step.

    Returns:
        A float32 scalar, with a gradient through the losses alone.
    """
    if mask is None and per_token_loss.ndim == 2:
        mask = torch.ones_like(per_token_loss, dtype=torch.bool)
    if total is None:
        total = weight_sum(weights, mask, token_weights, group)
    applied = _applied(weights.detach(), mask, token_weights)
    losses = per_token_loss.float()
    losses = losses if mask is None else torch.where(mask.bool(), losses, 0.0)
    ranks = torch.distributed.get_world_size(group) if _distributed() else 1
    return (applied * losses).sum() * ranks / total.clamp_min(torch.finfo(torch.float32).tiny)


def _applied(weights: torch.Tensor, mask: torch.Tensor | None, token_weights: torch.Tensor | None) -> torch.Tensor:
    """Return the weight of each token, of each document where there is neither a mask nor weights of tokens."""
    applied = weights.float()
    if mask is None and token_weights is None:
        return applied
    applied = applied[:, None]
    applied = applied if token_weights is None else applied * token_weights.detach().float()
    return applied if mask is None else torch.where(mask.bool(), applied, 0.0)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
