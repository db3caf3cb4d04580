"""A corpus and a store in S3, as a server on this machine speaks it; no credentials but those of the environment."""

from __future__ import annotations

import gzip
import itertools
import logging
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from finished_run import RunRecipe, write_jsonl, write_parquet
from moto.server import ThreadedMotoServer
from tamis.connectors import files
from tamis.connectors.atomic import write_text
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import ChangedError, RecipeError, TamisError
from tamis.connectors.opening import Opened, open_corpus
from tamis.connectors.records import Piece
from tamis.connectors.score_store import Address, ScoreStore
from tamis.connectors.shards import Shard
from tamis.jobs.command import main

KEY, SECRET = "key-of-this-test", "secret-of-this-test"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start an S3 server on a free port of the loopback interface; returns its URL, which the environment names too."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3 = fsspec.get_filesystem_class("s3")
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        s3.clear_instance_cache()
        yield f"http://{host}:{port}"
        s3.clear_instance_cache()
    running.stop()


@pytest.fixture
def bucket(server: str) -> str:
    url = f"s3://bucket-{next(NUMBERS)}"
    somebody_else().mkdir(url)
    return url


def somebody_else() -> Any:
    """A client of which those that Tamis uses know nothing."""
    return fsspec.filesystem("s3", skip_instance_cache=True)


def read(opened: Opened, columns: list[str] | None = None) -> list[dict[str, Any]]:
    shards = (opened.corpus.read(shard, columns) for shard in opened.shards)
    return [row for shard in shards for _, records in shard for row in records.table.to_pylist()]


@pytest.mark.parametrize("format", ["parquet", "jsonl", "jsonl.gz"])
def test_a_corpus_reads_as_it_does_from_here(bucket: str, tmp_path: Path, documents: pa.Table, format: str) -> None:
    here = tmp_path / "corpus"
    if format == "parquet":
        write_parquet(documents, here, files=3)
    else:
        here.mkdir()
        for number in range(3):
            content = write_jsonl(documents.slice(number * 200, 200), here / f"{number}.{format}")
            if format == "jsonl.gz":
                (here / f"{number}.{format}").write_bytes(gzip.compress(content))
    somebody_else().put(str(here), f"{bucket}/deep/corpus", recursive=True)
    somebody_else().pipe_file(f"{bucket}/deep/other.txt", b"not matched")
    name = format.removesuffix(".gz")
    there, local = (
        open_corpus(
            "corpus",
            CorpusConfig.model_validate({"format": name, "paths": [glob], "id": "id", "group": "group"}),
            shard_bytes=100_000,
        )
        for glob in (f"{bucket}/**/*.{format}", f"{here}/*.{format}")
    )
    assert len(there.files) == 3
    assert all(file.url.startswith(f"{bucket}/deep/corpus/") for file in there.files)
    assert [shard.bytes for shard in there.shards] == [shard.bytes for shard in local.shards]
    assert read(there) == read(local)
    assert read(there, ["text"]) == read(local, ["text"])
    assert len(read(there)) == documents.num_rows


def test_scores_are_stored_and_come_back(bucket: str) -> None:
    store = ScoreStore(f"{bucket}/store")
    address, shard = Address("dsir", "0123abcd"), Shard(3, (Piece("/a", "1", 0, 1, 1),), "f" * 32)
    assert store.stored(address) == set()
    assert not store.has(address, shard)
    table = pa.table({"score": pa.array([0.5, None]), "key": pa.array([2**64 - 1, 0], pa.uint64())})
    store.write_table(address, shard, table, {"dead": 2})
    store.write_arrays(address, shard, {"counts": np.arange(5)})
    assert store.has(address, shard)
    assert store.stored(address) == {shard.fingerprint}
    assert store.read_table(address, shard).equals(table)
    assert store.read_metadata(address, shard)["dead"] == 2
    np.testing.assert_array_equal(store.read_arrays(address, shard)["counts"], np.arange(5))
    elsewhere = Shard(4, shard.pieces, "e" * 32)
    assert not store.has(address, elsewhere)
    somebody_else().copy(store.url(address, shard), store.url(address, elsewhere))
    assert store.has(address, elsewhere)
    assert store.stored(address) == {shard.fingerprint, elsewhere.fingerprint}
    somebody_else().rm(store.url(address, elsewhere))
    with pytest.raises(TamisError, match="is gone; run again"):
        store.read_table(address, elsewhere)
    files.delete(store.url(address, shard))
    files.delete(store.url(address, shard))
    assert not store.has(address, shard)


