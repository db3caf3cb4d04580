"""Guards of the layout: what the folders are, and what may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["connectors", "scoring", "selectors", "pipelines", "jobs"]
"""A folder imports itself and those before it."""

MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
CORPUS_MODULES = {"corpus", "jsonl", "parquet", "python_docs", "run_directory", "score_store"}


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level, dotted name) of every import of a module, wherever it stands; level 0 is absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, ".".join(filter(None, [node.module, alias.name]))


def _own_imports(path: Path) -> Iterator[list[str]]:
    """Yield the parts below `tamis` of every relative import of a module."""
    package = path.relative_to(ROOT).parts[:-1]
    for level, name in _imports(path):
        if level:
            yield [*package[: len(package) + 1 - level], *name.split(".")]


def test_there_are_modules_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FOLDERS)


def test_no_top_folder_shadows_a_module() -> None:
    assert not [path for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")]
    code = "import asyncio, selectors, subprocess; selectors.DefaultSelector().close()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_folder_with_modules_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = set(project["tool"]["setuptools"]["package-dir"].values())
    assert {path.parent.relative_to(ROOT).as_posix() for path in MODULES} <= installed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_of(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    absolute = {name.split(".")[0] for level, name in _imports(path) if level == 0}
    locks_all_workers = "functools.cached_property"  # in Python 3.11
    assert locks_all_workers not in {name for _, name in _imports(path)}
    outside = {"tamis"} if path.parent.name == "examples" else set()  # scripts that users copy
    assert not absolute & {"tamis", *FOLDERS} - {"selectors"} - outside, "imports inside the package are relative"
    assert folder == "pipelines" or "apache_beam" not in absolute
    for parts in _own_imports(path):
        assert FOLDERS.index(parts[0]) <= FOLDERS.index(folder), f"{folder} must not import {'.'.join(parts)}"
        if folder in ("scoring", "selectors") and parts[0] == "connectors":
            assert parts[1] not in CORPUS_MODULES, f"{folder} must not read or write {parts[1]}"


def test_scoring_imports_no_heavy_library() -> None:
    names = ["tamis." + ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in MODULES]
    scoring = [name for name in names if name.startswith("tamis.scoring.")]
    code = (
        f"import importlib, sys\nfor name in {scoring}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'transformers', 'faiss', 'apache_beam'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
