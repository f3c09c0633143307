"""TensorBoard curves of a run, and audio samples that continue a validation sample."""

import contextlib
import io
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.jobs.training.small_runs import damage_first_sample, train_context_32
from whisper_gpt.jobs.training import monitor
from whisper_gpt.jobs.training.clip_process import ClipProcess
from whisper_gpt.jobs.training.clips import Clips, open_clips
from whisper_gpt.jobs.training.config import Config
from whisper_gpt.jobs.training.distributed import single_process
from whisper_gpt.jobs.training.session import open_session
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.loading.stream import batches

pytestmark = pytest.mark.usefixtures("tiny_presets")


@pytest.mark.parametrize("aside", [False, True])
def test_tensorboard_has_curves_and_an_audio_sample(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: bool
) -> None:
    """With the clip generated in turn, and in a process of its own, as beside a GPU."""
    monkeypatch.setattr(monitor, "_generates_in_a_process", lambda device: aside)
    run = tmp_path / "run"
    assert train_context_32(dataset, run, "--steps=3", "--clip-s=0.2") == 0
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "audio": 0, "images": 0}).Reload()
    tags = events.Tags()
    assert {"train/token_nats", "speed/mfu", "validation/codebook_0/token_nats"} <= set(tags["scalars"])
    assert tags["audio"] == ["clip"] and tags["images"] == ["clip/mel"]
    assert [event.step for event in events.Scalars("train/token_nats")] == [1, 2, 3]
    assert 0 < events.Scalars("speed/mfu")[0].value < 1
    [clip] = events.Audio("clip")
    assert clip.length_frames == (16 + 15) * 320  # half the context of prompt, 0.2 s of continuation


def test_clip_continues_the_tokens_of_its_sample(dataset: Path, tmp_path: Path, codec: Codec) -> None:
    config = Config((dataset,), tmp_path / "run", model="gpt-4m", context=64, batch=2, clip_s=0.1)
    with contextlib.closing(open_session(config, single_process("cpu"), False, print)) as opened:
        clips = open_clips(opened)
        assert clips is not None
        row = read_samples(dataset, "validation").slice(0, 1).to_pylist()[0]
        tar = (dataset / "validation" / f"{row['shard']}.tar").read_bytes()
        stored = np.load(io.BytesIO(tar[row["codes_offset"] : row["codes_offset"] + row["codes_size"]]))
        assert np.array_equal(clips.prompt.codes, stored[:1, :32])
        clip = clips.make(opened.model, seed=0)
    assert np.allclose(clip.wav[: 32 * 320], codec.decode(stored[:1, :32]).clip(-1, 1), atol=1e-5)


class LateClip:
    """In place of ClipProcess: of step 1 it is ready at once, of step 2 it fails, later only when it is waited for."""

    def __init__(self, clips: Clips, model: HybridLM, step: int):
        if step == 2:
            raise OSError("no space left")
        self.step, self.result = step, lambda: clips.make(model, step)
        self._ready = step == 1

    def ready(self, timeout_s: float = 0.0) -> bool:
        self._ready |= timeout_s > 0
        return self._ready

    def close(self) -> None:
        pass


def test_training_does_not_wait_for_a_clip_before_its_end(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(monitor, "_generates_in_a_process", lambda device: True)
    monkeypatch.setattr(monitor, "ClipProcess", LateClip)
    assert train_context_32(dataset, tmp_path / "run", "--steps=4", "--eval-every=1", "--clip-s=0.1") == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"audio": 0}).Reload()
    assert [event.step for event in events.Audio("clip")] == [1, 3]
    printed = capsys.readouterr().err
    assert "step 2: no audio sample: no space left" in printed
    assert "step 4: no audio sample, as that of step 3 is not ready" in printed


def test_clip_process(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """It gives the same clip; an error in it gives None and is shown; no process is left."""
    config = Config((dataset,), tmp_path / "run", model="gpt-4m", context=64, batch=2, clip_s=0.1)
    with contextlib.closing(open_session(config, single_process("cpu"), False, print)) as opened:
        clips, model = open_clips(opened), opened.model.eval()
    assert clips is not None
    process, failing = (ClipProcess(made, model, step=3) for made in (clips, replace(clips, frames="many")))
    clip, same = process.result(), clips.make(model, seed=3)
    assert clip is not None and np.array_equal(clip.wav, same.wav) and np.array_equal(clip.codes, same.codes)
    assert failing.result() is None and "'str' object" in capfd.readouterr().err
    assert not multiprocessing.active_children()


def test_clip_skips_damaged_validation_samples(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    _, key = damage_first_sample(copy, "validation")
    config = Config((copy,), tmp_path / "run", model="gpt-4m", context=64, batch=1, clip_s=0.1)
    with contextlib.closing(open_session(config, single_process("cpu"), False, print)) as opened:
        clips = open_clips(opened)
        assert clips is not None and list(opened.damaged) == [key]
        readable = [batch for batch in batches(opened.validation) if batch.mask.any()]
    assert torch.equal(clips.prompt.codes, readable[0].codes[0, :1, :32])
    assert torch.equal(clips.prompt.mel, readable[0].mel[0, :32])
