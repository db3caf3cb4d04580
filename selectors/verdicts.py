"""Explains the decision about one document: what each step measured, and the bounds that it measured against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .cuts import Cuts
from .decide import DecidedStep, Pick, ranked_rows
from .deduplicate import Deduplicate
from .ordering import inverse
from .q_tuning import QTuning
from .reference_split import ReferenceSplit
from .steps import NO_SCORE, Centered, Perturbed, RankStep, Sample, Threshold
from .stratified import Stratified
from .vector_steps import Cover


@dataclass(frozen=True)
class Document:
    """One document as `decide.Rows`; arrays of length 1."""

    keys: NDArray[np.uint64]
    positions: NDArray[np.uint64]
    groups: NDArray[np.int64]
    tokens: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Trial:
    """One comparison of a document with bounds.

    measured: what was compared; value: the document's; low, high: bounds between which documents are kept, None where
    there is none; inside: whether it was; score: what noise was added to, None without noise.
    """

    measured: str
    value: float
    low: float | None
    high: float | None
    inside: bool
    score: float | None = None

    @property
    def margin(self) -> float | None:
        """Distance to the bound that decided: of the one it missed, else of the nearest; None without bounds."""
        gaps = [self.value - self.low] if self.low is not None else []
        gaps += [self.high - self.value] if self.high is not None else []
        return abs(min(gaps)) if gaps else None


@dataclass(frozen=True)
class Verdict:
    """What one step did with a document. reason: null where it passed; trials: one, or one per pick until one took it;
    within_group: the bounds are those of its group; temperature: of resampling; lost_to: position of the document that
    stayed in its place, as a copy of which it was dropped."""

    step: str
    method: str
    reason: str | None
    trials: list[Trial] = field(default_factory=list)
    within_group: bool = False
    temperature: float | None = None
    lost_to: int | None = None


def verdicts(document: Document, steps: Sequence[DecidedStep], seed: int) -> list[Verdict]:
    """Return what the steps of a run did with a document, up to the one that dropped it."""
    found: list[Verdict] = []
    for decided in steps:
        found.append(_verdict(document, decided, seed))
        if found[-1].reason is not None:
            break
    return found


def _verdict(document: Document, decided: DecidedStep, seed: int) -> Verdict:
    step = decided.step
    if any(np.isnan(document.scores[column][0]) for column in step.needs):
        return Verdict(step.name, step.method, NO_SCORE)
    if isinstance(step, Threshold):
        score = document.scores[step.by]
        trials = [Trial(step.by, float(score[0]), step.min, step.max, bool(step.passes(score)[0]))]
        return Verdict(step.name, step.method, None if trials[0].inside else step.name, trials)
    if isinstance(step, ReferenceSplit):
        trials = [
            Trial("its draw from 0 to 1", step.draw(document.keys), step.fraction, None, step.passes(document.keys)[0])
        ]
        return Verdict(step.name, step.method, None if trials[0].inside else step.name, trials)
    if isinstance(step, Deduplicate):
        assert decided.duplicates is not None
        winner = decided.duplicates.winners(document.positions)[0]
        lost_to = int(winner) if winner != document.positions[0] else None
        return Verdict(step.name, step.method, None if lost_to is None else step.name, lost_to=lost_to)
    assert isinstance(step, RankStep)
    trials = []
    for number, pick in enumerate(decided.picks):
        trials.append(_trial(document, decided, seed, number, pick))
        if trials[-1].inside:
            break
    kept = any(trial.inside for trial in trials)
    temperature = decided.temperature if isinstance(step, Perturbed) else None
    return Verdict(step.name, step.method, None if kept else step.name, trials, step.by_group, temperature)


def _trial(document: Document, decided: DecidedStep, seed: int, number: int, pick: Pick) -> Trial:
    """Compare a document with the cuts of one pick. What ranks high first is kept above its cut, else below."""
    step = decided.step
    assert isinstance(step, RankStep)
    ranked = ranked_rows(document, decided, np.zeros(1, dtype=np.int64), seed, number)
    if isinstance(step, Stratified) and ranked.group[0] < 0:
        assert decided.strata is not None
        hardness, cut = step.hardness or step.by, float(inverse(decided.strata.easy.rank)[0])
        return Trial(f"among the hardest: {hardness}", float(document.scores[hardness][0]), None, cut, False)
    inside = bool(pick.take.inside(ranked)[0]) and not (pick.skip is not None and bool(pick.skip.inside(ranked)[0]))
    group = int(ranked.group[0])
    value = _value(step, ranked.rank)
    take, skip = _bound(step, pick.take, group), _bound(step, pick.skip, group)
    low, high = (take, skip) if step.highest_first else (skip, take)
    if isinstance(step, Sample):
        return Trial("its draw from 0 to 1", value, low, high, inside)
    if isinstance(step, Stratified):
        return Trial(f"its draw from 0 to 1 in stratum {group + 1} of {step.strata}", value, low, high, inside)
    if isinstance(step, Cover):
        return Trial("its number among the picks of its cluster", value, low, high, inside)
    if isinstance(step, QTuning):
        assert decided.plane is not None
        quadrant = int(decided.plane.quadrant(*(document.scores[column] for column in step.ranked_by))[0])
        return Trial(f"its place in quadrant {quadrant} (2 and 4 before 0.5, others from 1)", value, low, high, inside)
    by = step.ranked_by[number if isinstance(step, Perturbed) else 0]
    if isinstance(step, Perturbed):
        return Trial(f"perturbed {by}", value, low, high, inside, float(document.scores[by][0]))
    return Trial(by, value, low, high, inside)


def _bound(step: RankStep, cuts: Cuts | None, group: int) -> float | None:
    if cuts is None or group >= len(cuts.kept):  # a group that came since has no cut
        return None
    if cuts.everything[group] or (isinstance(step, Centered) and not cuts.kept[group]):
        return None
    if isinstance(step, Cover):  # the picks are numbered from 0; what is not picked has the same great number
        return float(cuts.kept[group])
    bound = _value(step, cuts.rank[group : group + 1])
    return None if math.isnan(bound) else bound  # no score is before the first of all ranks: nothing is inside


def _value(step: RankStep, rank: NDArray[np.uint64]) -> float:
    """Give back what a rank was made of (see `RankStep.rank`)."""
    if isinstance(step, Sample | Stratified):
        return float(rank[0]) / 2**64
    return float(inverse(~rank if step.highest_first else rank)[0])
