"""Losses and entropies in tiles against those of full logits."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from tamis.scoring.token_loss import Head, token_losses


def full_logits(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    logits = hidden.double() @ head.weight.double().T
    logits = (logits if head.bias is None else logits + head.bias.double()) * head.scale
    return logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)


@pytest.mark.parametrize(("scale", "cap", "biased"), [(1.0, None, False), (4.0, None, True), (0.25, 2.0, True)])
@pytest.mark.parametrize("tile", [(1, 1), (7, 10), (50, 101), (1000, 1000)])
def test_tiles_give_what_full_logits_give(scale: float, cap: float | None, biased: bool, tile: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(50, 16, generator=random), torch.randn(101, 16, generator=random)
    head = Head(weight, torch.randn(101, generator=random) if biased else None, scale, cap)
    targets = torch.randint(0, 101, (50,), generator=random)
    nll, entropy = token_losses(hidden, targets, head, *tile)
    logits = full_logits(hidden, head)
    torch.testing.assert_close(
        nll.double(), torch.nn.functional.cross_entropy(logits, targets, reduction="none"), rtol=1e-5, atol=1e-5
    )
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy.double(), expected, rtol=1e-5, atol=1e-5)


def test_huge_and_rising_logits_do_not_overflow() -> None:
    head = Head(torch.tensor([[-1000.0], [0.0], [999.0], [1000.0]]))
    targets = torch.tensor([3, 2, 0])
    for columns in (1, 2, 4):
        nll, entropy = token_losses(torch.ones(3, 1), targets, head, 2, columns)
        torch.testing.assert_close(nll, torch.tensor([0.3132617, 1.3132617, 2000.3132617]))
        torch.testing.assert_close(entropy, torch.full((3,), 0.5822032))


def test_nothing_to_score() -> None:
    nll, entropy = token_losses(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), Head(torch.zeros(9, 4)), 8, 8)
    assert nll.shape == entropy.shape == (0,)
