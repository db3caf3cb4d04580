"""Real text for end-to-end tests: the language reference, in the formats that users have, and a way to run recipes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pytest
import yaml
from finished_run import Finished, RunRecipe
from tamis.connectors.python_docs import list_files, read_python_docs
from tamis.jobs.progress import Lines
from tamis.jobs.recipe import make_job, read_recipe
from tamis.pipelines.run import Run
from tamis.pipelines.runner import Engine


@pytest.fixture(scope="session")
def documents() -> pa.Table:
    """Some 550 documents of the language reference of at most 1,000 characters: id, text, group (the first letter)."""
    texts = [
        text[start : start + 1000]
        for path in list_files(["language-reference"])
        for text in read_python_docs(path).table["text"].to_pylist()
        for start in range(0, len(text), 1000)
    ]
    groups = [next((c for c in text.lower() if c.isalpha()), "-") for text in texts]
    groups = [group if group in "aceit" else "other" for group in groups]
    return pa.table({"id": [f"doc-{i:04d}" for i in range(len(texts))], "text": texts, "group": groups})


@pytest.fixture(scope="session")
def target_documents() -> pa.Table:
    """Docstrings of two modules of the standard library: text."""
    tables = [read_python_docs(Path(module.__file__)).table for module in (argparse, logging)]
    table = pa.concat_tables(tables)
    return table.filter(pa.compute.equal(table["group"], "docstring")).select(["text"])


@pytest.fixture
def run_recipe(tmp_path: Path) -> RunRecipe:
    """Write a recipe and run it in this process; returns the finished run."""

    def run(
        recipe: dict[str, Any],
        output: str = "run",
        *,
        workers: int = 1,
        beam_options: Sequence[str] = (),
        limit: int | None = None,
        overwrite: bool = False,
    ) -> Finished:
        path = tmp_path / f"{output}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        job = make_job(read_recipe(path, output=str(tmp_path / "runs" / output)), limit)
        return Finished(Run(job, Engine(workers, beam_options), Lines(as_json=False), overwrite).execute())

    return run
