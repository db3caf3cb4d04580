"""One schema for all Parquet files of a corpus, where that loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import pyarrow as pa

from .errors import RecipeError

FEATURES = b"huggingface"
"""Key of a schema's metadata under which `datasets` keeps the features of the columns."""

_WIDER = (
    (pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    (pa.float16(), pa.float32(), pa.float64()),
    (pa.string(), pa.large_string()),
    (pa.binary(), pa.large_binary()),
)
"""Types of each row can be read as any later one of it."""

_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold text."""
    return any(kind in family for family in _WIDER[3:])


def plain_schema(where: str, schema: pa.Schema) -> pa.Schema:
    """Return a file's schema as its columns are read: no dictionaries and views at the top, no metadata.

    Raises RecipeError, with `where`, for two columns of one name.
    """
    names = schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"{where} has two columns `{twice}`; rename one")
    return pa.schema([pa.field(field.name, plain_type(field.type)) for field in schema])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a column of this type is read."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    return _VIEWS.get(kind, kind)


def features_of(schemas: Iterable[pa.Schema]) -> dict[bytes, bytes] | None:
    """Return the features that `datasets` keeps in a schema's metadata, if all schemas have the same; nothing else."""
    kept = set()
    for schema in schemas:
        try:
            features = json.loads((schema.metadata or {})[FEATURES])["info"]["features"]
        except (KeyError, TypeError, ValueError):
            return None
        kept.add(json.dumps({"info": {"features": features}}))
    return {FEATURES: kept.pop().encode()} if len(kept) == 1 else None


def unify(name: str, schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """Return the columns of all files in the order in which they first come; columns that a file lacks are null.

    name: of the corpus, for messages; schemas: by URL. Types may differ only where one holds all values of the other.
    Raises RecipeError otherwise.
    """
    types: dict[str, pa.DataType] = {}
    for url, schema in schemas.items():
        for field in schema:
            known = types.get(field.name, field.type)
            common = _common(known, field.type)
            if common is None:
                raise RecipeError(
                    f"{name}: the columns of {url} do not fit those of other files: "
                    f"`{field.name}` holds {field.type}, elsewhere {known}"
                )
            types[field.name] = common
    return pa.schema(list(types.items()))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    for family in _WIDER:
        if one in family and other in family:
            return max(one, other, key=family.index)
    if pa.types.is_list(one) and pa.types.is_list(other):
        value = _common(one.value_type, other.value_type)
        return None if value is None else pa.list_(value)
    return None
