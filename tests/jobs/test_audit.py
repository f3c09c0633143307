"""The leak audit passes the shipped pipeline, and finds and locates each leak of a Whisper-style front end."""

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


@pytest.fixture(scope="module")
def control_dataset(synthetic_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with every mel variant, including the leaky control_dataset."""
    out = tmp_path_factory.mktemp("control") / "dataset"
    arguments = ["preprocess", "folder", str(synthetic_corpora / "LibriSpeech"), "--out", str(out), "--workers=0"]
    assert (
        cli.main([*arguments, "--codec=encodec_24khz_small", "--codebooks=2", "--mel-of=both", "--leaky-control"]) == 0
    )
    return out


@pytest.fixture(scope="module")
def runs(control_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of four steps each: a token-only model, a hybrid, and a hybrid on the leaky control."""
    root = tmp_path_factory.mktemp("runs")
    options = {"gpt": ["--model=gpt-4m"], "hybrid": [], "leaky": ["--mel=centred-2048"]}
    for name, model_options in options.items():
        assert cli.main(["train", str(control_dataset), "--out", str(root / name), *FAST, *model_options]) == 0
    return {name: root / name for name in options}


def audit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    """Run `whisper-gpt audit --json`; return its exit code and the report of each stage."""
    capsys.readouterr()  # drop the output of fixtures
    code = cli.main(["audit", *arguments, "--json"])
    return code, {stage["stage"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}


def lookahead(stage: dict) -> list[int]:
    return [f["last_sample"] - f["permitted_sample"] for f in stage["findings"]]


def last_sample_of_frame(t: int) -> int:
    return 320 * t + 319


def audit_frame(stage: Callable[[np.ndarray], np.ndarray], frame: int = MIDDLE) -> Finding:
    (result,) = audit_stage("stage", stage, synthetic_clip(FRAMES), [frame], last_sample_of_frame)
    return result


def test_dataset_is_causal_except_for_the_leaky_control(
    control_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stages = audit(capsys, str(control_dataset))
    assert code == 0
    assert list(stages) == ["codec", "mel audio", "mel codes-1", "mel codes-2", "mel centred-2048"]
    leaky = stages.pop("mel centred-2048")
    assert (leaky["verdict"], leaky["passed"]) == ("leak (the control)", True)
    assert [f["last_sample"] for f in leaky["findings"]] == [320 * f["frame"] + 1023 for f in leaky["findings"]]
    assert all(min(f["changes"].values()) > 0 for f in leaky["findings"])
    for stage in stages.values():
        assert (stage["verdict"], stage["passed"]) == ("causal", True)
        assert all(-320 < samples <= 0 for samples in lookahead(stage))  # neither leaks nor ignores its input
        assert all(set(f["changes"].values()) == {0.0} for f in stage["findings"])
    assert lookahead(stages["codec"]) == [0, 0, 0, 0]


def test_resampler_lookahead_is_reported_but_not_a_leak(
    control_dataset: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["audit", str(control_dataset), "--json"]) == 0
    (resampler,) = json.loads(capsys.readouterr().out)["resampler"]
    assert resampler["source_rate"] == 16_000  # the rate of the dataset's recordings
    levels = [resampler["samples_by_db"][level] for level in ("-40", "-80", "any")]
    assert 0 < levels[0] < levels[1] < levels[2] and 50 < levels[1] < 200
    frames = {name: stage["frames"] for name, stage in resampler["stages"].items()}
    assert list(frames) == ["codec", "mel audio", "mel codes-1", "mel codes-2", "mel centred-2048"]
    assert 1 <= frames["codec"] <= 3 and frames["mel centred-2048"] >= 3 > frames["mel audio"]
    assert resampler["stages"]["mel audio"]["change"] > 1  # an onset after silence
    soundfile.write(str(tmp_path / "own.wav"), synthetic_clip(FRAMES), 24_000)
    assert cli.main(["audit", str(runs["gpt"]), "--audio", str(tmp_path / "own.wav"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resampler"] == []  # nothing is resampled
    assert cli.main(["audit", str(runs["gpt"])]) == 0
    assert capsys.readouterr().out.count("resampler: from") == 3


def test_causal_resampler_has_no_lookahead() -> None:
    def repeated(wav: np.ndarray) -> np.ndarray:
        return np.repeat(wav, 3)[: len(wav) * 3 // 2 * 2 : 2].astype(np.float32)

    assert max(resampler_lookahead(repeated, 16_000).samples.values()) <= 0


def frame_sums(wav: np.ndarray) -> np.ndarray:
    return wav.reshape(-1, 320).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (320, 1), (321, 2)])
def test_stage_lookahead_equals_the_resampler_lookahead(rate: int, samples: int, frames: int) -> None:
    def resample(wav: np.ndarray) -> np.ndarray:
        """Nearest-neighbour resampling shifted `samples` into the future."""
        at = np.arange(len(wav) * 24_000 // rate) * rate // 24_000
        return np.concatenate([wav[at][samples:], wav[-1:].repeat(samples)])

    assert frames_ahead(frame_sums, resample, rate, most_frames=75).frames == frames
    assert frames_ahead(frame_sums, resample, rate, most_frames=8).frames == frames  # a model with a short context
    later = frames_ahead(lambda wav: np.pad(frame_sums(wav), ((1, 0), (0, 0)))[:-1], resample, rate, 75, frames_back=1)
    assert later.frames == frames and (later.change > 0) == (frames > 0)


def test_table_shows_verdicts_and_samples(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(runs["gpt"])]) == 0
    printed = capsys.readouterr()
    assert all(words in printed.out for words in ("causal", "320·t + 319", "320·t − 1", "model gpt-4m", "10,239"))
    assert "no stage sees the future" in printed.err


@pytest.mark.parametrize(("name", "stages"), [("hybrid", ["codec", "mel audio", "model"]), ("gpt", ["codec", "model"])])
def test_runs_are_causal(
    runs: dict[str, Path], name: str, stages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, stages_found = audit(capsys, str(newest_checkpoint(runs[name])))
    assert code == 0 and [stage.partition(" hybrid")[0].partition(" gpt")[0] for stage in stages_found] == stages
    assert {stage["verdict"] for stage in stages_found.values()} == {"causal"}
    model = list(stages_found.values())[-1]["findings"]
    assert [f["frame"] for f in model] == [0, 1, 32, 55]  # with a context of 64
    assert [f["permitted_sample"] for f in model] == [320 * f["frame"] - 1 for f in model]
    assert model[0]["last_sample"] is None  # no input is permitted, so ignoring all input is right
    assert all(f["permitted_sample"] - 320 < f["last_sample"] <= f["permitted_sample"] for f in model[1:])


def test_run_on_the_leaky_control_fails(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(runs["leaky"])]) == 1
    assert "failed: mel centred-2048 (leak), model hybrid-4m (leak)" in capsys.readouterr().err
    code, stages = audit(capsys, str(runs["leaky"]))
    assert code == 1 and stages["codec"]["passed"]
    assert [stages[name]["verdict"] for name in ("mel centred-2048", "model hybrid-4m")] == ["leak", "leak"]
    model = stages["model hybrid-4m"]["findings"]
    assert [f["last_sample"] for f in model[1:]] == [320 * (f["frame"] - 1) + 1023 for f in model[1:]]
    assert model[0]["last_sample"] is None


def test_model_with_a_symmetrically_padded_stem_fails(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whisper's stem in our model: it sees the very frame that it predicts; no other stage changes."""
    stem = MelEncoder.forward

    def padded(self: MelEncoder, mel: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return stem(self, F.pad(mel[:, 1:], (0, 0, 0, 1)), *others)

    monkeypatch.setattr(MelEncoder, "forward", padded)
    code, stages = audit(capsys, str(runs["hybrid"]))
    assert code == 1 and [s["passed"] for s in stages.values()] == [True, True, False]
    findings = stages["model hybrid-4m"]["findings"]
    assert [f["last_sample"] for f in findings[1:]] == [last_sample_of_frame(f["frame"]) for f in findings[1:]]


def test_audit_of_a_given_recording(control_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hello.wav"
    soundfile.write(file, np.concatenate([np.zeros(8000), synthetic_clip(40)]), 24_000)
    code, stages = audit(capsys, str(control_dataset), "--audio", str(file))
    assert code == 0 and [f["frame"] for f in stages["codec"]["findings"]] == [0, 1, 32, 56]
    assert max(lookahead(stages["mel centred-2048"])) == 704
    for samples, words in ((3000, "shorter than 20 frames"), (0, "--audio")):
        soundfile.write(file, synthetic_clip(40)[:samples], 24_000)
        assert cli.main(["audit", str(control_dataset), "--audio", str(file)]) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_audit_of_another_folder_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(tmp_path)]) == 1
    assert "neither a dataset (dataset.json) nor a training run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lasts", "reach", "verdict"),
    [
        ((319, 600), 0, ("causal", True)),
        ((319, 640), 0, ("leak", False)),
        ((319, None), 0, ("ignores its input", False)),
        ((1023, 1343), 704, ("leak (the control)", True)),
        ((1023, 1344), 704, ("leak", False)),  # more lookahead than its name says
        (
            (319, 639),
            704,
            ("no leak, but it is the control", False),
        ),  # an audit that misses this leak would miss others
        ((1023, None), 704, ("ignores its input", False)),
    ],
)
def test_verdicts(lasts: tuple[int | None, ...], reach: int, verdict: tuple[str, bool]) -> None:
    findings = [Finding("stage", t, last_sample_of_frame(t), last, {}) for t, last in enumerate(lasts)]
    assert judge(findings, reach) == verdict
    assert judge([Finding("stage", 0, -1, None, {})]) == ("causal", True)


# Parts of Whisper's front end, one by one.


def centred(window: int) -> Callable[[np.ndarray], np.ndarray]:
    """Log power spectra `[T, bins]` of frames centred at 320·t, the default of torch.stft and librosa."""

    def stage(wav: np.ndarray) -> np.ndarray:
        power = np.abs(librosa.stft(wav, n_fft=window, hop_length=320, center=True)) ** 2
        return np.log10(np.maximum(power, 1e-10)).T

    return stage


def clamped(log_mel: LogMel) -> Callable[[np.ndarray], np.ndarray]:
    """Our causal mel, clamped to at most 8 decades below the maximum of the clip, as Whisper does."""

    def stage(wav: np.ndarray) -> np.ndarray:
        mel = log_mel(torch.from_numpy(wav))
        return torch.maximum(mel, mel.max() - 8).numpy()

    return stage


def stem_of(log_mel: LogMel, before: int, after: int) -> Callable[[np.ndarray], np.ndarray]:
    """Our causal mel through a convolution over 3 frames, padded by `before` and `after` frames."""
    kernel = torch.randn(8, 64, 3, generator=torch.Generator().manual_seed(0))

    def stage(wav: np.ndarray) -> np.ndarray:
        mel = log_mel(torch.from_numpy(wav)).T[None]
        return F.gelu(F.conv1d(F.pad(mel, (before, after)), kernel))[0].T.numpy()

    return stage


def test_centred_window_is_detected() -> None:
    for frame in frames_to_audit(FRAMES)[1:]:
        result = audit_frame(centred(2048), frame)
        assert result.last_sample == 320 * frame + 1023 and result.samples_ahead == 704
        assert min(result.changes.values()) > 0
    assert audit_frame(centred(1024)).samples_ahead == 192
    result = audit_frame(centred(400))  # Whisper's window stays within its frame at this hop
    assert result.last_sample == 320 * MIDDLE + 199 and result.samples_ahead == 0


def test_clamp_to_the_clip_maximum_is_detected(log_mel: LogMel) -> None:
    """Only a replacement louder than the clip reveals it; the leak reaches to the clip's end."""
    assert audit_frame(lambda wav: log_mel(torch.from_numpy(wav)).numpy()).samples_ahead == 0
    result = audit_frame(clamped(log_mel))
    assert result.last_sample is not None and result.last_sample > 320 * (FRAMES - 1)
    assert result.changes["loud"] > 1 and result.changes["noise"] == result.changes["silence"] == 0


def test_symmetric_padding_of_the_stem_is_detected(log_mel: LogMel) -> None:
    result = audit_frame(stem_of(log_mel, 1, 1))
    assert result.last_sample == last_sample_of_frame(MIDDLE + 1)
    result = audit_frame(stem_of(log_mel, 2, 0))
    assert result.last_sample == last_sample_of_frame(MIDDLE) and not any(result.changes.values())


@torch.no_grad()
def test_encodec_reflect_padding_is_detected(codec: Codec) -> None:
    """Without our 8 frames of preroll, EnCodec's reflect padding mirrors later frames into codes 0 to 2."""

    def stock(wav: np.ndarray) -> np.ndarray:
        return codec.net.encoder(torch.from_numpy(wav)[None, None])[0].T.numpy()

    result = audit_frame(stock, frame=0)
    assert result.last_sample is not None and result.last_sample // 320 == 6
    assert audit_frame(stock, frame=3).samples_ahead == 0


def test_integer_outputs_report_the_share_of_changes() -> None:
    """The stage outputs the signs of samples 0 and 1 of a frame and of sample 7 of the next frame, and a constant."""

    def signs(wav: np.ndarray) -> np.ndarray:
        negative = np.signbit(wav).reshape(FRAMES, 320).astype(np.int16)
        return np.stack([negative[:, 0], negative[:, 1], np.roll(negative[:, 7], -1), np.zeros(FRAMES, int)], axis=1)

    result = audit_frame(signs)
    assert result.last_sample == 320 * (MIDDLE + 1) + 7 and set(result.changes.values()) == {0.0, 0.25}


def test_leak_shown_by_one_replacement_is_detected() -> None:
    """Loud sound reveals sample 400 after the frame's start; only silence reveals that sample 800 is not 0."""

    def stage(wav: np.ndarray) -> np.ndarray:
        by_frame = wav.reshape(FRAMES, 320)
        return np.stack([np.roll(by_frame[:, 80], -1), np.roll(by_frame[:, 160], -2) == 0], axis=1)

    result = audit_frame(stage)
    assert result.last_sample == 320 * MIDDLE + 800 and result.changes["silence"] == 1


def test_stage_without_input_dependence_is_reported() -> None:
    result = audit_frame(lambda wav: np.ones((FRAMES, 4)))
    assert result.ignores_input and result.last_sample is None and result.samples_ahead == 0
    result = audit_frame(lambda wav: np.repeat(np.float32(wav[7]), FRAMES)[:, None])  # depends on an early sample only
    assert not result.ignores_input and result.last_sample == 7


def test_nondeterministic_stage_is_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(PipelineError, match="deterministic"):
        audit_frame(lambda wav: generator.standard_normal((FRAMES, 4)))
    with pytest.raises(PipelineError, match="for two clips"):
        audit_frame(lambda wav: np.ones((FRAMES + (np.abs(wav).max() > 1), 4)))
    with pytest.raises(ValueError, match="frame 96"):
        audit_frame(lambda wav: np.ones((FRAMES, 4)), frame=FRAMES)
