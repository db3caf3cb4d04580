"""Batches of token sequences for a model: cut by a budget of tokens, halved where memory does not suffice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .windows import rows_within

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = {"cpu": 1024, "cuda": 32_768}
"""Default of the padded tokens in a batch, by device class."""


class TokenBatches:
    """Cuts sequences into batches for one model, and remembers how large a batch fits into its device's memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._most: int | None = None  # tokens, lowered by what did not fit
        # a CPU's memory holds several batches: each worker computes its own, on one core
        self._turn: AbstractContextManager[Any] = contextlib.nullcontext() if device.type == "cpu" else threading.Lock()

    def run(
        self, lengths: NDArray[np.int64], batch_tokens: int, compute: Callable[[NDArray[np.int64]], None]
    ) -> NDArray[np.int64]:
        """Compute batches of neighbours in length, the longest first.

        When one does not fit into memory, this and all later ones get half of its tokens.

        Args:
            lengths: int64[n], tokens of each sequence, at least 1.
            batch_tokens: most tokens in a batch, padding included; a longer sequence is a batch of its own.
            compute: given the numbers of a batch's sequences, the longest first.

        Returns:
            int64, numbers of the sequences that did not fit alone.
        """
        order = np.argsort(-lengths, kind="stable")
        too_large: list[int] = []
        done = 0
        while done < len(order):
            longest = int(lengths[order[done]])
            chosen = order[done : done + rows_within(longest, min(batch_tokens, self._most or batch_tokens))]
            if self._fits(chosen, compute):
                done += len(chosen)
            elif len(chosen) > 1:
                self._most = max(1, longest * len(chosen) // 2)
            else:
                too_large.append(int(chosen[0]))
                done += 1
        return np.array(too_large, np.int64)

    def _fits(self, chosen: NDArray[np.int64], compute: Callable[[NDArray[np.int64]], None]) -> bool:
        import torch

        try:
            with one_library_thread(self.device), self._turn:
                compute(chosen)
            return True
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False


@contextmanager
def one_library_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, let torch compute on the calling thread alone: workers are Tamis' threads, one for each core."""
    import torch

    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
