"""Trains a causal language model on a finished run, with the Trainer of Hugging Face; the same command goes on.

    python train_trainer.py runs/today --model MODEL --output trained

The run's weights and, after a warm-up, weights by the losses of the batch multiply each document's loss; with torchrun
each rank reads its part of the run, and the losses of all ranks weigh together. The Trainer needs `accelerate`.
"""

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tamis.connectors.dataloader import RunDataset, weighted_collate, weighted_loss
from tamis.connectors.loss_log import LossLog
from tamis.selectors.online import LossReweighter
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


def tokenise(document: dict[str, Any], tokenizer: Any, length: int) -> dict[str, Any]:
    """Return the tokens of a document; the dataset adds key and weight, the collation a mask of what is no padding."""
    return {"input_ids": tokenizer(document["text"], truncation=True, max_length=length)["input_ids"]}


class WeightedTrainer(Trainer):
    """Multiplies the loss of each document by its weight and by what `reweighter` gives, and logs it as it was."""

    def __init__(self, reweighter: LossReweighter, loss_log: LossLog, **settings: Any) -> None:
        super().__init__(**settings)
        self.reweighter, self.loss_log = reweighter, loss_log
        # the loss below is a mean: the Trainer is to divide by accumulated steps
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader that the Trainer does not divide among ranks: the dataset has done so."""
        size, workers = self.args.per_device_train_batch_size, self.args.dataloader_num_workers
        documents: Any = self.train_dataset
        return DataLoader(documents, size, collate_fn=self.data_collator, num_workers=workers)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted mean over the tokens of all ranks."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["mask"].long())
        logits, labelled = outputs.logits[:, :-1].float().transpose(1, 2), inputs["mask"][:, 1:]
        each = torch.nn.functional.cross_entropy(logits, inputs["input_ids"][:, 1:], reduction="none")
        loss = (each * labelled).sum(1) / labelled.sum(1)  # NaN: too short to have labels
        weights = inputs["weight"]
        if model.training:
            self.loss_log.add(inputs["key"], loss, self.state.global_step)
            weights = weights * self.reweighter(loss, self.state.global_step)
        mean = weighted_loss(each, weights, labelled)
        return (mean, outputs) if return_outputs else mean


class RunState(TrainerCallback):
    """Tells the dataset its epoch, and keeps the state of the log beside each checkpoint."""

    def __init__(self, dataset: RunDataset, loss_log: LossLog) -> None:
        self.dataset, self.loss_log = dataset, loss_log

    def _file(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / f"losses-{self.loss_log.rank}.json"

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Go on from the checkpoint that was loaded."""
        if state.global_step:
            self.loss_log.load_state_dict(json.loads(self._file(args, state).read_text()))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Shuffle anew; of a resumed epoch the Trainer skips what was done."""
        self.dataset.set_epoch(int(state.epoch))

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write the log's state."""
        self._file(args, state).parent.mkdir(exist_ok=True)
        self._file(args, state).write_text(json.dumps(self.loss_log.state_dict()))


def main(arguments: list[str] | None = None) -> None:
    """Train and save the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="directory of a finished run")
    parser.add_argument("--model", required=True, help="folder or name, in Hugging Face format")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, losses and trained model")
    parser.add_argument("--length", type=int, default=512, help="tokens of a document that are read")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=16, help="on each device")
    parser.add_argument("--workers", type=int, default=0, help="processes that read and tokenise")
    parser.add_argument("--warm-up", type=int, default=1000, help="steps, at least 1, before losses weigh")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the weights after that")
    parser.add_argument("--save-every", type=int, default=1000, help="steps from one checkpoint to the next")
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.bos_token
    settings = TrainingArguments(
        output_dir=str(options.output),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        dataloader_num_workers=options.workers,
        save_steps=options.save_every,
        report_to=[],
    )
    transform = partial(tokenise, tokenizer=tokenizer, length=options.length)
    dataset = RunDataset(options.run, batch_size=options.batch_size, transform=transform)
    reweighter = LossReweighter("lin_upper", [(0, math.inf), (options.warm_up, options.temperature)])
    with LossLog(str(options.output / "losses")) as loss_log:
        trainer = WeightedTrainer(
            reweighter,
            loss_log,
            model=AutoModelForCausalLM.from_pretrained(options.model),
            args=settings,
            train_dataset=dataset,
            data_collator=partial(weighted_collate, pad=tokenizer.pad_token_id),
            processing_class=tokenizer,
            callbacks=[RunState(dataset, loss_log)],
        )
        options.output.mkdir(parents=True, exist_ok=True)
        trainer.train(resume_from_checkpoint=get_last_checkpoint(options.output))
    trainer.save_model(str(options.output / "model"))


if __name__ == "__main__":
    main()
