"""What `gradients_per_second.py` compares with: other tools' gradients of the same documents, each in their own way.

Not run by itself. All read the same tokens in float32; those that batch take 16 documents in the data's order, padded,
as their examples do. Each way returns processor seconds for all documents.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

BATCH = 16


@dataclass
class Job:
    """What is differentiated. model: folder; rows: tokens of each document; layers: names; weights: their numbers."""

    model: str
    rows: list[torch.Tensor]
    layers: list[str]
    weights: int
    dimension: int


def padded(some: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    tokens = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in some], batch_first=True)
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.where(mask > 0, tokens, -100)}


def one_after_another(job: Job, rows: list[torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Differentiate one document after another; yields the gradients of the layers."""
    model = AutoModelForCausalLM.from_pretrained(job.model).requires_grad_(False)
    layers = dict(model.named_modules())
    weights = {name: layers[name].weight.requires_grad_(True) for name in job.layers}
    for tokens in rows:
        model(input_ids=tokens[None], labels=tokens[None], use_cache=False).loss.backward()
        yield {name: weight.grad for name, weight in weights.items()}
        for weight in weights.values():
            weight.grad = None


def less(job: Job) -> float:
    """One backward pass a document, and the dense signs of LESS, TRAK and dattri for whole gradients, 16 at a time."""
    rows = job.rows[:BATCH]
    start = time.process_time()
    found = [torch.cat([g.ravel() for g in one.values()]) for one in one_after_another(job, rows)]
    _trak_projector(job).project(torch.stack(found), model_id=0)
    return (time.process_time() - start) * len(job.rows) / len(rows)


def traker(job: Job) -> float:
    """TRAK's own batched gradients, by functorch, and its projector. Without padding: one document's vmap is alone."""
    from trak.gradient_computers import FunctionalGradientComputer

    class Loss:
        def get_output(self, model, weights, buffers, tokens):
            found = torch.func.functional_call(
                model, (weights, buffers), kwargs={"input_ids": tokens[None], "use_cache": False}
            )
            return torch.nn.functional.cross_entropy(found.logits[0, :-1], tokens[1:])

    model = AutoModelForCausalLM.from_pretrained(job.model, attn_implementation="eager").requires_grad_(False)
    names = [f"{name}.weight" for name in job.layers]
    computer = FunctionalGradientComputer(model, Loss(), job.weights, torch.float32, torch.device("cpu"), names)
    computer.func_weights = {name: dict(model.named_parameters())[name] for name in names}
    computer.func_buffers = {k: v for k, v in [*model.named_parameters(), *model.named_buffers()] if k not in names}
    rows = job.rows[:BATCH]
    longest = max(map(len, rows))
    tokens = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in rows])
    start = time.process_time()
    found = computer.compute_per_sample_grad([tokens])
    _trak_projector(job).project({name: found[name] for name in names}, model_id=0)
    return (time.process_time() - start) * len(job.rows) / len(rows)


def _trak_projector(job: Job):
    from trak.projectors import BasicProjector, ProjectionType

    arguments = {"seed": 0, "proj_type": ProjectionType.rademacher, "device": "cpu", "dtype": torch.float32}
    return BasicProjector(job.weights, job.dimension, block_size=16, **arguments)


def dattri(job: Job) -> float:
    """LoGra of dattri, with as many numbers for each layer as fit into a square."""
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask

    model = AutoModelForCausalLM.from_pretrained(job.model)

    def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], device: str) -> torch.Tensor:
        return model(**batch, use_cache=False).loss

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    side = math.isqrt(job.dimension // len(job.layers))
    attributor = LoGraAttributor(task, job.layers, hessian="Identity", proj_dim=side * side, offload="none")
    loader = torch.utils.data.DataLoader(job.rows, batch_size=BATCH, collate_fn=padded)
    attributor._setup_compressors(loader)
    start = time.process_time()
    attributor.cache(loader)
    return time.process_time() - start


def kronfluence(job: Job) -> float:
    """Products with one query, no curvature: nothing is projected, nor kept for another query."""
    from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
    from kronfluence.utils.dataset import DataLoaderKwargs

    class LossTask(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return model(**batch, use_cache=False).loss * batch["labels"].gt(-100).sum()

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return job.layers

    task = LossTask()
    model = prepare_model(AutoModelForCausalLM.from_pretrained(job.model), task)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("peer", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=padded))
        analyzer.fit_all_factors("none", job.rows, 1, factor_args=FactorArguments(strategy="identity"))
        start = time.process_time()
        analyzer.compute_pairwise_scores(
            "scores", "none", job.rows[:1], job.rows, 1, BATCH, score_args=ScoreArguments(damping_factor=1.0)
        )
        return time.process_time() - start


PEERS = {"less": less, "traker": traker, "dattri": dattri, "kronfluence": kronfluence}
