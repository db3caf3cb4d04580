"""The passes that decide: they read score files only, and find each step's exact boundary."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.score_store import load_arrays, save_arrays
from ..connectors.shards import Shard
from ..selectors.budget import band_start, budget
from ..selectors.decide import DecidedStep, Pick, Rows, decide, picked, ranked_rows, with_scores
from ..selectors.diagnostics import temperature_for_ess
from ..selectors.radix import Cuts, RadixSelect, merge
from ..selectors.steps import Band, RankStep, Resample, Step, Threshold
from .passes import Control, Result, Work
from .score_columns import ScoreColumns

HISTOGRAM_BINS = 1 << 18
"""Bins of equal width in which scores are counted to find a temperature."""

Int64 = NDArray[np.int64]
RunPass = Callable[[Any, str], Result]
"""Runs a pass over all shards of the corpus; the second argument says what it is for."""


@dataclass(frozen=True)
class StoredStep:
    """A decided step in a form that travels: its cuts stay in a file. url: of the cuts, None without any."""

    step: Step
    temperature: float
    url: str | None

    def load(self) -> DecidedStep:
        """Return the step with its cuts, kept in memory by each process."""
        picks = [] if self.url is None else list(_load_picks(self.url))
        return DecidedStep(self.step, picks, self.temperature)


def store_step(decided: DecidedStep, url: str) -> StoredStep:
    """Write a step's cuts and return what workers need to find them."""
    if isinstance(decided.step, Threshold):
        return StoredStep(decided.step, 1.0, None)
    arrays: dict[str, NDArray[Any]] = {}
    for number, pick in enumerate(decided.picks):
        for kind, cuts in (("take", pick.take), ("skip", pick.skip)):
            if cuts is not None:
                arrays |= {f"{number} {kind} {name}": value for name, value in cuts.to_arrays().items()}
    save_arrays(url, arrays)
    return StoredStep(decided.step, decided.temperature, url)


@functools.lru_cache(maxsize=64)
def _load_picks(url: str) -> tuple[Pick, ...]:
    arrays = load_arrays(url)
    picks = []
    for number in sorted({int(name.split(" ", 1)[0]) for name in arrays}):
        cuts = {}
        for kind in ("take", "skip"):
            prefix = f"{number} {kind} "
            part = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            cuts[kind] = Cuts.from_arrays(part) if part else None
        assert cuts["take"] is not None
        picks.append(Pick(cuts["take"], cuts["skip"]))
    return tuple(picks)


@dataclass
class Candidates:
    """Finds the rows of a shard that a step may choose from: alive after the steps before it, with the scores it needs.

    earlier: the steps before; current: the step with the picks made so far.
    """

    columns: ScoreColumns
    seed: int
    earlier: list[StoredStep]
    current: StoredStep

    def find(self, shard: Shard) -> tuple[Rows, DecidedStep, NDArray[np.int64]]:
        """Return the shard's rows, the step, and the numbers of the candidate rows."""
        earlier, current = [stored.load() for stored in self.earlier], self.current.load()
        needs = [name for decided in (*earlier, current) for name in decided.step.needs]
        rows = self.columns.rows(shard, needs)
        candidates = with_scores(rows, current.step, decide(rows, earlier, self.seed))
        return rows, current, candidates[~picked(rows, current, candidates, self.seed)]


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


@dataclass
class RangePass(Work):
    """Finds the smallest and the largest finite score of the candidates, and counts them."""

    candidates: Candidates

    def do(self, shard: Shard, control: Control) -> Result:
        """Return one row: low, high, documents."""
        rows, current, candidates = self.candidates.find(shard)
        scores = rows.scores[current.step.needs[0]][candidates]
        finite = scores[np.isfinite(scores)]
        low, high = (finite.min(), finite.max()) if len(finite) else (np.inf, -np.inf)
        return {"range": pa.table({"low": [float(low)], "high": [float(high)], "documents": [len(candidates)]})}


@dataclass
class HistogramPass(Work):
    """Counts the candidates' finite scores in bins of equal width."""

    candidates: Candidates
    low: float
    high: float

    def do(self, shard: Shard, control: Control) -> Result:
        """Return counts int64[bins]."""
        rows, current, candidates = self.candidates.find(shard)
        scores = rows.scores[current.step.needs[0]][candidates]
        place = (scores[np.isfinite(scores)] - self.low) * (HISTOGRAM_BINS / (self.high - self.low))
        bins = np.minimum(place.astype(np.int64), HISTOGRAM_BINS - 1)
        return {"counts": np.bincount(bins, minlength=HISTOGRAM_BINS)}


@dataclass
class StepReport:
    """What a step did, for the manifest. notes: what the user should know, one line each."""

    name: str
    method: str
    candidates: int | None = None
    kept: int | None = None
    temperature: float | None = None
    notes: list[str] = field(default_factory=list)


