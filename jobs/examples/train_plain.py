"""Trains a causal language model on a finished run, in plain PyTorch; the same command goes on where it was stopped.

    python train_plain.py runs/today --model MODEL --output trained

The run's weights and, after a warm-up, weights by the losses of the batch multiply each document's loss. The losses go
to OUTPUT/losses, where `{scorer: column, file: "OUTPUT/losses/*.parquet", join: key, column: loss}` reads them.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tamis.connectors.dataloader import RunDataset, weighted_collate, weighted_loss
from tamis.connectors.loss_log import LossLog
from tamis.selectors.online import LossReweighter
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer


def tokenise(document: dict[str, Any], tokenizer: Any, length: int) -> dict[str, Any]:
    """Return the tokens of a document; the dataset adds key and weight, the collation a mask of what is no padding."""
    return {"input_ids": tokenizer(document["text"], truncation=True, max_length=length)["input_ids"]}


def losses_of(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the loss of each token [b, t], which of them count, and the mean of each document [b], NaN without any."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["mask"].long()).logits[:, :-1].float()
    labelled = batch["mask"][:, 1:]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
    return each, labelled, (each * labelled).sum(1) / labelled.sum(1)


def main(arguments: list[str] | None = None) -> None:
    """Train, with a checkpoint every so many steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="directory of a finished run")
    parser.add_argument("--model", required=True, help="folder or name, in Hugging Face format")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, losses and trained model")
    parser.add_argument("--length", type=int, default=512, help="tokens of a document that are read")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that read and tokenise")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--warm-up", type=int, default=1000, help="steps, at least 1, before losses weigh")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the weights after that")
    parser.add_argument("--save-every", type=int, default=1000, help="steps from one checkpoint to the next")
    options = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.bos_token
    model: Any = AutoModelForCausalLM.from_pretrained(options.model)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate)
    reweighter = LossReweighter("lin_upper", [(0, math.inf), (options.warm_up, options.temperature)])
    log = LossLog(str(options.output / "losses"))
    transform = partial(tokenise, tokenizer=tokenizer, length=options.length)
    dataset = RunDataset(options.run, batch_size=options.batch_size, transform=transform)
    collate = partial(weighted_collate, pad=tokenizer.pad_token_id)
    loader = DataLoader(dataset, options.batch_size, collate_fn=collate, num_workers=options.workers)

    parts = {"model": model, "optimizer": optimizer, "reweighter": reweighter, "log": log, "dataset": dataset}
    checkpoint, begin = options.output / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        begin = state["dataset"]["epoch"]
        for name, part in parts.items():
            part.load_state_dict(state[name])

    for epoch in range(begin, options.epochs):
        dataset.set_epoch(epoch)  # of the epoch that a checkpoint was in the middle of, the rest follows
        for number, batch in enumerate(loader, 1):
            batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
            each, labelled, loss = losses_of(model, batch)
            log.add(batch["key"], loss, reweighter.step)
            weights = reweighter(loss) * batch["weight"]
            weighted_loss(each, weights, labelled).backward()
            optimizer.step()
            optimizer.zero_grad()
            if reweighter.step % options.save_every == 0:
                print(f"epoch {epoch}, step {reweighter.step}: mean loss {float(loss.detach().nanmean()):.4f}")
                state = {name: part.state_dict() for name, part in parts.items()}
                torch.save(state | {"dataset": dataset.state_dict(number)}, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
    log.close()
    model.save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")


if __name__ == "__main__":
    main()
