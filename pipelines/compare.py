"""Trains one small model on what each of several recipes keeps, and on a random choice, and compares their losses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..connectors import files
from ..connectors.atomic import write_atomically
from ..connectors.errors import RecipeError
from ..connectors.score_store import load_arrays, save_arrays
from ..scoring.held_out_loss import mean_difference, sequence_losses
from ..scoring.model_files import require_packages
from ..scoring.packed_tokens import PackedTokens
from ..scoring.reference_model import SIZES, SizeName, new_model
from ..scoring.scorer import digest, digest_arrays
from ..scoring.training import Schedule, make_schedule, train
from .compare_texts import Choice, ComparisonTexts
from .job import Job, Reporter
from .reference_tokens import TokenFile
from .run import Run
from .runner import Engine

RANDOM = "random"
"""Name of the random choice that all are compared with."""


@dataclass(frozen=True)
class Comparison:
    """What to compare. jobs: by name, over one corpus; tokens: that each model is trained on; seeds: of the models."""

    jobs: dict[str, Job]
    output: Path
    size: SizeName
    seeds: int
    tokens: int
    context: int = 256
    vocabulary: int = 4096


class Compare:
    """One execution of a comparison; what an earlier one has trained is not trained again."""

    def __init__(self, comparison: Comparison, engine: Engine, reporter: Reporter) -> None:
        self.what, self.engine, self.reporter = comparison, engine, reporter
        self.work = comparison.output / "work"
        first = next(iter(comparison.jobs.values()))
        self.corpus, self.targets = first.corpus, first.targets
        for name, job in comparison.jobs.items():
            if (job.corpus, job.limit) != (self.corpus, first.limit):
                raise RecipeError(f"{name}: has another `corpus` than the first recipe; compare over one corpus")
            self.targets = self.targets | job.targets

    def execute(self) -> dict[str, Any]:
        """Run the recipes, train, measure; returns the figures, which are written to `compare.json` too."""
        require_packages()
        what = self.what
        runs = {name: self._run(name, job) for name, job in what.jobs.items()}
        if self.work.exists():
            files.remove_tree(self.work)
        limit = next(iter(what.jobs.values())).limit
        texts = ComparisonTexts(self.corpus, limit, self.work, what.tokens, what.context, self.engine, self.reporter)
        tokenizer = texts.tokenizer(what.vocabulary)
        held_out = texts.held_out(tokenizer, self.targets)
        choices = {RANDOM: texts.random(tokenizer)}
        choices |= {name: texts.kept(name, run, tokenizer) for name, run in runs.items()}
        losses = {name: self._trained(name, choice, tokenizer, held_out) for name, choice in choices.items()}
        figures = self._figures(choices, losses, list(held_out))
        text = json.dumps(figures, indent=1, allow_nan=False) + "\n"
        write_atomically(str(what.output / "compare.json"), lambda file: file.write(text.encode()))
        files.remove_tree(self.work)
        return figures

    def _run(self, name: str, job: Job) -> Path:
        self.reporter.say(f"{name}: running its recipe")
        Run(job, self.engine, self.reporter).execute()
        return job.output

    def _trained(
        self, name: str, choice: Choice, tokenizer: Any, held_out: Mapping[str, PackedTokens]
    ) -> dict[str, NDArray[np.float64]]:
        """Train with each seed; returns the losses by domain, float64[seeds, sequences]."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size, tokens = SIZES[self.what.size], choice.tokens
        schedule = make_schedule(self.what.tokens, self.what.context, size.batch_tokens, size.learning_rate, 0.05)
        by_seed: list[dict[str, NDArray[np.float64]]] = []
        for seed in range(self.what.seeds):
            result = self.what.output / "losses" / f"{name}-{seed}.npz"
            fingerprint = self._fingerprint(choice, held_out, seed, schedule)
            known = load_arrays(str(result)) if result.exists() else {}
            if known.pop("fingerprint", np.zeros(0, "U1")).tolist() == [fingerprint]:
                by_seed.append(known)
                continue
            places = (tokens.tokens, tokens.starts, tokens.lengths, tokens.keys)
            data = PackedTokens(*places, self.what.context, seed, choice.weights)
            model = new_model(size, len(tokenizer), self.what.context, tokenizer.bos_token_id, seed)
            self.reporter.begin(f"training {name}, seed {seed}", schedule.steps, 0)
            try:
                checkpoint = self.work / "checkpoint.safetensors"
                checkpoint.unlink(missing_ok=True)
                train(
                    model, data, None, schedule, device, checkpoint, lambda p, _: self.reporter.update(p.step, 0), 1e9
                )
            finally:
                self.reporter.end()
            losses = {domain: sequence_losses(model, packed, device) for domain, packed in held_out.items()}
            save_arrays(str(result), losses | {"fingerprint": np.array([fingerprint])})
            by_seed.append(losses)
        return {domain: np.stack([losses[domain] for losses in by_seed]) for domain in held_out}

    def _fingerprint(self, choice: Choice, held_out: Mapping[str, PackedTokens], seed: int, schedule: Schedule) -> str:
        what, tokens = self.what, choice.tokens
        sets: list[TokenFile | PackedTokens] = [tokens, *held_out.values()]
        content = [[int(part.keys.sum(dtype=np.uint64)), int(part.lengths.sum()), len(part.keys)] for part in sets]
        weights = [] if choice.weights is None else [digest_arrays({"weights": choice.weights})]
        sample = digest(np.asarray(tokens.tokens[: 1 << 16]).tobytes().hex())
        return digest(
            what.size, what.context, what.vocabulary, seed, str(schedule), content, list(held_out), sample, *weights
        )

    def _figures(
        self, choices: Mapping[str, Choice], losses: Mapping[str, Mapping[str, Any]], domains: list[str]
    ) -> dict[str, Any]:
        what = self.what
        methods: dict[str, Any] = {}
        for name, of_domains in losses.items():
            choice = choices[name]
            there = int(choice.tokens.lengths.sum())
            rows = {}
            for domain in domains:
                of_seeds = of_domains[domain]
                row = {"loss": float(of_seeds.mean()), "by_seed": of_seeds.mean(1).tolist()}
                if name != RANDOM:
                    difference, low, high = mean_difference(of_seeds, losses[RANDOM][domain])
                    row |= {"difference": difference, "low": low, "high": high}
                rows[domain] = row
            methods[name] = {"documents": len(choice.tokens.keys), "tokens": there, "epochs": what.tokens / there}
            methods[name]["weighted"] = choice.weights is not None
            methods[name]["domains"] = rows
        settings = {"proxy": what.size, "tokens": what.tokens, "seeds": what.seeds, "context": what.context}
        return {
            **settings,
            "vocabulary": what.vocabulary,
            "baseline": RANDOM,
            "unit": "nats per token",
            "methods": methods,
        }