def test_a_changed_object_is_noticed(bucket: str) -> None:
    url = f"{bucket}/a.jsonl"
    config = CorpusConfig(format="jsonl", paths=[f"{bucket}/*.jsonl"])
    somebody_else().pipe_file(url, b'{"text":"a"}\n')
    opened = open_corpus("corpus", config)
    assert [row["text"] for row in read(opened)] == ["a"]
    somebody_else().pipe_file(url, b'{"text":"b"}\n')
    with pytest.raises(ChangedError, match=r"a\.jsonl changed while the run was reading it"):
        read(opened)
    again = open_corpus("corpus", config)
    assert [row["text"] for row in read(again)] == ["b"]
    assert again.shards[0].fingerprint != opened.shards[0].fingerprint
    somebody_else().pipe_file(f"{bucket}/b.jsonl", b'{"text":"c"}\n')
    assert [row["text"] for row in read(open_corpus("corpus", config))] == ["b", "c"]


def test_a_parquet_file_is_transferred_about_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    words = [random.bytes(400).hex() for _ in range(2000)]
    table = pa.table({name: words[start:] + words[:start] for start, name in enumerate(["text", "b", "c", "d"])})
    with somebody_else().open(f"{bucket}/a.parquet", "wb") as file:
        pq.write_table(table, file, compression="none", use_dictionary=False)
    size = somebody_else().size(f"{bucket}/a.parquet")
    opened = open_corpus("corpus", CorpusConfig(format="parquet", paths=[f"{bucket}/a.parquet"]))
    transferred = []
    fetch = fsspec.get_filesystem_class("s3")._cat_file

    async def count(self: Any, path: str, *, start: int, end: int, **options: Any) -> bytes:
        content = await fetch(self, path, start=start, end=end, **options)
        transferred.append(len(content))
        return content

    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "_cat_file", count)
    assert len(read(opened)) == 2000
    assert sum(transferred) < 1.3 * size


def test_what_is_not_there_is_said_in_one_line(bucket: str, server: str) -> None:
    for pattern in ("s3://no-such-bucket/*.parquet", "s3://no-such-bucket/a.parquet", f"{bucket}/*.parquet"):
        with pytest.raises(RecipeError) as refused:
            open_corpus("corpus", CorpusConfig(format="parquet", paths=[pattern]))
        assert str(refused.value) == f"corpus.paths: no file matches {pattern}; check the URL"
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        write_text("s3://no-such-bucket/a", "content")


@pytest.fixture
def refusing(server: str) -> Iterator[None]:
    """The server knows no key."""

    def set_actions_without_key(count: str) -> None:
        header = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{server}/moto-api/reset-auth", count.encode(), header)
        urllib.request.urlopen(request).close()

    set_actions_without_key("0")
    yield
    set_actions_without_key("inf")


