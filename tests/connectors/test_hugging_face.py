"""Data sets that `datasets` saved come out row by row, keep their features, and faults are told in one line."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import RunRecipe
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.opening import Opened, open_corpus

FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["bad", "good"]),
        "tags": datasets.Sequence(datasets.Value("int32")),
    }
)


def saved(folder: Path, rows: int = 2500, **options: int) -> Path:
    columns = {
        "text": [f"text number {i} " + "word " * 100 for i in range(rows)],
        "label": [i % 2 for i in range(rows)],
        "tags": [[i, i + 1] for i in range(rows)],
    }
    datasets.Dataset.from_dict(columns, features=FEATURES).save_to_disk(folder, **options)
    return folder


def opened(*paths: Path, **settings: object) -> Opened:
    config = CorpusConfig(format="huggingface", paths=[str(path) for path in paths])
    return open_corpus("corpus", config, **settings)  # type: ignore[arg-type]


def test_every_row_once_whatever_the_shards(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", num_shards=2)
    whole = datasets.load_from_disk(folder)
    for shard_bytes in (1 << 30, 300_000):
        corpus = opened(folder, shard_bytes=shard_bytes)
        read = [records for shard in corpus.shards for _, records in corpus.corpus.read(shard, None)]
        assert [text for records in read for text in records.text.to_pylist()] == whole["text"][:]
        assert [tags for records in read for tags in records.table["tags"].to_pylist()] == whole["tags"][:]
        assert sum(shard.rows or 0 for shard in corpus.shards) == 2500
        assert max(records.table.nbytes for records in read) < 3 << 20
    assert len(corpus.shards) > 3


def test_the_result_keeps_the_features(tmp_path: Path, run_recipe: RunRecipe) -> None:
    folder = saved(tmp_path / "set", rows=50)
    run = run_recipe(
        {
            "corpus": {"format": "huggingface", "paths": [str(folder)], "group": "label"},
            "select": [{"method": "sample", "keep": {"documents": 20}}],
        }
    )
    read = datasets.load_dataset(
        "parquet", data_files=str(run.outcome.path / "data" / "*.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert len(read) == 20
    assert read.features["label"] == FEATURES["label"]
    assert read.features["weight"] == datasets.Value("float32")
    metadata = pq.read_schema(next((run.outcome.path / "data").glob("*.parquet"))).metadata
    assert b"fingerprint" not in b"".join(metadata.values())


def test_a_folder_with_splits_names_them(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_dict({"text": ["a"]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    with pytest.raises(RecipeError, match=r"several splits \(test, train\); name one"):
        opened(tmp_path / "set")
    assert opened(tmp_path / "set" / "train").corpus.schema.names == ["text"]


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no folder matches"):
        opened(tmp_path / "nothing")
    with pytest.raises(RecipeError, match=r"no complete saved data set: .*state.json is missing"):
        opened(tmp_path)
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(RecipeError, match=r"state.json is not as `datasets` writes it"):
        opened(tmp_path)
    with pytest.raises(RecipeError, match="is a file"):
        opened(tmp_path / "state.json")
    with pytest.raises(RecipeError, match="is remote"):
        open_corpus("corpus", CorpusConfig(format="huggingface", paths=["s3://bucket/set"]))


def test_a_damaged_file_is_told_or_left_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", num_shards=2)
    first = sorted(folder.glob("*.arrow"))[0]
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    with pytest.raises(TamisError, match=first.name):
        opened(folder)
    rest = opened(folder, skip_unreadable=True)
    assert len(rest.unreadable) == 1
    rows = sum(len(records.rows) for shard in rest.shards for _, records in rest.corpus.read(shard, None))
    assert rows == 1250
    assert rest.corpus.schema.field("tags").type == pa.list_(pa.int32())
