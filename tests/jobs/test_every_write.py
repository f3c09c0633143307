"""A run that dies at any of its writes, and is then resumed, leaves the bytes of an undisturbed run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.dying_disk import Killed, dying_at
from tests.helpers import hashes, train_context_64
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.inference.run_folder import newest_checkpoint
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.model.checkpoint import load_safetensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three recordings of different splits, one of them damaged."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("a", "b"):
        noise = np.random.default_rng(0).standard_normal(3_200) * 0.1
        soundfile.write(str(folder / f"{name}.wav"), noise, 16_000)
    (folder / "damaged.wav").write_bytes(b"RIFF")
    return folder


def deaths(run: Callable[[Path], object], folder: Path) -> Iterator[Path]:
    """Yield the folder of a run that died at its first write, of one that died at its second, and so on."""
    died = 0
    for fatal in range(1, 1000):
        out = folder / f"killed-{fatal}"
        try:
            with dying_at(fatal, out) as writes:
                run(out)
        except Killed:
            died += 1
        if not writes.died:
            break
        yield out
    assert died == fatal - 1 > 20


def test_preprocess_resumes_from_a_death_at_any_write(source: Path, tmp_path: Path) -> None:
    def preprocess(out: Path) -> int:
        options = ["--codec=encodec_24khz_small", "--codebooks=1", "--workers=0", "--max-failed=1"]
        return cli.main(["preprocess", "folder", str(source), "--out", str(out), *options])

    whole = tmp_path / "whole"
    assert preprocess(whole) == 0 and read_info(whole).failed_sources == 1
    for out in deaths(preprocess, tmp_path):
        assert preprocess(out) == 0, out
        assert hashes(out) == hashes(whole), out


@pytest.mark.slow
def test_training_resumes_from_a_death_at_any_write(tiny_presets: None, dataset: Path, tmp_path: Path) -> None:
    def run(out: Path, *options: str) -> int:
        return train_context_64(
            dataset, out, "--steps=3", "--save-every=2", "--eval-every=2", "--deterministic", *options
        )

    whole = tmp_path / "whole"
    assert run(whole) == 0
    for out in deaths(run, tmp_path):
        resume = ["--resume"] if any(out.glob("checkpoints/step-*")) else []
        assert run(out, *resume) == 0, out
        assert tensors(out).keys() == tensors(whole).keys()
        assert all(torch.equal(tensor, tensors(whole)[name]) for name, tensor in tensors(out).items()), out
        assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    folder = newest_checkpoint(run)
    return load_safetensors(folder / "model.safetensors") | load_safetensors(folder / "training.safetensors")
