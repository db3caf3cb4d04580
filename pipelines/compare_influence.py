"""Measures influence scores: small models are trained on halves of a sample, whose losses the scores are to foretell.

That is the linear datamodelling score, see `datamodelling_score`. Trained losses are kept, by subset and seed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.atomic import write_atomically
from ..connectors.errors import RecipeError, TamisError
from ..connectors.run_directory import read_manifest
from ..connectors.score_store import load_arrays, save_arrays
from ..scoring.datamodelling import Interval, datamodelling_score, mean_rank_correlation, random_halves
from ..scoring.document_losses import document_losses
from ..scoring.gradients_scorer import Gradients
from ..scoring.model_files import load_tokenizer, model_facts, require_packages
from ..scoring.packed_tokens import PackedTokens
from ..scoring.reference_model import (
    FINE_TUNING_BATCH,
    FINE_TUNING_RATE,
    SIZES,
    SizeName,
    load_for_training,
    new_model,
)
from ..scoring.scorer import digest
from ..scoring.token_sequences import TokenSequences, tokenise
from ..scoring.training import Schedule, make_schedule, train
from .influence_predictions import Predictions, common, predictions_of
from .job import Job, Reporter
from .reference_tokens import TEXT_SCHEMA, TokenFile, read_tokens, tokenizer_of, write_tokens
from .run import Run
from .runner import Engine
from .scorer_costs import scorer_costs

Float64 = NDArray[np.float64]

MODEL = "model"
"""Instead of a size: the model of the recipes' gradients is trained further."""

STEPS = 32
"""Of a training on few tokens, at least: batches are smaller then."""

TOKENS = "tokens of the documents"
"""Name of the baseline that knows how long documents are, and nothing else."""


@dataclass(frozen=True)
class InfluenceComparison:
    """What to compare. jobs: by name, over one sample; proxy: size of the models, or MODEL; subsets: halves of the
    sample; seeds: models trained on each; tokens: that each is trained on; None: so many as half of the sample has;
    learning_rate: None: the proxy's."""

    jobs: dict[str, Job]
    output: Path
    proxy: SizeName | Literal["model"]
    subsets: int
    seeds: int
    tokens: int | None = None
    context: int = 256
    vocabulary: int = 4096
    learning_rate: float | None = None


