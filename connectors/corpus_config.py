"""What a recipe says about a corpus: its format, its paths, and which columns matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from .errors import RecipeError
from .files import absolute
from .settings import Settings
from .shards import SHARD_BYTES

FormatName = Literal["parquet", "jsonl", "text", "csv", "huggingface", "python-docs"]

_PATTERNS = {"text": "data/*.txt", "huggingface": "data/my_dataset"}
_ONLY = {"split": "text", "delimiter": "csv"}


class CorpusConfig(Settings):
    """A source of documents, as the recipe names it. A document's text is one column, or a prompt and its response
    (joined by an empty line), or the contents of chat messages (likewise).
    """

    format: FormatName
    paths: list[str] = Field(default=[], description="paths, globs or fsspec URLs; for python-docs the parts to read")
    text: str | None = Field(None, description="column with the document's text; default: text")
    prompt: str | None = Field(None, description="instead of `text`, with `response`: column with what is asked")
    response: str | None = Field(None, description="column with the answer")
    messages: str | None = Field(None, description="instead of `text`: column with a chat, a list of role and content")
    id: str | None = Field(None, description="column that identifies a document; without it the text does")
    group: str | None = Field(None, description="column for `within: group` and for reports")
    split: Literal["file", "blank_lines"] = Field(
        "file", description="format text: a document is a file, or a block between blank lines"
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="format csv; default: tab for .tsv, else comma"
    )
    shard_bytes: int = Field(SHARD_BYTES, ge=1, description="uncompressed bytes in a shard, the unit of work, about")
    chunk: int | None = Field(None, ge=1, description="cut documents into pieces of so many tokens, each a document")

    @model_validator(mode="before")
    @classmethod
    def _one_content(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = [key for key in ("text", "prompt", "messages") if values.get(key) is not None]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` both name the document's text; keep one of them")
        if (values.get("prompt") is None) != (values.get("response") is None):
            missing, there = ("response", "prompt") if values.get("response") is None else ("prompt", "response")
            raise ValueError(f"`{there}` needs `{missing}`, the column with the other half of the document")
        for key, format_name in _ONLY.items():
            default = cls.model_fields[key].default  # a resolved recipe spells it out, and is a recipe too
            if values.get(key) not in (None, default) and values.get("format") not in (format_name, None):
                raise ValueError(f"`{key}` is for format {format_name}, not {values.get('format')}; leave it out")
        if not given and values.get("response") is None:
            values = values | {"text": "text"}
        if values.get("chunk") is not None and given not in ([], ["text"]):
            raise ValueError(f"`chunk` cuts a `text` column; it cannot cut `{given[0]}`; leave one of them out")
        return values

    def resolved(self, name: str, base: Path) -> CorpusConfig:
        """Return the same with absolute paths, defaults of python-docs spelled out."""
        if self.format == "python-docs":
            parts = self.paths or ["standard-library", "packages"]
            return self.model_copy(update={"paths": parts, "id": self.id or "id", "group": self.group or "group"})
        if not self.paths:
            example = _PATTERNS.get(self.format, f"data/*.{self.format}")
            raise RecipeError(f"{name}: a corpus of format {self.format} needs `paths`, for example [{example}]")
        return self.model_copy(update={"paths": [absolute(path, base) for path in self.paths]})

    @property
    def content_columns(self) -> dict[str, str]:
        """The columns that hold a document's text, by role."""
        if self.messages is not None:
            return {"messages": self.messages}
        if self.prompt is not None and self.response is not None:
            return {"prompt": self.prompt, "response": self.response}
        assert self.text is not None
        return {"text": self.text}

    @property
    def named_columns(self) -> dict[str, str]:
        """The columns that the recipe names, by role; those that hold the text first."""
        others = {"id": self.id, "group": self.group}
        return self.content_columns | {role: name for role, name in others.items() if name is not None}

    @property
    def reader_options(self) -> dict[str, object]:
        """What changes the rows and the text that a shard yields, besides the files."""
        return {
            "format": self.format,
            **self.content_columns,
            "id": self.id,
            "split": self.split if self.format == "text" else None,
            "delimiter": self.delimiter,
            "chunk": self.chunk,
        }
