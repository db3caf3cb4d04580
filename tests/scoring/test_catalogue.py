"""A scorer of somebody else is found by its entry point, and a broken one is named with its package."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from tamis.connectors.errors import TamisError
from tamis.scoring.catalogue import ENTRY_POINTS, catalogue

PLUGIN = '''
import pyarrow as pa
import pyarrow.compute as pc
from tamis.scoring.scorer import Documents, ScoreColumn, Scorer, ScorerParameters


class WordParameters(ScorerParameters):
    word: str


class Mentions(Scorer):
    """How often a word stands in the text."""

    name = "mentions"
    version = 1
    Parameters = WordParameters
    requires = "text"
    primary = ScoreColumn("", pa.int64(), "times", "higher", "number of places")

    @property
    def columns(self):
        return [self.primary]

    def score(self, documents: Documents):
        return {"": pc.count_substring(documents.text, self.parameters.word).cast(pa.int64())}
'''


def installed(folder: Path, value: str = "plugin:Mentions") -> Path:
    """Lay out a package as pip would."""
    information = folder / "plugin-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "plugin.py").write_text(PLUGIN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nmentions = {value}\n")
    return folder


def tamis(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.append({str(folder)!r}); from tamis.jobs.command import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_an_installed_scorer_scores(tmp_path: Path) -> None:
    folder = installed(tmp_path / "site")
    texts = ["a tamis", "a sieve", "tamis, tamis"]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    recipe = {
        "corpus": {"format": "jsonl", "paths": ["a.jsonl"]},
        "scores": {"m": {"scorer": "mentions", "word": "tamis"}},
        "select": [{"method": "threshold", "by": "m", "min": 1}],
        "output": {"path": "run", "columns": ["m"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = tamis(folder, "run", str(tmp_path / "recipe.yaml"), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "3 documents read: 2 kept, 1 dropped, 0 dead" in done.stdout
    assert "  mentions: How often a word stands in the text." in tamis(folder, "list").stdout.splitlines()


def test_a_broken_one_is_one_line(tmp_path: Path) -> None:
    done = tamis(installed(tmp_path / "site", "plugin:Missing"), "list")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "scorer `mentions` (plugin:Missing) of plugin cannot be imported" in line


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("json:loads", "is no class derived from"),
        ("tamis.scoring.scorer:Scorer", "lacks name, version, Parameters, requires, primary"),
        ("tamis.scoring.dsir_scorer:DSIR", "is called `dsir`, as another scorer"),
        ("no_such_module:x", "cannot be imported: .*no_such_module"),
    ],
)
def test_what_is_no_scorer_is_refused(value: str, message: str) -> None:
    with pytest.raises(TamisError, match=message):
        catalogue([EntryPoint("x", value, ENTRY_POINTS)])
