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
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    rows: int,
    columns: int,
    projection: torch.Tensor | None = None,
) -> LossGradient:
    """Differentiate the sum of negative log-likelihoods of targets.

    With z the product of head and state (and bias), and scale and cap of the head, the loss is that of logits
    y = cap · tanh(scale · z / cap); its derivative by z is (softmax(y) - onehot) · scale · (1 - (y / cap)²). Sums run
    over tiles of the vocabulary, relative to the largest logit so far, as in `token_losses`, so that at most `rows` x
    `columns` logits exist at a time, and no graph of them.

    Args:
        hidden: states that the head reads, [m, d], in the head's type.
        targets: int64[m].
        head: over v tokens.
        rows, columns: size of a tile, >= 1.
        projection: float32[v, k], applied to the derivatives by z.

    Returns:
        Both gradients, on the device of `hidden`.
    """
    import torch

    matrices = [head.weight] if projection is None else [head.weight, projection]
    gradients = [torch.empty((len(hidden), m.shape[1]), dtype=m.dtype, device=hidden.device) for m in matrices]
    for begin in range(0, len(hidden), rows):
        part = slice(begin, begin + rows)
        states, wanted = hidden[part], targets[part]
        top = torch.full((len(states), 1), torch.finfo(torch.float32).min, device=hidden.device)
        total = torch.zeros_like(top)  # of exp(y - top), as what the other sums are relative to
        sums = [top.new_zeros((len(states), matrix.shape[1])) for matrix in matrices]
        for column in range(0, len(head.weight), columns):
            logits = head.logits(states, column, column + columns)
            bend = _bend(logits, head)
            higher = torch.maximum(top, logits.amax(1, keepdim=True))
            chances, factor = logits.sub_(higher).exp_(), (top - higher).exp_()
            total = factor * total + chances.sum(1, keepdim=True)
            chances = chances if bend is None else chances.mul_(bend)
            for found, matrix in zip(sums, matrices, strict=True):
                found.mul_(factor).add_(chances.to(matrix.dtype) @ matrix[column : column + columns])
            top = higher
        bend = _bend(head.logits_of(states, wanted)[:, None], head)
        for gradient, found, matrix in zip(gradients, sums, matrices, strict=True):
            of_target = matrix[wanted].float()
            gradient[part] = (found / total - (of_target if bend is None else of_target * bend)) * head.scale
    return LossGradient(gradients[0], None if projection is None else gradients[1])


def _bend(logits: torch.Tensor, head: Head) -> torch.Tensor | None:
    """Return the slope of what squeezes logits, None where nothing does."""
    return None if head.cap is None else 1 - (logits / head.cap).square()
