"""Continuing recordings: prompts, prefill, long continuations in constant memory, and the files `generate` writes."""

import json
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile
import torch

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.inference.continuation import Continuations, MelSource, Prompt, prefill, read_prompt
from whisper_gpt.jobs.inference.run_folder import load_run, newest_checkpoint, read_state
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.sampling import Sampling, gumbel_noise, sample
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel

pytestmark = pytest.mark.usefixtures("tiny_presets")


def prompt_file(synthetic_corpora: Path) -> Path:
    return sorted((synthetic_corpora / "LibriSpeech" / "test-clean").rglob("*.flac"))[0]


@pytest.mark.parametrize("model", ["hybrid-4m", "gpt-4m"])
def test_generate_writes_prompt_and_continuation(
    runs: dict[str, Path], synthetic_corpora: Path, tmp_path: Path, model: str
) -> None:
    out = tmp_path / "out.wav"
    arguments = ["generate", str(runs[model]), "--out", str(out), "--seconds=1", "--top-k=20"]
    assert cli.main([*arguments, "--prompt", str(prompt_file(synthetic_corpora))]) == 0
    wav, rate = soundfile.read(out)
    assert rate == 24_000 and len(wav) == (32 + 75) * 320  # half of the context of 64, and one second
    assert np.isfinite(wav).all() and wav.std() > 0
    assert out.with_name("out.wav.yaml").is_file()
    first = out.read_bytes()
    assert cli.main([*arguments, "--prompt", str(prompt_file(synthetic_corpora))]) == 0
    assert out.read_bytes() == first  # same seed, same audio
    assert cli.main([*arguments, "--seed=1"]) == 0  # without a prompt
    assert len(soundfile.read(out)[0]) == 75 * 320


