"""Gradient of token losses with respect to hidden states and the head, in closed form, in tiles of the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .token_loss import Head

if TYPE_CHECKING:
    import torch


class LossGradient(NamedTuple):
    """hidden: of the loss with respect to each state, [m, d], in the states' type; outputs: of the loss with respect
    to the product of head and state, projected, float32[m, k]; None where no projection was asked for."""

    hidden: torch.Tensor
    outputs: torch.Tensor | None


def loss_gradient(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, rows: int, projection: torch.Tensor | None = None
) -> LossGradient:
    """Differentiate the sum of negative log-likelihoods of targets.

    With z the product of head and state (and bias), and scale and cap of the head, the loss is that of logits
    y = cap · tanh(scale · z / cap); its derivative by z is (softmax(y) - onehot) · scale · (1 - (y / cap)²). At most
    `rows` x v logits exist at a time, and no graph of them.

    Args:
        hidden: states that the head reads, [m, d], in the head's type, m >= 1.
        targets: int64[m].
        head: over v tokens.
        rows: states in a tile, >= 1.
        projection: float32[v, k], applied to the derivatives by z.

    Returns:
        Both gradients, on the device of `hidden`.
    """
    import torch

    gradients, projected = [], []
    for begin in range(0, len(hidden), rows):
        states, wanted = hidden[begin : begin + rows], targets[begin : begin + rows]
        logits = head.logits(states, 0, len(head.weight))
        slope = logits.softmax(1)
        slope[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
        if head.cap is not None:
            slope *= 1 - (logits / head.cap).square()
        if head.scale != 1.0:
            slope *= head.scale
        gradients.append(slope.to(head.weight.dtype) @ head.weight)
        if projection is not None:
            projected.append(slope @ projection)
    return LossGradient(torch.cat(gradients), torch.cat(projected) if projected else None)
