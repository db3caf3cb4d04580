"""Weights in a training loop: those of the closed forms, the same on one rank and on two, and resumable."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tamis.selectors.loss_weights import batch_weights
from tamis.selectors.online import DroReweighter, LossReweighter, TokenReweighter
from tamis.selectors.token_weights import keep_highest, satimp, sstoken_score

RNG = np.random.default_rng(3)
LOSS = RNG.gamma(3, 1, 40)
ALWAYS = ((0, 0.4),)
SIZES = {"kl": 0.8, "kl_ball": 0.3, "chi2": 0.35, "chi2_ball": 0.4, "cvar": 0.22}
TOKENS = torch.from_numpy(RNG.gamma(1, 2, (5, 16)))
REFERENCE = torch.from_numpy(RNG.gamma(1, 2, (5, 16)))
LABELLED = torch.from_numpy(RNG.random((5, 16)) < 0.6)


def dro(ambiguity: str, **settings: Any) -> DroReweighter:
    return DroReweighter(ambiguity, SIZES[ambiguity], **settings)  # type: ignore[arg-type]


def test_weights_are_equal_in_the_warm_up_and_those_of_the_schedule_after_it() -> None:
    reweighter = LossReweighter("quadratic", ((0, math.inf), (2, 1.0), (3, 0.4)))
    unlabelled = LOSS.copy()
    unlabelled[5] = np.nan
    found = [reweighter(unlabelled) for _ in range(4)]
    for warm in found[:2]:
        np.testing.assert_array_equal(warm, np.arange(40) != 5)
    np.testing.assert_allclose(found[2], batch_weights(unlabelled, "quadratic", 1.0))
    np.testing.assert_allclose(found[3], batch_weights(unlabelled, "quadratic", 0.4))
    assert reweighter.step == 4


def test_the_step_of_the_optimiser_can_be_given() -> None:
    reweighter = LossReweighter(schedule=((0, math.inf), (10, 0.4)))
    assert (reweighter(LOSS, step=9) == 1).all()
    assert np.ptp(reweighter(LOSS)) > 0  # step 10 follows
    assert (reweighter(LOSS, step=9) == 1).all()


@pytest.mark.parametrize("make", [lambda: LossReweighter(schedule=ALWAYS), *(lambda a=a: dro(a) for a in SIZES)])
def test_no_gradient_passes_through_a_weight(make: Callable[[], Any]) -> None:
    loss = torch.tensor(LOSS, requires_grad=True)
    weights = make()(loss)
    assert not weights.requires_grad
    (weights * loss).mean().backward()
    torch.testing.assert_close(loss.grad, weights / 40)
    assert float(weights.mean()) == pytest.approx(1.0)
    np.testing.assert_allclose(make()(LOSS), weights, rtol=1e-9)  # NumPy and torch agree


@pytest.mark.parametrize("ambiguity", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_robust_weights_are_the_worst_of_their_set(ambiguity: str, dtype: torch.dtype) -> None:
    weights = dro(ambiguity)(torch.tensor(LOSS, dtype=dtype))
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    w, size = weights.double().numpy(), SIZES[ambiguity]
    loss = torch.tensor(LOSS, dtype=dtype).double().numpy()
    assert w.mean() == pytest.approx(1.0, rel=1e-6)
    if ambiguity == "kl":
        np.testing.assert_allclose(w, np.exp(loss / size) / np.exp(loss / size).mean(), rtol=1e-5)
    elif ambiguity == "kl_ball":
        assert (w * np.log(w)).mean() == pytest.approx(size, rel=1e-4)
        slope = np.log(w / w[0])[1:] / (loss - loss[0])[1:]
        np.testing.assert_allclose(slope[np.isfinite(slope)], np.nanmedian(slope), rtol=1e-3)
    elif ambiguity == "chi2":
        highest = int(loss.argmax())
        np.testing.assert_allclose(w, np.maximum(w[highest] - (loss[highest] - loss) / size, 0), atol=1e-5)
    elif ambiguity == "chi2_ball":
        assert ((w - 1) ** 2).mean() / 2 == pytest.approx(size, rel=1e-4)
    else:
        best = np.sort(loss)[::-1]
        whole = int(size * 40)
        value = (best[:whole].sum() + (size * 40 - whole) * best[whole]) / (size * 40)
        assert w.max() == pytest.approx(1 / size)
        assert (w * loss).mean() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("ambiguity", SIZES)
def test_batches_without_a_choice_weigh_equally(ambiguity: str) -> None:
    reweighter = dro(ambiguity)
    reweighter(torch.tensor(LOSS))
    np.testing.assert_allclose(reweighter(torch.full((6,), 2.5)), np.ones(6), rtol=1e-6)
    assert reweighter(torch.full((3,), math.nan)).tolist() == [0, 0, 0]
    assert len(reweighter(torch.zeros(0))) == 0
    np.testing.assert_allclose(reweighter(torch.tensor([math.nan, 1.0])), [0, 1])


def test_the_smoothed_normaliser_is_that_of_the_compositional_estimator() -> None:
    """DONE: u ← (1 - η) u + η mean exp(loss / r), weights exp(loss / r) / u."""
    reweighter, u = DroReweighter("kl", 0.8, rate=0.3), None
    for batch in RNG.gamma(3, 1, (6, 4)):
        tilted = np.exp(batch / 0.8)
        u = tilted.mean() if u is None else 0.7 * u + 0.3 * tilted.mean()
        np.testing.assert_allclose(reweighter(batch), tilted / u, rtol=1e-12)


@pytest.mark.parametrize("ambiguity", ["kl", "chi2", "cvar"])
@pytest.mark.parametrize("rows", [1, 3])
def test_with_moving_normalisers_small_batches_weigh_as_one_large_batch_does(ambiguity: str, rows: int) -> None:
    """By themselves, batches of one weigh 1, and the mean of the quantiles of small batches is no quantile."""
    losses = np.random.default_rng(0).normal(3, 0.5, (8000, rows))
    reweighter = dro(ambiguity, rate=0.02)
    found = np.concatenate([reweighter(batch) for batch in losses])[1000 * rows :]
    large = dro(ambiguity)(losses[1000:].ravel())
    assert found.mean() == pytest.approx(1.0, abs=0.03)
    assert np.corrcoef(found, large)[0, 1] > 0.9
    if ambiguity == "chi2":
        assert (large == 0).any()  # there the cut matters


def test_moving_cvar_of_all_is_equal_weights() -> None:
    reweighter = DroReweighter("cvar", 1.0, rate=0.1)
    assert all((reweighter(batch) == 1).all() for batch in RNG.gamma(3, 1, (5, 4)))


@pytest.mark.parametrize("ambiguity", SIZES)
def test_smoothed_weights_go_on_from_a_checkpoint(ambiguity: str) -> None:
    batches = RNG.gamma(3, 1, (8, 6))
    whole, first, second = (dro(ambiguity, rate=0.25, warm_up=2) for _ in range(3))
    expected = [whole(batch) for batch in batches]
    assert (np.array(expected[:2]) == 1).all()
    for batch in batches[:5]:
        first(batch)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    np.testing.assert_array_equal([second(batch) for batch in batches[5:]], expected[5:])
    assert second.step == 8


def test_rho_1_and_sstoken_train_on_the_mean_loss_of_the_kept() -> None:
    for method, score in (
        ("rho_1", TOKENS - REFERENCE),
        ("sstoken", sstoken_score(TOKENS, REFERENCE, LABELLED)),
    ):
        kept = keep_highest(score, LABELLED, 0.6)
        weights = TokenReweighter(method, share=0.6)(TOKENS, LABELLED, REFERENCE)  # type: ignore[arg-type]
        assert ((weights > 0) == kept).all()
        torch.testing.assert_close((weights * TOKENS)[LABELLED].mean(), TOKENS[kept].mean())


def test_satimp_is_as_published_or_of_mean_one() -> None:
    loss = TOKENS.clone().requires_grad_()
    published = TokenReweighter("satimp", saturation=5.0, importance=0.1, mean_one=False)(loss, LABELLED)
    assert not published.requires_grad
    torch.testing.assert_close(published, satimp(TOKENS, 5.0, 0.1) * LABELLED)
    scaled = TokenReweighter("satimp", saturation=5.0, importance=0.1, warm_up=1)
    torch.testing.assert_close(scaled(TOKENS, LABELLED), LABELLED.double())
    weights = scaled(TOKENS, LABELLED)
    torch.testing.assert_close(weights, published / published[LABELLED].mean())


def test_tokens_without_a_loss_or_a_label_weigh_nothing() -> None:
    loss = TOKENS.clone()
    loss[0, :4] = math.nan
    for reweighter in (
        TokenReweighter("rho_1", share=1.0),
        TokenReweighter("satimp", saturation=1.0, importance=0.5),
        TokenReweighter("sstoken", share=1.0, warm_up=1),
    ):
        weights = reweighter(loss, LABELLED, REFERENCE)
        assert (weights[loss.isnan() | ~LABELLED] == 0).all()
        assert float(weights[LABELLED & ~loss.isnan()].mean()) == pytest.approx(1.0)
        assert (reweighter(loss, LABELLED & False, REFERENCE) == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossReweighter("upper"), "lin_upper"),
        (lambda: LossReweighter(schedule=((5, 1.0),)), "step 0"),
        (lambda: LossReweighter(schedule=((0, -1.0),)), "at least 0"),
        (lambda: LossReweighter()(np.float64(2.0)), "one loss per sequence"),
        (lambda: dro("kl")(TOKENS), "one loss per sequence"),
        (lambda: DroReweighter("wasserstein", 1.0), "cvar"),  # type: ignore[arg-type]
        (lambda: DroReweighter("cvar", 1.5), "out of the range"),
        (lambda: DroReweighter("kl", 0.0), "out of the range"),
        (lambda: DroReweighter("kl_ball", math.nan), "out of the range"),
        (lambda: DroReweighter("kl", 1.0, rate=0.0), "rate"),
        (lambda: TokenReweighter("satimp", saturation=5.0), "importance"),
        (lambda: TokenReweighter("rho_1", share=1.5), "share"),
        (lambda: TokenReweighter("rho_1", share=0.5)(TOKENS, LABELLED), "reference"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_torch_is_loaded_only_by_who_uses_it() -> None:
    code = "import sys, tamis.selectors.online; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


TWO_RANKS = """
import json, sys
import torch
import torch.distributed as ranks
from tamis.selectors.online import DroReweighter, LossReweighter, TokenReweighter

