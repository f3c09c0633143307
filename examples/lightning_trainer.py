"""Train with PyTorch Lightning on a dataset: usage: lightning_trainer.py DATASET STEPS."""

import sys

import pytorch_lightning as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from whisper_gpt.pipeline.loading.stream import Batch, StreamConfig, stream


class NextCode(lightning.LightningModule):
    """Predicts the next code of the coarsest codebook from the code before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(1024, 64), nn.Linear(64, 1024)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        codes, mask = batch.codes[:, 0], batch.mask[:, 1:]
        logits = self.head(self.embedding(codes[:, :-1])).transpose(1, 2)
        nats = nn.functional.cross_entropy(logits, codes[:, 1:], reduction="none")[mask].mean()
        self.log("nats", nats, batch_size=len(codes))
        return nats

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def train(dataset: str, steps: int, rank: int = 0, world_size: int = 1) -> lightning.Trainer:
    """Train for a number of steps; the stream itself deals the windows to ranks, so Lightning need not."""
    batches = stream(dataset, "train", StreamConfig(context=150, batch=4, rank=rank, world_size=world_size))
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    trainer.fit(NextCode(), DataLoader(_Batches(batches), batch_size=None))
    return trainer


class _Batches(torch.utils.data.IterableDataset[Batch]):
    """What a DataLoader takes; it may be pickled to a worker, as the stream may."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return self.batches


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
