"""Models of all codebooks, end to end: train, evaluate and generate agree on what they predict."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers import train_context_64, without_zero_weights
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.inference.continuation import Continuations, Prompt
from whisper_gpt.jobs.inference.run_folder import load_run
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel

pytestmark = pytest.mark.usefixtures("tiny_presets")


@pytest.fixture(scope="module")
def run(tiny_presets: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token-only run of 8 codebooks, 4 steps."""
    out = tmp_path_factory.mktemp("all-codebooks") / "gpt-8m"
    assert train_context_64(dataset, out, "--model=gpt-8m", "--steps=4", "--eval-every=4") == 0
    return out


def test_evaluate_scores_every_codebook(run: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["evaluate", str(dataset), str(run), "--no-baselines", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert len(row["codebook_nll"]) == 8 and row["codebook_nll"][0] == row["nll"]
    assert row["bits_per_s"] == pytest.approx(75 * sum(row["codebook_nll"]) / math.log(2))
    assert all(nll < 1.1 * math.log(1024) for nll in row["codebook_nll"])


def test_the_stored_best_score_is_of_all_codebooks(run: Path) -> None:
    _, state = load_run(run)
    assert state.best is not None and state.best.nats > 4 * math.log(1024)


def test_generate_writes_the_sound_of_all_codebooks(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    assert cli.main(["generate", str(run), "--out", str(out), "--seconds=0.5"]) == 0
    wav, _ = soundfile.read(out)
    assert len(wav) == round(0.5 * 75) * 320 and np.isfinite(wav).all()


def test_a_hybrid_of_all_codebooks_wants_the_mel_of_its_codes(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dataset has the mel of the audio only."""
    assert train_context_64(dataset, tmp_path / "run", "--model=hybrid-8m", "--steps=1") == 1
    assert "codes-8" in capsys.readouterr().err
    assert train_context_64(dataset, tmp_path / "run", "--model=hybrid-8m", "--steps=1", "--mel=audio") == 0
    assert train_context_64(dataset, tmp_path / "more", "--model=gpt-8m", "--steps=1", "--output-codebooks=9") == 1
    assert str(dataset) in capsys.readouterr().err


@pytest.mark.parametrize("model", ["flat-8m", "delay-8m"])
def test_rivals_of_the_depth_decoder_are_trained_and_evaluated_only(
    model: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, options = tmp_path / "run", ["--model", model, "--context=32", "--eval-every=2", "--learning-rate=3e-3"]
    assert train_context_64(dataset, run, *options, "--steps=8") == 0
    assert train_context_64(dataset, run, *options, "--steps=12", "--resume") == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(dataset), str(run), "--no-baselines", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert len(row["codebook_nll"]) == 8 and row["bits_per_s"] < 75 * 8 * 10
    for verb in (["generate", str(run), "--out", str(tmp_path / "out.wav")], ["audit", str(run)]):
        assert cli.main(verb) == 1
        assert "does not predict frame by frame" in capsys.readouterr().err
    assert cli.main(["bench", "generate", "--model", model]) == 2


def small_model(context: int = 512) -> HybridLM:
    """A model of 8 codebooks without any zero weight, so that every branch has an effect."""
    config = ModelConfig(
        "small", context=context, width=32, layers=1, heads=2, mel_bands=64, mel_width=16, mel_layers=1, mel_heads=2,
        input_codebooks=8, output_codebooks=8, depth_width=16, depth_layers=1,
    )  # fmt: skip
    return without_zero_weights(HybridLM(config).eval())


def test_generation_is_the_plain_pass_frame_by_frame(codec: Codec, log_mel: LogMel) -> None:
    """The most likely codes, from a plain pass over all frames each time; audio and mel of all codes in one piece."""
    torch.manual_seed(0)
    model = small_model()
    codes = torch.randint(1024, (8, 10))
    mel = log_mel(torch.from_numpy(codec.decode(codes.numpy())))
    greedy, prompts = Sampling(temperature=0), [Prompt(codes, mel)]
    generated = Continuations(model, codec, log_mel, prompts, greedy, "decode", [torch.Generator()])
    audio = [generated.prompt_audio]
    for _ in range(5):
        # The last frame is only there so that the output before it, which predicts it, exists.
        inputs = torch.cat([codes, codes[:, :1]], dim=1)[None]
        normalised = model.mel_encoder.normalise(torch.cat([mel, mel[:1]]))[None]
        with torch.no_grad():
            prediction = model(inputs, normalised)
        assert model.depth is not None
        coarsest = prediction.logits[:, -1].argmax(dim=-1)
        drawn = model.depth.draw(prediction.hidden[:, -1], coarsest, greedy, torch.ones(1, 7, 1024))
        codes = torch.cat([codes, drawn.T], dim=1)
        audio.append(generated.step())
        assert torch.equal(generated.codes[0], codes)
        mel = log_mel(torch.from_numpy(codec.decode(codes.numpy())))
    assert np.allclose(torch.cat(audio, dim=1)[0], codec.decode(codes.numpy()), atol=1e-4)


@pytest.mark.slow
def test_compiled_generation_draws_the_same_codes(codec: Codec, log_mel: LogMel) -> None:
    """Over a full cache and the next one; the most likely codes, which rounding rarely changes."""
    torch.manual_seed(0)
    model = small_model(context=12)
    codes = torch.randint(1024, (2, 8, 4))
    prompts = [Prompt(c, log_mel(torch.from_numpy(codec.decode(c.numpy())))) for c in codes]
    greedy, generators = Sampling(temperature=0), [torch.Generator(), torch.Generator()]
    eager = Continuations(model, codec, log_mel, prompts, greedy, "decode", generators)
    compiled = Continuations(model, codec, log_mel, prompts, greedy, "decode", generators, compiled=True)
    for _ in range(20):
        assert torch.allclose(compiled.step(), eager.step(), atol=1e-4)
        assert torch.equal(compiled.codes, eager.codes)


def test_evaluate_generation_sets_a_run_beside_the_codec(
    run: Path, dataset: Path, synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--source", str(synthetic_corpora), "--save", str(tmp_path / "clips")]
    options = ["--prompts=2", "--prompt-s=0.2", "--seconds=0.4", "--judge=music", *source, "--json"]
    arguments = ["evaluate-generation", str(dataset), str(run), *options]
    capsys.readouterr()
    assert cli.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == ["originals", "codec, 8 codebooks", str(run), f"{run}, another prompt"]
    real, drawn = rows["codec, 8 codebooks"], rows[str(run)]
    assert real["unigram_divergence"] == 0 < drawn["unigram_divergence"]
    assert all(row["figures"]["pitch_class_divergence"]["recordings"] == 2 for row in rows.values())
    # An untrained model draws from all codes, the recordings use few, and decode to sounds like the originals.
    assert drawn["figures"]["code_entropy"]["mean"] > real["figures"]["code_entropy"]["mean"]
    assert real["mel_distance"] < drawn["mel_distance"]
    saved = {path.parent.name: soundfile.info(str(path)).frames for path in (tmp_path / "clips").rglob("001.wav")}
    assert saved == dict.fromkeys(("originals", "codec-8", run.name), 45 * 320)
    pitches = [rows[name]["figures"]["pitch_class_divergence"]["mean"] for name in ("originals", "codec, 8 codebooks")]
    assert abs(pitches[0] - pitches[1]) < 0.1
    assert cli.main([*arguments[:-1], "--seconds=500"]) == 1
    assert str(dataset) in capsys.readouterr().err
    assert cli.main([*arguments, "--source", str(tmp_path)]) == 1
    assert f"--source {tmp_path}: " in capsys.readouterr().err


def test_bench_generate_measures_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert (
        cli.main(
            ["bench", "generate", "--rounds=1", "--seconds=0.1", "--minutes=0.01", "--threads=2", "--int8", "--json"]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert min(result[name]["median"] for name in ("speed", "plain_speed", "first_ms")) > 0
    assert result["parts_ms"].keys() == {
        "decoder and mel encoder",
        "codec's decoder",
        "mel",
        "draws, with the depth decoder",
    }
    (stretch,) = result["one_long_run"]
    assert stretch["frames"] == 45 and stretch["ms_per_frame"] > 0 and stretch["memory_mb"] > 0


def test_audit_covers_the_finer_codes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They may depend on their own frame, by its coarser codes, and on no later sample."""
    capsys.readouterr()
    assert cli.main(["audit", str(run), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    findings = {stage["stage"]: stage["findings"] for stage in stages}
    assert list(findings)[-2:] == ["model gpt-8m", "model gpt-8m, finer codes"]
    assert all(f["last_sample"] <= f["permitted_sample"] == 320 * f["frame"] + 319 for f in findings.popitem()[1])
