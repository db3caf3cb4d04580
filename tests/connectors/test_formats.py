"""All formats keep the same promises: every row once, whatever the shards; damage is told; nothing vanishes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import RunRecipe
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import ChangedError, RecipeError, TamisError
from tamis.connectors.opening import Opened, open_corpus

TEXTS = [f'Text {i}: "quoted", comma, tab\t, Größe\nsecond line {i}' for i in range(300)]


def as_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": t, "id": str(i)}) + "\n" for i, t in enumerate(texts)).encode()


def as_csv(texts: list[str]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([["id", "text"], *([str(i), text] for i, text in enumerate(texts))])
    return file.getvalue().encode()


def write_parquet(path: Path, texts: list[str]) -> None:
    table = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
    pq.write_table(table, path, row_group_size=50)


def write_data_set(path: Path, texts: list[str]) -> None:
    columns = {"id": [str(i) for i in range(len(texts))], "text": texts}
    datasets.Dataset.from_dict(columns).save_to_disk(path)


WRITERS: dict[str, tuple[str, Callable[[Path, list[str]], Any], dict[str, Any]]] = {
    "parquet": ("a.parquet", write_parquet, {"id": "id"}),
    "jsonl": ("a.jsonl", lambda path, texts: path.write_bytes(as_lines(texts)), {"id": "id"}),
    "jsonl.gz": ("a.jsonl.gz", lambda path, texts: path.write_bytes(gzip.compress(as_lines(texts))), {"id": "id"}),
    "csv": ("a.csv", lambda path, texts: path.write_bytes(as_csv(texts)), {"id": "id"}),
    "csv.gz": ("a.csv.gz", lambda path, texts: path.write_bytes(gzip.compress(as_csv(texts))), {"id": "id"}),
    "text": (
        "a.txt",
        lambda path, texts: path.write_bytes("\n\n".join(texts).encode()),
        {"split": "blank_lines"},
    ),
    "huggingface": ("a", write_data_set, {"id": "id"}),
}


@pytest.fixture(params=WRITERS)
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[CorpusConfig, Path]:
    name, write, settings = WRITERS[request.param]
    write(tmp_path / name, TEXTS)
    config = CorpusConfig(format=request.param.split(".")[0], paths=[str(tmp_path / name)], **settings)
    return config, tmp_path / name


def read(opened: Opened, columns: list[str] | None = None) -> tuple[list[str], list[tuple[int, str]]]:
    records = [r for shard in opened.shards for _, r in opened.corpus.read(shard, columns)]
    assert all(len(r.rows) == len(r.table) == len(r.text) for r in records)
    return [t for r in records for t in r.text.to_pylist()], [(d.row, d.error) for r in records for d in r.dead]


def test_every_row_once_whatever_the_shards_and_columns(corpus: tuple[CorpusConfig, Path]) -> None:
    config, _ = corpus
    for shard_bytes in (1 << 30, 3000):
        opened = open_corpus("corpus", config, shard_bytes=shard_bytes)
        for columns in (None, []):
            assert read(opened, columns) == (TEXTS, [])
        limited = open_corpus("corpus", config, shard_bytes=shard_bytes, limit=77)
        assert read(limited)[0] == TEXTS[:77]


def test_a_file_that_changes_is_noticed(corpus: tuple[CorpusConfig, Path]) -> None:
    config, path = corpus
    opened = open_corpus("corpus", config)
    file = next(path.glob("*.arrow")) if path.is_dir() else path
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises((ChangedError, TamisError), match="changed"):
        read(opened)


def test_a_column_that_is_not_there_is_refused(corpus: tuple[CorpusConfig, Path]) -> None:
    config, _ = corpus
    with pytest.raises(RecipeError, match=r"corpus.*(no (column|field) `grup`|has one column)"):
        open_corpus("corpus", config.model_copy(update={"group": "grup"}))


def test_what_is_cut_off_is_never_silent(corpus: tuple[CorpusConfig, Path]) -> None:
    config, path = corpus
    file = next(path.glob("*.arrow")) if path.is_dir() else path
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    try:
        texts, dead = read(open_corpus("corpus", config))
    except TamisError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)
        return
    whole = [text for text in texts if text in TEXTS]
    assert 100 < len(whole) < 300
    # plain text cannot know; all others tell what was lost
    assert dead or config.format == "text"
    assert len(texts) - len(whole) <= 1


def test_a_run_adds_up(corpus: tuple[CorpusConfig, Path], run_recipe: RunRecipe) -> None:
    config, _ = corpus
    run = run_recipe(
        {
            "corpus": config.model_dump(exclude_none=True),
            "select": [{"method": "sample", "keep": {"documents": 100}}],
        }
    )
    totals = {name: count["documents"] for name, count in run.manifest["totals"].items()}
    assert totals == {"read": 300, "kept": 100, "dropped": 200, "dead": 0}
    assert set(run.data["text"].to_pylist()) < set(TEXTS)


def test_tab_separated_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tn\n1,2\t3\n")
    config = CorpusConfig(format="csv", paths=[str(tmp_path / "a.tsv")])
    assert read(open_corpus("corpus", config)) == (["1,2"], [])
    (tmp_path / "a.csv").write_text("text;n\n1,2;3\n")
    config = CorpusConfig(format="csv", paths=[str(tmp_path / "a.csv")], delimiter=";")
    opened = open_corpus("corpus", config)
    ((_, records),) = opened.corpus.read(opened.shards[0], None)
    assert records.table["extra"].to_pylist() == ['{"n":"3"}']


def test_files_are_documents(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"file {i}\n\nwith two parts\n")
    config = CorpusConfig(format="text", paths=[str(tmp_path / "*.txt")])
    assert read(open_corpus("corpus", config))[0] == [f"file {i}\n\nwith two parts\n" for i in range(3)]
