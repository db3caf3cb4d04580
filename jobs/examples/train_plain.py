"""Trains a causal language model on a finished run, in plain PyTorch; the same command goes on from the last epoch.

    python train_plain.py runs/today --model MODEL --output trained

The run's weights and, after a warm-up, weights by the losses of the batch multiply each document's loss. The losses go
to OUTPUT/losses, where `{scorer: column, file: "OUTPUT/losses/*.parquet", join: key, column: loss}` reads them.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from tamis.connectors.loss_log import LossLog
from tamis.selectors.online import LossReweighter
from transformers import AutoModelForCausalLM, AutoTokenizer


def batches(run: str, text: str, size: int, epoch: int) -> Iterator[dict[str, Any]]:
    """Yield keys, texts and weights of the kept documents, in another order each epoch."""
    data = pq.read_table(Path(run) / "data", columns=["key", text, "weight"])
    order = torch.randperm(data.num_rows, generator=torch.Generator().manual_seed(epoch)).numpy()
    for start in range(0, data.num_rows, size):
        key, texts, weight = data.take(order[start : start + size]).columns
        yield {"key": key.to_numpy(), "text": texts.to_pylist(), "weight": torch.tensor(weight.to_pylist())}


def losses_of(model: Any, tokens: Any) -> torch.Tensor:
    """Return the mean negative log-likelihood of each sequence, [m]; NaN for one that is too short to have labels."""
    logits = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits[:, :-1].float()
    labels, labelled = tokens["input_ids"][:, 1:], tokens["attention_mask"][:, 1:]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    number = labelled.sum(1)
    return ((each * labelled).sum(1) / number.clamp(min=1)).masked_fill(number == 0, math.nan)


def main(arguments: list[str] | None = None) -> None:
    """Train, with a checkpoint after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="directory of a finished run")
    parser.add_argument("--model", required=True, help="folder or name, in Hugging Face format")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, losses and trained model")
    parser.add_argument("--text", default="text", help="column of the run's data")
    parser.add_argument("--length", type=int, default=512, help="tokens of a document that are read")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--warm-up", type=int, default=1000, help="steps, at least 1, before losses weigh")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the weights after that")
    options = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.bos_token
    model: Any = AutoModelForCausalLM.from_pretrained(options.model)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate)
    reweighter = LossReweighter("lin_upper", [(0, math.inf), (options.warm_up, options.temperature)])
    log = LossLog(str(options.output / "losses"))
    parts = {"model": model, "optimizer": optimizer, "reweighter": reweighter, "log": log}
    checkpoint, begin = options.output / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        begin = state["epoch"]
        for name, part in parts.items():
            part.load_state_dict(state[name])

    settings = {"padding": True, "truncation": True, "max_length": options.length, "return_tensors": "pt"}
    for epoch in range(begin, options.epochs):
        for batch in batches(options.run, options.text, options.batch_size, epoch):
            loss = losses_of(model, tokenizer(batch["text"], **settings).to(device))
            log.add(batch["key"], loss, reweighter.step)
            weights = reweighter(loss) * batch["weight"].to(device)
            (weights * loss).nanmean().backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: the last batch has a mean loss of {float(loss.detach().nanmean()):.4f}")
        state = {"epoch": epoch + 1} | {name: part.state_dict() for name, part in parts.items()}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
    model.save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")


if __name__ == "__main__":
    main()
