"""Train a model of your own on a dataset: usage: own_trainer.py DATASET STEPS CHECKPOINT.

The windows come from the stream through two DataLoader workers. CHECKPOINT is continued if it exists: the run ends with
the same weights as one that was not interrupted.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from whisper_gpt.pipeline.loading.stream import Batch, Stream, StreamConfig, stream


class Windows(IterableDataset[Batch]):
    """The batches of one DataLoader worker, and their place in the stream, which StatefulDataLoader collects."""

    def __init__(self, dataset: str):
        self.dataset = dataset
        self.batches: Stream | None = None
        self.state: dict = {}

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        config = StreamConfig(context=150, batch=4, rank=worker.id, world_size=worker.num_workers)
        self.batches = stream(self.dataset, "train", config)
        self.batches.reset(self.state or None)
        yield from self.batches

    def state_dict(self) -> dict:
        return self.batches.state_dict() if self.batches else self.state

    def load_state_dict(self, state: dict) -> None:
        self.state = state


class NextCode(nn.Module):
    """Predicts the next code of the coarsest codebook from the mel frames so far."""

    def __init__(self, bands: int, codes: int):
        super().__init__()
        self.rnn = nn.GRU(bands, 64, batch_first=True)
        self.head = nn.Linear(64, codes)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(mel)[0])


def train(dataset: str, steps: int, checkpoint: Path) -> NextCode:
    """Train up to step number `steps`, and save model, optimizer and step."""
    torch.manual_seed(0)
    model = NextCode(bands=64, codes=1024)
    optimizer, done = torch.optim.AdamW(model.parameters(), 1e-3), 0
    loader = StatefulDataLoader(Windows(dataset), batch_size=None, num_workers=2)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        done = state["step"]
    for batch in islice(loader, steps - done):
        logits = model(batch.mel[:, :-1]).transpose(1, 2)  # [B, V, T − 1]
        nats = nn.functional.cross_entropy(logits, batch.codes[:, 0, 1:], reduction="none")
        optimizer.zero_grad()
        nats[batch.mask[:, 1:]].mean().backward()
        optimizer.step()
        done += 1
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
    torch.save(state | {"step": done}, checkpoint)
    return model


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
