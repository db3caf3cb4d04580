"""Training: every token once an epoch, the loss falls, and a killed training goes on to the same weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tamis.connectors.errors import TamisError
from tamis.scoring.packed_tokens import PackedTokens
from tamis.scoring.reference_model import Size, new_model
from tamis.scoring.training import FINAL_RATE, Progress, Schedule, make_schedule, train

CPU = torch.device("cpu")
VOCABULARY, CONTEXT = 40, 16
TINY = Size(2, 16, 2, 32, 1e-2, 64)


def packed(seed: int = 0, documents: int = 60) -> PackedTokens:
    """Documents that count upwards from a random token, each begun by token 0."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 30, documents)
    parts = [np.append(0, (random.integers(0, 39) + np.arange(n)) % 39 + 1) for n in lengths]
    tokens = np.concatenate(parts).astype(np.uint16)
    lengths = np.array([len(part) for part in parts])
    return PackedTokens(
        tokens, np.cumsum(lengths) - lengths, lengths, random.integers(0, 2**64, documents, dtype=np.uint64), CONTEXT, 0
    )


def weights(model: Any) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy()


def trained(folder: Path, schedule: Schedule, **options: Any) -> tuple[Any, Progress]:
    model = new_model(TINY, VOCABULARY, CONTEXT, 0, seed=5)
    checkpoint = folder / "checkpoint.safetensors"
    progress = train(model, packed(), packed(1, 10), schedule, CPU, checkpoint, **options)
    return model, progress


def test_sequences_are_the_joined_documents_of_each_epoch() -> None:
    data = packed()
    joined = []
    for epoch in range(2):
        rows = data.sequences(epoch * len(data), len(data))
        assert (rows[1:, 0] == rows[:-1, -1]).all()  # a sequence begins with what the one before predicted last
        joined.append(np.append(rows[:, :-1].ravel(), rows[-1, -1]))
        starts = np.flatnonzero(joined[-1] == 0)
        whole = [tuple(part) for part in np.split(joined[-1], starts)[1:-1]]
        known = [tuple(data.tokens[s : s + n]) for s, n in zip(data.starts, data.lengths, strict=True)]
        assert set(whole) <= set(known) and len(whole) >= len(known) - CONTEXT
    assert (joined[0] != joined[1]).any()
    # any span, also over the end of an epoch, is what single sequences are
    span = data.sequences(len(data) - 2, 5)
    assert (span == np.concatenate([data.sequences(len(data) - 2 + i, 1) for i in range(5)])).all()


def test_the_order_follows_keys_and_not_places() -> None:
    data = packed()
    order = np.random.default_rng(3).permutation(len(data.keys))
    moved = PackedTokens(data.tokens, data.starts[order], data.lengths[order], data.keys[order], CONTEXT, 0)
    assert (moved.sequences(0, len(data)) == data.sequences(0, len(data))).all()


def test_too_few_tokens_make_no_sequence() -> None:
    few = PackedTokens(np.zeros(16, np.uint16), np.zeros(1, np.int64), np.array([16]), np.ones(1, np.uint64), 16, 0)
    with pytest.raises(ValueError, match="16 tokens make no sequence of 17"):
        few.sequences(0, 1)


def test_rates_rise_and_fall_as_a_cosine() -> None:
    schedule = make_schedule(10_000, CONTEXT, 100, 0.5, 0.1)
    assert schedule.rows == 6 and schedule.steps == 105 and schedule.warmup == 11
    rates = [schedule.rate(step) for step in range(schedule.steps + 1)]
    assert rates[0] == pytest.approx(0.5 / 11) and max(rates) == rates[10] == rates[11] == 0.5
    assert (np.diff(rates[:11]) > 0).all() and (np.diff(rates[11:]) < 0).all()
    assert rates[-1] == pytest.approx(0.5 * FINAL_RATE)
    assert make_schedule(1, CONTEXT, 1, 0.5, 0.0) == Schedule(1, 1, 0.5, 0)


def test_the_loss_falls_and_the_curve_tells_it(tmp_path: Path) -> None:
    seen: list[int] = []
    report = lambda progress, point: seen.append(progress.step) if point else None  # noqa: E731
    model, progress = trained(tmp_path, Schedule(100, 8, 1e-2, 5), report=report)
    losses = [point.validation_loss or 0.0 for point in progress.curve]
    assert losses[0] == pytest.approx(np.log(VOCABULARY), abs=0.2) and losses[-1] < losses[0] - 1.5
    assert seen == [point.step for point in progress.curve] == list(range(0, 101, 10))
    assert progress.curve[-1].tokens == 100 * 8 * CONTEXT and progress.curve[0].training_loss is None
    held_out = torch.from_numpy(packed(1, 10).sequences(0, len(packed(1, 10))))
    with torch.inference_mode():
        logits = model(input_ids=held_out[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), held_out[:, 1:].flatten())
    assert losses[-1] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("stop", [1, 7, 10, 13])
