"""Train a GPT-2 of Hugging Face transformers on a dataset's codes: usage: hf_trainer.py DATASET STEPS OUT."""

import sys
from collections.abc import Iterator

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from whisper_gpt.pipeline.loading.stream import StreamConfig, stream

CONTEXT = 150


class Codes(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """The coarsest codes of each window, as the Trainer wants them; −100 marks what is not to be predicted."""

    def __init__(self, dataset: str):
        self.batches = stream(dataset, "train", StreamConfig(context=CONTEXT, batch=1, pad=True))

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.batches:
            codes = batch.codes[0, 0]
            yield {
                "input_ids": codes,
                "labels": codes.masked_fill(~batch.mask[0], -100),
                "attention_mask": batch.mask[0].long(),
            }


def train(dataset: str, steps: int, out: str) -> float:
    """Train for a number of steps; return the mean loss in nats."""
    size = GPT2Config(
        vocab_size=1024, n_positions=CONTEXT, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    options = TrainingArguments(out, max_steps=steps, per_device_train_batch_size=4, report_to=[], use_cpu=True)
    return Trainer(GPT2LMHeadModel(size), options, train_dataset=Codes(dataset)).train().training_loss


if __name__ == "__main__":
    print(f"{train(sys.argv[1], int(sys.argv[2]), sys.argv[3]):.3f} nats")
