"""Trains the reference model: reads its documents, makes its tokenizer, trains, and puts the model in its place.

Everything is made in the sibling `.NAME.partial`, which a killed training leaves behind, and the same job goes on from.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..connectors.atomic import sweep, write_text
from ..connectors.corpus_config import CorpusConfig
from ..connectors.errors import RecipeError, TamisError, nearest
from ..connectors.files import remove_tree
from ..connectors.opening import Opened, open_corpus
from ..scoring.model_files import ModelFacts, load_tokenizer, model_facts
from ..scoring.packed_tokens import PackedTokens
from ..scoring.reference_model import (
    SIZES,
    ReferenceSettings,
    load_for_training,
    new_model,
    parameter_counts,
    prepare_reference,
)
from ..scoring.scorer import digest
from ..scoring.training import CHECKPOINT_SECONDS, Progress, Schedule, make_schedule, train
from ..selectors.reference_split import SPLIT, ReferenceSplit, in_reference_split, in_validation
from .job import Reporter
from .passes import run_pass
from .reference_directory import FIGURES, ReferenceDirectory, sync_files
from .reference_figures import split_figures, training_figures
from .reference_tokens import TextPass, TokenFile, read_tokens, text_file, tokenizer_of, write_tokens
from .runner import Engine

VALIDATION_TOKENS = 32_768
"""Held-out tokens that the loss is computed of, at most."""

MANY_EPOCHS = 4.0
"""Readings of the same documents from which on the user is told that more of them would serve better."""

_VERSION = 1
"""Rises when the same job would train another model."""


@dataclass(frozen=True)
class ReferenceJob:
    """What to train on. settings: resolved; skip_unreadable: leave out files that cannot be read."""

    settings: ReferenceSettings
    corpus: CorpusConfig
    targets: Mapping[str, CorpusConfig]
    skip_unreadable: bool = False

    @property
    def split(self) -> ReferenceSplit | None:
        """The share of the corpus that is the model's; None where a target is."""
        settings = self.settings
        if settings.target is not None:
            return None
        assert settings.seed is not None
        return ReferenceSplit(method=SPLIT, name=SPLIT, fraction=settings.fraction, seed=settings.seed)

    def open(self) -> Opened:
        """Open the corpus or the target; raises RecipeError."""
        name = self.settings.target
        if name is None:
            return open_corpus("corpus", self.corpus, skip_unreadable=self.skip_unreadable)
        if name not in self.targets:
            known = nearest(name, self.targets)
            raise RecipeError(f"reference.target: there is no target `{name}` in `targets`{known}")
        return open_corpus(f"targets.{name}", self.targets[name])


@dataclass(frozen=True)
class Trained:
    """A model that is there. figures: those of its FIGURES; new: whether it was trained just now."""

    path: Path
    figures: dict[str, Any]
    new: bool


