"""A corpus is opened or refused in one line, and its rows do not depend on how it is stored or what is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tamis.connectors.corpus import group_strings
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import ChangedError, RecipeError, TamisError
from tamis.connectors.opening import Opened, open_corpus


def write(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def write_lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parquet(*paths: str, **settings: Any) -> CorpusConfig:
    return CorpusConfig(format="parquet", paths=list(paths), **settings)


def jsonl(*paths: str, **settings: Any) -> CorpusConfig:
    return CorpusConfig(format="jsonl", paths=list(paths), **settings)


def rows_of(opened: Opened, column: str = "text", columns: list[str] | None = None) -> list[Any]:
    read = (opened.corpus.read(shard, columns) for shard in opened.shards)
    return [value for shard in read for _, records in shard for value in records.table[column].to_pylist()]


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"text": "texts"}, r"targets.x.text: there is no column `texts` \(nearest: text\)"),
            ({"id": "tags.name"}, r"targets.x.id: there is no column `tags.name`"),
            ({"text": "n"}, r"targets.x.text: column `n` holds int64, where text is needed"),
            ({"id": "tags"}, r"targets.x.id: column `tags` holds list<.*where text or integers are needed"),
            ({"group": "tags"}, r"targets.x.group: column `tags` holds list<"),
        ],
    )
    def test_columns_of_parquet(self, tmp_path: Path, settings: dict[str, str], message: str) -> None:
        path = write(tmp_path / "a.parquet", text=["a"], n=[1], tags=[["x"]])
        with pytest.raises(RecipeError, match=message):
            open_corpus("targets.x", parquet(path, **settings))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"text": "txt"}, r"corpus: .*a\.jsonl: there is no field `txt` .*\(nearest: text\)"),
        ],
    )
    def test_fields_of_json_lines(self, tmp_path: Path, settings: dict[str, str], message: str) -> None:
        path = write_lines(tmp_path / "a.jsonl", {"text": "a", "tags": ["x"]})
        with pytest.raises(RecipeError, match=message):
            open_corpus("corpus", jsonl(path, **settings))

    def test_no_file_and_no_part(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"corpus.paths: no file matches .*\*\.parquet"):
            open_corpus("corpus", parquet(f"{tmp_path}/*.parquet"))
        with pytest.raises(RecipeError, match=r"corpus.paths: .*`?standard-libary`?.*standard-library"):
            open_corpus("corpus", CorpusConfig(format="python-docs", paths=["standard-libary"]))
        with pytest.raises(RecipeError, match=r"corpus: a corpus of format jsonl needs `paths`"):
            CorpusConfig(format="jsonl").resolved("corpus", tmp_path)

    def test_a_damaged_footer_fails_or_is_left_out(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", text=["a"])
        (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing")
        config = parquet(f"{tmp_path}/*.parquet")
        with pytest.raises(TamisError, match=r"b\.parquet.*unreadable_shards: skip"):
            open_corpus("corpus", config)
        opened = open_corpus("corpus", config, skip_unreadable=True)
        assert rows_of(opened) == ["a"]
        assert [line for line in opened.unreadable if "b.parquet" in line] == opened.unreadable
        assert len(opened.unreadable) == 1


class TestTypes:
    @pytest.mark.parametrize(
        "kind",
        [
            pa.string(),
            pa.large_string(),
            pa.string_view(),
            pa.binary(),
            pa.large_binary(),
            pa.dictionary(pa.int32(), pa.string()),
            pa.dictionary(pa.int8(), pa.large_string()),
        ],
        ids=str,
    )
    def test_text_of_every_type_comes_as_large_string(self, tmp_path: Path, kind: pa.DataType) -> None:
        texts = ["zwölf", None, "", "zwölf", "x" * 100]
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        column = pa.array(texts).cast(plain)
        column = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column
        opened = open_corpus("corpus", parquet(write(tmp_path / "a.parquet", text=column)))
        ((_, records),) = opened.corpus.read(opened.shards[0], None)
        assert records.text.type == pa.large_string()
        assert records.text.to_pylist() == ["zwölf", "", "zwölf", "x" * 100]
        assert [(row.row, row.error) for row in records.dead] == [(1, "text is null")]
        # and it goes back into the data files as what it was
        back = records.table["text"].cast(opened.corpus.schema.field("text").type)
        expected = [text for text in texts if text is not None]
        if "binary" in str(kind):
            assert back.to_pylist() == [text.encode() for text in expected]
        else:
            assert back.to_pylist() == expected

    def test_text_with_null_bytes_in_a_slice(self, tmp_path: Path) -> None:
        texts = [b"a\x00b", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"cut \xc3"]
        opened = open_corpus("corpus", parquet(write(tmp_path / "a.parquet", text=texts)))
        ((_, records),) = opened.corpus.read(opened.shards[0], None)
        assert records.text.to_pylist() == ["a\x00b", "😀"]
        assert [(row.row, row.error, row.raw) for row in records.dead] == [
            (1, "text is not valid UTF-8 at byte 0", texts[1]),
            (3, "text is not valid UTF-8 at byte 4", texts[3]),
        ]

    def test_integers_as_id_and_group_of_json_lines(self, tmp_path: Path) -> None:
        rows = [{"n": 2**62, "text": "a", "g": 7}, {"n": None, "text": "b"}, {"n": -1, "text": "c", "g": None}]
        opened = open_corpus("corpus", jsonl(write_lines(tmp_path / "a.jsonl", *rows), id="n", group="g"))
        ((_, records),) = opened.corpus.read(opened.shards[0], ["g"])
        assert records.table["n"].to_pylist() == [str(2**62), "-1"]
        groups = group_strings(records.table, opened.corpus.config)
        assert groups is not None
        assert groups.to_pylist() == ["7", None]
        assert [(row.row, row.error) for row in records.dead] == [(1, "id column `n` is null")]


class TestRows:
    def shards(self, tmp_path: Path) -> list[Opened]:
        rows = [{"i": f"{n}", "text": f"text {n}" if n % 7 else None, "g": "x" * n} for n in range(50)]
        for start in (0, 20, 40):
            part = rows[start : start + 20]
            write_lines(tmp_path / f"{start:02}.jsonl", *part)
            pq.write_table(pa.Table.from_pylist(part), tmp_path / f"{start:02}.parquet", row_group_size=6)
        return [
            open_corpus("corpus", CorpusConfig(format=kind, paths=[f"{tmp_path}/*.{kind}"], id="i", group="g"))  # type: ignore[arg-type]
            for kind in ("parquet", "jsonl")
        ]

    def test_are_the_same_whatever_the_columns(self, tmp_path: Path) -> None:
        expected = [f"text {n}" for n in range(50) if n % 7]
        for opened in self.shards(tmp_path):
            for columns in (None, [], ["g"]):
                assert rows_of(opened, columns=columns) == expected
            records = [r for s in opened.shards for _, r in opened.corpus.read(s, [])]
            assert [row.row for r in records for row in r.dead] == [0, 7, 14, 1, 8, 15, 2, 9]

    @pytest.mark.parametrize("limit", [1, 8, 21, 50, 99])
    def test_limit_counts_readable_and_dead(self, tmp_path: Path, limit: int) -> None:
        for opened in self.shards(tmp_path):
            for size in (150, 1 << 20):
                small = open_corpus("corpus", opened.corpus.config, limit=limit, shard_bytes=size)
                expected = [f"text {n}" for n in range(min(limit, 50)) if n % 7]
                assert rows_of(small) == expected
                dead = [r.dead for s in small.shards for _, r in small.corpus.read(s, [])]
                assert sum(map(len, dead)) + len(expected) == min(limit, 50)

    def test_small_files_are_packed(self, tmp_path: Path) -> None:
        for kind in ("jsonl", "parquet"):
            for n in range(30):
                row = {"text": f"text {n}"}
                if kind == "jsonl":
                    write_lines(tmp_path / f"{n:02}.jsonl", row)
                else:
                    pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{n:02}.parquet")
            opened = open_corpus("corpus", CorpusConfig(format=kind, paths=[f"{tmp_path}/*.{kind}"]))  # type: ignore[arg-type]
            assert len(opened.shards) == 1
            pieces = [number for number, _ in opened.corpus.read(opened.shards[0], [])]
            assert pieces == list(range(30))
            assert rows_of(opened) == [f"text {n}" for n in range(30)]


class TestFingerprint:
    def of(self, config: CorpusConfig) -> list[str]:
        return [shard.fingerprint for shard in open_corpus("corpus", config, shard_bytes=1).shards]

    def test_follows_text_and_id_and_not_the_group(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", text=["a"], other=["b"], i=[1])
        plain = self.of(parquet(path))
        assert self.of(parquet(path, group="i")) == plain
        assert self.of(parquet(path, text="other")) != plain
        assert self.of(parquet(path, id="i")) != plain


def test_rows_do_not_depend_on_the_group(tmp_path: Path) -> None:
    rows = [{"text": "one", "g": 1}, {"text": "two", "g": "x"}, {"text": "three", "g": 1.5}, {"text": "four"}]
    path = write_lines(tmp_path / "a.jsonl", *rows)
    assert rows_of(open_corpus("corpus", jsonl(path, group="g"))) == rows_of(open_corpus("corpus", jsonl(path)))


def test_python_docs_are_real_documents() -> None:
    config = CorpusConfig(format="python-docs", paths=["language-reference"]).resolved("corpus", Path())
    opened = open_corpus("corpus", config, limit=50)
    texts, ids, groups = (rows_of(opened, column) for column in ("text", "id", "group"))
    assert len(set(ids)) == len(texts) == 50
    assert min(map(len, texts)) >= 200
    assert set(groups) == {"language_reference"}
    assert any("expression" in text for text in texts)


def test_a_file_that_is_gone_or_another_is_never_skipped(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.parquet", text=["some words"] * 3))
    opened = open_corpus("corpus", parquet(str(path)), skip_unreadable=True)
    write(path, text=["other words"] * 3)
    with pytest.raises(ChangedError, match=r"a\.parquet changed"):
        list(opened.corpus.read(opened.shards[0], None))
    path.unlink()
    with pytest.raises(ChangedError, match=r"a\.parquet is gone"):
        list(opened.corpus.read(opened.shards[0], None))