folder, rank = sys.argv[1], int(sys.argv[2])
ranks.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
given = json.loads(open(f"{folder}/given.json").read())
batches = [torch.tensor(batch[rank], dtype=torch.float64) for batch in given["batches"]]
reweighters = {"loss": LossReweighter("lin_upper", ((0, float("inf")), (1, 0.4)))}
reweighters |= {name: DroReweighter(name, size, rate=0.5) for name, size in given["sizes"].items()}
found = {name: [reweighter(batch).tolist() for batch in batches] for name, reweighter in reweighters.items()}
tokens, labelled, reference = (torch.tensor(given[name][rank]) for name in ("tokens", "labelled", "reference"))
found["tokens"] = TokenReweighter("rho_1", share=0.5)(tokens, labelled, reference).tolist()
states = {name: reweighter.state_dict() for name, reweighter in reweighters.items()}
open(f"{folder}/found-{rank}.json", "w").write(json.dumps([found, states]))
ranks.destroy_process_group()
"""


def test_two_ranks_weigh_as_one_process_with_all_their_rows(tmp_path: Path) -> None:
    sizes_of_batches = [(4, 4), (5, 2), (3, 0), (2, 3)]
    batches = [[RNG.gamma(3, 1, number).tolist() for number in pair] for pair in sizes_of_batches]
    batches[1][1][0] = math.nan
    cut = 2  # sequences of the first rank
    tokens = {"tokens": TOKENS, "labelled": LABELLED, "reference": REFERENCE}
    given = {name: [part[:cut].tolist(), part[cut:].tolist()] for name, part in tokens.items()}
    (tmp_path / "given.json").write_text(json.dumps(given | {"batches": batches, "sizes": SIZES}))
    commands = [[sys.executable, "-c", TWO_RANKS, str(tmp_path), str(rank)] for rank in (0, 1)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=60)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], errors
    (first, states), (second, other_states) = (
        json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1)
    )
    assert states == other_states
    reweighters = {"loss": LossReweighter("lin_upper", ((0, math.inf), (1, 0.4)))}
    for name, reweighter in (reweighters | {name: dro(name, rate=0.5) for name in SIZES}).items():
        for i, batch in enumerate(batches):
            together: NDArray[np.float64] = reweighter(torch.tensor(batch[0] + batch[1], dtype=torch.float64)).numpy()
            np.testing.assert_allclose(first[name][i] + second[name][i], together, rtol=1e-12)
            assert len(first[name][i]) == len(batch[0])
    whole = TokenReweighter("rho_1", share=0.5)(TOKENS, LABELLED, REFERENCE)
    np.testing.assert_allclose(first["tokens"] + second["tokens"], whole, rtol=1e-5)
