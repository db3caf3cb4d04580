"""The passes that decide: they read score files only, and find each step's exact boundary."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.score_store import Address
from ..selectors.budget import GROUP, Keep, band_start, budget
from ..selectors.cuts import Cuts
from ..selectors.decide import DecidedStep, Pick
from ..selectors.deduplicate import Deduplicate
from ..selectors.group_budgets import GroupBudgets, group_budgets, group_report, notes
from ..selectors.q_tuning import QTuning
from ..selectors.radix import RadixSelect
from ..selectors.steps import Centered, Perturbed, RankStep, Step
from ..selectors.stratified import Strata, Stratified
from ..selectors.vector_steps import Gathering, VectorStep
from .candidates import (
    Candidates,
    RunPass,
    StoredStep,
    find_plane,
    find_temperature,
    group_means,
    numbers_in,
    score_range,
    store_step,
)
from .deduplicate import deduplicate
from .exchanging import Exchanging, RunOver
from .losses import Numbering
from .radix_passes import RadixPass, radix_cuts
from .score_columns import ScoreColumns, load_groups
from .vector_column import make_column
from .vector_since import continue_column

Int64 = NDArray[np.int64]


@dataclass
class StepReport:
    """What a step did, for the manifest.

    cut_share: share of its candidates that the step kept in the run that made the cut, where that is an earlier one;
    notes: what the user should know, one line each; groups: see `group_report`, None without `allocate`.
    """

    name: str
    method: str
    candidates: int | None = None
    kept: int | None = None
    temperature: float | None = None
    cut_share: float | None = None
    notes: list[str] = field(default_factory=list)
    groups: list[dict[str, Any]] | None = None


class Decider:
    """Decides the steps of a recipe in order.

    run_pass: runs a pass over the corpus's shards; folder: where cuts are kept, new for each run; groups, documents:
    how many there are; exchanging: numbers of the documents, and what runs a pass over buckets, to find duplicates
    and to compare vectors. Steps of vectors add to `columns`.
    """

    def __init__(
        self,
        columns: ScoreColumns,
        seed: int,
        run_pass: RunPass,
        folder: str,
        groups: int,
        documents: int,
        exchanging: tuple[Numbering, RunOver] | None = None,
    ) -> None:
        self.columns, self.seed, self.run_pass = columns, seed, run_pass
        self.groups, self.documents, self.exchanging = groups, documents, exchanging
        self.decided: list[StoredStep] = []
        self.reports: list[StepReport] = []
        self._url = new_urls(folder, "cuts")

    def decide(self, step: Step) -> None:
        """Find a step's cuts and append it to `decided`, and what it did to `reports`."""
        report = StepReport(step.name, step.method)
        self.reports.append(report)
        if isinstance(step, Deduplicate):
            self._deduplicate(step, report)
            return
        if not isinstance(step, RankStep):
            self.decided.append(StoredStep(step, 1.0, None))
            return
        if isinstance(step, VectorStep):
            self.columns = self.columns.with_made(step, make_column(self._gathering(step), step))
        deciding = _DecidingStep(self, step)
        decided = deciding.decide()
        report.candidates, report.notes = deciding.candidates, deciding.notes
        if isinstance(step, QTuning):
            report.notes += step.notes(decided.picks[0].take)
        report.temperature = decided.temperature if isinstance(step, Perturbed) else None
        kept = sum((_of(pick, "kept") for pick in decided.picks), np.zeros(1, np.int64))
        report.kept = int(kept.sum())
        if deciding.given is not None:
            names = deciding.names
            measure = sum((_of(pick, "kept_measure") for pick in decided.picks), np.zeros(1, np.int64))
            report.groups = group_report(deciding.given, names, kept, measure)
            report.notes += notes(deciding.given, step.name, names)
            if deciding.given.repeats.max(initial=1.0) > 1:
                decided.repeats = deciding.given.repeats
        self.decided.append(store_step(decided, self._url()))

    def adopt(self, stored: StoredStep, report: StepReport, made: Address | None = None) -> None:
        """Append a step as an earlier run has decided it, and its report; but what compares documents goes on.

        made: where the earlier run's column is, of a step of vectors.
        """
        step = stored.step
        if isinstance(step, VectorStep) and made is None:
            self._foresee(step, report)
            return
        self.reports.append(report)
        if isinstance(step, Deduplicate):
            self._deduplicate(step, report)
        elif isinstance(step, VectorStep) and made is not None:
            found = continue_column(self._gathering(step), stored, made)
            self.columns = self.columns.with_made(step, found.column)
            if found.cuts is not None:
                stored = store_step(DecidedStep(step, [Pick(found.cuts)]), self._url())
            report.notes += found.notes
            self.decided.append(stored)
        else:
            self.decided.append(stored)

    def _foresee(self, step: VectorStep, report: StepReport) -> None:
        """Decide a step without the documents of earlier runs, of which it has kept a share: for a plan."""
        keep = Keep.model_validate({"fraction": min(1.0, report.cut_share or 0.0)})
        self.decide(step.model_copy(update={"keep": keep}))
        self.reports[-1].cut_share = report.cut_share

    def _deduplicate(self, step: Deduplicate, report: StepReport) -> None:
        assert self.exchanging is not None
        candidates = Candidates(self.columns, self.seed, list(self.decided), StoredStep(step, 1.0, None))
        numbering, run_over = self.exchanging
        found = deduplicate(Exchanging(candidates, numbering, self._url(), self.run_pass, run_over))
        report.candidates, report.kept = found.candidates, found.candidates - found.dropped
        self.decided.append(StoredStep(step, 1.0, found.url))

    def _gathering(self, step: VectorStep) -> Exchanging:
        """Return what is needed to make the step's column."""
        assert self.exchanging is not None
        gathering = StoredStep(Gathering(name=step.name, columns=step.gathers), 1.0, None)
        candidates = Candidates(self.columns, self.seed, list(self.decided), gathering)
        numbering, run_over = self.exchanging
        return Exchanging(candidates, numbering, self._url(), self.run_pass, run_over)

    def candidates(self, decided: DecidedStep) -> Candidates:
        """Return what finds the candidates of a step's next pick."""
        return Candidates(self.columns, self.seed, list(self.decided), store_step(decided, self._url()))

    def cuts(
        self,
        decided: DecidedStep,
        groups: int,
        budgets: Callable[[Int64, Int64], Int64],
        weighted: bool | None = None,
    ) -> Cuts:
        """Return the cuts of a step's next pick.

        groups: with a cut each; budgets: see `RadixSelect.advance`; weighted: whether they are tokens; default: as the
        step's.
        """
        step = decided.step
        assert isinstance(step, RankStep)
        candidates = self.candidates(decided)
        return radix_cuts(
            RadixSelect(groups, step.keep.weighted if weighted is None else weighted, rows=self.documents),
            budgets,
            lambda url: self.run_pass(RadixPass(candidates, url), f"deciding {step.name}"),
            self._url,
        )


