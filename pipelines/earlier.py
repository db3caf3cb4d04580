"""What the earlier runs of a chain hold of their documents, with which new ones are compared.

Of the earlier documents no text is read: their scores lie in the store, and what was decided about them is decided
again from these, with the same cuts; which of them lost to others is in their runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..connectors.corpus import Corpus
from ..connectors.errors import RecipeError, one_line
from ..connectors.run_directory import MANIFEST, read_manifest
from ..connectors.score_store import ScoreStore
from ..connectors.shards import Shard
from ..selectors.deduplicate import Deduplicate
from ..selectors.steps import Step
from ..selectors.vector_steps import VectorStep
from .job import Job
from .losses import Numbering, SettledRun
from .score import PRIMARY, document_address
from .score_columns import made_columns, score_columns
from .since import Parent

COMPARING = (Deduplicate, VectorStep)
"""Steps that compare documents with each other, those of earlier runs too."""

SHARDS = "shards.parquet"
"""In a run that compares documents with each other: its shards with documents."""


@dataclass(frozen=True)
class Earlier:
    """The documents of all runs of a chain. Holds some 300 bytes per shard.

    runs: the oldest first; shards: ascending by index; documents: int64, of each shard.
    """

    runs: tuple[SettledRun, ...] = ()
    shards: tuple[Shard, ...] = ()
    documents: tuple[int, ...] = ()

    @property
    def fingerprints(self) -> list[str]:
        """Of its shards."""
        return [shard.fingerprint for shard in self.shards]

    def numbering(self, shards: Sequence[Shard], counts: pa.Table) -> Numbering:
        """Number all documents, the earlier ones first. shards, counts: of the new ones, see `Numbering.of`."""
        new = Numbering.of(shards, counts)
        first = np.cumsum([0, *self.documents]).astype(np.int64)
        indices: NDArray[np.int64] = np.array([shard.index for shard in self.shards], np.int64)
        return Numbering(
            np.concatenate([indices, new.shards]),
            np.concatenate([first[:-1], first[-1] + new.first]),
            (*self.fingerprints, *new.fingerprints),
            int(first[-1]),
            self.runs,
        )


def shards_table(shards: Sequence[Shard], counts: pa.Table) -> pa.Table:
    """Return what a run keeps of its shards, for those that will continue it. counts: see `Numbering.of`."""
    documents = dict(zip(counts["shard"].to_pylist(), counts["documents"].to_pylist(), strict=True))
    filled = [shard for shard in shards if documents[shard.index]]
    return pa.table(
        {
            "shard": pa.array([shard.index for shard in filled], pa.int64()),
            "fingerprint": pa.array([shard.fingerprint for shard in filled], pa.string()),
            "documents": pa.array([documents[shard.index] for shard in filled], pa.int64()),
        }
    )


def earlier_of(job: Job, parent: Parent | None, corpus: Corpus) -> Earlier:
    """Return the documents with which those of a run are compared: none, unless it continues one and has such a step.

    Raises RecipeError where a run of the chain, or a score of its documents, is gone.
    """
    if parent is None or not any(isinstance(step, COMPARING) for step in job.steps):
        return Earlier()
    runs: list[SettledRun] = []
    tables: list[pa.Table] = []
    path, manifest = parent.path, parent.manifest
    while True:
        runs.append(SettledRun(manifest["shards"]["first"], str(path)))
        try:
            tables.append(pq.read_table(path / SHARDS))
        except (OSError, pa.ArrowException) as error:
            raise RecipeError(
                f"since: {path / SHARDS}, the list of the documents to compare with, cannot be read "
                f"({one_line(error)}); run without `since` once"
            ) from error
        if manifest["since"] is None:
            break
        path, digest = Path(manifest["since"]["run"]), manifest["since"]["manifest_sha256"]
        found = read_manifest(path)
        if found is None or hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest() != digest:
            raise RecipeError(
                f"since: {path}, which {runs[-1].folder} continues, is gone or another run now; documents are "
                "compared with those of all runs of a chain, so put it back, or run without `since`"
            )
        manifest = found
    rows = pa.concat_tables(tables[::-1]).to_pylist()
    shards = tuple(Shard(row["shard"], (), row["fingerprint"]) for row in rows)
    earlier = Earlier(tuple(runs[::-1]), shards, tuple(row["documents"] for row in rows))
    _check_stored(job, parent, earlier, corpus)
    return earlier


def _check_stored(job: Job, parent: Parent, earlier: Earlier, corpus: Corpus) -> None:
    """Refuse where the store lacks what the last step that compares, and those before it, need of a document."""
    last = max(number for number, step in enumerate(job.steps) if isinstance(step, COMPARING))
    steps = job.steps[: last + 1]
    columns = score_columns(job.scorers) | {name: (parent.made[name], PRIMARY) for name in made_columns(steps)}
    needs = {name for step in steps for name in (*step.needs, *_compared(step))}
    addresses = {document_address(corpus): "document"} | {columns[name][0]: name for name in sorted(needs)}
    store, wanted = ScoreStore(job.store), set(earlier.fingerprints)
    for address, name in addresses.items():
        lacking = len(wanted - store.stored(address))
        if lacking:
            raise RecipeError(
                f"since: the store {job.store} lacks `{name}` ({address.folder}) of {lacking} of {len(wanted)} shards "
                f"of earlier runs, with which {steps[last].name} compares; give the store and the device of those "
                "runs, or run without `since`, which scores what is missing"
            )


def _compared(step: Step) -> list[str]:
    """Return the columns by which a step compares documents, beside those that every step needs."""
    if isinstance(step, VectorStep):
        return [step.vectors, *step.gathers]
    found = (step.sketch, step.vectors) if isinstance(step, Deduplicate) else ()
    return [name for name in found if name]
