"""Small runs, models and batches shared by the training tests."""

from pathlib import Path

import torch

from whisper_gpt.jobs import cli
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.pipeline.loading.stream import Batch, StreamConfig, stream

FAST = ["--model=gpt-4m", "--batch=2", "--context=32", "--eval-batches=1", "--clip-s=0"]
SMALL = ModelConfig("small", vocab=1024, context=32, width=32, layers=2, heads=2)


def train_context_32(dataset: Path | str, out: Path, *options: str) -> int:
    """Run `whisper-gpt train` in this process, by default gpt-4m with batch 2 and context 32; return its exit code."""
    return cli.main(["train", str(dataset), "--out", str(out), *FAST, *options])


def batches_of(dataset: Path, count: int, batch: int = 2) -> list[Batch]:
    node = stream(dataset, "train", StreamConfig(context=32, batch=batch, pack=True))
    return [next(node) for _ in range(count)]


def small_model() -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(SMALL).train()


def damage_first_sample(dataset: Path, split: str) -> tuple[Path, str]:
    """Overwrite the mel of the first sample of a split; return its shard and key."""
    row = read_samples(dataset, split).slice(0, 1).to_pylist()[0]
    shard = dataset / split / f"{row['shard']}.tar"
    with shard.open("r+b") as tar:
        tar.seek(row["mel_offset"])
        tar.write(b"nonsense")
    return shard, row["key"]
