"""Prompt and response, and chats, are documents in any format; what is none is dead and takes nothing with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError
from tamis.connectors.opening import open_corpus

CHATS: list[Any] = [
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}],
    [{"role": "assistant", "content": None}, {"role": "tool", "content": "42"}],
    [],
    None,
]


def texts(config: CorpusConfig) -> tuple[list[str], list[tuple[int, str]]]:
    opened = open_corpus("corpus", config)
    read = [records for shard in opened.shards for _, records in opened.corpus.read(shard, [])]
    alive = [text for records in read for text in records.text.to_pylist()]
    return alive, [(row.row, row.error) for records in read for row in records.dead]


def write_lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_chats_in_parquet_and_json_lines_are_the_same_documents(tmp_path: Path) -> None:
    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    pq.write_table(pa.table({"chat": pa.array(CHATS, chat)}), tmp_path / "a.parquet")
    as_text = pa.array([None if c is None else json.dumps(c) for c in CHATS])
    pq.write_table(pa.table({"chat": as_text}), tmp_path / "b.parquet")
    lines = write_lines(tmp_path / "a.jsonl", *({"chat": c} for c in CHATS))
    expected = (["Hello\n\nGood day", "42", ""], [(3, "messages is null")])
    for name in ("a", "b"):
        config = CorpusConfig(format="parquet", paths=[str(tmp_path / f"{name}.parquet")], messages="chat")
        assert texts(config) == expected
    alive, dead = texts(CorpusConfig(format="jsonl", paths=[lines], messages="chat"))
    assert (alive, dead) == (expected[0], [(3, "`chat` is null")])


def test_other_shapes_of_chats(tmp_path: Path) -> None:
    lines = write_lines(
        tmp_path / "a.jsonl",
        {"m": [{"from": "human", "value": "ShareGPT"}]},
        {"m": [{"role": "user", "content": [{"type": "text", "text": "in parts"}, {"type": "image", "url": "x"}]}]},
        {"m": "no chat"},
        {"m": [7]},
        {"m": [{"role": "user", "content": "\ud800"}]},
        {"m": [{"role": "user", "content": 5}]},
    )
    alive, dead = texts(CorpusConfig(format="jsonl", paths=[lines], messages="m"))
    assert alive == ["ShareGPT", "in parts"]
    assert [row for row, _ in dead] == [2, 3, 4, 5]
    assert all(error.startswith("messages are not a chat: ") for _, error in dead)


@pytest.mark.parametrize("format_name", ["parquet", "jsonl"])
def test_prompt_and_response_are_joined(tmp_path: Path, format_name: str) -> None:
    rows = [{"p": "Why?", "r": "So."}, {"p": None, "r": "b"}, {"p": "c", "r": None}, {"p": "", "r": "d"}]
    path = tmp_path / f"a.{format_name}"
    if format_name == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_lines(path, *rows)
    config = CorpusConfig(format=format_name, paths=[str(path)], prompt="p", response="r")  # type: ignore[arg-type]
    alive, dead = texts(config)
    assert alive == ["Why?\n\nSo.", "\n\nd"]
    assert [row for row, _ in dead] == [1, 2]
    assert "null" in dead[0][1]
    assert "null" in dead[1][1]


def test_columns_that_are_no_chat_are_refused(tmp_path: Path) -> None:
    for value in ([[1]], [[{"role": "user"}]], [5]):
        pq.write_table(pa.table({"chat": value}), tmp_path / "a.parquet")
        with pytest.raises(RecipeError, match=r"corpus.messages: column `chat` holds .*role and content"):
            texts(CorpusConfig(format="parquet", paths=[str(tmp_path / "a.parquet")], messages="chat"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "p"}, "`prompt` needs `response`"),
        ({"response": "p"}, "`response` needs `prompt`"),
        ({"messages": "m", "text": "t"}, "`text` and `messages` both name"),
        ({"messages": "m", "chunk": 5}, "cannot cut `messages`"),
        ({"delimiter": ";"}, "`delimiter` is for format csv"),
        ({"split": "blank_lines"}, "`split` is for format text"),
    ],
)
def test_one_text_per_document(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CorpusConfig(format="parquet", paths=["x"], **settings)
