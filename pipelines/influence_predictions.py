"""What the scores of finished runs foretell about single examples of targets: a number per document and example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors.errors import RecipeError
from .explain_influence import RunInfluence
from .job import Job
from .reading import read_documents

Float64 = NDArray[np.float64]
ExampleName = tuple[str, int]
"""A target and the key of one of its documents."""


@dataclass(frozen=True)
class Predictions:
    """Of one run. prefix: of the scores' names; keys: uint64[n], in the run's order; texts: of these; scores: float64
    [n, m] for influence, on `examples` of each, or [n, 1]; positive: helpful; NaN where there is none."""

    prefix: str
    keys: NDArray[np.uint64]
    texts: pa.Array
    scores: dict[str, Float64]
    examples: dict[str, list[ExampleName]]
    texts_of: dict[ExampleName, str]


@dataclass(frozen=True)
class SampleDocuments:
    """Documents that all scores are of, each key once. told: lines about what was left out."""

    keys: NDArray[np.uint64]
    texts: pa.Array
    told: list[str]


@dataclass(frozen=True)
class CommonExamples:
    """Examples that all influence scores are on."""

    names: list[ExampleName]
    texts: list[str]


def predictions_of(path: Path, manifest: Mapping[str, Any], job: Job, prefix: str) -> Predictions:
    """Read what a run's scores say of each document.

    Influence is taken for every example that its state keeps; of the other scorers each column of numbers is, the same
    for all examples, negative where lower is what the method would keep. Holds 8 bytes for each document, score and
    example: a run over a sample.
    """
    run = RunInfluence(path, manifest)
    if not run.scores:
        raise RecipeError(f"--influence: {path.name} has no score of the scorer `influence`")
    table = pa.concat_tables([run.files.read(shard) for shard in run.files.shards], promote_options="permissive")
    scores = {}
    for one in manifest["scorers"]:
        for column in one["columns"]:
            if one["scorer"] != "influence" and column["name"] in table.column_names:
                values = table[column["name"]].to_numpy().astype(np.float64)[:, None]
                scores[f"{prefix}{column['name']}"] = -values if column["direction"] == "lower" else values
    names: dict[str, list[ExampleName]] = {}
    for score in run.scores:
        state = run.state(score)
        names[f"{prefix}{score}"] = [
            (state.names[target], key) for target, key in zip(state.targets.tolist(), state.keys.tolist(), strict=True)
        ]
        parts = []
        for shard in run.files.shards:
            vectors, there = run.of_shard(score, shard)
            part = np.full((len(there), len(state.keys)), np.nan)
            if there.any():
                part[there] = state.on_examples(vectors)
            parts.append(part)
        scores[f"{prefix}{score}"] = np.concatenate(parts)
    texts_of: dict[ExampleName, str] = {}
    for target in dict.fromkeys(target for of_score in names.values() for target, _ in of_score):
        for text, keys in run.read_target(target):
            texts_of |= {(target, key): one for key, one in zip(keys.tolist(), text.to_pylist(), strict=True)}
    texts = [
        batch.documents.text
        for shard in run.files.shards
        for _, batch in read_documents(run.opened.corpus, run.shards[shard], [])
    ]
    return Predictions(prefix, table["key"].to_numpy(), pa.concat_arrays(texts), scores, names, texts_of)


def common(found: Sequence[Predictions]) -> tuple[SampleDocuments, CommonExamples, dict[str, Float64]]:
    """Return the documents that all scores of all runs are of, the examples of all influence scores, and the scores.

    A score that fewer than half of the documents have is left out, and told of. Raises RecipeError when the influence
    scores have no example in common.
    """
    first = found[0]
    keys, rows = np.unique(first.keys, return_index=True)
    told = []
    if len(keys) < len(first.keys):
        told.append(f"{len(first.keys) - len(keys):,} copies of documents are left out of the sample")
    wanted = sorted(set.intersection(*({*names} for one in found for names in one.examples.values())))
    wanted = [name for name in wanted if first.texts_of.get(name)]
    if not wanted:
        raise RecipeError("--influence: the scores are on targets that have no example in common")
    there, scores = np.ones(len(keys), np.bool_), {}
    for one in found:
        of_run = np.unique(one.keys, return_index=True)
        if not np.array_equal(of_run[0], keys):
            raise RecipeError("--influence: the runs are over other documents; leave out `limit` and `since`")
        for name, values in one.scores.items():
            chosen = values[of_run[1]]
            if name in one.examples:
                places = {example: column for column, example in enumerate(one.examples[name])}
                chosen = chosen[:, [places[example] for example in wanted]]
            has = np.isfinite(chosen).all(axis=1)
            if has.mean() < 0.5:
                told.append(f"{name}: most documents lack it, and it is not compared")
                continue
            there &= has
            scores[name] = chosen
    if not there.all():
        told.append(f"{int(np.count_nonzero(~there)):,} documents that lack a score are left out of the sample")
    documents = SampleDocuments(keys[there], first.texts.take(pa.array(rows[there])), told)
    examples = CommonExamples(wanted, [first.texts_of[name] for name in wanted])
    return documents, examples, {name: values[there] for name, values in scores.items()}