class ReferenceTraining:
    """One execution of a job. checkpoint_seconds: see `train`."""

    def __init__(
        self,
        job: ReferenceJob,
        engine: Engine,
        reporter: Reporter,
        overwrite: bool = False,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        self.job, self.settings, self.engine, self.reporter = job, job.settings, engine, reporter
        self.overwrite, self.checkpoint_seconds = overwrite, checkpoint_seconds
        self.directory = ReferenceDirectory(Path(job.settings.path))
        self.partial = self.directory.partial

    def execute(self) -> Trained:
        """Train the model, or find that it is there; raises RecipeError before documents are read, TamisError later."""
        if not self.engine.is_local:
            raise RecipeError("a reference model is trained on this machine; leave out --runner")
        device, facts = prepare_reference(self.settings)
        opened = self.job.open()
        for line in opened.unreadable:
            self.reporter.warn(f"left out: {line}")
        fingerprint = self._fingerprint(facts, opened)
        if (figures := self.directory.check(fingerprint, self.overwrite)) is not None:
            self.reporter.say("nothing new: this model was trained on these files already")
            return Trained(self.directory.path, figures, new=False)
        with self.directory.building(fingerprint):
            figures = {"fingerprint": fingerprint, **self._build(device, facts, opened)}
            model = self.partial / "model"
            write_text(str(model / FIGURES), json.dumps(figures, indent=1, allow_nan=False) + "\n")
            self.directory.commit(model)
        return Trained(self.directory.path, figures, new=True)

    def _fingerprint(self, facts: ModelFacts | None, opened: Opened) -> str:
        said = self.settings.model_dump(mode="json", exclude={"path", "device", "init"}, exclude_none=True)
        files_of_init = None if facts is None else [facts.weights, facts.tokenizer]
        chunk = opened.corpus.config.chunk
        return digest(_VERSION, said, files_of_init, [shard.fingerprint for shard in opened.shards], chunk)

    def _build(self, device: str, facts: ModelFacts | None, opened: Opened) -> dict[str, Any]:
        """Train the model and save it in the partial folder; return its figures."""
        import torch

        settings = self.settings
        documents, tokenizer = self._tokens(facts, opened)
        data, held_out = self._packed(documents)
        tokens = settings.tokens or data.total
        assert settings.batch_tokens is not None and settings.learning_rate is not None and settings.seed is not None
        schedule = make_schedule(
            tokens, settings.context, settings.batch_tokens, settings.learning_rate, settings.warmup
        )
        if facts is not None:
            model = load_for_training(facts.folder)
        else:
            model = new_model(
                SIZES[settings.size or "1m"], len(tokenizer), settings.context, tokenizer.bos_token_id, settings.seed
            )
        self._say_begin(model, data, schedule, device)
        self.reporter.begin("training", schedule.steps, 0)
        try:
            progress = train(
                model,
                data,
                held_out,
                schedule,
                torch.device(device),
                self.partial / "checkpoint.safetensors",
                self._report,
                self.checkpoint_seconds,
            )
        finally:
            self.reporter.end()
        self._save(model, tokenizer)
        return {
            "reference": settings.model_dump(mode="json", exclude_none=True),
            "corpus": opened.corpus.config.model_dump(mode="json", exclude_none=True),
            "split": split_figures(opened.corpus.name, self.job.split, documents, data, held_out),
            **training_figures(model, data, schedule, progress, device),
        }

    def _tokens(self, facts: ModelFacts | None, opened: Opened) -> tuple[TokenFile, Any]:
        """Return the documents as tokens, and the tokenizer; read and made unless an earlier process has done it."""
        settings, url = self.settings, f"{self.partial}/tokens"
        own, text = self.partial / "tokenizer", self.partial / "text"
        folder = own if facts is None else Path(facts.folder)
        known = read_tokens(url)
        if known is not None:
            return known, load_tokenizer(folder)
        text.mkdir(exist_ok=True)
        sweep(text)
        lacking = [shard for shard in opened.shards if not Path(text_file(str(text), shard)).exists()]
        self.reporter.begin("reading", len(lacking), sum(shard.bytes for shard in lacking))
        try:
            split = self.job.split
            work = TextPass(opened.corpus, str(text))
            if split is not None:
                work.chosen = functools.partial(in_reference_split, fraction=split.fraction, seed=split.seed)
            found = run_pass(work, lacking, self.engine, str(self.partial / "exchange"), self.reporter.update)
        finally:
            self.reporter.end()
        if found and found["dead"][0]:
            self.reporter.warn(f"{found['dead'][0]:,} documents cannot be read, and are left out")
        self.reporter.begin("tokenising", 1, 0)
        try:
            if facts is None:
                assert settings.vocabulary is not None and settings.seed is not None
                tokenizer_of(text, settings.vocabulary, settings.seed).save_pretrained(own)
                sync_files(own)
            tokenizer = load_tokenizer(folder)
            write_tokens(text, tokenizer, url)
        finally:
            self.reporter.end()
        remove_tree(text)
        written = read_tokens(url)
        assert written is not None
        return written, tokenizer

    def _packed(self, documents: TokenFile) -> tuple[PackedTokens, PackedTokens | None]:
        """Return what is trained on, and what the loss is measured with: None where that makes no sequence."""
        seed, context = self.settings.seed, self.settings.context
        assert seed is not None
        held = in_validation(documents.keys, seed)

        def packed(chosen: NDArray[Any]) -> PackedTokens:
            starts, lengths, keys = (array[chosen] for array in (documents.starts, documents.lengths, documents.keys))
            return PackedTokens(documents.tokens, starts, lengths, keys, context, seed)

        data = packed(~held)
        if not len(data):
            more = "give the target more documents" if self.settings.target else "raise reference.fraction"
            few = f"the documents to train on have {data.total:,} tokens, which make no sequence of {context}"
            raise TamisError(f"{few}; {more}")
        of_order = np.flatnonzero(held)[np.argsort(documents.keys[held], kind="stable")]
        enough = np.searchsorted(np.cumsum(documents.lengths[of_order]), VALIDATION_TOKENS, side="right")
        held_out = packed(of_order[: enough + 1])
        if not len(held_out):
            self.reporter.warn("there are too few documents for a validation loss")
        return data, held_out if len(held_out) else None

    def _say_begin(self, model: Any, data: PackedTokens, schedule: Schedule, device: str) -> None:
        total, inner = parameter_counts(model)
        tokens = schedule.steps * schedule.rows * data.context
        epochs = tokens / data.total
        self.reporter.say(
            f"{total:,} parameters ({inner:,} without embeddings) on {device}: {schedule.steps:,} steps of "
            f"{schedule.rows * data.context:,} tokens, each document {epochs:.2g} times"
        )
        if epochs > MANY_EPOCHS:
            more = "give the target more documents" if self.settings.target else "raise `fraction`"
            self.reporter.warn(f"the model reads each document {epochs:.1f} times; {more}, or lower `tokens`")
        elif epochs < 0.5 and self.settings.target is None:
            self.reporter.warn(
                f"the model reads {epochs:.0%} of its documents, and the others are not selected from either; "
                f"a `fraction` of {self.settings.fraction * epochs:.2g} suffices"
            )

    def _report(self, progress: Progress, point: bool) -> None:
        self.reporter.update(progress.step, 0)
        if point:
            last = progress.curve[-1]
            losses = [("training", last.training_loss), ("validation", last.validation_loss)]
            told = ", ".join(f"{name} loss {loss:.3f}" for name, loss in losses if loss is not None)
            self.reporter.say(f"step {last.step:,}, {last.tokens:,} tokens: {told or 'begun'}")

    def _save(self, model: Any, tokenizer: Any) -> None:
        """Save the model as it will be; raises TamisError unless scorers can use it."""
        from transformers.utils import logging

        folder = self.partial / "model"
        remove_tree(folder)
        logging.disable_progress_bar()  # the command has its own
        model.to("cpu").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for weights in folder.glob("*.safetensors"):  # which only their owner may read otherwise
            weights.chmod((folder / "config.json").stat().st_mode)
        try:
            model_facts(str(folder))
        except RecipeError as error:
            raise TamisError(f"the trained model cannot be used: {error}") from error
