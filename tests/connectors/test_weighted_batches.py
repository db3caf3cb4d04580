"""Batches of weighted documents, and a loss whose gradient is that of the global batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from tamis.connectors.weighted_batches import weight_sum, weighted_collate, weighted_loss  # noqa: E402


def batch(
    seed: int = 0, rows: int = 6, length: int = 5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses of tokens, weights of documents (one of them below 0), mask, weights of tokens."""
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(rows, length, generator=generator) * 5
    weights = torch.rand(rows, generator=generator) * 2
    weights[0] = -0.5
    mask = torch.rand(rows, length, generator=generator) < 0.7
    mask[:, 0] = True
    return losses, weights, mask, torch.rand(rows, length, generator=generator)


def test_the_loss_is_the_sum_over_tokens_by_the_sum_of_absolute_weights() -> None:
    losses, weights, mask, token_weights = batch()
    above = below = plain_above = plain_below = 0.0
    for i in range(6):
        for t in range(5):
            if mask[i, t]:
                a = float(weights[i] * token_weights[i, t])
                above, below = above + a * float(losses[i, t]), below + abs(a)
                plain_above += float(weights[i] * losses[i, t])
                plain_below += abs(float(weights[i]))
    assert float(weighted_loss(losses, weights, mask, token_weights)) == pytest.approx(above / below, rel=1e-5)
    assert float(weighted_loss(losses, weights, mask)) == pytest.approx(plain_above / plain_below, rel=1e-5)
    one = losses[:, 0]
    expected = float((weights * one).sum() / weights.abs().sum())
    assert float(weighted_loss(one, weights)) == pytest.approx(expected, rel=1e-5)


def test_equal_weights_give_the_mean_over_tokens() -> None:
    losses, _, mask, _ = batch()
    for weight in (1.0, 7.0):
        found = weighted_loss(losses, torch.full((6,), weight), mask)
        assert float(found) == pytest.approx(float(losses[mask].mean()), rel=1e-5)
    assert float(weighted_loss(losses, torch.ones(6))) == pytest.approx(float(losses.mean()), rel=1e-5)


def test_what_is_masked_may_be_infinite_and_no_weight_gives_no_loss() -> None:
    losses, weights, mask, _ = batch()
    spoilt = torch.where(mask, losses, float("inf")).requires_grad_()
    found = weighted_loss(spoilt, weights, mask)
    assert float(found.detach()) == pytest.approx(float(weighted_loss(losses, weights, mask)), rel=1e-6)
    found.backward()
    assert spoilt.grad is not None and torch.isfinite(spoilt.grad).all()
    assert (spoilt.grad[~mask] == 0).all()
    assert float(weighted_loss(losses, torch.zeros(6), mask)) == 0.0


def test_batches_of_a_step_sum_to_the_loss_of_the_whole() -> None:
    losses, weights, mask, token_weights = batch()
    halves = [slice(0, 2), slice(2, 6)]
    total = sum(weight_sum(weights[half], mask[half], token_weights[half]) for half in halves)
    parts = [weighted_loss(losses[h], weights[h], mask[h], token_weights[h], total=total) for h in halves]
    assert float(sum(parts)) == pytest.approx(float(weighted_loss(losses, weights, mask, token_weights)), rel=1e-5)


def test_no_gradient_goes_through_the_weights() -> None:
    losses, weights, mask, token_weights = batch()
    for tensor in (losses, weights, token_weights):
        tensor.requires_grad_()
    weighted_loss(losses, weights, mask, token_weights).backward()
    assert losses.grad is not None
    assert weights.grad is None and token_weights.grad is None


RANK = """
import sys
import torch
from tamis.connectors.weighted_batches import weighted_loss
rank, meeting, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
data = torch.load(f"{folder}/batch.pt", weights_only=True)
rows = slice(0, 2) if rank == 0 else slice(2, 6)
model = torch.nn.Linear(3, 1, bias=False)
torch.nn.init.constant_(model.weight, 0.3)
parallel = torch.nn.parallel.DistributedDataParallel(model)
losses = parallel(data["features"][rows])[..., 0] ** 2
loss = weighted_loss(losses, data["weights"][rows], data["mask"][rows], data["token_weights"][rows])
loss.backward()
torch.save({"gradient": model.weight.grad, "loss": loss.detach()}, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_gradients_of_ranks_average_to_that_of_the_global_batch(tmp_path: Path) -> None:
    _, weights, mask, token_weights = batch()
    features = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(1))
    whole = {"features": features, "weights": weights, "mask": mask, "token_weights": token_weights}
    torch.save(whole, tmp_path / "batch.pt")
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path / "meeting"), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    model = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.3)
    loss = weighted_loss(model(features)[..., 0] ** 2, weights, mask, token_weights)
    loss.backward()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for of_rank in found:
        torch.testing.assert_close(of_rank["gradient"], model.weight.grad)
    torch.testing.assert_close((found[0]["loss"] + found[1]["loss"]) / 2, loss.detach())


def test_documents_become_tensors() -> None:
    documents = [
        {"input_ids": [5, 6, 7], "labels": [6, 7, 8], "weight": 0.5, "key": 2**64 - 1, "group": "a", "n": 1},
        {"input_ids": np.array([9]), "labels": [1], "weight": 2.0, "key": 3, "group": None, "n": 2},
    ]
    made = weighted_collate(documents, pad=4)
    assert made["input_ids"].tolist() == [[5, 6, 7], [9, 4, 4]]
    assert made["labels"].tolist() == [[6, 7, 8], [1, -100, -100]]
    assert made["mask"].tolist() == [[True, True, True], [True, False, False]]
    assert made["weight"].tolist() == [0.5, 2.0] and made["weight"].dtype == torch.float32
    assert made["key"].tolist() == [2**64 - 1, 3]
    assert made["group"] == ["a", None]
    assert made["n"].tolist() == [1, 2]
    empty = weighted_collate([documents[0] | {"input_ids": []}, documents[1] | {"input_ids": [2**40 + 1, 1]}], pad=4)
    assert empty["input_ids"].tolist() == [[4, 4], [2**40 + 1, 1]]
    assert empty["mask"].tolist() == [[False, False], [True, True]]
    texts = weighted_collate([{"text": "one", "weight": 1.0, "key": 1}, {"text": "two", "weight": 1.0, "key": 2}])
    assert texts["text"] == ["one", "two"] and "mask" not in texts
