"""A run directory appears whole or not at all, and nothing foreign is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.run_directory import RunDirectory, read_manifest


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "today")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def finish(directory: RunDirectory, recipe: str = "r", sources: str = "s", content: str = "") -> None:
    directory.check(recipe, sources, overwrite=True)
    with directory.building(recipe) as partial:
        (partial / "data").mkdir()
        (partial / "data" / "part").write_text(content)
        manifest = {"recipe_fingerprint": recipe, "sources_fingerprint": sources}
        (partial / "manifest.json").write_text(json.dumps(manifest))
        directory.commit()


class TestCheck:
    def test_nothing_is_there(self, directory: RunDirectory) -> None:
        assert directory.check("r", "s", overwrite=False) is False
        assert not directory.path.parent.exists()

    @pytest.mark.parametrize(
        ("recipe", "sources", "refusal"),
        [
            ("r", "s", None),
            ("other", "s", "run of another recipe"),
            ("r", "other", "run of another source files"),
            ("other", "other", "run of another recipe"),
        ],
    )
    def test_a_finished_run(self, directory: RunDirectory, recipe: str, sources: str, refusal: str | None) -> None:
        finish(directory)
        if refusal is None:
            assert directory.check(recipe, sources, overwrite=False) is True
        else:
            with pytest.raises(RecipeError, match=refusal):
                directory.check(recipe, sources, overwrite=False)
        assert directory.check(recipe, sources, overwrite=True) is False

    def test_what_a_killed_run_left(self, directory: RunDirectory) -> None:
        directory.partial.mkdir(parents=True)
        (directory.partial / "recipe.fingerprint").write_text("r")
        assert directory.check("r", "other sources", overwrite=False) is False
        with pytest.raises(RecipeError, match="unfinished run of another recipe"):
            directory.check("other", "s", overwrite=False)
        assert directory.check("other", "s", overwrite=True) is False

    @pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_what_is_foreign_is_left_alone(self, directory: RunDirectory, kind: str, overwrite: bool) -> None:
        path = directory.path
        path.parent.mkdir()
        if kind == "file":
            path.write_text("precious")
        else:
            path.mkdir()
        if kind == "folder":
            (path / "thesis").write_text("precious")
        with pytest.raises(RecipeError, match="is not a run of Tamis"):
            directory.check("r", "s", overwrite)
        assert path.exists()
        assert kind != "folder" or (path / "thesis").read_text() == "precious"

    def test_a_damaged_manifest_is_named(self, directory: RunDirectory) -> None:
        finish(directory)
        (directory.path / "manifest.json").write_text('{"half')
        with pytest.raises(TamisError, match=r"manifest\.json: cannot be read as JSON"):
            directory.check("r", "s", overwrite=False)


class TestBuilding:
    def test_it_appears_whole(self, directory: RunDirectory) -> None:
        with directory.building("r") as partial:
            (partial / "manifest.json").write_text("{}")
            assert not directory.path.exists()
            directory.commit()
        assert names(directory.path.parent) == ["today"]
        assert names(directory.path) == ["manifest.json"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_a_failure_leaves_the_old_run_only(self, directory: RunDirectory, error: type[BaseException]) -> None:
        finish(directory, content="old")
        with pytest.raises(error), directory.building("other") as partial:
            (partial / "data").mkdir()
            raise error
        assert names(directory.path.parent) == ["today"]
        assert (directory.path / "data" / "part").read_text() == "old"

    def test_a_new_run_replaces_the_old_one(self, directory: RunDirectory) -> None:
        finish(directory, content="old")
        finish(directory, "other", content="new")
        assert names(directory.path.parent) == ["today"]
        assert (directory.path / "data" / "part").read_text() == "new"
        manifest = read_manifest(directory.path)
        assert manifest is not None
        assert manifest["recipe_fingerprint"] == "other"

    def test_what_a_killed_run_left_is_emptied(self, directory: RunDirectory) -> None:
        (directory.partial / "data" / "deep").mkdir(parents=True)
        (directory.partial / "data" / "deep" / "part").write_text("stale")
        (directory.partial / "manifest.json").write_text("stale")
        with directory.building("r") as partial:
            assert sorted(names(partial)) == ["lock", "recipe.fingerprint"]


class TestLock:
    def test_a_second_builder_is_refused_and_disturbs_nothing(self, directory: RunDirectory) -> None:
        with directory.building("r") as partial:
            (partial / "half").write_text("done")
            with (
                pytest.raises(TamisError, match=rf"today is being built by process {os.getpid()} on \S+ since \d"),
                RunDirectory(directory.path).building("r"),
            ):
                pytest.fail("two hold the lock")
            assert (partial / "half").read_text() == "done"
        finish(directory)

    def test_another_process_is_refused_and_a_dead_one_holds_nothing(self, directory: RunDirectory) -> None:
        build = (
            "import os, sys\nfrom pathlib import Path\nfrom tamis.connectors.run_directory import RunDirectory\n"
            "with RunDirectory(Path(sys.argv[1])).building('r'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", build, str(directory.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(TamisError, match=f"process {other.pid} on"), directory.building("r"):
                pytest.fail("two hold the lock")
            other.kill()
        assert directory.partial.exists()
        finish(directory, content="mine")
        assert (directory.path / "data" / "part").read_text() == "mine"

    def test_what_came_there_meanwhile_is_not_touched(self, directory: RunDirectory) -> None:
        assert directory.check("r", "s", overwrite=True) is False
        with pytest.raises(TamisError, match="changed by somebody else"), directory.building("r"):
            directory.path.mkdir()
            (directory.path / "precious.txt").write_text("mine")
            directory.commit()
        assert (directory.path / "precious.txt").read_text() == "mine"
        assert not directory.partial.exists()
