"""What a document's text is: one column, a prompt and its response, or the messages of a chat."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .corpus_config import CorpusConfig
from .records import one_array
from .schemas import is_text

JOINT = b"\n\n"
"""Stands between a prompt and its response, and between the contents of messages."""

CONTENT_FIELDS = ("content", "value")
"""Names under which chats hold what was said (`value`: the ShareGPT form, with `from`)."""

Faults = dict[int, str]


def document_text(table: pa.Table, config: CorpusConfig) -> tuple[pa.Array, Faults]:
    """Return the text of each row, large_binary[n] (null or unusable where it is a fault), and the faults by row."""
    columns = {role: one_array(table.column(name)) for role, name in config.content_columns.items()}
    nulls = {role: _rows(column.is_null()) for role, column in columns.items()}
    faults = {row: f"{role} is null" for role, rows in nulls.items() for row in rows}
    if "messages" in columns:
        chats, more = _structured(columns["messages"])
        return _contents(chats), faults | {row: error for row, error in more.items() if row not in faults}
    parts = [column.cast(pa.large_binary()) for column in columns.values()]
    if len(parts) == 1:
        return parts[0], faults
    return pc.binary_join_element_wise(*parts, pa.scalar(JOINT, pa.large_binary()), null_handling="emit_null"), faults


def _rows(mask: pa.Array) -> list[int]:
    rows: list[int] = np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()
    return rows


def is_chat(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold messages: a list of structs with a content, or their JSON."""
    if is_text(kind):
        return True
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    field = _content_field(kind.value_type)
    return field is not None and is_text(kind.value_type.field(field).type)


def _content_field(kind: pa.StructType) -> str | None:
    names = {field.name for field in kind}
    return next((name for name in CONTENT_FIELDS if name in names), None)


def _contents(chats: pa.Array) -> pa.Array:
    """Join the contents of each chat; messages without any (calls of tools) are left out."""
    name = _content_field(chats.type.value_type)
    contents = pc.struct_field(chats.flatten(), [name]).cast(pa.large_binary())
    there = contents.is_valid()
    lengths = pc.list_value_length(chats).fill_null(0).to_numpy().astype(np.int64)
    parent = np.repeat(np.arange(len(chats)), lengths)[there.to_numpy(zero_copy_only=False)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(parent, minlength=len(chats)))])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), contents.filter(there))
    joined = pc.binary_join(lists, pa.scalar(JOINT, pa.large_binary()))
    return pc.if_else(chats.is_valid(), joined, pa.scalar(None, pa.large_binary()))


def _structured(column: pa.Array) -> tuple[pa.Array, Faults]:
    """Return chats as lists of structs; JSON is parsed row by row."""
    if not is_text(column.type):
        return column, {}
    faults: Faults = {}
    chats: list[list[dict[str, str | None]] | None] = []
    for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            chats.append(None if value is None else _parsed(value))
        except (ValueError, RecursionError) as error:
            chats.append(None)
            faults[row] = f"messages are not a chat: {error}"
    return pa.array(chats, pa.list_(pa.struct([("content", pa.large_string())]))), faults


def _parsed(value: bytes) -> list[dict[str, str | None]]:
    chat: Any = json.loads(value)
    if not isinstance(chat, list):
        raise ValueError("a list of objects with `role` and `content` is needed")
    return [{"content": _said(message)} for message in chat]


def _said(message: Any) -> str | None:
    """Return the content of a message; of a content in parts (text, images) the text."""
    if not isinstance(message, dict):
        raise ValueError("a message is not an object")
    content = next((message[name] for name in CONTENT_FIELDS if name in message), None)
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(text for text in texts if isinstance(text, str)) or None
    if content is not None and not isinstance(content, str):
        raise ValueError("the content of a message is not text")
    if content is not None:
        content.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    return content
