"""What all weighing in a training loop shares: it counts steps, and the ranks' batches are one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .array_namespace import Array, namespace


class Stepwise:
    """Counts calls. `group`: process group whose ranks share a batch (data-parallel ones); None: all."""

    def __init__(self, group: Any) -> None:
        self.step = 0
        self.group = group
        self._most_rows = 0  # of any rank, so far: the same on all

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold: numbers, the same on all ranks."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; the settings are those of this object."""
        self.step = int(state["step"])

    def _begin(self, step: int | None) -> int:
        now = self.step if step is None else step
        self.step = now + 1
        return now

    def _over_ranks(self, loss: Array, weigh: Callable[[Array], Array]) -> Array:
        """Weigh the losses of all ranks, each with its own number of rows, and return this rank's rows."""
        ranks = ranks_of(loss, self.group)
        if ranks is None:
            return weigh(loss)
        parts = self._gather(ranks, loss)
        rows = [int(part[0]) for part in parts]
        if max(rows) > self._most_rows:  # on all ranks, or on none
            self._most_rows = max(rows)
            parts = self._gather(ranks, loss)
        weights = weigh(namespace(loss).cat([part[1 : 1 + number] for part, number in zip(parts, rows, strict=True)]))
        rank = ranks.get_rank(self.group)
        return weights[sum(rows[:rank]) : sum(rows[: rank + 1])]

    def _gather(self, ranks: Any, loss: Array) -> list[Array]:
        """Gather (number of rows, losses, filling) of each rank: one collective, which wants equal shapes."""
        own = loss.new_zeros(1 + self._most_rows)
        own[0] = loss.shape[0]
        own[1 : 1 + loss.shape[0]] = loss[: self._most_rows]
        parts = [own.clone() for _ in range(ranks.get_world_size(self.group))]
        ranks.all_gather(parts, own, group=self.group)
        return parts


def check_name(name: str, known: Sequence[str], what: str) -> None:
    """Raise ValueError where a name is not known. what: that it is the name of."""
    if name not in known:
        raise ValueError(f"there is no {what} `{name}` (known: {', '.join(known)})")


def ones_where(mask: Array, like: Array) -> Array:
    """Return ones where a mask is true and zeros elsewhere, of the precision of another array."""
    return namespace(like).asarray(mask, dtype=like.dtype)


def ranks_of(array: Array, group: Any) -> Any:
    """Return `torch.distributed` where several ranks share a batch, else None."""
    if namespace(array) is np:
        return None
    import torch.distributed as ranks

    several = ranks.is_available() and ranks.is_initialized() and ranks.get_world_size(group) > 1
    return ranks if several else None


def mean_one_factor(weights: Array, known: Array, group: Any) -> Array:
    """Return what makes the mean over the known of all ranks one; 1 where no weight is above 0."""
    xp = namespace(weights)
    sums = xp.stack([xp.asarray(known.sum(), dtype=weights.dtype), weights.sum()])
    ranks = ranks_of(weights, group)
    if ranks is not None:
        ranks.all_reduce(sums, group=group)
    return xp.where(sums[1] > 0, sums[0] / xp.where(sums[1] > 0, sums[1], 1.0), 1.0)
