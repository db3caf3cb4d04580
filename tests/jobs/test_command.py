"""The command line: exit codes, one line for a mistake, and what goes to which stream."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tamis.jobs.command import main
from tamis.jobs.json_output import OF_MANIFEST
from tamis.jobs.progress import FIELDS
from tamis.scoring.catalogue import SCORERS
from tamis.selectors.methods import METHODS
from tamis.selectors.stabilise import STABILISERS
from tamis.selectors.weigh import WEIGHERS

TAMIS = str(Path(sys.executable).parent / "tamis")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Ten documents, of which four are sampled; a store, a run directory and all paths below the folder."""
    lines = (json.dumps({"text": f"document number {n}", "group": "ab"[n % 2]}) for n in range(10))
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    content: dict[str, Any] = {
        "corpus": {"format": "jsonl", "paths": ["corpus.jsonl"], "group": "group"},
        "select": [{"method": "sample", "keep": {"documents": 4}}],
        "output": {"path": "run"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def tamis(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["tamis", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_run_in_a_process_of_its_own(recipe: Path) -> None:
    done = subprocess.run(
        [TAMIS, "run", recipe.name, "--log-format", "json", "--set", "select.0.keep.documents=100", "--workers", "1"],
        cwd=recipe.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == str(recipe.parent / "run")
    assert "10 documents read: 10 kept" in done.stdout
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(tuple(record) == FIELDS for record in records)
    (warning,) = (record for record in records if record["level"] == "warning")
    assert "fewer than 100 documents are left" in warning["message"]
    stages = [(record["event"], record["stage"]) for record in records if record["stage"]]
    assert stages[:2] == [("begun", "scoring"), ("ended", "scoring")]
    assert [stage for event, stage in stages if event == "begun"] == [s for event, s in stages if event == "ended"]
    assert (records[1]["done"], records[1]["total"]) == (1, 1)
    # the run keeps the same records, and nothing else knows of them
    assert (recipe.parent / "run" / "log.jsonl").read_text() == done.stderr
    assert "log.jsonl" not in (recipe.parent / "run" / "manifest.json").read_text()


def test_nothing_new_and_another_recipe(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = recipe.parent / "elsewhere" / "run"
    assert tamis(monkeypatch, "run", recipe, "--output", output) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    assert tamis(monkeypatch, "run", recipe, "--output", output) == 0
    told = capsys.readouterr()
    assert told.out == f"{output}\n"
    assert told.err == "nothing new: this recipe was run on these files already\n"
    assert tamis(monkeypatch, "run", recipe, "--output", output, "--set", "seed=1") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"tamis: .*elsewhere/run holds a run of another recipe; .*--overwrite\n", told.err)


def test_more_dead_letters_than_allowed(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (recipe.parent / "corpus.jsonl").open("a") as file:
        file.write('\n{"text": null, "group": "a"}\n')
    assert tamis(monkeypatch, "run", recipe) == 3
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == str(recipe.parent / "run")
    assert told.err.splitlines()[-1].startswith("tamis: more than 0.10% of the documents are dead letters")
    assert (recipe.parent / "run" / "manifest.json").exists()


class TestJSON:
    def test_of_a_run_says_what_the_manifest_says(
        self, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with (recipe.parent / "corpus.jsonl").open("a") as file:
            file.write('\n{"text": null, "group": "a"}\n')
        for code, meaning, dead in ((3, "more dead letters than allowed", "0.001"), (0, "done", "0.5")):
            allowed = ["--overwrite", "--set", f"errors.max_dead_fraction={dead}"]
            assert tamis(monkeypatch, "run", recipe, "--json", *allowed) == code
            said = json.loads(capsys.readouterr().out)
            assert (said["exit_code"], said["meaning"]) == (code, meaning)
            assert said["path"] == str(recipe.parent / "run")
            manifest = json.loads((recipe.parent / "run" / "manifest.json").read_text())
            assert set(said) == {"path", "exit_code", "meaning", *OF_MANIFEST}
            assert {name: said[name] for name in OF_MANIFEST} == {name: manifest[name] for name in OF_MANIFEST}
            assert said["totals"]["kept"]["documents"] == 4
        assert tamis(monkeypatch, "run", recipe, "--json", "--set", "errors.max_dead_fraction=0.5") == 0
        again = json.loads(capsys.readouterr().out)
        assert again == said | {"meaning": "nothing new"}

    def test_log_holds_a_mistake_too(
        self, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tamis(monkeypatch, "run", recipe, "--json", "--log-format", "json", "--set", "sede=1") == 2
        told = capsys.readouterr()
        assert told.out == ""
        (record,) = map(json.loads, told.err.splitlines())
        assert (record["level"], record["event"]) == ("error", "failed")
        assert record["message"] == "--set sede=1: unknown key `sede` (nearest: seed)"

    def test_of_the_parts_names_all_keys(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tamis(monkeypatch, "list", "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert {scorer["name"] for scorer in said["scorers"]} == set(SCORERS)
        for kind, models in (("methods", METHODS), ("weighers", WEIGHERS)):
            assert len(said[kind]) == len(models)
            for part, model in zip(said[kind], models, strict=True):
                assert part["schema"]["properties"]["method"]["const"] == part["name"]
                assert set(part["schema"]["properties"]) == set(model.model_fields)
                assert part["summary"]


def test_what_is_found_late_has_its_line_too(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = "select:\n- method: top\n  keep: {documents: 4}\n  by: relevance\n"
    text = f"corpus: {{format: jsonl, paths: [corpus.jsonl],\n  text: body}}\n{steps}output: {{path: run}}\n"
    recipe.write_text(text)
    assert tamis(monkeypatch, "run", recipe) == 2
    assert re.match(rf"tamis: {recipe}:[12]: corpus", capsys.readouterr().err)
    recipe.write_text(text.replace("body", "text"))
    assert tamis(monkeypatch, "run", recipe) == 2
    assert capsys.readouterr().err.startswith(f"tamis: {recipe}:6: select.0: no scorer makes the column `relevance`")
    assert tamis(monkeypatch, "run", recipe, "--set", "select.0.by=length") == 2
    assert capsys.readouterr().err.startswith("tamis: --set select.0.by=length: select.0: no scorer makes")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--set", "sede=1"], 2, r"unknown key `sede` \(nearest: seed\)"),
        (["--set", "corpus.paths=[none.jsonl]"], 2, r"corpus\.paths: no file matches"),
        (["--set", "output.columns=[x]"], 2, r"output\.columns: no scorer makes the column `x`"),
        (["--set", "corpus.format=parquet"], 1, r"corpus\.jsonl: cannot be read as Parquet"),
        (["--", "--runner=FlinkRunner"], 2, r"a remote runner cannot reach a store on a local path"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    line: str,
) -> None:
    assert tamis(monkeypatch, "run", recipe, *arguments) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(rf"tamis: .*{line}.*\n", told.err)
    assert not (recipe.parent / "run").exists()
    assert not (recipe.parent / ".run.partial").exists()


@pytest.mark.parametrize("arguments", [["run"], ["run", "r.yaml", "--limit", "0"], ["walk"], ["run", "a", "--colour"]])
def test_wrong_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert tamis(monkeypatch, *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_list_names_everything_and_is_light() -> None:
    probe = (
        "import sys\nfrom tamis.jobs.command import main\nsys.argv = ['tamis', 'list']\n"
        "try:\n    main()\nfinally:\n    print([n for n in ('apache_beam', 'torch', 'faiss') if n in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *listed, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    models = (*METHODS, *WEIGHERS, *STABILISERS)
    names = [*SCORERS, *(model.model_fields["method"].annotation.__args__[0] for model in models)]  # type: ignore[union-attr]
    for name in names:  # `excess_loss` scores and weighs
        assert sum(line.startswith(f"  {name}: ") for line in listed) == names.count(name)
    for model in models:
        for key in set(model.model_fields) - {"method"}:
            assert any(line.startswith(f"      {key} (") for line in listed)
    assert any(line.startswith("  dsir: Log importance weight") for line in listed)


def is_building(folder: Path) -> bool:
    return (folder / ".run.partial" / "recipe.fingerprint").exists()


@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_half_and_resumes(recipe: Path) -> None:
    words = [f"word{n}" for n in range(5000)]
    generator = random.Random(0)
    block = "".join(json.dumps({"text": " ".join(generator.choices(words, k=200))}) + "\n" for _ in range(1000))
    folder = recipe.parent
    (folder / "large.jsonl").write_text(block * 12)
    arguments = [TAMIS, "run", str(recipe), "--workers", "2", "--set", "corpus={format: jsonl, paths: [large.jsonl]}"]
    # a slow hash: the run must not be over before it is interrupted
    arguments += ["--set", "targets.t={format: jsonl, paths: [corpus.jsonl]}"]
    arguments += ["--set", "scores.relevance={scorer: dsir, target: t, hash: sha256}"]
    # a shell's background job ignores SIGINT, and so do its children
    restore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restore
    ) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and not is_building(folder) and time.monotonic() < deadline:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "tamis: interrupted; the same command resumes"
    assert "Traceback" not in err
    assert not (folder / "run").exists()
    # Ctrl-C in the very moment in which the folder is made may leave it, without outputs
    assert not list((folder / ".run.partial").glob("*/*"))
    assert not list(folder.rglob("*.tmp-*"))
    assert subprocess.run(arguments, capture_output=True).returncode == 0
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    assert manifest["totals"]["read"]["documents"] == 12_000