class Decider:
    """Decides the steps of a recipe in order.

    run_pass: runs a pass over the corpus's shards; folder: where cuts are kept, new for each run; groups, documents:
    how many there are.
    """

    def __init__(
        self, columns: ScoreColumns, seed: int, run_pass: RunPass, folder: str, groups: int, documents: int
    ) -> None:
        self.columns, self.seed, self.run_pass = columns, seed, run_pass
        self.groups, self.documents = groups, documents
        self.decided: list[StoredStep] = []
        self.reports: list[StepReport] = []
        self._url = new_urls(folder, "cuts")

    def decide(self, step: Step) -> None:
        """Find a step's cuts and append it to `decided`, and what it did to `reports`."""
        report = StepReport(step.name, step.method)
        self.reports.append(report)
        if not isinstance(step, RankStep):
            self.decided.append(StoredStep(step, 1.0, None))
            return
        decided = DecidedStep(step)
        if isinstance(step, Resample):
            decided.temperature = report.temperature = self._temperature(step)
        while len(decided.picks) < len(step.picks):
            decided.picks.append(self._pick(decided, functools.partial(self._budgets, decided, report)))
        kept = [pick.take.kept.sum() - (pick.skip.kept.sum() if pick.skip else 0) for pick in decided.picks]
        report.kept = int(sum(kept))
        self.decided.append(store_step(decided, self._url()))

    def _budgets(self, decided: DecidedStep, report: StepReport, documents: Int64, tokens: Int64) -> Int64:
        """Return the budgets of the next pick; documents, tokens: what is left of each group for it."""
        step = decided.step
        assert isinstance(step, RankStep)
        keep = step.keep.budget()
        used = sum((pick.take.kept_measure for pick in decided.picks), np.zeros_like(documents))
        whole = budget(keep, documents + used, tokens + used)
        if not decided.picks:
            report.candidates = int(documents.sum())
            wanted, there = (keep.tokens, tokens) if keep.weighted else (keep.documents, documents)
            short = int((there < wanted).sum()) if wanted is not None else 0
            if short:
                unit, where = "tokens" if keep.weighted else "documents", f" in {short} groups" if step.within else ""
                report.notes.append(f"{step.name}: fewer than {wanted} {unit} are left{where}; all of them are kept")
        if len(decided.picks) == len(step.picks) - 1:
            return whole - used
        part = step.picks[len(decided.picks)]
        return np.array([int(total * part) for total in whole.tolist()], dtype=np.int64)

    def _pick(self, decided: DecidedStep, budgets: Callable[[Int64, Int64], Int64]) -> Pick:
        step = decided.step
        if not isinstance(step, Band):
            return Pick(self._cuts(decided, budgets))
        weighted = step.keep.budget().weighted

        def starts(documents: Int64, tokens: Int64) -> Int64:
            return band_start(step.center, budgets(documents, tokens), tokens if weighted else documents)

        skip = self._cuts(decided, starts)
        return Pick(self._cuts(decided, lambda documents, tokens: skip.kept_measure + budgets(documents, tokens)), skip)

    def _cuts(self, decided: DecidedStep, budgets: Callable[[Int64, Int64], Int64]) -> Cuts:
        step = decided.step
        assert isinstance(step, RankStep)
        candidates = self._candidates(decided)
        return radix_cuts(
            RadixSelect(self.groups if step.within else 1, step.keep.budget().weighted, rows=self.documents),
            budgets,
            lambda url: self.run_pass(RadixPass(candidates, url), f"deciding {step.name}"),
            self._url,
        )

    def _temperature(self, step: Resample) -> float:
        if step.effective_sample_size is None:
            return step.temperature or 1.0
        candidates = self._candidates(DecidedStep(step))
        ranges = self.run_pass(RangePass(candidates), f"deciding {step.name}")["range"]
        documents = sum(ranges["documents"].to_pylist())
        low, high = min(ranges["low"].to_pylist()), max(ranges["high"].to_pylist())
        if low >= high:  # no score, or all the same: every temperature gives the same
            return 1.0
        counts = self.run_pass(HistogramPass(candidates, low, high), f"deciding {step.name}")["counts"]
        return temperature_for_ess(counts, low, high, step.effective_sample_size * documents)

    def _candidates(self, decided: DecidedStep) -> Candidates:
        return Candidates(self.columns, self.seed, list(self.decided), store_step(decided, self._url()))


def new_urls(folder: str, name: str) -> Callable[[], str]:
    """Return a function that gives a new URL in a folder at each call, for workers remember what they read at one."""
    numbers = itertools.count()
    return lambda: f"{folder}/{name}-{next(numbers)}.npz"


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