def test_speech_model_in_the_package_generates_if_no_run_is_named(synthetic_corpora: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    arguments = ["generate", "--out", str(out), "--seconds=0.2", "--prompt", str(prompt_file(synthetic_corpora))]
    assert cli.main(arguments) == 0
    assert len(soundfile.read(out)[0]) == (256 + 15) * 320
    assert cli.main([*arguments, "--int8"]) == 0
    assert len(soundfile.read(out)[0]) == (256 + 15) * 320


def test_generation_matches_full_forward_passes(
    runs: dict[str, Path], synthetic_corpora: Path, codec: Codec, log_mel: LogMel
) -> None:
    """The most likely continuation, recomputed with a forward pass over the whole window for every frame."""
    model, _ = load_run(runs["hybrid-4m"])
    prompt = read_prompt(prompt_file(synthetic_corpora), 20, codec, log_mel.config, "audio")
    generated = Continuations(model, codec, log_mel, [prompt], Sampling(temperature=0), "decode", [torch.Generator()])
    prompt_audio, tokens = generated.prompt_audio[0], prompt.codes[0]
    assert np.allclose(prompt_audio, codec.decode(tokens[None].numpy()), atol=1e-5)
    mel = model.mel_encoder.normalise(prompt.mel)
    for _ in range(6):
        padded = torch.cat([tokens, tokens.new_zeros(1)])[None, None]  # output n predicts frame n
        logits = model(padded, torch.cat([mel, mel.new_zeros(1, 64)])[None]).logits[0, -1]
        piece = generated.step()[0]
        tokens = torch.cat([tokens, logits.argmax()[None]])
        audio = torch.from_numpy(codec.decode(tokens[None].numpy()))
        assert torch.allclose(piece, audio[-320:], atol=1e-5)
        mel = torch.cat([mel, model.mel_encoder.normalise(log_mel(audio)[-1:])])


def test_generation_continues_past_the_context(
    runs: dict[str, Path], synthetic_corpora: Path, codec: Codec, log_mel: LogMel
) -> None:
    model, _ = load_run(runs["hybrid-4m"])
    prompt = read_prompt(prompt_file(synthetic_corpora), 32, codec, log_mel.config, "audio")

    def pieces(mel_source: MelSource, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        generated = Continuations(model, codec, log_mel, [prompt], Sampling(), mel_source, [generator])
        return torch.cat([generated.prompt_audio, *(generated.step() for _ in range(count))], dim=1)[0]

    audio = {source: pieces(source, 100) for source in get_args(MelSource)}
    assert all(a.shape == ((32 + 100) * 320,) and a.isfinite().all() for a in audio.values())
    assert not torch.equal(audio["decode"], audio["none"]) and not torch.equal(audio["decode"], audio["predict"])


@pytest.mark.parametrize("variant", ["audio", "codes-1"])
def test_prompt_is_the_end_of_the_encoded_recording(
    synthetic_corpora: Path, codec: Codec, log_mel: LogMel, tmp_path: Path, variant: str
) -> None:
    """Its codes and mel are those of the whole recording in a dataset, not those of its end encoded separately."""
    wav = np.concatenate([read_mono(path) for path in sorted(synthetic_corpora.rglob("*.flac"))[:3]])[:-100]
    soundfile.write(str(tmp_path / "long.wav"), wav, 24_000, "FLOAT")
    one_variant = LogMel(replace(log_mel.config, variants=(variant,)))
    ((segment,),) = align_recordings([[wav]], codec, one_variant, len(wav))
    prompt = read_prompt(tmp_path / "long.wav", 40, codec, log_mel.config, variant)
    whole = slice(len(wav) // 320 - 40, len(wav) // 320)
    assert np.array_equal(prompt.codes[0], segment.codes[0, whole])
    assert np.array_equal(prompt.mel, segment.mel[whole].astype(np.float32))
    alone = codec.encode(wav[whole.start * 320 : whole.stop * 320])[0]
    assert not np.array_equal(prompt.codes[0], alone)


def test_continuations_side_by_side_are_those_of_each_alone(
    runs: dict[str, Path], synthetic_corpora: Path, codec: Codec, log_mel: LogMel
) -> None:
    """Past the context, so that new caches are filled as well."""
    model, _ = load_run(runs["hybrid-4m"])
    prompt = read_prompt(prompt_file(synthetic_corpora), 32, codec, log_mel.config, "audio")
    prompts = [Prompt(prompt.codes[:, i : i + 20], prompt.mel[i : i + 20]) for i in (0, 5, 12)]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(3)]

    together = Continuations(model, codec, log_mel, prompts, Sampling(), "decode", generators())
    alone = [
        Continuations(model, codec, log_mel, [prompt], Sampling(), "decode", [generator])
        for prompt, generator in zip(prompts, generators(), strict=True)
    ]
    for _ in range(70):
        audio = together.step()
        assert torch.allclose(audio, torch.cat([one.step() for one in alone]), atol=1e-4)
        assert torch.equal(together.codes, torch.cat([one.codes for one in alone]))


def test_several_continuations_get_a_file_each(runs: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["generate", str(runs["gpt-4m"]), "--seconds=0.4", "--seed=3"]
    assert cli.main([*arguments, "--count=2", "--out", str(tmp_path / "many.wav")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"many-1.wav", "many-2.wav", "many.wav.yaml"}
    assert cli.main([*arguments, "--out", str(tmp_path / "one.wav")]) == 0
    assert (tmp_path / "many-1.wav").read_bytes() == (tmp_path / "one.wav").read_bytes()
    assert (tmp_path / "many-2.wav").read_bytes() != (tmp_path / "one.wav").read_bytes()
    assert cli.main([*arguments, "--count=0", "--out", str(tmp_path / "none.wav")]) == 2
    prompt = ["--prompt", str(tmp_path / "many-1.wav"), "--count=2", "--out", str(tmp_path / "many.wav")]
    assert cli.main([*arguments, *prompt]) == 2  # would be overwritten


def test_long_continuation_keeps_half_a_context_of_history(
    runs: dict[str, Path], codec: Codec, log_mel: LogMel
) -> None:
    model, _ = load_run(runs["gpt-4m"])
    half = model.config.context // 2
    prompt = Prompt(torch.randint(0, 1024, (1, half)), torch.zeros(half, 64))
    generated = Continuations(model, codec, log_mel, [prompt], Sampling(temperature=0), "decode", [torch.Generator()])
    audio = [generated.prompt_audio, *(generated.step() for _ in range(3 * model.config.context))]
    assert generated.codes.shape[2] == generated.mel.shape[1] == half
    # Recompute with the whole history.
    history = prompt.codes[0]
    with torch.no_grad():
        cache, prediction = prefill(model, history[None, None], torch.zeros(1, len(history), 64), "decode")
        for _ in range(3 * model.config.context):
            history = torch.cat([history, prediction.logits[:, -1].argmax(dim=-1)])
            if cache.position == cache.capacity:
                cache, prediction = prefill(model, history[None, None, -half:], torch.zeros(1, half, 64), "decode")
            else:
                token = history[-1][None, None, None]
                prediction = model.predict_next(token, None, torch.ones(1, 1, dtype=torch.bool), cache)
    expected = codec.decode(history[None].numpy())
    assert np.allclose(torch.cat(audio, dim=1)[0], expected, atol=1e-4)


def test_generate_frees_written_frames(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    step = Continuations.step

    def counting_step(self: Continuations) -> torch.Tensor:
        alive.append(sum(piece() is not None for piece in frames))
        piece = step(self)
        frames.append(weakref.ref(piece))
        return piece

    monkeypatch.setattr(Continuations, "step", counting_step)
    assert cli.main(["generate", str(runs["gpt-4m"]), "--out", str(tmp_path / "out.wav"), "--seconds=1"]) == 0
    assert len(alive) == 75 and max(alive) <= 1


def test_interrupted_generate_leaves_no_file(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Continuations) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Continuations, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli.run_verb("generate", [str(runs["gpt-4m"]), "--out", str(tmp_path / "out.wav"), "--seconds=1"])
    assert list(tmp_path.iterdir()) == []


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors reachable from an object, except those of the model and the codec."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif hasattr(value, "__dict__") and not isinstance(value, HybridLM | Codec | LogMel):
        yield from tensors_in(list(vars(value).values()))


def state_bytes(generated: Continuations) -> int:
    storages = [tensor.untyped_storage() for tensor in tensors_in(generated)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_long_hybrid_continuation_is_exact_in_constant_memory(
    runs: dict[str, Path], synthetic_corpora: Path, codec: Codec, log_mel: LogMel
) -> None:
    """Over several caches; recomputed by full forward passes over windows of all tokens, with audio decoded at once."""
    model, _ = load_run(runs["hybrid-4m"])
    context, half, frames = model.config.context, model.config.context // 2, 200
    prompt = read_prompt(prompt_file(synthetic_corpora), half, codec, log_mel.config, "audio")
    generator = torch.Generator().manual_seed(0)
    generated = Continuations(model, codec, log_mel, [prompt], Sampling(), "decode", [generator])
    pieces, tokens, sizes = [generated.prompt_audio[0]], [prompt.codes[0]], []
    for _ in range(frames):
        pieces.append(generated.step()[0])
        tokens.append(generated.codes[0, 0, -1:])
        sizes.append(state_bytes(generated))
    assert sizes[-1] > 100_000 and max(sizes[context:]) <= max(sizes[:context])
    history, audio = torch.cat(tokens), torch.cat(pieces)
    assert np.allclose(audio, codec.decode(history[None].numpy()), atol=1e-4)
    mel = model.mel_encoder.normalise(torch.cat([prompt.mel, log_mel(audio)[half:]]))
    generator, begin, position = torch.Generator().manual_seed(0), 0, half
    while position < len(history):
        end = min(begin + context, len(history))
        with torch.no_grad():
            logits = model(history[None, None, begin:end], mel[None, begin:end]).logits[0]
        for frame in range(position, end):
            noise = gumbel_noise(1, 1024, [generator])[:, 0]
            assert history[frame] == sample(logits[frame - begin][None], Sampling(), noise)[0]
        begin, position = begin + half, end


@torch.no_grad()
def test_prefill_matches_a_forward_pass(runs: dict[str, Path]) -> None:
    for name in ("hybrid-4m", "gpt-4m"):
        model, _ = load_run(runs[name])
        tokens, mel = torch.randint(0, 1024, (30,)), torch.randn(30, 64)
        _, prediction = prefill(model, tokens[None, None], mel[None], "decode")
        expected = model(tokens[None, None], mel[None] if model.config.hybrid else None)
        assert torch.allclose(prediction.logits[:, :-1], expected.logits, atol=1e-5)


def test_generate_does_not_overwrite_the_prompt(runs: dict[str, Path], tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.wav"
    soundfile.write(str(prompt), np.zeros(24_000), 24_000)
    before = prompt.read_bytes()
    assert cli.main(["generate", str(runs["gpt-4m"]), "--out", str(prompt), "--prompt", str(prompt)]) == 2
    assert cli.main(["generate", str(runs["gpt-4m"]), "--out", str(tmp_path / "o.mp3")]) == 2
    assert cli.main(["generate", str(runs["gpt-4m"]), "--out", str(tmp_path / "o.wav"), "--top-p=0"]) == 2
    assert list(tmp_path.iterdir()) == [prompt] and prompt.read_bytes() == before


@pytest.mark.parametrize("kind", ["text", "missing", "too short"])
def test_invalid_prompt_is_a_one_line_error(
    runs: dict[str, Path], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = tmp_path / "prompt.wav"
    if kind == "text":
        prompt.write_text("hello")
    elif kind == "too short":
        soundfile.write(str(prompt), np.zeros(10), 24_000)
    out = tmp_path / "o.wav"
    assert cli.main(["generate", str(runs["gpt-4m"]), "--out", str(out), "--prompt", str(prompt)]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"whisper-gpt generate: --prompt {prompt}: ") and not out.exists()


def test_mismatched_codec_weights_are_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs["gpt-4m"], tmp_path / "run"))
    folder = newest_checkpoint(run)
    state = read_state(folder)
    codec = {**state.data.codec, "weights_sha256": "0" * 64}
    content = json.loads((folder / "state.json").read_text())
    content["data"]["codec"] = codec
    (folder / "state.json").write_text(json.dumps(content))
    assert cli.main(["generate", str(run), "--out", str(tmp_path / "o.wav")]) == 1
    error = capsys.readouterr().err
    assert f"{run}: made with an earlier encodec_24khz_small (weights 000000000000…" in error
    assert "preprocess the corpus again" in error and "--codec-weights" in error
    assert replace(state, step=0).data == state.data
