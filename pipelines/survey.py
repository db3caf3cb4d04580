"""The pass between SELECT and WEIGH: exact counts of what is kept, and a keyed sample for the warnings."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import keyed_sample
from ..connectors.shards import Shard
from ..scoring.scorer import KEYS_SAMPLE
from ..selectors.decide import Rows, reasons_of
from .decided import Decisions
from .passes import Control, Result, Work, merge_results
from .score import add_up, document_address

KEYS_EXACT = 10_000_000
"""Up to so many documents all keys are gathered to count duplicates (8 bytes each), else a keyed sample of as many."""

SAMPLE = 100_000
"""Documents in the keyed sample that the warnings are measured on."""

SAMPLE_KEY, SAMPLE_TOKENS, SAMPLE_GROUP = " key", " tokens", " group"
"""Columns of the sample beside the scores; no score's name has a space."""

UNFIT_SCHEMA = pa.schema([("score", pa.string()), ("documents", pa.int64()), ("key", pa.uint64())])


@dataclass
class SurveyPass(Work):
    """Counts documents and tokens by reason, group and shard, and samples keys and scores.

    documents: of the whole corpus, for the sampling rates; sampled: score columns to sample; target_hashes: sorted
    text hashes of the targets, uint64[m]; counted: score columns whose documents above zero are counted;
    sized: columns with the score and with the tokens to be scored, by score, see `Scorer.sized`.
    """

    decisions: Decisions
    documents: int
    sampled: list[str]
    target_hashes: NDArray[np.uint64]
    counted: list[str] = field(default_factory=list)
    sized: dict[str, tuple[str, str]] = field(default_factory=dict)

    def do(self, shard: Shard, control: Control) -> Result:
        """Return arrays and tables of counts for one shard."""
        rows, reason = self.decisions.rows(shard, [*self.sampled, *self.counted, *chain(*self.sized.values())])
        columns = self.decisions.columns
        table = columns.store.read_table(document_address(columns.corpus), shard, ["text_hash", "bytes"])
        kept = reason < 0
        reasons = len(reasons_of([stored.step for stored in self.decisions.steps]))
        dropped = reason[~kept]
        return {
            "reason_documents": np.bincount(dropped, minlength=reasons),
            "reason_tokens": np.bincount(dropped, rows.tokens[~kept], minlength=reasons).astype(np.int64),
            "overlap": np.array([_count_in(table["text_hash"].to_numpy(), self.target_hashes)]),
            "above_zero": np.array(
                [[np.count_nonzero(some) for some in (above, above & kept)] for above in self._above_zero(rows)],
                np.int64,
            ).reshape(-1, 2),
            "groups": _count_groups(rows, kept),
            "shards": pa.table(
                {
                    "shard": [shard.index],
                    "documents": [len(rows)],
                    "tokens": [int(rows.tokens.sum())],
                    "kept": [int(kept.sum())],
                    "kept_tokens": [int(rows.tokens[kept].sum())],
                    "kept_bytes": [int(table["bytes"].to_numpy()[kept].sum())],
                }
            ),
            "keys": pa.table({"key": rows.keys[self._chosen(rows, KEYS_SAMPLE, KEYS_EXACT)]}),
            "sample": self._sample(rows),
            "unfit": self._unfit(rows),
        }

    def _above_zero(self, rows: Rows) -> list[NDArray[np.bool_]]:
        return [rows.scores[name] > 0 for name in self.counted]

    def _unfit(self, rows: Rows) -> pa.Table:
        """Return, for each score that some documents lack for want of memory, how many, and the smallest key."""
        found: dict[str, list[Any]] = {"score": [], "documents": [], "key": []}
        for name, (score, tokens) in self.sized.items():
            unfit = np.isnan(rows.scores[score]) & (rows.scores[tokens] > 0)
            if unfit.any():
                one = {"score": name, "documents": np.count_nonzero(unfit), "key": rows.keys[unfit].min()}
                found = {column: [*values, one[column]] for column, values in found.items()}
        return pa.table(found, UNFIT_SCHEMA)

    def merge(self, results: list[Result]) -> Result:
        """Add counts, add up groups, concatenate the rest."""
        merged = merge_results(results)
        return merged | {"groups": add_up(merged["groups"], "group")}

    def _chosen(self, rows: Rows, name: str, wanted: int) -> NDArray[np.bool_]:
        """Return a keyed sample: all copies of a document are in it or none."""
        return keyed_sample(0, name, rows.keys, wanted / max(self.documents, 1))

    def _sample(self, rows: Rows) -> pa.Table:
        chosen = self._chosen(rows, "survey", SAMPLE)
        scores = {name: rows.scores[name][chosen] for name in self.sampled}
        own = {SAMPLE_KEY: rows.keys[chosen], SAMPLE_TOKENS: rows.tokens[chosen], SAMPLE_GROUP: rows.groups[chosen]}
        return pa.table({**own, **scores})


def sample_table(sample: pa.Table, names: pa.Array) -> pa.Table:
    """Return the sample as a run keeps it: key, tokens, group, scores; in an order that no sharding changes.

    names: of the groups. A document without a score has null there.
    """
    own = {"key": sample[SAMPLE_KEY], "tokens": sample[SAMPLE_TOKENS]}
    own["group"] = names.take(sample[SAMPLE_GROUP].combine_chunks())
    scores = {
        name: pa.array(sample[name].to_numpy(), from_pandas=True)
        for name in sample.column_names
        if name not in (SAMPLE_KEY, SAMPLE_TOKENS, SAMPLE_GROUP)
    }
    table = pa.table({**own, **scores})
    return table.sort_by([(name, "ascending") for name in table.column_names])


def _count_in(values: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> int:
    """Count the values that occur in a sorted array."""
    first, after = (np.searchsorted(ascending, values, side) for side in ("left", "right"))
    return int(np.count_nonzero(first < after))


def _count_groups(rows: Rows, kept: NDArray[np.bool_]) -> pa.Table:
    numbers, place = np.unique(rows.groups, return_inverse=True)
    counts = {
        "documents": np.bincount(place, minlength=len(numbers)),
        "tokens": np.bincount(place, rows.tokens, minlength=len(numbers)).astype(np.int64),
        "kept": np.bincount(place, kept, minlength=len(numbers)).astype(np.int64),
        "kept_tokens": np.bincount(place, rows.tokens * kept, minlength=len(numbers)).astype(np.int64),
    }
    return pa.table({"group": numbers, **counts})
