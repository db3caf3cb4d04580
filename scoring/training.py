"""Trains a causal language model on packed tokens: AdamW, cosine schedule, checkpoints from which it goes on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..connectors.atomic import write_atomically
from ..connectors.errors import TamisError, one_line
from .packed_tokens import PackedTokens
from .token_batches import one_library_thread

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")

FINAL_RATE = 0.1
"""The learning rate's last share of its highest."""

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.1, 1.0
"""Of AdamW, of matrices only, and the largest norm of a gradient: what is usual for small language models."""

EVALUATIONS = 10
"""How often the loss on held-out sequences is computed, about, beside before the first step and after the last."""

CHECKPOINT_SECONDS = 60.0
"""What a killed training loses at most, beside one step. A checkpoint takes 12 bytes a parameter on disk."""

_MICRO_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Logits of the sequences that are computed together, by device class: 16 MB for each core, and 1 GB; some three times
as much with their gradients."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. rows: sequences in a step; learning_rate: the highest; warmup: steps until it is."""

    steps: int
    rows: int
    learning_rate: float
    warmup: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0: linear up to the highest, then half a cosine to FINAL_RATE."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2)


def make_schedule(tokens: int, context: int, batch_tokens: int, learning_rate: float, warmup: float) -> Schedule:
    """Return a schedule that reads at least so many tokens. warmup: share of the steps."""
    rows = max(1, batch_tokens // context)
    steps = max(1, -(-tokens // (rows * context)))
    return Schedule(steps, rows, learning_rate, min(math.ceil(warmup * steps), steps))


@dataclass
class Point:
    """A point of the loss curve; losses in nats per token, the training's over the steps since the point before."""

    step: int
    tokens: int
    training_loss: float | None
    validation_loss: float | None


@dataclass
class Progress:
    """How far a training is. losses: of the steps since the last point; seconds: of all processes together."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)


def train(
    model: Any,
    data: PackedTokens,
    held_out: PackedTokens | None,
    schedule: Schedule,
    device: torch.device,
    checkpoint: Path,
    report: Callable[[Progress, bool], None] = lambda progress, point: None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Progress:
    """Train a model in place; what the same call did before it was killed is not done again.

    Dropout is off. On a GPU matrix products are in bfloat16. On a CPU each core computes sequences of its own, in one
    thread, and their gradients are added in the order of the sequences: the result is the same on any number of cores,
    and however often training was killed.

    Args:
        model: of transformers, float32.
        data: sequences to train on, at least one; with weights, the loss of a step is that of `weighted_loss`.
        held_out: sequences to compute the loss of, all of them; None: no such loss.
        schedule: steps, sequences in each, and learning rates.
        device: where to.
        checkpoint: file in which the state is kept.
        report: called after each step with the progress, and whether its curve has a new point.
        checkpoint_seconds: how often the state is kept.

    Returns:
        The progress at the end, with the loss curve.

    Raises:
        TamisError: a loss is not finite, one sequence does not fit into the device's memory, or the checkpoint is not
            of this model.
    """
    with one_library_thread(device), _Training(model.to(device).eval(), schedule, device, data.context) as training:
        if checkpoint.exists():
            training.load(checkpoint)
        _run(training, data, held_out, checkpoint, report, checkpoint_seconds)
    return training.progress


def _run(
    training: _Training,
    data: PackedTokens,
    held_out: PackedTokens | None,
    checkpoint: Path,
    report: Callable[[Progress, bool], None],
    checkpoint_seconds: float,
) -> None:
    """Take all steps that are left."""
    schedule = training.schedule
    progress = training.progress
    begun = time.monotonic() - progress.seconds
    every = max(1, schedule.steps // EVALUATIONS)
    kept = time.monotonic()
    if not progress.curve:
        training.add_point(held_out)
        report(progress, True)
    while progress.step < schedule.steps:
        rows = progress.step * schedule.rows, schedule.rows
        training.step(data.sequences(*rows), data.token_weights(*rows))
        point = progress.step % every == 0 or progress.step == schedule.steps
        if point:
            training.add_point(held_out)
        progress.seconds = time.monotonic() - begun
        if time.monotonic() - kept >= checkpoint_seconds or progress.step == schedule.steps:
            training.save(checkpoint)
            kept = time.monotonic()
        report(progress, point)


class _Training:
    """A model with its optimiser and progress, and the threads that compute its gradients."""

    def __init__(self, model: Any, schedule: Schedule, device: torch.device, context: int) -> None:
        import torch

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(cores, "training", torch.set_num_threads, (1,))

        self.model, self.schedule, self.device, self.context = model, schedule, device, context
        self.progress = Progress()
        self.parameters: dict[str, torch.nn.Parameter] = dict(model.named_parameters())
        matrices = [p for p in self.parameters.values() if p.dim() > 1]
        others = [p for p in self.parameters.values() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=BETAS, fused=True)
        vocabulary = model.config.get_text_config().vocab_size
        self.micro = max(1, _MICRO_LOGITS[device.type] // (vocabulary * context))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def step(self, sequences: NDArray[np.int64], weights: NDArray[np.float32] | None = None) -> None:
        """Take one step. sequences: int64[rows, context + 1]; weights: float32[rows, context], None: all 1."""
        import torch

        loss = self._gradient(sequences, weights)
        if not math.isfinite(loss):
            raise TamisError(f"the loss is {loss} at step {self.progress.step + 1}; lower reference.learning_rate")
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.progress.step)
        self.optimizer.step()
        self.progress.step += 1
        self.progress.losses.append(loss)

    def _gradient(self, sequences: NDArray[np.int64], weights: NDArray[np.float32] | None) -> float:
        """Compute the gradient of the mean loss, in parts that fit into memory; return that loss."""
        import torch

        parameters = list(self.parameters.values())
        total = 0.0 if weights is None else float(np.abs(weights).sum(dtype=np.float64))

        def of_part(rows: slice) -> tuple[float, tuple[torch.Tensor, ...]]:
            part = sequences[rows]
            if weights is None:
                loss = self._loss(part) * (len(part) / len(sequences))
            else:
                loss = self._loss(part, weights[rows], total)
            return loss.item(), torch.autograd.grad(loss, parameters, materialize_grads=True)

        while True:
            try:
                loss = 0.0
                for parameter in parameters:
                    parameter.grad = None
                for of_one, gradients in self._map(of_part, len(sequences)):
                    loss += of_one
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
                return loss
            except torch.OutOfMemoryError as error:
                if self.micro == 1:
                    raise TamisError("one sequence does not fit into the device's memory; lower context") from error
                self.micro = max(1, min(self.micro, len(sequences)) // 2)
            torch.cuda.empty_cache()

    def _map(self, function: Callable[[slice], _T], count: int) -> Iterator[_T]:
        """Apply a function to parts of so many sequences; on a CPU several at a time."""
        parts = [slice(first, min(first + self.micro, count)) for first in range(0, count, self.micro)]
        return self._threads.map(function, parts) if self.device.type == "cpu" else map(function, parts)

    def _loss(
        self, sequences: NDArray[np.int64], weights: NDArray[np.float32] | None = None, total: float = 0.0
    ) -> torch.Tensor:
        """Return the mean loss of the predicted tokens, nats; with weights, their weighted sum over a total."""
        import torch

        tokens = torch.from_numpy(sequences).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        flat, targets = logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        if weights is None:
            return torch.nn.functional.cross_entropy(flat, targets)
        from ..connectors.weighted_batches import weighted_loss

        losses = torch.nn.functional.cross_entropy(flat, targets, reduction="none")
        of_tokens = torch.from_numpy(weights.ravel()).to(self.device)
        return weighted_loss(losses, of_tokens, total=torch.tensor(total, device=self.device))

    def _held_out_loss(self, held_out: PackedTokens) -> float:
        """Return the mean loss of held-out sequences, which fit into memory as tokens."""
        import torch

        sequences = held_out.sequences(0, len(held_out))

        def of_part(rows: slice) -> float:
            with torch.inference_mode():
                return self._loss(sequences[rows]).item() * (rows.stop - rows.start)

        return sum(self._map(of_part, len(sequences))) / len(sequences)

    def add_point(self, held_out: PackedTokens | None) -> None:
        """Add a point to the loss curve."""
        progress = self.progress
        training = sum(progress.losses) / len(progress.losses) if progress.losses else None
        tokens = progress.step * self.schedule.rows * self.context
        validation = None if held_out is None else self._held_out_loss(held_out)
        progress.curve.append(Point(progress.step, tokens, training, validation))
        progress.losses.clear()

    def save(self, path: Path) -> None:
        """Keep weights, moments and progress in one file."""
        from safetensors.torch import save

        tensors = {f"weights {name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment} {name}"] = self.optimizer.state[parameter][moment]
        progress = {"progress": json.dumps(asdict(self.progress))}
        on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(str(path), lambda file: file.write(save(on_cpu, progress)))

    def load(self, path: Path) -> None:
        """Go on from a file of `save`."""
        import torch
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", device="cpu") as file:
                progress = json.loads(file.metadata()["progress"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(tensors[f"weights {name}"])
        except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as error:
            raise TamisError(f"{path} is damaged: {one_line(error)}; delete it, and training begins anew") from error
        curve = [Point(**point) for point in progress.pop("curve")]
        self.progress = Progress(**progress, curve=curve)
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        ordered = [names[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        state = {
            number: {
                "step": torch.tensor(float(self.progress.step)),
                **{moment: tensors[f"{moment} {name}"] for moment in ("exp_avg", "exp_avg_sq")},
            }
            for number, name in enumerate(ordered)
        }
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
