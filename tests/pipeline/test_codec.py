"""The codec: causal to the bit, the same in a stream as in one pass, varied codes, refusals with a reason."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import read_mono
from pipeline.codec import loading as codec_module
from pipeline.codec.causal import PREROLL_FRAMES, Codec
from pipeline.codec.encodec_import import EncodecModel
from pipeline.codec.loading import load_codec
from pipeline.errors import PipelineError


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose loudness wanders, so that frames differ."""
    random = np.random.default_rng(seed)
    envelope = np.repeat(random.uniform(0.01, 0.3, samples // 800 + 1), 800)[:samples]
    return (random.standard_normal(samples) * envelope).astype(np.float32)


def stock_codes(codec: Codec, wav: np.ndarray) -> np.ndarray:
    """The codes of the package's own whole-signal encoder under the same edge policy."""
    hop = codec.hop
    padded = np.pad(wav, (PREROLL_FRAMES * hop, -len(wav) % hop))
    with torch.no_grad():
        latents = codec.net.encoder(torch.from_numpy(padded)[None, None])
        codes = codec.net.quantizer.encode(latents, codec.net.frame_rate, 6.0)[: codec.codebooks, 0]
    return codes[:, PREROLL_FRAMES:].numpy()


def test_codes_equal_the_packages_own(codec: Codec) -> None:
    wav = noise(70_000)
    codes = codec.encode(wav)
    assert codes.dtype == np.int16 and codes.shape == (8, 219)
    assert np.array_equal(codes, stock_codes(codec, wav))


def test_decoded_audio_equals_the_packages_own(codec: Codec) -> None:
    codes = codec.encode(noise(64_000))
    silence = np.zeros(PREROLL_FRAMES * codec.hop, np.float32)
    with torch.no_grad():
        preroll = codec.net.quantizer.encode(codec.net.encoder(torch.from_numpy(silence)[None, None]), 75, 6.0)[:, 0]
        latents = codec.net.quantizer.decode(torch.cat([preroll, torch.from_numpy(codes)], dim=-1).long()[:, None])
        expected = codec.net.decoder(latents)[0, 0, PREROLL_FRAMES * codec.hop :].numpy()
    assert np.abs(codec.decode(codes) - expected).max() < 1e-5


@settings(max_examples=8, deadline=None)
@given(frames=st.lists(st.sampled_from([1, 2, 7, 40, 75]), min_size=1, max_size=5))
def test_any_chunks_give_the_same_codes_and_audio(codec: Codec, frames: list[int]) -> None:
    wav = torch.from_numpy(noise(sum(frames) * codec.hop, seed=len(frames)))
    state, codes = codec.encoder_start, []
    for chunk in wav[None].split([n * codec.hop for n in frames], dim=-1):
        part, state = codec.encode_chunk(state, chunk)
        codes.append(part)
    whole = codec.encode(wav)
    assert np.array_equal(torch.cat(codes, dim=-1)[0].numpy(), whole)
    state, audio = codec.decoder_start(8), []
    for part in codes:
        samples, state = codec.decode_chunk(state, part)
        audio.append(samples)
    assert np.abs(torch.cat(audio, dim=-1)[0].numpy() - codec.decode(whole)).max() < 1e-5


@pytest.mark.parametrize("t", [0, 1, 2, 3, 40, 98])
def test_no_code_sees_the_future(codec: Codec, t: int) -> None:
    wav = noise(100 * codec.hop)
    other = wav.copy()
    other[codec.hop * (t + 1) :] = noise(len(wav), seed=5)[codec.hop * (t + 1) :] * 4
    before, after = codec.encode(wav), codec.encode(other)
    assert np.array_equal(before[:, : t + 1], after[:, : t + 1])
    assert not np.array_equal(before[:, t + 1 :], after[:, t + 1 :])


@pytest.mark.parametrize("t", [0, 1, 3, 50])
def test_no_decoded_sample_sees_a_later_code(codec: Codec, t: int) -> None:
    codes = codec.encode(noise(60 * codec.hop))
    other = codes.copy()
    other[:, t + 1 :] = (other[:, t + 1 :] + 7) % 1024
    before, after = codec.decode(codes), codec.decode(other)
    assert np.array_equal(before[: codec.hop * (t + 1)], after[: codec.hop * (t + 1)])
    assert not np.array_equal(before, after)


def test_fewer_codebooks_are_the_first_of_more(codec: Codec) -> None:
    wav = noise(20_000)
    assert np.array_equal(load_codec("untrained", codebooks=1).encode(wav), codec.encode(wav)[:1])


def test_untrained_codes_are_varied(codec: Codec, made_corpora: Path) -> None:
    files = sorted((made_corpora / "LibriSpeech").rglob("*.flac"))[:4]
    codes = np.concatenate([codec.encode(read_mono(file)) for file in files], axis=1)
    for book in codes:
        share = np.bincount(book) / len(book)
        share = share[share > 0]
        assert -(share * np.log2(share)).sum() > 6  # of at most 10 bits


def test_untrained_weights_are_the_same_everywhere(codec: Codec) -> None:
    assert load_codec("untrained", codebooks=2).weights_sha256 == codec.weights_sha256
    assert codec.fingerprint.name == "untrained"


def test_the_48_khz_model_is_refused_with_the_reason() -> None:
    with pytest.raises(PipelineError, match="not causal"):
        load_codec("encodec_48khz")


@pytest.mark.parametrize("codebooks", [0, 33])
def test_impossible_codebooks_are_refused(codebooks: int) -> None:
    with pytest.raises(PipelineError, match="1 to 32"):
        load_codec("untrained", codebooks=codebooks)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PipelineError, match="encodec_24khz, untrained"):
        load_codec("opus")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the official checkpoint's shape: PyTorch's own initial weights under the official names."""
    path = tmp_path_factory.mktemp("weights") / codec_module.OFFICIAL_FILE
    torch.manual_seed(0)
    torch.save(EncodecModel.encodec_model_24khz(pretrained=False).state_dict(), path)
    return path


def test_official_weights_are_loaded_from_a_file(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    monkeypatch.setattr(codec_module, "OFFICIAL_SHA256_PREFIX", digest[:8])
    loaded = load_codec("encodec_24khz", checkpoint)
    assert loaded.weights_sha256 == digest
    expected = torch.load(checkpoint, weights_only=True)["quantizer.vq.layers.3._codebook.embed"]
    assert torch.equal(loaded.net.quantizer.vq.layers[3]._codebook.embed, expected)
    monkeypatch.setenv(codec_module.WEIGHTS_VARIABLE, str(checkpoint))
    assert load_codec("encodec_24khz").weights_sha256 == digest


def test_official_weights_give_the_known_codes(real_data: Path) -> None:
    """A recording and the codes that the official model gave for it elsewhere, with another resampler."""
    weights = os.environ.get(codec_module.WEIGHTS_VARIABLE)
    if not weights:
        pytest.skip(f"${codec_module.WEIGHTS_VARIABLE} names no file with the official EnCodec weights")
    known = real_data / "encodec" / "known-answer"
    codes = load_codec("encodec_24khz").encode(read_mono(known / "test.wav"))
    expected = np.load(known / "test.codes.npy", allow_pickle=False).reshape(8, -1)
    frames = slice(10, min(codes.shape[1], expected.shape[1]))  # the first frames see another beginning there
    assert (codes[0, frames] == expected[0, frames]).mean() > 0.8


def test_other_weights_under_that_name_are_refused(checkpoint: Path) -> None:
    with pytest.raises(PipelineError, match="is not the official"):
        load_codec("encodec_24khz", checkpoint)


def test_missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.delenv(codec_module.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(PipelineError, match=r"--codec-weights FILE or \$WHISPER_GPT_CODEC_WEIGHTS"):
        load_codec("encodec_24khz")
    with pytest.raises(PipelineError, match="no such file"):
        load_codec("encodec_24khz", tmp_path / "absent.th")


def test_only_the_placeholder_is_gone_after_the_import() -> None:
    """Where torchaudio cannot be loaded, nothing of the stand-in is left for other libraries to trip over."""
    code = (
        "import sys; sys.modules['torchaudio'] = None\n"  # makes `import torchaudio` fail, as a broken one does
        "import pipeline.codec.encodec_import as e\n"
        "assert e.EncodecModel and sys.modules.get('torchaudio') is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
