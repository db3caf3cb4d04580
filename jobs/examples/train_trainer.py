"""Trains a causal language model on a finished run, with the Trainer of Hugging Face.

    python train_trainer.py runs/today --model MODEL --output trained

The run's weights and, after a warm-up, weights by the losses of the batch multiply each document's loss; with torchrun
the losses of all ranks weigh together. The Trainer needs the package `accelerate`. To go on from its checkpoints, keep
the state of the log beside them; the weights need only the step, which the Trainer counts.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from tamis.connectors.loss_log import LossLog
from tamis.selectors.online import LossReweighter
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments


def documents(run: str, text: str) -> list[dict[str, Any]]:
    """Return key, text and weight of each kept document."""
    data = pq.read_table(Path(run) / "data", columns=["key", text, "weight"]).rename_columns(["key", "text", "weight"])
    key = data["key"].to_numpy().view(np.int64)  # tensors have few operations on uint64; the log takes these back
    return data.set_column(0, "key", [key]).to_pylist()


class WeightedTrainer(Trainer):
    """Multiplies the loss of each document by its weight and by what `reweighter` gives, and logs it as it was."""

    def __init__(self, reweighter: LossReweighter, loss_log: LossLog, **settings: Any) -> None:
        super().__init__(**settings)
        self.reweighter, self.loss_log = reweighter, loss_log
        self.model_accepts_loss_kwargs = (
            False  # the loss below is a mean: the Trainer is to divide by accumulated steps
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean of weight times loss."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        labels, labelled = inputs["input_ids"][:, 1:], inputs["attention_mask"][:, 1:]
        logits = outputs.logits[:, :-1].float().transpose(1, 2)
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none") * labelled
        number = labelled.sum(1)
        loss = (each.sum(1) / number.clamp(min=1)).masked_fill(number == 0, math.nan)  # NaN: too short for labels
        if model.training:
            self.loss_log.add(inputs["key"], loss, self.state.global_step)
            loss = self.reweighter(loss, self.state.global_step) * inputs["weight"] * loss
        return (loss.nanmean(), outputs) if return_outputs else loss.nanmean()


def main(arguments: list[str] | None = None) -> None:
    """Train and save the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="directory of a finished run")
    parser.add_argument("--model", required=True, help="folder or name, in Hugging Face format")
    parser.add_argument("--output", required=True, help="folder for losses and the trained model")
    parser.add_argument("--text", default="text", help="column of the run's data")
    parser.add_argument("--length", type=int, default=512, help="tokens of a document that are read")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=16, help="on each device")
    parser.add_argument("--warm-up", type=int, default=1000, help="steps, at least 1, before losses weigh")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the weights after that")
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.bos_token

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        settings = {"padding": True, "truncation": True, "max_length": options.length, "return_tensors": "pt"}
        tokens = tokenizer([row["text"] for row in rows], **settings)
        more = {name: torch.tensor([row[name] for row in rows]) for name in ("key", "weight")}
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]} | more

    arguments_of_trainer = TrainingArguments(
        output_dir=options.output,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        remove_unused_columns=False,  # key and weight are no arguments of the model
        report_to=[],
    )
    reweighter = LossReweighter("lin_upper", [(0, math.inf), (options.warm_up, options.temperature)])
    model = AutoModelForCausalLM.from_pretrained(options.model)
    data = {
        "train_dataset": documents(options.run, options.text),
        "data_collator": collate,
        "processing_class": tokenizer,
    }
    with LossLog(f"{options.output}/losses") as loss_log:
        trainer = WeightedTrainer(reweighter, loss_log, model=model, args=arguments_of_trainer, **data)
        trainer.train()
    trainer.save_model(f"{options.output}/model")


if __name__ == "__main__":
    main()
