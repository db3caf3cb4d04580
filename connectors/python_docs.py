"""The demo corpus: real text that is on every machine with Python.

Sources, docstrings, long descriptions and licences of the standard library and of the installed packages, and the
language reference that `help()` shows, cut into documents of 200 to 8,000 characters.
"""

from __future__ import annotations

import email
import importlib.metadata
import inspect
import io
import re
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from .corpus_config import CorpusConfig
from .errors import RecipeError
from .files import local_info
from .format import Format, Listing
from .records import RAW_BYTES, DeadRow, Piece, Records

COLUMNS = ("id", "text", "group")
PARTS = ("standard-library", "packages", "language-reference")
GROUPS = ("source", "docstring", "description", "licence", "language_reference")

MIN_CHARACTERS = 200
MAX_CHARACTERS = 8000

_TEST_FOLDERS = {"test", "tests", "idle_test", "__pycache__"}
_NOT_STANDARD = {"site-packages", "dist-packages", "pydoc_data"}
_GENERATED = re.compile(r"_pb2(_grpc)?\.py$|^_sysconfigdata")
_LICENCE = re.compile(r"(un)?licen[cs]e|copying|notice", re.IGNORECASE)

_LOOK_BACK = 1000  # characters in which the line before a docstring is looked for, blank lines included

# Strings and comments, so that quotes inside one are not taken for another; only triple-quoted strings have a group.
_LEXEME = re.compile(
    r'''#[^\n]*+|(?P<triple>"""(?:[^"\\]++|\\.|"(?!""))*+"""|\'\'\'(?:[^'\\]++|\\.|'(?!''))*+\'\'\')'''
    r"""|"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+\'""",
    re.DOTALL,
)
_OPENS_LINE = re.compile(r"[ \t]*[rRuU]?")
_ENDS_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_COMMENTS = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*")


class PythonDocs(Format):
    """The documentation of the running Python; `paths` are parts of it."""

    def find(self, name: str, config: CorpusConfig, shard_bytes: int, skip_unreadable: bool) -> Listing:
        """List the files of the parts; each is one piece."""
        try:
            files = [local_info(path) for path in list_files(config.paths)]
        except ValueError as error:
            raise RecipeError(f"{name}.paths: {error}") from error
        schema = pa.schema([(column, pa.string()) for column in COLUMNS])
        return Listing(files, [[Piece(f.url, f.version, 0, f.size, f.size)] for f in files], schema)

    def read(self, config: CorpusConfig, piece: Piece, columns: Sequence[str] | None) -> Iterator[Records]:
        """Read a file."""
        yield read_python_docs(Path(piece.url))


def list_files(parts: Sequence[str]) -> list[Path]:
    """List the files of parts of the corpus, each once, sorted by path.

    parts: of PARTS. `standard-library` are its modules without tests; `packages` the modules, METADATA and licences
    of the packages in the running environment, without tests, generated code and Tamis itself; `language-reference`
    the one file with the topics of `help()`. Raises ValueError for an unknown part.
    """
    lists = {
        "standard-library": _standard_library,
        "packages": _packages,
        "language-reference": lambda: iter([_topics_file()]),
    }
    for part in parts:
        if part not in lists:
            raise ValueError(f"python-docs has no part `{part}`; there are {', '.join(PARTS)}")
    return sorted({path for part in parts for path in lists[part]()})


def _standard_library() -> Iterator[Path]:
    root = _roots()["stdlib"]
    for path in root.rglob("*.py"):
        if not _left_out(path.relative_to(root).parts, _TEST_FOLDERS | _NOT_STANDARD) and path.is_file():
            yield path
    yield from root.glob("LICENSE*")


def _packages() -> Iterator[Path]:
    root = _roots()["site-packages"]
    for distribution in importlib.metadata.distributions(path=[str(root)]):
        if distribution.metadata["Name"] == "tamis":
            continue
        for file in distribution.files or ():
            wanted = file.suffix == ".py" or _is_about(file.parts)
            if wanted and file.parts[0] != ".." and not _left_out(file.parts, _TEST_FOLDERS):
                path = root / file
                if path.is_file():
                    yield path


def _is_about(parts: Sequence[str]) -> bool:
    """Whether this is a METADATA or a licence in a package's `.dist-info` folder."""
    return parts[0].endswith(".dist-info") and (parts[-1] == "METADATA" or _LICENCE.match(parts[-1]) is not None)


def _left_out(parts: Sequence[str], folders: set[str]) -> bool:
    return not folders.isdisjoint(parts[:-1]) or _GENERATED.search(parts[-1]) is not None