def test_a_wrong_key_is_one_line_without_the_key(
    bucket: str, refusing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt in (
        lambda: open_corpus("corpus", CorpusConfig(format="parquet", paths=[f"{bucket}/*.parquet"])),
        lambda: files.read_bytes(f"{bucket}/a"),
        lambda: write_text(f"{bucket}/a", "content"),
        lambda: files.exists(f"{bucket}/a"),
    ):
        with pytest.raises(
            TamisError, match=rf"^{bucket}/.*: no access \(.*\); check the credentials in the env"
        ) as refused:
            attempt()
        assert KEY not in str(refused.value)
        assert SECRET not in str(refused.value)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"corpus": {"format": "jsonl", "paths": [f"{bucket}/*"]}}))
    monkeypatch.setattr(sys, "argv", ["tamis", "run", str(recipe), "--output", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    assert left.value.code == 1
    assert "check the credentials in the environment" in said.err
    assert "Traceback" not in said.err
    assert SECRET not in said.err + said.out


def test_no_credentials_and_no_server_are_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(fsspec.AbstractFileSystem):
        """A back end whose errors are its own."""

        protocol = "refusing"

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            raise RuntimeError("no route\nto host")

    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(TamisError, match=r"^refusing://a: cannot be reached: no route to host$"):
        files.file_info("refusing://a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    s3 = fsspec.get_filesystem_class("s3")
    s3.clear_instance_cache()
    with pytest.raises(TamisError, match=rf"^{bucket}/a: cannot be reached: Unable to locate credentials$"):
        files.read_bytes(f"{bucket}/a")
    s3.clear_instance_cache()


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/a", "https://me:secret@host/a*.parquet"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(RecipeError, match="credentials do not belong in a URL") as refused:
        CorpusConfig(format="parquet", paths=[url]).resolved("corpus", Path("/"))
    assert "secret" not in str(refused.value)
    for fine in ("https://host/a@b:c.parquet", "s3://bucket/a:b@c", "sftp://me@host/a", "gs://bucket/*.jsonl"):
        assert files.absolute(fine, Path("/")) == fine


@pytest.mark.slow
def test_a_whole_run_with_corpus_and_store_there(
    bucket: str, tmp_path: Path, documents: pa.Table, target_documents: pa.Table, run_recipe: RunRecipe
) -> None:
    write_parquet(documents, tmp_path / "corpus", files=3)
    pq.write_table(target_documents, tmp_path / "target.parquet")

    def recipe(folder: str) -> dict[str, Any]:
        return {
            "corpus": {"format": "parquet", "paths": [f"{folder}/corpus/*.parquet"], "id": "id", "group": "group"},
            "targets": {"docstrings": {"format": "parquet", "paths": [f"{folder}/target.parquet"]}},
            "scores": {"relevance": {"scorer": "dsir", "target": "docstrings"}},
            "select": [{"method": "resample", "by": "relevance", "keep": {"fraction": 0.3}, "name": "relevant"}],
            "output": {"columns": ["relevance"]},
            "store": f"{folder}/store",
        }

    somebody_else().put(f"{tmp_path}/corpus", f"{bucket}/corpus", recursive=True)
    somebody_else().put(f"{tmp_path}/target.parquet", f"{bucket}/target.parquet")
    local = run_recipe(recipe(str(tmp_path)), "local")
    there = run_recipe(recipe(bucket), "there", workers=2)
    assert there.data_bytes == local.data_bytes
    assert there.manifest["totals"] == local.manifest["totals"]
    objects = somebody_else().find(f"{bucket}/store", detail=True)
    assert len(objects) >= 6
    again = run_recipe(recipe(bucket), "again")
    assert again.data_bytes == local.data_bytes
    written = {
        name: entry["LastModified"] for name, entry in somebody_else().find(f"{bucket}/store", detail=True).items()
    }
    scored = {name: entry["LastModified"] for name, entry in objects.items() if "/uses/" not in name}
    assert scored.items() <= written.items()  # each run notes its use, and scores nothing twice
    assert {name for name in written if "/uses/" not in name} == set(scored)
    for file in there.outcome.path.rglob("*"):
        assert not file.is_file() or (
            KEY.encode() not in file.read_bytes() and SECRET.encode() not in file.read_bytes()
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_there_feeds_a_loader_with_workers(
    bucket: str, tmp_path: Path, documents: pa.Table, run_recipe: RunRecipe, workers: int
) -> None:
    torch_data = pytest.importorskip("torch.utils.data")
    from tamis.connectors.dataloader import RunDataset

    corpus = {"format": "parquet", "paths": [write_parquet(documents, tmp_path / "corpus", files=2)], "id": "id"}
    run = run_recipe({"corpus": corpus, "select": [{"method": "sample", "keep": {"documents": 200}}]}).outcome.path
    somebody_else().put(str(run), f"{bucket}/run", recursive=True)

    def given(where: Path | str) -> list[list[dict[str, Any]]]:
        dataset = RunDataset(where, batch_size=16, filter=pc.field("weight") > 0, columns=["id"])
        return list(
            torch_data.DataLoader(dataset, batch_size=16, num_workers=workers, collate_fn=list, timeout=60 * workers)
        )

    assert given(f"{bucket}/run") == given(run)
