"""The leak audit: passes what is shipped, and finds each leak of a Whisper-style front end by itself, where it is."""

import json
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.audit import judge
from whisper_gpt.jobs.inference.run_folder import newest_checkpoint
from whisper_gpt.model.mel_encoder import MelEncoder
from whisper_gpt.pipeline.audit import (
    Finding,
    audit_stage,
    frames_ahead,
    frames_to_audit,
    resampler_lookahead,
    synthetic_clip,
)
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.mel import LogMel

pytestmark = pytest.mark.usefixtures("tiny_presets")

FRAMES = 96
MIDDLE = FRAMES // 2
FAST = ["--batch=2", "--context=64", "--eval-batches=1", "--clip-s=0", "--steps=4"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def control(synthetic_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with every mel variant, the leaky control among them."""
    out = tmp_path_factory.mktemp("control") / "dataset"
    arguments = ["preprocess", "folder", str(synthetic_corpora / "LibriSpeech"), "--out", str(out), "--workers=0"]
    assert (
        cli.main([*arguments, "--codec=encodec_24khz_small", "--codebooks=2", "--mel-of=both", "--leaky-control"]) == 0
    )
    return out


@pytest.fixture(scope="module")
def runs(control: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four steps each of a token-only model, a hybrid, and a hybrid on the control."""
    root = tmp_path_factory.mktemp("runs")
    options = {"gpt": ["--model=gpt-4m"], "hybrid": [], "leaky": ["--mel=centred-2048"]}
    for name, own in options.items():
        assert cli.main(["train", str(control), "--out", str(root / name), *FAST, *own]) == 0
    return {name: root / name for name in options}


def audited(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    """The exit code, and what is said of each stage."""
    capsys.readouterr()  # what fixtures said
    code = cli.main(["audit", *arguments, "--json"])
    return code, {stage["stage"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}


def ahead(stage: dict) -> list[int]:
    return [f["last_sample"] - f["permitted_sample"] for f in stage["findings"]]


def last_of_frame(t: int) -> int:
    return 320 * t + 319


def finding(stage: Callable[[np.ndarray], np.ndarray], frame: int = MIDDLE) -> Finding:
    (found,) = audit_stage("stage", stage, synthetic_clip(FRAMES), [frame], last_of_frame)
    return found


def test_a_dataset_is_causal_but_for_its_control(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, stages = audited(capsys, str(control))
    assert code == 0
    assert list(stages) == ["codec", "mel audio", "mel codes-1", "mel codes-2", "mel centred-2048"]
    leaky = stages.pop("mel centred-2048")
    assert (leaky["verdict"], leaky["passed"]) == ("leak (the control)", True)
    assert [f["last_sample"] for f in leaky["findings"]] == [320 * f["frame"] + 1023 for f in leaky["findings"]]
    assert all(min(f["changes"].values()) > 0 for f in leaky["findings"])
    for stage in stages.values():
        assert (stage["verdict"], stage["passed"]) == ("causal", True)
        assert all(-320 < samples <= 0 for samples in ahead(stage))  # neither leaks nor deaf
        assert all(set(f["changes"].values()) == {0.0} for f in stage["findings"])
    assert ahead(stages["codec"]) == [0, 0, 0, 0]


def test_the_resampler_s_lookahead_is_measured_and_does_not_count(
    control: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", str(control), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["resampler"]
    assert found["source_rate"] == 16_000  # that of the dataset's recordings
    levels = [found["samples_by_db"][level] for level in ("-40", "-80", "any")]
    assert 0 < levels[0] < levels[1] < levels[2] and 50 < levels[1] < 200
    frames = {name: stage["frames"] for name, stage in found["stages"].items()}
    assert list(frames) == ["codec", "mel audio", "mel codes-1", "mel codes-2", "mel centred-2048"]
    assert 1 <= frames["codec"] <= 3 and frames["mel centred-2048"] >= 3 > frames["mel audio"]
    assert found["stages"]["mel audio"]["change"] > 1  # an onset out of silence
    soundfile.write(str(tmp_path / "own.wav"), synthetic_clip(FRAMES), 24_000)
    assert cli.main(["audit", str(runs["gpt"]), "--audio", str(tmp_path / "own.wav"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resampler"] == []  # nothing is resampled
    assert cli.main(["audit", str(runs["gpt"])]) == 0
    assert capsys.readouterr().out.count("resampler: from") == 3


def test_a_causal_resampler_has_no_lookahead() -> None:
    def repeated(wav: np.ndarray) -> np.ndarray:
        return np.repeat(wav, 3)[: len(wav) * 3 // 2 * 2 : 2].astype(np.float32)

    assert max(resampler_lookahead(repeated, 16_000).samples.values()) <= 0


def summed(wav: np.ndarray) -> np.ndarray:
    return wav.reshape(-1, 320).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (320, 1), (321, 2)])
def test_a_stage_looks_as_many_frames_ahead_as_its_resampler(rate: int, samples: int, frames: int) -> None:
    def resample(wav: np.ndarray) -> np.ndarray:
        """The nearest earlier sample of that at each instant, but for `samples` from the future."""
        at = np.arange(len(wav) * 24_000 // rate) * rate // 24_000
        return np.concatenate([wav[at][samples:], wav[-1:].repeat(samples)])

    assert frames_ahead(summed, resample, rate, most_frames=75).frames == frames
    assert frames_ahead(summed, resample, rate, most_frames=8).frames == frames  # a model of little context
    later = frames_ahead(lambda wav: np.pad(summed(wav), ((1, 0), (0, 0)))[:-1], resample, rate, 75, frames_back=1)
    assert later.frames == frames and (later.change > 0) == (frames > 0)


def test_table_lists_the_findings(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(runs["gpt"])]) == 0
    shown = capsys.readouterr()
    assert all(words in shown.out for words in ("causal", "320·t + 319", "320·t − 1", "model gpt-4m", "10,239"))
    assert "no stage sees the future" in shown.err


@pytest.mark.parametrize(("name", "stages"), [("hybrid", ["codec", "mel audio", "model"]), ("gpt", ["codec", "model"])])
def test_runs_are_causal(
    runs: dict[str, Path], name: str, stages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = audited(capsys, str(newest_checkpoint(runs[name])))
    assert code == 0 and [stage.partition(" hybrid")[0].partition(" gpt")[0] for stage in found] == stages
    assert {stage["verdict"] for stage in found.values()} == {"causal"}
    model = list(found.values())[-1]["findings"]
    assert [f["frame"] for f in model] == [0, 1, 32, 55]  # of a context of 64
    assert [f["permitted_sample"] for f in model] == [320 * f["frame"] - 1 for f in model]
    assert model[0]["last_sample"] is None  # nothing is permitted, and that is not deafness
    assert all(f["permitted_sample"] - 320 < f["last_sample"] <= f["permitted_sample"] for f in model[1:])


def test_a_run_on_the_control_fails(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(runs["leaky"])]) == 1
    assert "failed: mel centred-2048 (leak), model hybrid-4m (leak)" in capsys.readouterr().err
    code, stages = audited(capsys, str(runs["leaky"]))
    assert code == 1 and stages["codec"]["passed"]
    assert [stages[name]["verdict"] for name in ("mel centred-2048", "model hybrid-4m")] == ["leak", "leak"]
    model = stages["model hybrid-4m"]["findings"]
    assert [f["last_sample"] for f in model[1:]] == [320 * (f["frame"] - 1) + 1023 for f in model[1:]]
    assert model[0]["last_sample"] is None


def test_a_model_whose_stem_is_padded_on_both_sides_fails(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whisper's stem in our model: it reads the very frame that it predicts; the other stages are unchanged."""
    stem = MelEncoder.forward

    def padded(self: MelEncoder, mel: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return stem(self, F.pad(mel[:, 1:], (0, 0, 0, 1)), *others)

    monkeypatch.setattr(MelEncoder, "forward", padded)
    code, stages = audited(capsys, str(runs["hybrid"]))
    assert code == 1 and [s["passed"] for s in stages.values()] == [True, True, False]
    findings = stages["model hybrid-4m"]["findings"]
    assert [f["last_sample"] for f in findings[1:]] == [last_of_frame(f["frame"]) for f in findings[1:]]


def test_a_recording_can_be_audited_on(control: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hello.wav"
    soundfile.write(file, np.concatenate([np.zeros(8000), synthetic_clip(40)]), 24_000)
    code, stages = audited(capsys, str(control), "--audio", str(file))
    assert code == 0 and [f["frame"] for f in stages["codec"]["findings"]] == [0, 1, 32, 56]
    assert max(ahead(stages["mel centred-2048"])) == 704
    for samples, words in ((3000, "shorter than 20 frames"), (0, "--audio")):
        soundfile.write(file, synthetic_clip(40)[:samples], 24_000)
        assert cli.main(["audit", str(control), "--audio", str(file)]) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_neither_dataset_nor_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(tmp_path)]) == 1
    assert "neither a dataset (dataset.json) nor a training run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lasts", "reach", "verdict"),
    [
        ((319, 600), 0, ("causal", True)),
        ((319, 640), 0, ("leak", False)),
        ((319, None), 0, ("ignores its input", False)),
        ((1023, 1343), 704, ("leak (the control)", True)),
        ((1023, 1344), 704, ("leak", False)),  # further than its name says
        ((319, 639), 704, ("no leak, but it is the control", False)),  # who does not see that one sees no other
        ((1023, None), 704, ("ignores its input", False)),
    ],
)
def test_verdicts(lasts: tuple[int | None, ...], reach: int, verdict: tuple[str, bool]) -> None:
    findings = [Finding("stage", t, last_of_frame(t), last, {}) for t, last in enumerate(lasts)]
    assert judge(findings, reach) == verdict
    assert judge([Finding("stage", 0, -1, None, {})]) == ("causal", True)


# The front end of Whisper, a piece at a time.


def centred(window: int) -> Callable[[np.ndarray], np.ndarray]:
    """Log power of frames around 320·t, as torch.stft and librosa have it by default: [T, bins]."""

    def stage(wav: np.ndarray) -> np.ndarray:
        power = np.abs(librosa.stft(wav, n_fft=window, hop_length=320, center=True)) ** 2
        return np.log10(np.maximum(power, 1e-10)).T

    return stage


def clamped(log_mel: LogMel) -> Callable[[np.ndarray], np.ndarray]:
    """Our causal mel, never more than 8 decades below the loudest of the clip."""

    def stage(wav: np.ndarray) -> np.ndarray:
        mel = log_mel(torch.from_numpy(wav))
        return torch.maximum(mel, mel.max() - 8).numpy()

    return stage


def stem_of(log_mel: LogMel, before: int, after: int) -> Callable[[np.ndarray], np.ndarray]:
    """Our causal mel through a convolution over 3 frames with so many of padding on either side."""
    kernel = torch.randn(8, 64, 3, generator=torch.Generator().manual_seed(0))

    def stage(wav: np.ndarray) -> np.ndarray:
        mel = log_mel(torch.from_numpy(wav)).T[None]
        return F.gelu(F.conv1d(F.pad(mel, (before, after)), kernel))[0].T.numpy()

    return stage


def test_a_centred_window_is_found() -> None:
    for frame in frames_to_audit(FRAMES)[1:]:
        found = finding(centred(2048), frame)
        assert found.last_sample == 320 * frame + 1023 and found.samples_ahead == 704
        assert min(found.changes.values()) > 0
    assert finding(centred(1024)).samples_ahead == 192
    found = finding(centred(400))  # Whisper's: within its frame at this hop
    assert found.last_sample == 320 * MIDDLE + 199 and found.samples_ahead == 0


def test_a_clamp_to_the_clips_maximum_is_found(log_mel: LogMel) -> None:
    """Only sound that is louder than the clip shows it, and that to the clip's end."""
    assert finding(lambda wav: log_mel(torch.from_numpy(wav)).numpy()).samples_ahead == 0
    found = finding(clamped(log_mel))
    assert found.last_sample is not None and found.last_sample > 320 * (FRAMES - 1)
    assert found.changes["loud"] > 1 and found.changes["noise"] == found.changes["silence"] == 0


def test_a_stem_that_is_padded_on_both_sides_is_found(log_mel: LogMel) -> None:
    found = finding(stem_of(log_mel, 1, 1))
    assert found.last_sample == last_of_frame(MIDDLE + 1)
    found = finding(stem_of(log_mel, 2, 0))
    assert found.last_sample == last_of_frame(MIDDLE) and not any(found.changes.values())


@torch.no_grad()
def test_the_codecs_own_padding_is_found(codec: Codec) -> None:
    """EnCodec without our 8 frames before the clip mirrors later frames into codes 0 to 2."""

    def stock(wav: np.ndarray) -> np.ndarray:
        return codec.net.encoder(torch.from_numpy(wav)[None, None])[0].T.numpy()

    found = finding(stock, frame=0)
    assert found.last_sample is not None and found.last_sample // 320 == 6
    assert finding(stock, frame=3).samples_ahead == 0


def test_integer_outputs_report_the_share_that_changes() -> None:
    """Here the signs of samples 0 and 1 of a frame and of the next frame's sample 7, beside a constant."""

    def signs(wav: np.ndarray) -> np.ndarray:
        of_frames = np.signbit(wav).reshape(FRAMES, 320).astype(np.int16)
        return np.stack([of_frames[:, 0], of_frames[:, 1], np.roll(of_frames[:, 7], -1), np.zeros(FRAMES, int)], axis=1)

    found = finding(signs)
    assert found.last_sample == 320 * (MIDDLE + 1) + 7 and set(found.changes.values()) == {0.0, 0.25}


def test_a_leak_shown_by_one_replacement_counts() -> None:
    """Loud sound shows sample 400 of a frame's begin; that 800 is not 0, only silence does."""

    def stage(wav: np.ndarray) -> np.ndarray:
        of_frames = wav.reshape(FRAMES, 320)
        return np.stack([np.roll(of_frames[:, 80], -1), np.roll(of_frames[:, 160], -2) == 0], axis=1)

    found = finding(stage)
    assert found.last_sample == 320 * MIDDLE + 800 and found.changes["silence"] == 1


def test_a_stage_that_ignores_its_input_is_reported() -> None:
    found = finding(lambda wav: np.ones((FRAMES, 4)))
    assert found.ignores_input and found.last_sample is None and found.samples_ahead == 0
    found = finding(lambda wav: np.repeat(np.float32(wav[7]), FRAMES)[:, None])  # long ago, but something
    assert not found.ignores_input and found.last_sample == 7


def test_a_stage_that_draws_at_random_is_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(PipelineError, match="deterministic"):
        finding(lambda wav: generator.standard_normal((FRAMES, 4)))
    with pytest.raises(PipelineError, match="for two clips"):
        finding(lambda wav: np.ones((FRAMES + (np.abs(wav).max() > 1), 4)))
    with pytest.raises(ValueError, match="frame 96"):
        finding(lambda wav: np.ones((FRAMES, 4)), frame=FRAMES)