@cache
def _roots() -> dict[str, Path]:
    paths = sysconfig.get_paths()
    return {"site-packages": Path(paths["purelib"]), "stdlib": Path(paths["stdlib"])}


@cache
def _topics_file() -> Path:
    return _roots()["stdlib"] / "pydoc_data" / "topics.py"


def read_python_docs(path: Path) -> Records:
    """Read one file of `list_files`: columns id, text and group, all large_string; one row per document.

    The id is the path below its root, the group and the running number. A docstring is dedented; a source is what is
    left of a module without its docstrings. Texts longer than 8,000 characters are cut at blank lines, else at line
    ends; what is shorter than 200 characters, last pieces included, is no document and has no row. `Records.rows` is
    the running number in the file. A file that cannot be decoded is one dead row.
    """
    content = path.read_bytes()
    try:
        texts = list(_texts(path, content))
    except (UnicodeDecodeError, SyntaxError) as error:
        dead = DeadRow(0, "read", f"cannot be decoded: {error}", content[:RAW_BYTES])
        return Records(_table([], [], []), np.empty(0, dtype=np.int64), 1, [dead])
    documents = [(group, piece) for group, text in texts for piece in _cut(text)]
    name = _name(path)
    ids = [f"{name}:{group}:{number}" for number, (group, _) in enumerate(documents)]
    table = _table(ids, [piece for _, piece in documents], [group for group, _ in documents])
    return Records(table, np.arange(len(documents), dtype=np.int64), len(documents))


def _table(ids: list[str], texts: list[str], groups: list[str]) -> pa.Table:
    columns = [pa.array(values, type=pa.large_string()) for values in (ids, texts, groups)]
    return pa.table(columns, names=list(COLUMNS))


def _name(path: Path) -> str:
    for label, root in _roots().items():  # site-packages first: it may lie inside the standard library's folder
        if path.is_relative_to(root):
            return f"{label}/{path.relative_to(root).as_posix()}"
    return path.as_posix()


def _texts(path: Path, content: bytes) -> Iterator[tuple[str, str]]:
    """Yield (group, text) for each text of a file. Raises UnicodeDecodeError or, for a wrong cookie, SyntaxError."""
    if path == _topics_file():
        from pydoc_data.topics import topics

        yield from (("language_reference", text) for _, text in sorted(topics.items()))
    elif path.suffix == ".py":
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        docstrings, source = split_docstrings(_decoded(content, encoding))
        yield from (("docstring", inspect.cleandoc(text)) for text in docstrings if len(text) >= MIN_CHARACTERS)
        yield "source", source
    elif path.name == "METADATA":
        message = email.message_from_string(_decoded(content, "utf-8"))
        yield "description", str(message.get_payload() or message.get("Description", ""))
    else:
        yield "licence", _decoded(content, "utf-8")


def _decoded(content: bytes, encoding: str) -> str:
    return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def split_docstrings(source: str) -> tuple[list[str], str]:
    """Separate a module's docstrings (in order, not dedented) from the rest of its text.

    A docstring is a triple-quoted string that is alone on its lines and stands first in the file or after a line that
    ends with a colon. Escape sequences stay as they are written.
    """
    docstrings: list[str] = []
    rest: list[str] = []
    taken = 0
    first_statement = _end(_COMMENTS.match(source))
    for lexeme in _LEXEME.finditer(source):
        if lexeme.lastgroup is None:
            continue
        line_start = source.rfind("\n", 0, lexeme.start()) + 1
        line_end = _ENDS_LINE.match(source, lexeme.end())
        if line_end is None or _OPENS_LINE.fullmatch(source, line_start, lexeme.start()) is None:
            continue
        before = source[max(taken, line_start - _LOOK_BACK) : line_start]
        if line_start == first_statement or before.rstrip().endswith(":"):
            docstrings.append(lexeme.group()[3:-3])
            rest.append(source[taken:line_start])
            taken = line_end.end()
    rest.append(source[taken:])
    return docstrings, "".join(rest)


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


def _cut(text: str) -> Iterator[str]:
    """Cut a text into documents of MIN_CHARACTERS to MAX_CHARACTERS, and leave out what is shorter."""
    start = 0
    while start < len(text):
        stop = len(text)
        if stop - start > MAX_CHARACTERS:
            limit = start + MAX_CHARACTERS
            middle = start + MAX_CHARACTERS // 2
            stop = max(text.rfind("\n\n", middle, limit), 0) or max(text.rfind("\n", middle, limit), 0) or limit
        piece = text[start:stop].strip("\n").rstrip()
        if len(piece) >= MIN_CHARACTERS:
            yield piece
        start = stop
