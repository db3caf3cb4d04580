"""The passes between SELECT and EMIT: exact counts of what is kept, a keyed sample for the warnings, and weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.keys import keyed_sample
from ..connectors.shards import Shard
from ..scoring.scorer import KEYS_SAMPLE
from ..selectors.decide import Rows, reasons_of
from ..selectors.diagnostics import effective_sample_size
from ..selectors.ordering import descending
from ..selectors.radix import Cuts, RadixSelect, Ranked, merge
from ..selectors.weigh import Importance
from ..selectors.weighers import fixed_point_sum
from .candidates import RunPass
from .decided import Decisions, Normaliser
from .passes import Control, Result, Work, merge_results
from .score import add_up, document_address
from .select import load_radix, new_urls, radix_cuts

KEYS_EXACT = 10_000_000
"""Up to so many documents all keys are gathered to count duplicates (8 bytes each), else a keyed sample of as many."""

SAMPLE = 100_000
"""Documents in the keyed sample that the warnings are measured on."""

SAMPLE_KEY, SAMPLE_TOKENS, SAMPLE_GROUP = " key", " tokens", " group"
"""Columns of the sample beside the scores; no score's name has a space."""

FIXED_POINT = 1 << 40
"""Weights from 0 to 1 are summed as integers in units of 1 / FIXED_POINT, see `fixed_point_sum`."""


@dataclass
class SurveyPass(Work):
    """Counts documents and tokens by reason, group and shard, and samples keys and scores.

    documents: of the whole corpus, for the sampling rates; sampled: score columns to sample; target_hashes: sorted
    text hashes of the targets, uint64[m]; counted: score columns whose documents above zero are counted.
    """

    decisions: Decisions
    documents: int
    sampled: list[str]
    target_hashes: NDArray[np.uint64]
    counted: list[str] = field(default_factory=list)

    def do(self, shard: Shard, control: Control) -> Result:
        """Return arrays and tables of counts for one shard."""
        rows, reason = self.decisions.rows(shard, [*self.sampled, *self.counted])
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
        }

    def _above_zero(self, rows: Rows) -> list[NDArray[np.bool_]]:
        return [rows.scores[name] > 0 for name in self.counted]

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


@dataclass
class MaximumPass(Work):
    """Finds the largest score that weighs, over kept documents, and counts those that have one."""

    decisions: Decisions

    def do(self, shard: Shard, control: Control) -> Result:
        """Return one row: maximum, scored."""
        rows, reason = self.decisions.rows(shard)
        scores = rows.scores[self.decisions.weigher.needs[0]][reason < 0]
        scores = scores[~np.isnan(scores)]
        maximum = float(scores.max(initial=-np.inf))
        return {"maximum": pa.table({"maximum": [maximum], "scored": [len(scores)]})}


@dataclass
class WeightSumPass(Work):
    """Adds up relative weights of kept documents, exactly; with `cut`, only of those it holds."""

    decisions: Decisions
    cut: Cuts | None = None

    def do(self, shard: Shard, control: Control) -> Result:
        """Return Σw and Σw² in two integers each (multiples of 2**40, and the rest), and the largest w."""
        rows, reason = self.decisions.rows(shard)
        kept = reason < 0
        weights = self.decisions.relative_weights(rows, kept)
        if self.cut is not None:
            weights = weights[self.cut.inside(weight_order(self.decisions, rows, kept))]
        sums = [divmod(fixed_point_sum(values), FIXED_POINT) for values in (weights, weights**2)]
        largest = pa.table({"largest": [float(weights.max(initial=0.0))]})
        return {"sums": np.array(sums, dtype=np.int64), "largest": largest}


def weight_order(decisions: Decisions, rows: Rows, kept: NDArray[np.bool_]) -> Ranked:
    """Return the kept documents in the order of their weights, heaviest first."""
    rank = descending(decisions.relative_weights(rows, kept))
    return Ranked(np.zeros(len(rank), dtype=np.int64), rank, rows.keys[kept], rows.positions[kept])


@dataclass
class HeaviestPass(Work):
    """One pass of the radix select that finds the heaviest 1 % of the kept documents."""

    decisions: Decisions
    state_url: str

    def do(self, shard: Shard, control: Control) -> Result:
        """Summarise a shard's kept documents."""
        rows, reason = self.decisions.rows(shard)
        return dict(load_radix(self.state_url).observe(weight_order(self.decisions, rows, reason < 0)))

    def merge(self, results: list[Result]) -> Result:
        """Add histograms, concatenate gathered rows."""
        return dict(merge(*results))


@dataclass(frozen=True)
class WeightSummary:
    """How the weights are spread. scored: kept documents that have the score that weighs."""

    effective_sample_size: float
    max_over_mean: float
    top_1_percent_share: float
    scored: int


def weigh(decisions: Decisions, kept: int, run_pass: RunPass, folder: str) -> tuple[Decisions, WeightSummary]:
    """Return the decisions with their normaliser, and what the weights are like. kept: kept documents."""
    base, scored = _base_normaliser(decisions, kept, run_pass)
    repeats = decisions.repeats()
    normaliser = replace(base, repeated=1.0 if repeats is None else float(repeats.max(initial=1.0)), documents=kept)
    if not kept or (normaliser.maximum is None and normaliser.repeated == 1):
        return decisions, WeightSummary(float(kept), 1.0, _top(kept) / kept if kept else 0.0, scored)
    decisions = replace(decisions, normaliser=normaliser)
    total, squares, largest = _sums(run_pass(WeightSumPass(decisions), "weighing"))
    cut = radix_cuts(
        RadixSelect(1, weighted=False, rows=kept),
        lambda documents, measure: np.array([_top(kept)]),
        lambda url: run_pass(HeaviestPass(decisions, url), "weighing"),
        new_urls(folder, "heaviest"),
    )
    heaviest, _, _ = _sums(run_pass(WeightSumPass(decisions, cut), "weighing"))
    one = FIXED_POINT
    summary = WeightSummary(
        effective_sample_size(total / one, squares / one), largest * kept * one / total, heaviest / total, scored
    )
    return replace(decisions, normaliser=replace(normaliser, total=total)), summary


def _base_normaliser(decisions: Decisions, kept: int, run_pass: RunPass) -> tuple[Normaliser, int]:
    """Return the maximum and the mean of relative weights before repetition, and how many documents have the score."""
    if not isinstance(decisions.weigher, Importance):
        return Normaliser(), kept
    maxima = run_pass(MaximumPass(decisions), "weighing")["maximum"]
    scored = sum(maxima["scored"].to_pylist())
    if not scored:
        return Normaliser(), 0
    maximum = max(maxima["maximum"].to_pylist())
    if scored == kept:
        return Normaliser(maximum), scored
    only_scored = replace(decisions, normaliser=Normaliser(maximum, unscored=0.0))
    total, _, _ = _sums(run_pass(WeightSumPass(only_scored), "weighing"))
    return Normaliser(maximum, total / FIXED_POINT / scored), scored


def _top(documents: int) -> int:
    """Number of documents in the heaviest 1 %, at least one."""
    return -(-documents // 100)


def _sums(result: Result) -> tuple[int, int, float]:
    """Return Σw and Σw² in units of 1 / FIXED_POINT, and the largest w."""
    sums = [int(high) * FIXED_POINT + int(low) for high, low in result["sums"]]
    return sums[0], sums[1], max(result["largest"]["largest"].to_pylist())
