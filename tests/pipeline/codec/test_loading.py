"""Loading codecs: names, files, hashes, both layouts of the official weights, and refusals with a reason."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from whisper_gpt.jobs.benchmarks.codec_speed import stock_codes
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec import files, weights
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, build_network, codebooks, seed_weights
from whisper_gpt.pipeline.codec.encodec_import import EncodecModel
from whisper_gpt.pipeline.codec.loading import load_codec, read_codec
from whisper_gpt.pipeline.codec.weights import save_weights
from whisper_gpt.pipeline.errors import PipelineError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the official checkpoint's layout, with PyTorch's initial weights."""
    path = tmp_path_factory.mktemp("weights") / files.OFFICIAL_FILE
    torch.manual_seed(0)
    torch.save(EncodecModel.encodec_model_24khz(pretrained=False).state_dict(), path)
    return path


@pytest.fixture
def official(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That file, accepted as the official one."""
    trust(checkpoint, monkeypatch)
    return checkpoint


def trust(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the hash of `path` the expected official hash."""
    monkeypatch.setattr(weights, "OFFICIAL_SHA256_PREFIX", hashlib.sha256(path.read_bytes()).hexdigest()[:8])


def test_official_weights_match_the_encodec_package(official: Path) -> None:
    stock = EncodecModel.encodec_model_24khz(pretrained=False)
    stock.load_state_dict(torch.load(official, weights_only=True))
    wav = torch.randn(1, 1, 3200, generator=torch.Generator().manual_seed(1))
    codec = load_codec("encodec_24khz", official)
    assert torch.equal(codebooks(codec.net)[3], codebooks(stock)[3])
    with torch.no_grad():
        assert torch.allclose(codec.net.encoder(wav), stock.eval().encoder(wav), atol=1e-6)


def test_official_weights_are_found_by_environment_variable(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.WEIGHTS_VARIABLE, str(official))
    assert load_codec("encodec_24khz").weights_sha256 == load_codec("encodec_24khz", official).weights_sha256


@pytest.mark.parametrize("parametrized", [False, True])
def test_hugging_face_layout_is_the_same_codec(official: Path, tmp_path: Path, parametrized: bool) -> None:
    """Tensors named as transformers does in `facebook/encodec_24khz`, with and without parametrizations."""
    hf_tensors = {}
    for name, tensor in torch.load(official, weights_only=True).items():
        name = name.replace("quantizer.vq.layers", "quantizer.layers").replace("._codebook.", ".codebook.")
        name = name.replace(".model.", ".layers.").replace(".convtr.convtr.", ".conv.").replace(".conv.conv.", ".conv.")
        if parametrized:
            name = name.replace("weight_g", "parametrizations.weight.original0")
            name = name.replace("weight_v", "parametrizations.weight.original1")
        hf_tensors[name] = tensor.contiguous()
    path = tmp_path / "model.safetensors"
    save_file(hf_tensors, path, metadata={"format": "pt"})
    original, converted = load_codec("encodec_24khz", official), load_codec("encodec_24khz", path)
    assert original.fingerprint == converted.fingerprint
    wav = np.random.default_rng(0).standard_normal(9_600).astype(np.float32) / 10
    assert np.array_equal(original.encode(wav), converted.encode(wav))


def test_official_weights_give_known_codes(real_data: Path) -> None:
    """A recording and the codes that the official model gave for it elsewhere, with another resampler."""
    file = os.environ.get(files.WEIGHTS_VARIABLE)
    if not file:
        pytest.skip(f"${files.WEIGHTS_VARIABLE} names no file with the official EnCodec weights")
    known = real_data / "encodec" / "known-answer"
    codes = load_codec("encodec_24khz").encode(read_mono(known / "test.wav"))
    expected = np.load(known / "test.codes.npy", allow_pickle=False).reshape(8, -1)
    frames = slice(10, min(codes.shape[1], expected.shape[1]))  # the reference has another context for the first frames
    assert (codes[0, frames] == expected[0, frames]).mean() > 0.8


def test_unofficial_weights_under_the_official_name_are_refused(checkpoint: Path) -> None:
    with pytest.raises(PipelineError, match="is not the official"):
        load_codec("encodec_24khz", checkpoint)


def test_truncated_checkpoint_is_refused(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = tmp_path / official.name
    short.write_bytes(official.read_bytes()[:1_000_000])
    with pytest.raises(PipelineError, match="is not the official"):
        load_codec("encodec_24khz", short)
    trust(short, monkeypatch)  # even if its hash is accepted
    with pytest.raises(PipelineError, match="not a checkpoint of tensors"):
        load_codec("encodec_24khz", short)


def test_pickled_code_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    bomb = tmp_path / files.OFFICIAL_FILE
    bomb.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(PipelineError, match="is not the official"):
        load_codec("encodec_24khz", bomb)
    trust(bomb, monkeypatch)
    with pytest.raises(PipelineError, match="not a checkpoint of tensors"):
        load_codec("encodec_24khz", bomb)
    assert not (tmp_path / "executed").exists()


def test_trained_codec_is_loaded_from_its_file(tmp_path: Path) -> None:
    architecture = CodecArchitecture(width=4, latent=16, codebooks=3, codebook_size=64)
    net = build_network(architecture)
    seed_weights(net, seed=1)
    path = tmp_path / "codec.safetensors"
    save_weights(path, "mine", net, "made for a test")
    codec = load_codec(str(path), codebooks=3)
    assert (codec.name, codec.codebook_size, codec.fingerprint.codebooks) == ("mine", 64, 3)
    assert codec.encode(np.zeros(3200, np.float32)).shape == (3, 10)
    assert torch.equal(codebooks(codec.net)[2], codebooks(net)[2].half().float())
    assert read_codec(path, codebooks=3).fingerprint == codec.fingerprint
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PipelineError, match="damaged"):
        load_codec(str(path), codebooks=3)


def test_file_of_another_codec_is_refused(tmp_path: Path) -> None:
    net = build_network(CodecArchitecture(width=4, latent=16, codebooks=3, codebook_size=64))
    mine, checkpoint = tmp_path / "codec.safetensors", tmp_path / "checkpoint.safetensors"
    save_weights(mine, "mine", net)
    with pytest.raises(PipelineError, match="'mine', not encodec_24khz"):
        load_codec("encodec_24khz", mine, codebooks=3)
    with pytest.raises(PipelineError, match=r"--codec-weights .*encodec_24khz"):
        load_codec(str(mine), mine)
    save_file({"optimizer/net/step": torch.tensor(3.0)}, checkpoint)
    with pytest.raises(PipelineError, match=r"pass codec\.safetensors"):
        load_codec(str(checkpoint))


def test_tensors_of_another_architecture_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_network(CodecArchitecture(width=4, latent=16, codebooks=3, codebook_size=64))
    path = tmp_path / "codec.safetensors"
    other = CodecArchitecture(width=6, latent=16, codebooks=3, codebook_size=64)
    monkeypatch.setattr(weights, "architecture_of", lambda net: other)  # the file declares a wrong architecture
    save_weights(path, "mine", net)
    with pytest.raises(PipelineError, match=str(path)):
        load_codec(str(path))


@pytest.mark.parametrize("name", files.INCLUDED)
def test_codecs_ship_with_the_package(name: str) -> None:
    codec = load_codec(name)
    assert codec.fingerprint.name == name
    assert (codec.sample_rate, codec.hop, codec.codebooks, codec.codebook_size) == (24_000, 320, 8, 1024)
    file = files.weights_file(name)
    assert file.stat().st_size < 12_000_000
    with pytest.raises(PipelineError, match="--codec-weights"):
        load_codec(name, file)
    wav = (0.1 * np.random.default_rng(0).standard_normal(30_000)).astype(np.float32)
    assert np.array_equal(codec.encode(wav), stock_codes(codec, wav))


@pytest.mark.parametrize("name", files.INCLUDED)
def test_nothing_explodes(name: str) -> None:
    """Whatever is encoded: the peak stays below 1.5 times the input's, and silence is silent."""
    codec, seconds = load_codec(name), np.arange(48_000) / 24_000
    random = np.random.default_rng(0)
    signals = {
        "sine": 0.5 * np.sin(2 * np.pi * 440 * seconds),
        "loud sine": np.sin(2 * np.pi * 3000 * seconds),
        "noise": 0.3 * random.standard_normal(48_000).clip(-3, 3),
        "clipping": (2 * random.standard_normal(48_000)).clip(-1, 1),
        "clicks": (np.arange(48_000) % 4800 == 0).astype(float),
    }
    for label, wav in signals.items():
        decoded = codec.decode(codec.encode(wav.astype(np.float32)))
        assert np.isfinite(decoded).all() and np.abs(decoded).max() <= 1.5 * np.abs(wav).max(), label
    assert np.abs(codec.decode(codec.encode(np.zeros(48_000, np.float32)))).max() < 0.005


def test_seeded_weights_are_deterministic() -> None:
    architecture = CodecArchitecture(width=4, latent=16, codebooks=2, codebook_size=64)
    nets = [build_network(architecture) for _ in range(2)]
    for net in nets:
        seed_weights(net, seed=3)
    first, second = (weights.tensors_sha256(weights.codec_tensors(net)) for net in nets)
    assert first == second


def test_48_khz_model_is_refused_as_not_causal() -> None:
    with pytest.raises(PipelineError, match="not causal"):
        load_codec("encodec_48khz")


@pytest.mark.parametrize("count", [0, 9])
def test_invalid_codebook_counts_are_refused(count: int) -> None:
    with pytest.raises(PipelineError, match="has 1 to 8"):
        load_codec("encodec_24khz_small", codebooks=count)


def test_unknown_codec_names_are_refused() -> None:
    with pytest.raises(PipelineError, match="encodec_24khz, encodec_24khz_small"):
        load_codec("opus")


@pytest.mark.parametrize(
    "wrong", [{"width": 7}, {"width": 0}, {"latent": 0}, {"codebooks": 0}, {"codebook_size": 1000}]
)
def test_invalid_architectures_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match="must be"):
        CodecArchitecture(**wrong)


def test_missing_weights_error_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.delenv(files.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(PipelineError, match=r"--codec-weights FILE or \$WHISPER_GPT_CODEC_WEIGHTS"):
        load_codec("encodec_24khz")
    with pytest.raises(PipelineError, match="no such file"):
        load_codec("encodec_24khz", tmp_path / "absent.th")


def test_torchaudio_stand_in_is_removed_after_import() -> None:
    """If torchaudio cannot be imported, no stand-in for it is left in `sys.modules` to confuse other libraries."""
    code = (
        "import sys; sys.modules['torchaudio'] = None\n"  # makes `import torchaudio` fail, as a broken one does
        "import whisper_gpt.pipeline.codec.encodec_import as e\n"
        "assert e.EncodecModel and sys.modules.get('torchaudio') is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