def test_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    schedule = Schedule(14, 5, 1e-2, 3)
    whole, of_whole = trained(tmp_path / "whole", schedule)

    def interrupt(progress: Progress, point: bool) -> None:
        if progress.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "again", schedule, report=interrupt, checkpoint_seconds=0)
    steps: list[int] = []
    again, of_again = trained(tmp_path / "again", schedule, report=lambda progress, point: steps.append(progress.step))
    assert steps[0] == stop + 1
    assert (weights(again) == weights(whole)).all()
    assert of_again.curve == of_whole.curve


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from test_training import *\n"
        "def report(progress, point):\n    print(progress.step, flush=True)\n"
        "trained(Path(sys.argv[1]), Schedule(40, 5, 1e-2, 3), report=report, checkpoint_seconds=0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "again")]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "6":
                process.kill()
    assert process.returncode == -signal.SIGKILL
    schedule = Schedule(40, 5, 1e-2, 3)
    steps: list[int] = []
    again, _ = trained(tmp_path / "again", schedule, report=lambda progress, point: steps.append(progress.step))
    assert steps[0] >= 6
    assert (weights(again) == weights(trained(tmp_path / "whole", schedule)[0])).all()


def test_parts_of_a_step_are_the_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(3, 7, 1e-2, 1)
    whole, _ = trained(tmp_path / "whole", schedule)
    monkeypatch.setattr("tamis.scoring.training._MICRO_LOGITS", {"cpu": 2 * VOCABULARY * CONTEXT})
    parts, _ = trained(tmp_path / "parts", schedule)
    assert np.allclose(weights(parts), weights(whole), atol=2e-4)
    assert (weights(parts) != weights(new_model(TINY, VOCABULARY, CONTEXT, 0, seed=5))).mean() > 0.9


def test_what_cannot_go_on_is_told(tmp_path: Path) -> None:
    schedule = Schedule(2, 2, 1e-2, 0)
    trained(tmp_path, schedule)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TamisError, match=r"checkpoint.safetensors is damaged: .*; delete it"):
        trained(tmp_path, schedule)
    with pytest.raises(TamisError, match=r"the loss is nan at step .*; lower reference.learning_rate"):
        trained(tmp_path / "hot", Schedule(6, 2, 1e30, 0))


class TestWeights:
    SCHEDULE = Schedule(6, 8, 1e-2, 2)

    def model(self, folder: Path, data: PackedTokens, monkeypatch: pytest.MonkeyPatch, micro: int = 8) -> np.ndarray:
        monkeypatch.setattr("tamis.scoring.training._MICRO_LOGITS", {"cpu": micro * VOCABULARY * CONTEXT})
        model = new_model(TINY, VOCABULARY, CONTEXT, 0, seed=5)
        train(model, data, None, self.SCHEDULE, CPU, folder / f"{micro}-{np.sum(data.weights)}.safetensors")
        return weights(model)

    def weighted(self, values: np.ndarray) -> PackedTokens:
        data = packed()
        return PackedTokens(
            data.tokens, data.starts, data.lengths, data.keys, CONTEXT, 0, np.asarray(values, np.float32)
        )

    def test_each_token_has_the_weight_of_its_document(self) -> None:
        data = self.weighted(np.arange(60))
        tokens, found = data.sequences(1, len(data)), data.token_weights(1, len(data))
        assert found is not None and found.shape == (len(data), CONTEXT)
        # the documents as they come: token 0 begins each, and their weights tell which it is
        for row, of_row in zip(tokens[:, 1:], found, strict=True):
            changes = np.flatnonzero(of_row[1:] != of_row[:-1]) + 1
            assert (row[changes] == 0).all()
            for token, document in zip(row, of_row.astype(int), strict=True):
                start, length = data.starts[document], data.lengths[document]
                assert token in data.tokens[start : start + length]
        assert packed().token_weights(0, 3) is None

    def test_only_their_proportions_matter_and_parts_do_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = np.random.default_rng(0).exponential(size=60)
        whole = self.model(tmp_path, self.weighted(values), monkeypatch)
        scaled = self.model(tmp_path, self.weighted(100 * values), monkeypatch)
        in_parts = self.model(tmp_path, self.weighted(values), monkeypatch, micro=3)
        np.testing.assert_allclose(scaled, whole, atol=2e-4)
        np.testing.assert_allclose(in_parts, whole, atol=2e-4)
        plain = self.model(tmp_path, packed(), monkeypatch)
        equal = self.model(tmp_path, self.weighted(np.full(60, 3.0)), monkeypatch)
        np.testing.assert_allclose(equal, plain, atol=2e-4)
        assert np.abs(whole - plain).max() > 1e-3

    def test_what_weighs_nothing_trains_nothing(self, tmp_path: Path) -> None:
        """Tokens that only documents of weight 0 have are never learnt to be likely."""
        data = packed()
        heavy = np.array([data.tokens[s : s + n].max() < 20 for s, n in zip(data.starts, data.lengths, strict=True)])
        model = new_model(TINY, VOCABULARY, CONTEXT, 0, seed=5)
        train(model, self.weighted(heavy), None, Schedule(120, 8, 1e-2, 2), CPU, tmp_path / "c.safetensors")
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[0]])).logits[0, -1]
        assert torch.softmax(logits, 0)[20:].sum() < 0.1  # 0.5 before training
