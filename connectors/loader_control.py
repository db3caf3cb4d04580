"""What the training process tells the workers of its loader while they run, through memory that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import TamisError

CHANGES = 4096
"""Changes of shares that an epoch may have; 8 bytes each and group."""

_WORKERS = 4096

_EPOCH, _START, _BEFORE, _TURN, _COUNT, _IN_WORKERS = range(6)


class LoaderControl:
    """Epoch, place to start at, and the shares of groups by step. groups: their number, 0 where they do not matter.

    Nothing is locked. A worker says which step it begins before it looks at the shares, and who changes them looks at
    what was begun after the change: so a change that comes too late is noticed by one of both.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self._state = torch.zeros(6, dtype=torch.int64).share_memory_()
        self._resumed = torch.full((_WORKERS,), -1, dtype=torch.int64).share_memory_()
        self._state[_BEFORE] = -1
        self._begun = torch.full((_WORKERS,), -1, dtype=torch.int64).share_memory_()
        self._steps = torch.zeros(CHANGES, dtype=torch.int64).share_memory_()
        self._shares = torch.zeros((CHANGES, groups), dtype=torch.float64).share_memory_()

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return int(self._state[_EPOCH])

    @property
    def start(self) -> int:
        """Batch of the epoch at which iterations start."""
        return int(self._state[_START])

    def set_epoch(self, epoch: int) -> bool:
        """Go to the start of another epoch, with the shares that the last one had at its end."""
        if epoch == self.epoch:
            return False
        count = int(self._state[_COUNT])
        if count:
            self._shares[0], self._steps[0] = self._shares[count - 1].clone(), 0
            self._state[_COUNT] = 1
        self.resume(epoch, 0, 0)
        return True

    def resume(self, epoch: int, start: int, step: int) -> None:
        """Go to a batch of an epoch, and the step that it belongs to."""
        self._state[_EPOCH], self._state[_START], self._state[_BEFORE] = epoch, start, step - 1
        self._state[_TURN] += 1
        self._begun.fill_(step - 1)

    def begin(self, worker: int, workers: int, in_worker: bool) -> tuple[int, int, bool]:
        """Return epoch and batch for an iteration, and whether this is the first since it was resumed there."""
        others = slice(workers, None) if worker == 0 else slice(0)
        self._begun[others] = self._begun[worker] = self._state[_BEFORE]
        first = bool(self._resumed[worker] != self._state[_TURN])
        self._resumed[worker] = self._state[_TURN]
        self._state[_IN_WORKERS] = int(in_worker)
        return self.epoch, self.start, first

    def reached(self, worker: int, step: int) -> None:
        """Note that a worker begins a step."""
        self._begun.numpy()[worker] = step  # 0.1 us, by torch 5 us

    def set_shares(self, shares: NDArray[np.float64], step: int | None) -> None:
        """Change the shares from a step on. shares: float64[groups]; step: None for the next one."""
        count = int(self._state[_COUNT])
        if step is None and self._state[_IN_WORKERS]:
            raise TamisError("set_shares: workers read ahead; say from which `step` on")
        step = int(self._begun.max()) + 1 if step is None else step
        last = int(self._steps[count - 1]) if count else 0
        if count == CHANGES or step < last:
            why = f"there were {CHANGES} changes in this epoch" if count == CHANGES else f"step {last} has some already"
            raise TamisError(f"set_shares: {why}; give a later step, or begin another epoch")
        self._shares[count], self._steps[count] = torch.from_numpy(shares), step
        self._state[_COUNT] = count + 1
        begun = int(self._begun.max())
        if begun >= step:
            self._state[_COUNT] = count
            raise TamisError(f"set_shares: step {begun} has begun, step {step} is too early; workers read ahead")

    def at(self, step: int) -> NDArray[np.float64]:
        """Return the shares at a step, float64[groups]."""
        return next(shares for _, _, shares in self.between(step, step + 1))

    def between(self, first: int, end: int) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        """Yield (first, end, shares) for the steps [first, end)."""
        steps = self._steps[: int(self._state[_COUNT])].numpy()
        while first < end:
            place = int(np.searchsorted(steps, first, side="right"))
            until = min(end, int(steps[place])) if place < len(steps) else end
            yield first, until, self._shares[place - 1].numpy()
            first = until

    def schedule(self) -> list[list[Any]]:
        """Return the shares so far: [step, shares] of each change."""
        count = int(self._state[_COUNT])
        return [[int(step), self._shares[i].tolist()] for i, step in enumerate(self._steps[:count])]

    def adopt(self, schedule: Sequence[Sequence[Any]]) -> None:
        """Take over the changes that a state knows of."""
        for i, (step, shares) in enumerate(schedule):
            self._shares[i], self._steps[i] = torch.tensor(shares, dtype=torch.float64), step
        if schedule:
            self._state[_COUNT] = len(schedule)
