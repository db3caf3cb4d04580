from __future__ import annotations

import ast
import inspect
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tamis.connectors.python_docs import (
    COLUMNS,
    GROUPS,
    MAX_CHARACTERS,
    MIN_CHARACTERS,
    list_files,
    read_python_docs,
    split_docstrings,
)
from tamis.connectors.records import Records

WORDS = "the quick brown fox jumps over the lazy dog and runs on " * 5
MODULE = f'''#!/usr/bin/env python
# A comment with "a quote.

"""First line.

    {WORDS}
    """

TABLE = """
not a docstring:
"""
OTHER = {{"key": '"""', 'more': "#"}}  # """


class Thing:

    r"""A raw \\d docstring.

    {WORDS}
        indented
    """

    def short(self):
        """Short."""
        return """
        if this:
        """ % 1

    def last(self):
        \'\'\'Single {WORDS}\'\'\'
        return 1
'''


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _documents(records: Records) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for row in records.table.to_pylist():
        groups.setdefault(row["group"], []).append(row["text"])
    return groups


def test_docstrings_are_told_from_other_strings() -> None:
    docstrings, source = split_docstrings(MODULE)
    assert [inspect.cleandoc(docstring) for docstring in docstrings] == [
        f"First line.\n\n{WORDS}",
        f"A raw \\d docstring.\n\n{WORDS}\n    indented",
        "Short.",
        f"Single {WORDS}",
    ]
    assert WORDS.strip() not in source
    assert source.count('"""') == 6
    assert 'TABLE = """\nnot a docstring:\n"""\n' in source
    assert "def last(self):\n        return 1\n" in source


def test_what_remains_of_a_module_is_still_the_module() -> None:
    folder = Path(sysconfig.get_paths()["stdlib"]) / "json"
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        docstrings, source = split_docstrings(text)
        expected = {
            found
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and (found := ast.get_docstring(node, clean=False))
            and "\\" not in found
        }
        assert expected <= set(docstrings)
        assert sum(map(len, docstrings)) + len(source) <= len(text)


def test_documents_of_a_module(tmp_path: Path) -> None:
    records = read_python_docs(_write(tmp_path, "module.py", MODULE.replace("\n", "\r\n")))
    assert records.table.column_names == list(COLUMNS)
    assert set(records.table.schema.types) == {pa.large_string()}
    groups = _documents(records)
    assert [len(groups[group]) for group in ("docstring", "source")] == [3, 1]
    assert "\r" not in groups["source"][0]
    ids = records.table["id"].to_pylist()
    assert len(set(ids)) == 4
    assert ids[0].endswith("module.py:docstring:0")
    assert records.rows.tolist() == [0, 1, 2, 3]
    assert records.next_row == 4
    assert not records.dead


@given(st.lists(st.sampled_from(["\n", "\n\n", "word " * 30, "é" * 900, "    indented\n", "x" * 9000]), max_size=40))
def test_lengths_and_loss_of_cutting(parts: list[str]) -> None:
    from tamis.connectors.python_docs import _cut

    text = "".join(parts)
    pieces = list(_cut(text))
    assert all(MIN_CHARACTERS <= len(piece) <= MAX_CHARACTERS for piece in pieces)
    position = 0
    for piece in pieces:  # in order, without overlap
        position = text.index(piece, position) + len(piece)
    cuts = len(text) // (MAX_CHARACTERS // 2) + 1
    kept = sum(len("".join(piece.split())) for piece in pieces)
    assert len("".join(text.split())) - kept < cuts * MIN_CHARACTERS


def test_long_text_is_cut_at_blank_lines_rather_than_lines(tmp_path: Path) -> None:
    paragraph = "licence words\n" * 100 + "\n"
    (pieces,) = _documents(read_python_docs(_write(tmp_path, "LICENSE", paragraph * 20))).values()
    assert len(pieces) > 1
    assert all(piece.count("licence words") % 100 == 0 for piece in pieces)


def test_description_is_the_body_of_the_metadata(tmp_path: Path) -> None:
    metadata = f"Metadata-Version: 2.1\nName: thing\nSummary: not this\n\n# Thing\n\n{WORDS}\n"
    groups = _documents(read_python_docs(_write(tmp_path, "METADATA", metadata)))
    assert groups == {"description": [f"# Thing\n\n{WORDS}".rstrip()]}


def test_encoding_cookie_is_obeyed(tmp_path: Path) -> None:
    content = f"# -*- coding: latin-1 -*-\nNAME = 'caf\xe9'\n# {WORDS}\n".encode("latin-1")
    groups = _documents(read_python_docs(_write(tmp_path, "old.py", content)))
    assert "café" in groups["source"][0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.py", b"# " + b"x" * 300 + b"\n\n\ny = '\xff'\n"),
        ("cookie.py", b"# coding: no-such-encoding\n" + b"x = 1\n" * 100),
        ("LICENSE", b"licence \xe9 " * 50),
    ],
)
def test_file_that_cannot_be_decoded_is_one_dead_row(tmp_path: Path, name: str, content: bytes) -> None:
    records = read_python_docs(_write(tmp_path, name, content))
    assert records.table.num_rows == 0
    assert records.next_row == 1
    (dead,) = records.dead
    assert (dead.row, dead.stage, dead.raw) == (0, "read", content)
    assert "cannot be decoded" in dead.error


def test_short_file_has_no_document(tmp_path: Path) -> None:
    records = read_python_docs(_write(tmp_path, "empty.py", "x = 1\n"))
    assert (records.table.num_rows, records.dead, records.next_row) == (0, [], 0)


def test_standard_library_smoke() -> None:
    files = list_files(["standard-library"])
    assert files == sorted(set(files))
    names = {path.name for path in files}
    assert {"dataclasses.py", "decoder.py"} <= names
    assert not [path for path in files if {"test", "tests", "site-packages", "pydoc_data"} & set(path.parts)]
    chosen = [path for path in files if path.parent.name == "json"]
    tables = [read_python_docs(path).table for path in chosen]
    ids = pa.concat_tables(tables)["id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert all(name.startswith("stdlib/json/") for name in ids)
    assert set(pa.concat_tables(tables)["group"].to_pylist()) == {"docstring", "source"}


def test_packages_have_sources_descriptions_and_licences_but_not_tamis() -> None:
    files = list_files(["packages"])
    assert files == list_files(["packages", "packages"])
    assert not [path for path in files if path.name.endswith("_pb2.py") or "tests" in path.parts]
    about = [path for path in files if path.suffix != ".py"]
    assert {path.name for path in about} >= {"METADATA"}
    assert not [path for path in about if "tamis" in path.parent.name]
    chosen = [path for path in about if "numpy-" in path.as_posix()]
    groups = {group for path in chosen for group in _documents(read_python_docs(path))}
    assert groups == {"description", "licence"}


def test_language_reference() -> None:
    (path,) = list_files(["language-reference"])
    records = read_python_docs(path)
    lengths = np.array([len(text) for text in records.table["text"].to_pylist()])
    assert len(lengths) > 70
    assert lengths.min() >= MIN_CHARACTERS
    assert lengths.max() <= MAX_CHARACTERS
    assert set(records.table["group"].to_pylist()) == {"language_reference"} < set(GROUPS)


def test_unknown_part_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"`stdlib`.*standard-library, packages, language-reference"):
        list_files(["packages", "stdlib"])
