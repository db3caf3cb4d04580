"""Seconds that scorers take, measured on a few documents of a run, alone."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa

from ..connectors.opening import open_corpus
from ..scoring.derived_scorer import DerivedScorer, derived_in_order
from ..scoring.scorer import Documents
from .job import Job
from .reading import read_documents
from .rescore import restore

DOCUMENTS = 48
"""That are scored for it; before that one is, which loads models."""


def scorer_costs(run: Path, job: Job) -> dict[str, float]:
    """Return the seconds that each score takes for 1,000 documents, on one thread, by score.

    That of a score which is made of others includes them, and not its fitting: what a new document costs. run: a
    finished one of the job, whose states are restored.
    """
    restore(run, job)
    needs = list(dict.fromkeys(name for scorer in job.scorers.values() for name in scorer.needs))
    opened = open_corpus("corpus", job.corpus, limit=DOCUMENTS + 1)
    batch = next(batch for shard in opened.shards for _, batch in read_documents(opened.corpus, shard, needs))
    rows = [pa.array([0]), pa.array(range(1, len(batch.documents)))]
    seconds: dict[str, float] = {}
    derived = derived_in_order(job.scorers)
    for number, part in enumerate(rows if len(rows[1]) else rows[:1] * 2):
        primary: dict[str, pa.Array] = {}
        for score in [*(name for name in job.scorers if name not in derived), *derived]:
            scorer, given = job.scorers[score], _taken(batch.documents, part)
            if isinstance(scorer, DerivedScorer):
                given.table = pa.table({name: primary[name] for name in scorer.inputs.values()})
            started = time.perf_counter()
            primary[score] = scorer.score(given)[""]
            taken = 1000 * (time.perf_counter() - started) / len(part)
            of_inputs = scorer.inputs.values() if isinstance(scorer, DerivedScorer) else ()
            seconds[score] = taken + (sum(seconds[name] for name in dict.fromkeys(of_inputs)) if number else 0.0)
    return seconds


def _taken(documents: Documents, rows: pa.Array) -> Documents:
    groups = None if documents.groups is None else documents.groups.take(rows)
    table = None if documents.table is None else documents.table.take(rows)
    return Documents(documents.text.take(rows), documents.keys[rows.to_numpy()], groups, table)
