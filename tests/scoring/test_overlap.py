"""Shared n-grams are found exactly, by the words and not by the letters between them, and counted in the run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from finished_run import RunRecipe, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.errors import RecipeError
from tamis.scoring.overlap import covered_tokens, ngram_filter, ngram_hashes, united
from tamis.scoring.tokenizer import tokenize

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=14).map(" ".join), max_size=6)


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def oracle(text: str, n: int, ngrams: set[tuple[str, ...]]) -> int:
    tokens = words(text)
    covered: set[int] = set()
    for i in range(len(tokens) - n + 1):
        if tuple(tokens[i : i + n]) in ngrams:
            covered |= set(range(i, i + n))
    return len(covered)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_against_sets_of_tuples(corpus: list[str], benchmark: list[str], n: int) -> None:
    known = {tuple(words(t)[i : i + n]) for t in benchmark for i in range(len(words(t)) - n + 1)}
    tokens = tokenize(pa.array(benchmark, pa.string()))
    ngrams = ngram_hashes(tokens.offsets, tokens.hashes, n)
    assert len(ngrams) == len(known)
    tokens = tokenize(pa.array(corpus, pa.string()))
    found = covered_tokens(tokens.offsets, tokens.hashes, n, ngrams, ngram_filter(ngrams))
    assert found.tolist() == [oracle(text, n, known) for text in corpus]


def test_no_ngram_slips_through_the_filter_of_many() -> None:
    ngrams = united(np.random.default_rng(0).integers(0, 2**64, 200_000, dtype=np.uint64))
    bits = ngram_filter(ngrams)
    offsets = np.array([0, len(ngrams)])
    mixed = ngram_hashes(offsets, ngrams, 1)
    found = covered_tokens(offsets, ngrams, 1, mixed, ngram_filter(mixed))
    assert found.tolist() == [len(ngrams)]
    foreign = np.random.default_rng(1).integers(0, 2**64, 200_000, dtype=np.uint64)
    assert covered_tokens(np.array([0, len(foreign)]), foreign, 1, mixed, ngram_filter(mixed)).tolist() == [0]
    assert len(bits) * 64 >= 16 * len(ngrams)


def test_a_run_drops_or_counts_what_leaked(tmp_path: Path, run_recipe: RunRecipe, documents: pa.Table) -> None:
    clean = documents["text"].to_pylist()[:40]
    questions = [
        f"Question {i}: what is the number that comes after {i} when one counts by {i + 2} from nought?"
        for i in range(9)
    ]
    leaked = [f"{clean[0]} {questions[3].upper()} {clean[1]}", clean[2] + questions[5].replace(" ", "\n")]
    almost = " ".join(questions[4].split()[:11])
    write_jsonl(pa.table({"text": [*clean, *leaked, almost]}), tmp_path / "corpus.jsonl")
    write_jsonl(pa.table({"text": [*questions[:5], "too short"]}), tmp_path / "first.jsonl")
    write_jsonl(pa.table({"text": questions[5:]}), tmp_path / "second.jsonl")
    recipe = {
        "corpus": {"format": "jsonl", "paths": ["corpus.jsonl"]},
        "targets": {name: {"format": "jsonl", "paths": [f"{name}.jsonl"]} for name in ("first", "second")},
        "scores": {"leak": {"scorer": "overlap", "benchmarks": ["first", "second"]}},
        "select": [{"method": "threshold", "by": "leak_first", "max": 0}],
    }
    run = run_recipe(recipe)
    assert run.manifest["above_zero"] == {
        "leak": {"read": 2, "kept": 1},
        "leak_first": {"read": 1, "kept": 0},
        "leak_second": {"read": 1, "kept": 1},
    }
    decisions = run.decisions
    assert (np.array(decisions["leak"].to_pylist()) > 0).tolist() == [False] * 40 + [True, True, False]
    assert decisions["leak_first"].to_pylist()[40] == pytest.approx(len(words(questions[3])) / len(words(leaked[0])))
    assert "leak: 1 of 6 documents of first have fewer than 13 tokens: not looked for" in run.manifest["warnings"]
    assert not any("are in a target too" in line for line in run.manifest["warnings"])
    timings = json.loads(json.dumps(run.manifest["timings"]))
    assert "fitting" not in timings  # the corpus is read once


def test_benchmarks_that_cannot_serve_are_refused(tmp_path: Path, run_recipe: RunRecipe) -> None:
    write_jsonl(pa.table({"text": ["one two three"]}), tmp_path / "a.jsonl")
    recipe = {
        "corpus": {"format": "jsonl", "paths": ["a.jsonl"]},
        "targets": {"b": {"format": "jsonl", "paths": ["a.jsonl"]}},
        "scores": {"leak": {"scorer": "overlap", "benchmarks": ["b"]}},
        "select": [{"method": "threshold", "by": "leak", "max": 0}],
    }
    with pytest.raises(RecipeError, match="no document of `b` has 13 tokens"):
        run_recipe(recipe)
    recipe["scores"]["leak"] |= {"ngrams": 1, "max_ngrams": 2}
    with pytest.raises(RecipeError, match="have 3 n-grams; raise `max_ngrams`"):
        run_recipe(recipe, "two")
