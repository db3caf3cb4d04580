"""The passes that find exact boundaries over all shards: those of a radix select."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..selectors.cuts import Cuts
from ..selectors.decide import ranked_rows
from ..selectors.radix import RadixSelect, merge
from .candidates import Candidates
from .passes import Control, Result, Work

Int64 = NDArray[np.int64]


@dataclass
class RadixPass(Work):
    """One pass of a radix select; its state is in a file."""

    candidates: Candidates
    state_url: str

    def do(self, shard: Shard, control: Control) -> Result:
        """Summarise a shard's candidates."""
        rows, current, candidates = self.candidates.find(shard)
        radix = load_radix(self.state_url)
        seed, pick = self.candidates.seed, len(current.picks)
        return dict(radix.observe(ranked_rows(rows, current, candidates, seed, pick, radix.needs_keys)))

    def merge(self, results: list[Result]) -> Result:
        """Add histograms, concatenate gathered rows."""
        return dict(merge(*results))


@functools.lru_cache(maxsize=2)
def load_radix(url: str) -> RadixSelect:
    """Read a radix select's state, kept in memory by each process."""
    return RadixSelect.from_arrays(load_arrays(url))


def radix_cuts(
    radix: RadixSelect,
    budgets: Callable[[Int64, Int64], Int64],
    run_pass: Callable[[str], Result],
    new_url: Callable[[], str],
) -> Cuts:
    """Drive a radix select to its end.

    run_pass: runs one pass with the state at a URL; new_url: gives a URL that was never used, since workers remember.
    """
    while radix.phase != "done":
        url = new_url()
        save_arrays(url, radix.to_arrays())
        radix.advance(run_pass(url), budgets)
    return radix.cuts()