class CompareInfluence:
    """One execution of a comparison; what an earlier one has trained is not trained again."""

    def __init__(self, comparison: InfluenceComparison, engine: Engine, reporter: Reporter) -> None:
        self.what, self.engine, self.reporter = comparison, engine, reporter
        self.work = comparison.output / "work"
        gradients = [s for job in comparison.jobs.values() for s in job.scorers.values() if isinstance(s, Gradients)]
        if not gradients:
            raise RecipeError("--influence: the recipes have no score of `influence`, nor `gradients` for one")
        self.init = gradients[0].parameters.model

    def execute(self) -> dict[str, Any]:
        """Run the recipes, train, measure; returns the figures, which are written to `influence.json` too."""
        require_packages()
        what = self.what
        if self.work.exists():
            files.remove_tree(self.work)
        self.work.mkdir(parents=True)
        found: list[Predictions] = []
        costs: dict[str, float] = {}
        for name, job in what.jobs.items():
            self.reporter.say(f"{name}: running its recipe over the sample")
            path = Run(job, self.engine, self.reporter, overwrite=True).execute().path
            manifest = read_manifest(path)
            assert manifest is not None
            found.append(predictions_of(path, manifest, job, "" if len(what.jobs) == 1 else f"{name} "))
            costs |= {f"{found[-1].prefix}{score}": s for score, s in scorer_costs(path, job).items()}
        documents, examples, scores = common(found)
        for line in documents.told:
            self.reporter.warn(line)
        tokenizer, tokens = self._tokens(documents.keys, documents.texts)
        wanted = tokenise(_backend(tokenizer), tokenizer.bos_token_id, pa.array(examples.texts, pa.large_string()))
        taken = random_halves(tokens.keys, what.subsets, 0)
        started = time.monotonic()
        losses, trained = self._losses(tokenizer, tokens, taken, wanted)
        seconds = time.monotonic() - started
        figures = self._figures(taken, losses, tokens, scores, costs)
        figures |= {"examples": losses.shape[2], "models_trained": trained, "training_seconds": round(seconds, 1)}
        text = json.dumps(figures, indent=1, allow_nan=False) + "\n"
        write_atomically(str(what.output / "influence.json"), lambda file: file.write(text.encode()))
        files.remove_tree(self.work)
        return figures

    def _tokens(self, keys: NDArray[np.uint64], texts: pa.Array) -> tuple[Any, TokenFile]:
        """Return the proxies' tokenizer, and the documents as their tokens."""
        folder = self.work / "text"
        folder.mkdir()
        batch = pa.record_batch([pa.array(keys), texts, pa.nulls(len(keys), pa.string())], schema=TEXT_SCHEMA)
        with pa.OSFile(str(folder / "sample.arrow"), "wb") as file, pa.ipc.new_file(file, TEXT_SCHEMA) as writer:
            writer.write_batch(batch)
        own = self.work / "tokenizer"
        if self.what.proxy == MODEL:
            own = Path(model_facts(self.init).folder)
        else:
            own.mkdir()
            tokenizer_of(folder, self.what.vocabulary, 0).save_pretrained(own)
        tokenizer = load_tokenizer(own)
        write_tokens(folder, tokenizer, str(self.work / "tokens"))
        tokens = read_tokens(str(self.work / "tokens"))
        assert tokens is not None
        return tokenizer, tokens

    def _losses(
        self, tokenizer: Any, tokens: TokenFile, taken: NDArray[np.bool_], examples: TokenSequences
    ) -> tuple[Float64, int]:
        """Train on each half with each seed; returns float64[seeds, subsets, examples], and how many were trained."""
        what, trained = self.what, 0
        losses = np.zeros((what.seeds, what.subsets, len(examples)))
        for (seed, number), chosen in (((s, i), taken[i]) for i in range(what.subsets) for s in range(what.seeds)):
            schedule = self._schedule(tokens)
            result = what.output / "losses" / f"{number}-{seed}.npz"
            fingerprint = self._fingerprint(tokens, chosen, examples, seed, schedule)
            known = load_arrays(str(result)) if result.exists() else {}
            if known.get("fingerprint", np.zeros(0, "U1")).tolist() != [fingerprint]:
                known = {"losses": self._trained(tokenizer, tokens, chosen, examples, seed, schedule, number)}
                save_arrays(str(result), known | {"fingerprint": np.array([fingerprint])})
                trained += 1
            losses[seed, number] = known["losses"]
        if np.isnan(losses).any():
            raise TamisError("an example of the targets has no token to be predicted; leave it out of the target")
        return losses, trained

    def _schedule(self, documents: TokenFile) -> Schedule:
        what, tokens = self.what, self._trained_on(documents)
        if what.proxy == MODEL:
            rate, batch = FINE_TUNING_RATE, FINE_TUNING_BATCH
        else:
            rate, batch = SIZES[what.proxy].learning_rate, SIZES[what.proxy].batch_tokens
        batch, rate = min(batch, max(tokens // STEPS, what.context)), what.learning_rate or rate
        return make_schedule(tokens, what.context, batch, rate, 0.05)

    def _trained_on(self, documents: TokenFile) -> int:
        return self.what.tokens or max(1, int(documents.lengths.sum()) // 2)

    def _trained(
        self,
        tokenizer: Any,
        tokens: TokenFile,
        chosen: NDArray[np.bool_],
        examples: TokenSequences,
        seed: int,
        schedule: Schedule,
        number: int,
    ) -> Float64:
        """Train one model; return its loss on each example. Models of one seed begin alike."""
        import torch

        what = self.what
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        places = (tokens.starts[chosen], tokens.lengths[chosen], tokens.keys[chosen])
        data = PackedTokens(tokens.tokens, *places, what.context, seed)
        if not len(data):
            raise TamisError(f"half of the sample has {data.total:,} tokens; raise --documents or lower --context")
        if what.proxy == MODEL:
            model = load_for_training(model_facts(self.init).folder)
        else:
            model = new_model(SIZES[what.proxy], len(tokenizer), what.context, tokenizer.bos_token_id, seed)
        self.reporter.begin(f"training on half {number + 1} of {what.subsets}, seed {seed}", schedule.steps, 0)
        try:
            checkpoint = self.work / "checkpoint.safetensors"
            checkpoint.unlink(missing_ok=True)
            train(model, data, None, schedule, device, checkpoint, lambda p, _: self.reporter.update(p.step, 0), 1e9)
        finally:
            self.reporter.end()
        return document_losses(model, examples, what.context, device)

    def _fingerprint(
        self, tokens: TokenFile, chosen: NDArray[np.bool_], examples: TokenSequences, seed: int, schedule: Schedule
    ) -> str:
        what = self.what
        model = model_facts(self.init).weights if what.proxy == MODEL else what.proxy
        content = [tokens.keys[chosen].tolist(), tokens.lengths[chosen].tolist(), examples.tokens.tolist()]
        sample = digest(np.asarray(tokens.tokens[: 1 << 16]).tobytes().hex())
        return digest(model, what.context, what.vocabulary, seed, str(schedule), content, sample)

    def _figures(
        self,
        taken: NDArray[np.bool_],
        losses: Float64,
        tokens: TokenFile,
        scores: Mapping[str, Float64],
        costs: Mapping[str, float],
    ) -> dict[str, Any]:
        what, mean = self.what, losses.mean(axis=0)
        # the order of the tokens is that of the documents: both are in the sample's order
        sizes = tokens.lengths.astype(np.float64)[:, None]
        methods: dict[str, dict[str, Any]] = {}
        for name, values in scores.items():
            methods[name] = {"on_examples": values.shape[1] > 1} | _interval(datamodelling_score(taken, values, mean))
            methods[name] |= {"times_tokens": _interval(datamodelling_score(taken, values * sizes, mean))}
            methods[name] |= {"seconds_per_1000_documents": costs.get(name)}
        baseline = _interval(datamodelling_score(taken, sizes, mean))
        methods[TOKENS] = {"on_examples": False, **baseline, "times_tokens": None, "seconds_per_1000_documents": 0.0}
        agreement = None
        if what.seeds > 1:
            sides = losses[0::2].mean(axis=0), losses[1::2].mean(axis=0)
            agreement = _interval(mean_rank_correlation(*sides))
        settings = {"proxy": what.proxy, "subsets": what.subsets, "seeds": what.seeds}
        spread = float(mean.std(axis=0).mean())
        return settings | {
            "context": what.context,
            "tokens": self._trained_on(tokens),
            "documents": len(tokens.keys),
            "tokens_in_half": int(tokens.lengths.sum() // 2),
            "loss": float(mean.mean()),
            "loss_spread": spread,
            "agreement_of_seeds": agreement,
            "methods": methods,
        }


def _interval(found: Interval) -> dict[str, float]:
    return {"score": found.value, "low": found.low, "high": found.high}


def _backend(tokenizer: Any) -> Any:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend
