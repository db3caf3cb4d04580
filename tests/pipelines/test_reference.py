"""The reference model, end to end: its documents, its files, going on after an interruption, and further training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import write_parquet
from tamis.connectors.corpus_config import CorpusConfig
from tamis.connectors.errors import RecipeError, TamisError
from tamis.connectors.keys import hash_column
from tamis.pipelines.job import Quiet
from tamis.pipelines.reference import ReferenceJob, ReferenceTraining
from tamis.pipelines.reference_tokens import read_tokens
from tamis.pipelines.runner import Engine
from tamis.scoring.language_model_scorer import LanguageModel, LanguageModelParameters
from tamis.scoring.reference_model import ReferenceSettings
from tamis.scoring.scorer import Documents
from tamis.selectors.reference_split import in_reference_split, in_validation


class InterruptedAt(Quiet):
    """Interrupts when a stage begins, or at a step of the training."""

    def __init__(self, stage: str, step: int = 0) -> None:
        self.stage, self.step, self.now = stage, step, ""

    def begin(self, stage: str, elements: int, size: int) -> None:
        self.now = stage
        if (stage, 0) == (self.stage, self.step):
            raise KeyboardInterrupt

    def update(self, done: int, size: int) -> None:
        if (self.now, done) == (self.stage, self.step):
            raise KeyboardInterrupt


class Listening(Quiet):
    """Remembers stages and warnings."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def begin(self, stage: str, elements: int, size: int) -> None:
        self.stages.append(stage)

    def warn(self, line: str) -> None:
        self.warnings.append(line)


def settings(path: Path, **others: Any) -> ReferenceSettings:
    given = {"fraction": 0.15, "vocabulary": 300, "tokens": 2000, "context": 32, "batch_tokens": 256} | others
    return ReferenceSettings.model_validate({"path": str(path), **given}).resolved(path.parent, 0)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, target_documents: pa.Table) -> ReferenceJob:
    """A corpus of several shards, a target, and a model to be trained on a share of the corpus."""
    folder = tmp_path_factory.mktemp("reference")
    paths = [write_parquet(documents, folder / "corpus", 4)]
    corpus = CorpusConfig(format="parquet", paths=paths, id="id", group="group", shard_bytes=100_000)
    target = CorpusConfig(format="parquet", paths=[write_parquet(target_documents, folder / "target", 1)])
    return ReferenceJob(settings(folder / "model"), corpus, {"wanted": target})


@pytest.fixture(scope="module")
def model(job: ReferenceJob) -> Path:
    """The model of the job."""
    return ReferenceTraining(job, Engine(1), Quiet()).execute().path


def figures(model: Path) -> dict[str, Any]:
    return json.loads((model / "training.json").read_bytes())


def at(job: ReferenceJob, path: Path, **others: Any) -> ReferenceJob:
    return replace(job, settings=settings(path, **others))


def test_it_is_trained_on_its_split_alone(job: ReferenceJob, documents: pa.Table, tmp_path: Path) -> None:
    training = ReferenceTraining(at(job, tmp_path / "m"), Engine(1), InterruptedAt("training"))
    with pytest.raises(KeyboardInterrupt):
        training.execute()
    found = read_tokens(f"{training.partial}/tokens")
    keys = hash_column(documents["id"].combine_chunks())
    inside = in_reference_split(keys, 0.15, 0)
    assert found is not None and set(found.keys) == set(keys[inside]) and 0 < inside.sum() < len(keys)
    assert (found.tokens[found.starts] == 0).all() and found.tokens.dtype == "u2"
    data, held_out = training._packed(found)
    assert held_out is not None and not set(data.keys) & set(held_out.keys)
    assert set(data.keys) == set(keys[inside & ~in_validation(keys, 0)])


def test_the_loss_falls_and_the_figures_tell_it(model: Path) -> None:
    told = figures(model)
    assert told["validation_loss"] < told["validation_loss_before"] - 0.3
    assert told["training"]["steps"] == 8 and told["training"]["tokens"] == 8 * 256
    assert told["curve"][-1]["validation_loss"] == told["validation_loss"]
    assert told["reference"]["fraction"] == 0.15 and told["split"]["of"] == "corpus"
    assert [path.name for path in model.parent.iterdir() if path.name.startswith(".")] == []


