"""What weighing by losses adds to a training step: a Llama of 1M parameters, with the log of losses.

    python tests/benchmarks/online_overhead.py --steps 30

Training steps take turns: one without weights, then one with each way, so that all see the same machine. Given are the
median step, and the median of the time inside of the reweighter (and of the log, on its line) as a share of it: the
difference of two steps would mostly be noise. With `--ranks 2` the ranks meet over gloo, each on one library thread,
and the time begins when both have come so far, since a rank that is ahead would wait in the next collective anyway.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as ranks
import torch.multiprocessing as processes
from tamis.connectors.loss_log import LossLog
from tamis.selectors.online import DroReweighter, LossReweighter, TokenReweighter
from transformers import AutoModelForCausalLM, LlamaConfig

VOCABULARY = 2000


def make_model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, vocab_size=VOCABULARY, tie_word_embeddings=True))


def run_rank(rank: int, options: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(options.threads)
    if options.ranks > 1:
        ranks.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=options.ranks)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    generator = torch.Generator().manual_seed(rank)
    shape = (options.batch, options.length)
    labelled = torch.ones(options.batch, options.length - 1, dtype=torch.bool, device=device)
    reference = torch.rand(labelled.shape, generator=generator).to(device) * 8
    log = LossLog(f"{folder}/losses", buffer_rows=options.steps * options.batch // 4, rank=rank)
    key = torch.arange(options.batch)
    always = ((0, 0.4),)
    by_sequence: dict[str, Callable[..., torch.Tensor]] = {
        "LinUpper": LossReweighter("lin_upper", always),
        "Quadratic": LossReweighter("quadratic", always),
        "Extremes": LossReweighter("extremes", always),
        "KL penalty": DroReweighter("kl", 1.0),
        "KL penalty, moving": DroReweighter("kl", 1.0, rate=0.1),
        "KL ball": DroReweighter("kl_ball", 0.3),
        "KL ball, moving": DroReweighter("kl_ball", 0.3, rate=0.1),
        "χ² penalty": DroReweighter("chi2", 1.0),
        "χ² penalty, moving": DroReweighter("chi2", 1.0, rate=0.1),
        "χ² ball": DroReweighter("chi2_ball", 0.3),
        "χ² ball, moving": DroReweighter("chi2_ball", 0.3, rate=0.1),
        "CVaR": DroReweighter("cvar", 0.3),
        "CVaR, moving": DroReweighter("cvar", 0.3, rate=0.1),
    }
    by_token = {
        "SatImp": TokenReweighter("satimp", saturation=5.0, importance=0.1),
        "Rho-1": TokenReweighter("rho_1", share=0.6),
        "ssToken": TokenReweighter("sstoken", share=0.6),
    }

    def weighing(way: str, loss: torch.Tensor, each: torch.Tensor, step: int) -> torch.Tensor | float:
        if way == "none":
            return 1.0
        if way == "log":
            log.add(key, loss, step)
            return 1.0
        return by_token[way](each, labelled, reference).mean(1) if way in by_token else by_sequence[way](loss)

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def train_step(way: str, step: int) -> tuple[float, float]:
        tokens = torch.randint(0, VOCABULARY, shape, generator=generator).to(device)
        begin = clock()
        logits = model(input_ids=tokens).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        loss = each.mean(1)
        if options.ranks > 1:
            ranks.barrier()
        before = clock()
        weights = weighing(way, loss, each, step)
        inside = clock() - before
        (weights * loss).mean().backward()
        if options.ranks > 1:
            for parameter in model.parameters():
                ranks.all_reduce(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
        return clock() - begin, inside

    ways = ["none", *by_sequence, *by_token, "log"]
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for step in range(-3, options.steps):
        for way in ways:
            found = train_step(way, step)
            if step >= 0:
                times[way].append(found)
    if rank == 0:
        number = sum(parameter.numel() for parameter in model.parameters())
        plain = statistics.median(whole for whole, _ in times["none"])
        batch = f"{options.batch} x {options.length} tokens"
        print(f"{number / 1e6:.2f}M parameters, {batch} on each of {options.ranks} ranks, {device}")
        print(f"  a step without weights: {plain * 1e3:.2f} ms")
        for way in ways[1:]:
            inside = statistics.median(part for _, part in times[way])
            mean = math.fsum(part for _, part in times[way]) / options.steps
            print(
                f"  {way:20s}{inside * 1e3:8.3f} ms {inside / plain:8.2%}   mean {mean * 1e3:.3f} ms {mean / plain:.2%}"
            )
    if options.ranks > 1:
        ranks.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="of each way")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary))
        if options.ranks == 1:
            run_rank(0, options, folder)
        else:
            processes.spawn(run_rank, (options, folder), options.ranks)


if __name__ == "__main__":
    main()
