"""Applies decided steps to the rows of one shard: who stays, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from .budget import GROUP
from .cuts import Cuts, Ranked
from .deduplicate import Deduplicate, Duplicates
from .q_tuning import PLACE, Plane, QTuning
from .reference_split import ReferenceSplit
from .steps import NO_SCORE, RankStep, Step, Threshold
from .stratified import Strata, Stratified


class Rows(Protocol):
    """What decisions need of a shard's rows; a column that is not asked for need not be read.

    keys: uint64[n]; positions: uint64[n], unique in the corpus and in its order; groups: int64[n], number of the
    group; tokens: int64[n]; scores: float64[n] by column, NaN where there is none.
    """

    @property
    def keys(self) -> NDArray[np.uint64]: ...  # noqa: D102 - see above

    @property
    def positions(self) -> NDArray[np.uint64]: ...  # noqa: D102

    @property
    def groups(self) -> NDArray[np.int64]: ...  # noqa: D102

    @property
    def tokens(self) -> NDArray[np.int64]: ...  # noqa: D102

    @property
    def scores(self) -> Mapping[str, NDArray[np.float64]]: ...  # noqa: D102

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Pick:
    """One run of a step's order: what `take` holds and `skip` does not."""

    take: Cuts
    skip: Cuts | None = None


REPEATS = "repeats"
"""Name of `DecidedStep.repeats` among the arrays of a step."""


@dataclass
class DecidedStep:
    """A step with its cuts. temperature: of resampling, as given or found.

    repeats: how often the documents of each group count, by weight, float64[groups]; None where all count once.
    plane: of q_tuning; strata: of stratified, None until the hardest are known; duplicates: of deduplicate.
    """

    step: Step
    picks: list[Pick] = field(default_factory=list)
    temperature: float = 1.0
    repeats: NDArray[np.float64] | None = None
    plane: Plane | None = None
    duplicates: Duplicates | None = None
    strata: Strata | None = None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what was decided as named arrays, to be stored; the step and its temperature are not among them."""
        repeats = {} if self.repeats is None else {REPEATS: self.repeats}
        plane = {} if self.plane is None else self.plane.to_arrays()
        strata = {} if self.strata is None else self.strata.to_arrays()
        return picks_to_arrays(self.picks) | repeats | plane | strata

    @classmethod
    def from_arrays(cls, step: Step, temperature: float, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave; arrays: none for a step without cuts."""
        picks, plane, strata = picks_from_arrays(arrays), Plane.from_arrays(arrays), Strata.from_arrays(arrays)
        return cls(step, picks, temperature, arrays.get(REPEATS), plane, strata=strata)


def picks_to_arrays(picks: Sequence[Pick]) -> dict[str, NDArray[Any]]:
    """Return the cuts of a step as named arrays, to be stored."""
    return {
        f"{number} {kind} {name}": value
        for number, pick in enumerate(picks)
        for kind, cuts in (("take", pick.take), ("skip", pick.skip))
        if cuts is not None
        for name, value in cuts.to_arrays().items()
    }


def picks_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Pick]:
    """Restore what `picks_to_arrays` gave."""
    picks = []
    for number in sorted({int(name.split(" ", 1)[0]) for name in arrays if " " in name}):
        cuts = {}
        for kind in ("take", "skip"):
            prefix = f"{number} {kind} "
            part = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            cuts[kind] = Cuts.from_arrays(part) if part else None
        assert cuts["take"] is not None
        picks.append(Pick(cuts["take"], cuts["skip"]))
    return picks


def reasons_of(steps: list[Step]) -> list[str]:
    """Return the reasons that documents can be dropped for; `decide` numbers them in this order."""
    return [NO_SCORE, *(step.name for step in steps)]


def decide(rows: Rows, steps: list[DecidedStep], seed: int) -> NDArray[np.int16]:
    """Return int16[n]: -1 where a document stays after all steps, else the number of its reason in `reasons_of`."""
    reason = np.full(len(rows), -1, dtype=np.int16)
    for number, decided in enumerate(steps, start=1):
        candidates = with_scores(rows, decided.step, reason)
        if isinstance(decided.step, Threshold):
            stays = decided.step.passes(rows.scores[decided.step.by][candidates])
        elif isinstance(decided.step, ReferenceSplit):
            stays = decided.step.passes(rows.keys[candidates])
        elif isinstance(decided.step, Deduplicate):
            assert decided.duplicates is not None
            positions = rows.positions[candidates]
            stays = decided.duplicates.winners(positions) == positions
        else:
            stays = picked(rows, decided, candidates, seed)
        reason[candidates[~stays]] = number
    return reason


def with_scores(rows: Rows, step: Step, reason: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return the rows that are alive and have what the step needs; the others that are alive get `no_score`."""
    alive = reason < 0
    missing = np.zeros(len(rows), dtype=bool)
    for column in step.needs:
        missing |= np.isnan(rows.scores[column])
    reason[alive & missing] = 0
    return np.flatnonzero(alive & ~missing)


def picked(rows: Rows, decided: DecidedStep, candidates: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which candidates the picks made so far take, each from what the ones before it left."""
    taken = np.zeros(len(candidates), dtype=bool)
    for number, pick in enumerate(decided.picks):
        ranked = ranked_rows(rows, decided, candidates, seed, number)
        inside = pick.take.inside(ranked)
        if pick.skip is not None:
            inside &= ~pick.skip.inside(ranked)
        taken |= inside
    return taken


def group_numbers(rows: Rows, step: RankStep, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each candidate's group, int64[m], or its value in the column that divides them."""
    if step.divided_by is None:
        return np.zeros(len(candidates), dtype=np.int64)
    if step.divided_by == GROUP:
        return rows.groups if len(candidates) == len(rows) else rows.groups[candidates]
    return rows.scores[step.divided_by][candidates].astype(np.int64)


def ranked_rows(
    rows: Rows, decided: DecidedStep, candidates: NDArray[np.int64], seed: int, pick: int, with_keys: bool = True
) -> Ranked:
    """Return candidates in the order's terms for one pick of a rank step.

    with_keys: False where keys do not matter yet; they are zero then, unless the step's noise needs them.
    """
    step = decided.step
    assert isinstance(step, RankStep)
    every = len(candidates) == len(rows)

    def chosen(column: NDArray[Any]) -> NDArray[Any]:
        return column if every else column[candidates]

    keys = chosen(rows.keys) if with_keys or step.noisy else np.zeros(len(candidates), dtype=np.uint64)
    scores = {column: chosen(rows.scores[column]) for column in step.needs}
    if isinstance(step, QTuning):
        assert decided.plane is not None
        scores[PLACE] = decided.plane.place(*(scores[column] for column in step.ranked_by))
    rank = step.rank(scores, keys, seed, pick, decided.temperature)
    groups, positions = group_numbers(rows, step, candidates), chosen(rows.positions)
    if isinstance(step, Stratified) and decided.strata is None:
        rank = step.by_hardness(scores)
    elif isinstance(step, Stratified) and decided.strata is not None:
        groups = decided.strata.numbers(step, scores, keys, positions)
    measure = chosen(rows.tokens) if step.keep.tokens is not None else None
    return Ranked(groups, rank, keys, positions, measure)