def test_a_scorer_reads_it(model: Path, job: ReferenceJob) -> None:
    parameters = LanguageModelParameters(scorer="language_model", model=str(model), device="cpu")
    scorer = LanguageModel(parameters)
    scorer.prepare(job.corpus)
    text = pa.array(["a function is called", "zxqj zxqj"], pa.large_string())
    columns = scorer.score(Documents(text, hash_column(text)))
    assert columns["entropy"].null_count == 0 and all(0 < loss < 8 for loss in columns[""].to_pylist())
    assert columns["tokens"].to_pylist()[1] >= 5  # the first one too: the tokenizer has a token for the beginning


@pytest.mark.parametrize("interrupted", [("tokenising", 0), ("training", 5)])
def test_interrupted_it_goes_on_to_the_same_model(
    job: ReferenceJob, model: Path, tmp_path: Path, interrupted: tuple[str, int]
) -> None:
    again = at(job, tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        ReferenceTraining(again, Engine(2), InterruptedAt(*interrupted), checkpoint_seconds=0).execute()
    assert not (tmp_path / "again").exists()
    listening = Listening()
    trained = ReferenceTraining(again, Engine(2), listening).execute()
    assert ("tokenising" in listening.stages) == (interrupted[0] == "tokenising")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (trained.path / name).read_bytes() == (model / name).read_bytes()
    assert figures(trained.path)["curve"] == figures(model)["curve"]


def test_done_is_done_and_others_are_not_overwritten(job: ReferenceJob, model: Path, tmp_path: Path) -> None:
    listening = Listening()
    done = ReferenceTraining(job, Engine(1), listening).execute()
    assert not done.new and done.figures == figures(model) and listening.stages == []
    other = at(job, model, tokens=512)
    with pytest.raises(RecipeError, match=r"^reference.path: .* holds another recipe's model; use --overwrite"):
        ReferenceTraining(other, Engine(1), Quiet()).execute()
    with pytest.raises(RecipeError, match=r"^reference.path: .* not a model that Tamis trained"):
        ReferenceTraining(at(job, tmp_path), Engine(1), Quiet()).execute()
    place = tmp_path / "m"
    with pytest.raises(KeyboardInterrupt):
        ReferenceTraining(at(job, place), Engine(1), InterruptedAt("reading")).execute()
    with pytest.raises(RecipeError, match="unfinished training of another recipe"):
        ReferenceTraining(at(job, place, tokens=512), Engine(1), Quiet()).execute()
    trained = ReferenceTraining(at(job, place, tokens=512), Engine(1), Quiet(), overwrite=True).execute()
    assert trained.new and figures(place)["training"]["steps"] == 2
    trained = ReferenceTraining(at(job, place, tokens=256), Engine(1), Quiet(), overwrite=True).execute()
    assert trained.new and figures(place)["training"]["steps"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_model_is_trained_further_on_a_target(job: ReferenceJob, model: Path, tmp_path: Path) -> None:
    further = {"init": str(model), "target": "wanted", "vocabulary": None, "tokens": 1024, "learning_rate": 1e-3}
    trained = ReferenceTraining(at(job, tmp_path / "further", **further), Engine(1), Quiet()).execute()
    told = trained.figures
    assert told["validation_loss"] < told["validation_loss_before"] - 0.02
    assert told["split"]["of"] == "targets.wanted" and told["split"]["fraction"] is None
    (target,) = job.targets["wanted"].paths
    texts = pq.read_table(Path(target).parent)["text"].to_pylist()
    assert told["split"]["documents"] == len(texts)
    assert (
        json.loads((trained.path / "tokenizer.json").read_text())["model"]
        == (json.loads((model / "tokenizer.json").read_text())["model"])
    )
    scorer = LanguageModel(LanguageModelParameters(scorer="language_model", model=str(trained.path), device="cpu"))
    scorer.prepare(job.corpus)


def test_what_cannot_be_trained_is_told_in_one_line(job: ReferenceJob, model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^reference.target: there is no target `wantd` .*\(nearest: wanted\)"):
        ReferenceTraining(at(job, tmp_path / "m", target="wantd"), Engine(1), Quiet()).execute()
    wide = {"init": str(model), "vocabulary": None, "context": 64}
    with pytest.raises(RecipeError, match=r"^reference.context: the model reads at most 32 tokens at once"):
        ReferenceTraining(at(job, tmp_path / "m", **wide), Engine(1), Quiet()).execute()
    with pytest.raises(TamisError, match=r"make no sequence of 32; raise reference.fraction"):
        ReferenceTraining(at(job, tmp_path / "m", fraction=1e-6), Engine(1), Quiet()).execute()
