"""Which documents of a run, and of the earlier ones that it continues, help an example of a target most and least.

Reads run directories, their score stores and, to show texts, the corpus; imports no Beam.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..connectors.decisions import Place
from ..connectors.errors import RecipeError, TamisError, one_line
from ..connectors.run_directory import MANIFEST, read_manifest
from ..scoring.influence_examples import InfluenceState
from .explain_influence import RunInfluence
from .influence_answers import Helpers, OfDocument
from .read_again import read_again

READERS = 2
"""Shards that are read at a time. Each holds its vectors: 2 bytes a dimension and document."""


def helpers(run: RunInfluence, wanted: str, top: int) -> list[Helpers]:
    """Return for each score the documents that help an example most and least.

    One pass over the stored vectors of the run and of all that it continues, whose states are frozen and so the same.
    Holds the vectors of READERS shards and the best so far. Of earlier runs what cannot be read is told and left out.

    Args:
        run: the newest.
        wanted: an example, see `RunInfluence.find`.
        top: documents at each end.

    Raises:
        RecipeError: the run has no influence, or no such example.
        TamisError: its own gradients are gone.
    """
    if not run.scores:
        raise RecipeError(f"{run.run} has no score of the scorer `influence`, whose targets have examples")
    numbers = run.scores_on(wanted)
    earlier, missing = _earlier_runs(run)
    return [_helpers([run, *earlier], missing, score, np.array([one]), top) for score, one in numbers.items()]


def _earlier_runs(run: RunInfluence) -> tuple[list[RunInfluence], list[str]]:
    """Return the runs that a run continues, the latest first, and a line about those that are gone."""
    found: list[RunInfluence] = []
    link = run.manifest.get("since")
    while link:
        path = Path(link["run"])
        manifest = read_manifest(path)
        if manifest is None or hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest() != link["manifest_sha256"]:
            line = f"{path} and what it continues are not searched: it is gone, or another run now; put it back"
            return found, [line]
        found.append(RunInfluence(path, manifest))
        link = manifest.get("since")
    return found, []


class _Best(NamedTuple):
    """Documents with the largest and least values. places: int64[n], see `Place.position`; searched: of how many."""

    values: NDArray[np.float32]
    places: NDArray[np.int64]
    searched: int

    def with_more(self, more: _Best, top: int) -> _Best:
        values, places = np.append(self.values, more.values), np.append(self.places, more.places)
        kept = _ends(values, top)
        return _Best(values[kept], places[kept], self.searched + more.searched)


_NONE = _Best(np.zeros(0, np.float32), np.zeros(0, np.int64), 0)


def _helpers(
    runs: Sequence[RunInfluence], missing: Sequence[str], score: str, number: NDArray[np.int64], top: int
) -> Helpers:
    """Search runs, the newest first. missing: lines about others; number: of the example in the score's state."""
    state = runs[0].state(score)
    told, owners, best = list(missing), {index: run for run in runs for index in run.files.shards}, _NONE
    with ThreadPoolExecutor(READERS) as pool:
        for run in runs:
            found, lost = _of_run(run, state, number, top, pool)
            if lost and run is runs[0]:
                raise lost[0]
            if lost:
                count = f"{len(lost):,} of {len(run.files.shards):,} shards of {run.run} are not searched"
                told.append(f"{count}: {one_line(lost[0])}")
            best = best.with_more(found, top)
    order = np.lexsort((best.places, -best.values))
    split = min(top, len(order)), max(0, min(top, len(order) - top))
    most, least = order[: split[0]], order[::-1][: split[1]]

    def document(i: int) -> OfDocument:
        position = int(best.places[i])
        run = owners[position >> 32]
        return _document(run, position, float(best.values[i]), None if run is runs[0] else str(run.run))

    example = runs[0].examples(score, number.tolist())[0]
    return Helpers(score, example, best.searched, [document(i) for i in most], [document(i) for i in least], told)


def _of_run(
    run: RunInfluence, state: InfluenceState, number: NDArray[np.int64], top: int, pool: ThreadPoolExecutor
) -> tuple[_Best, list[TamisError]]:
    """Search the shards of one run; returns what was found, and an error for each shard that cannot be read."""

    def best_of(index: int) -> _Best | TamisError:
        try:
            vectors, there = run.stored(state.gradients, index)
        except TamisError as error:
            return error
        rows = np.flatnonzero(there)
        if not len(rows):
            return _NONE
        values = state.on_examples(vectors, number)[:, 0]
        ends = _ends(values, top)
        return _Best(values[ends], rows[ends] | index << 32, len(rows))

    try:
        _ = run.shards  # read before there are threads
    except TamisError as error:
        return _NONE, [error] * len(run.files.shards)
    best, lost = _NONE, []
    for one in pool.map(best_of, run.files.shards):
        if isinstance(one, TamisError):
            lost.append(one)
        else:
            best = best.with_more(one, top)
    return best, lost


def _document(run: RunInfluence, position: int, influence: float, earlier: str | None) -> OfDocument:
    row = run.files.row(Place(position >> 32, position & 0xFFFFFFFF))
    text, source = None, row["source"]
    with suppress(TamisError, OSError):  # it is told without
        text = read_again(run.corpus, source, run.version(source), row["row"], row["key"])
    return OfDocument(row["key"], source, row["row"], row["group"], row["kept"], influence, text, earlier)


def _ends(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return where the `count` largest and the `count` least values are, ascending."""
    return np.unique(np.append(_largest(values, count), _largest(-values, count)))


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return where the largest values are; of equal ones the first."""
    if count >= len(values):
        return np.arange(len(values))
    if not count:
        return np.zeros(0, np.int64)
    least = np.partition(values, len(values) - count)[len(values) - count]
    above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    return np.append(above, equal[: count - len(above)])
