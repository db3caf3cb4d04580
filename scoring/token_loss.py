"""Negative log-likelihood of tokens and entropy of their predictions, from hidden states, in tiles of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Head:
    """How hidden states of width d become logits over v tokens.

    weight: [v, d]; bias: [v] or None; scale: logits are multiplied by it (Cohere, Granite); cap: then they are squeezed
    into (-cap, cap) by a hyperbolic tangent (Gemma).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Return the logits of tokens [begin, end) as float32[m, end - begin], for hidden states [m, d]."""
        logits = (hidden @ self.weight[begin:end].T).float()
        return self._finished(logits, None if self.bias is None else self.bias[begin:end])

    def logits_of(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return one logit for each hidden state, float32[m]; hidden: [m, d]; tokens: int64[m]."""
        import torch

        logits = torch.linalg.vecdot(hidden.float(), self.weight[tokens].float())
        return self._finished(logits, None if self.bias is None else self.bias[tokens])

    def _finished(self, logits: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if bias is not None:
            logits += bias
        if self.scale != 1.0:
            logits *= self.scale
        if self.cap is not None:
            logits = logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits


def token_losses(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each target, and entropy of the distribution that it was predicted with.

    With logits z, their log-sum-exp L and p = exp(z - L), these are L - z[target] and L - sum(p z). Both sums run over
    tiles of the vocabulary, in float32 and relative to the largest logit so far, so that at most `rows` x `columns`
    logits exist at a time, whatever the number of targets and the vocabulary.

    Source: Milakov and Gimelshein 2018 (https://arxiv.org/abs/1805.02867) for the running maximum and sum; the
    entropy is carried in the same way.

    Args:
        hidden: states that the head reads, [m, d], in the head's type.
        targets: int64[m].
        head: with a vocabulary that has all targets.
        rows, columns: size of a tile, >= 1; set by what a device keeps in its cache.

    Returns:
        Both in nats, float32[m], on the device of `hidden`.
    """
    import torch

    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    entropies = torch.empty_like(losses)
    for begin in range(0, len(hidden), rows):
        part = slice(begin, begin + rows)
        states = hidden[part]
        top = torch.full((len(states),), torch.finfo(torch.float32).min, device=hidden.device)
        total, moment = torch.zeros_like(top), torch.zeros_like(top)  # of exp(z - top), and of that times (z - top)
        for column in range(0, len(head.weight), columns):
            logits = head.logits(states, column, column + columns)
            higher = torch.maximum(top, logits.amax(1))
            lowered = top - higher
            logits -= higher[:, None]
            exponentials = logits.exp()
            factor = lowered.exp()
            moment = factor * (moment + total * lowered) + torch.linalg.vecdot(exponentials, logits)
            total = factor * total + exponentials.sum(1)
            top = higher
        normaliser = total.log()
        losses[part] = normaliser + (top - head.logits_of(states, targets[part]))  # large ones cancel first
        entropies[part] = normaliser - moment / total
    return losses.clamp_(min=0), entropies.clamp_(min=0)