class _DecidingStep:
    """The deciding of one rank step. candidates: documents it chooses from; given: the split of `allocate`."""

    def __init__(self, decider: Decider, step: RankStep) -> None:
        self.decider, self.step = decider, step
        self.decided = DecidedStep(step)
        self.candidates: int | None = None
        self.given: GroupBudgets | None = None
        self.notes: list[str] = []
        self._groups = 1
        self._weights: NDArray[np.float64] | None = None

    @property
    def names(self) -> pa.Array:
        """Names of the groups with a cut each, string[groups]: the corpus's, or the numbers of a column."""
        if self.step.divided_by == GROUP:
            return load_groups(self.decider.columns.groups_url)
        return pa.array(map(str, range(self._groups)), pa.string())

    def decide(self) -> DecidedStep:
        """Find the cuts of all picks."""
        step, stage = self.step, f"deciding {self.step.name}"
        run_pass = self.decider.run_pass
        if isinstance(step, Perturbed) and step.effective_sample_size is not None:
            all_of_it, share = self.decider.candidates(self.decided), step.effective_sample_size
            self.decided.temperature = find_temperature(all_of_it, step.ranked_by[0], share, run_pass, stage)
        elif isinstance(step, Perturbed):
            self.decided.temperature = step.temperature or 1.0
        elif isinstance(step, QTuning):
            self.decided.plane = find_plane(self.decider.candidates(self.decided), step, run_pass, stage)
        elif isinstance(step, Stratified):
            self._find_strata(step)
        if step.divided_by == GROUP:
            self._groups = self.decider.groups
        elif step.divided_by is not None:
            self._groups = numbers_in(self.decider.candidates(self.decided), step.divided_by, run_pass, stage)
        if step.allocate is not None and step.allocate.score is not None:
            all_of_it = self.decider.candidates(self.decided)
            self._weights = group_means(all_of_it, step.allocate.score, self._groups, run_pass, stage)
        while len(self.decided.picks) < len(step.picks):
            self.decided.picks.append(self._pick())
        return self.decided

    def _find_strata(self, step: Stratified) -> None:
        """Find which documents are the hardest, and the range of the score over the others."""

        def easy(documents: Int64, tokens: Int64) -> Int64:
            self.candidates = int(documents.sum())
            return step.easy(documents)

        # what is dropped are documents, whatever the budget counts
        cuts = self.decider.cuts(self.decided, 1, easy, weighted=False)
        self.decided.strata = Strata(0.0, 0.0, cuts)
        left, stage = self.decider.candidates(self.decided), f"deciding {step.name}"
        low, high, _ = score_range(left, step.by, self.decider.run_pass, stage)
        self.decided.strata = Strata(min(low, high), high, cuts)
        self._groups = step.strata

    def _pick(self) -> Pick:
        step = self.step
        if not isinstance(step, Centered):
            return Pick(self.decider.cuts(self.decided, self._groups, self._budgets))

        def starts(documents: Int64, tokens: Int64) -> Int64:
            there = tokens if step.keep.weighted else documents
            return band_start(step.center, self._budgets(documents, tokens), there)

        skip = self.decider.cuts(self.decided, self._groups, starts)

        def ends(documents: Int64, tokens: Int64) -> Int64:
            return skip.kept_measure + self._budgets(documents, tokens)

        return Pick(self.decider.cuts(self.decided, self._groups, ends), skip)

    def _budgets(self, documents: Int64, tokens: Int64) -> Int64:
        """Return the budgets of the next pick; documents, tokens: what is left of each group for it."""
        decided, picks = self.decided, self.step.picks
        if isinstance(self.step, Stratified):
            self._note_shortage(documents.sum(keepdims=True), tokens.sum(keepdims=True))
            return self.step.budgets(self.candidates or 0, documents, tokens)
        used = sum((pick.take.kept_measure for pick in decided.picks), np.zeros_like(documents))
        if self.candidates is None:
            self.candidates = int(documents.sum())
            self._note_shortage(documents, tokens)
        whole = self._whole(documents + used, tokens + used)
        if len(decided.picks) == len(picks) - 1:
            return whole - used
        part = picks[len(decided.picks)]
        return np.array([int(total * part) for total in whole.tolist()], dtype=np.int64)

    def _whole(self, documents: Int64, tokens: Int64) -> Int64:
        """Return the budgets of all picks together. Of the two measures only that of the budget matters."""
        step = self.step
        if step.allocate is None:
            return budget(step.keep, documents, tokens)
        if self.given is None:
            self.given = group_budgets(step.keep, step.allocate, self.names, documents, tokens, self._weights)
        return self.given.budgets

    def _note_shortage(self, documents: Int64, tokens: Int64) -> None:
        keep, step = self.step.keep, self.step
        there = tokens if keep.weighted else documents
        if step.allocate is not None:
            there = there.sum(keepdims=True)
        short = int((there < keep.amount).sum()) if keep.amount is not None else 0
        if short:
            unit, where = "tokens" if keep.weighted else "documents", f" in {short} groups" if step.within else ""
            then = "; all of them are kept" if step.allocate is None else ""
            self.notes.append(f"{step.name}: fewer than {keep.amount} {unit} are left{where}{then}")


def _of(pick: Pick, count: str) -> Int64:
    """A count of what a pick holds, by group."""
    skipped = getattr(pick.skip, count) if pick.skip is not None else 0
    return np.asarray(getattr(pick.take, count) - skipped)


def new_urls(folder: str, name: str) -> Callable[[], str]:
    """Return a function that gives a new URL in a folder at each call, for workers remember what they read at one."""
    numbers = itertools.count()
    return lambda: f"{folder}/{name}-{next(numbers)}.npz"
