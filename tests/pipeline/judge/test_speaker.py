"""The speaker encoder equals Resemblyzer's, but reads its weights as tensors only."""

import pickle
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.judge import speaker
from whisper_gpt.pipeline.judge.packages import at_judge_rate
from whisper_gpt.pipeline.judge.speaker import halves_similarity, speaker_encoder, voice

installed = pytest.mark.skipif(speaker.find_spec("resemblyzer") is None, reason="needs the extra judge")


@installed
@pytest.mark.parametrize("seconds", [0.3, 1.7, 2.9, 3.0])
def test_embeddings_equal_those_of_the_package(
    speech: np.ndarray, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "webrtcvad", ModuleType("webrtcvad"))  # a compiled package that is not used here
    package = pytest.importorskip("resemblyzer", exc_type=ImportError)
    clip = speech[: round(seconds * 24_000)]
    loud = package.normalize_volume(at_judge_rate(clip), -30, increase_only=True)
    expected = package.VoiceEncoder("cpu", verbose=False).embed_utterance(loud)
    assert voice(clip) == pytest.approx(expected, abs=1e-5)


@installed
def test_voice_is_more_similar_to_itself_than_to_noise(speech: np.ndarray, noise: np.ndarray) -> None:
    assert np.linalg.norm(voice(speech)) == pytest.approx(1, abs=1e-5)
    assert halves_similarity(speech) > voice(speech) @ voice(noise) + 0.1
    assert voice(0.1 * speech) @ voice(0.01 * speech) > 0.999  # quiet audio is raised to the same level


@installed
def test_digital_silence_has_no_voice(speech: np.ndarray) -> None:
    assert np.isnan(voice(np.zeros_like(speech))).all()


class Opener:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.fixture
def weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path where the weights are looked up, instead of the package's own."""
    spec = ModuleSpec("resemblyzer", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(speaker, "find_spec", lambda name: spec)
    monkeypatch.setattr(speaker, "speaker_encoder", speaker_encoder.__wrapped__)
    return tmp_path / "pretrained.pt"


def test_only_tensors_are_unpickled(weights_file: Path) -> None:
    opened = weights_file.with_name("opened")
    torch.save({"model_state": Opener(opened)}, weights_file)
    with pytest.raises(PipelineError, match=str(weights_file)):
        speaker.speaker_encoder()
    assert not opened.exists()
    weights_file.write_bytes(pickle.dumps(Opener(opened)))
    with pytest.raises(PipelineError, match=str(weights_file)):
        speaker.speaker_encoder()
    assert not opened.exists()


def test_missing_or_other_weights_are_refused(weights_file: Path) -> None:
    with pytest.raises(PipelineError, match=str(weights_file)):
        speaker.speaker_encoder()
    torch.save({"model_state": {"lstm.weight_ih_l0": torch.zeros(3)}}, weights_file)
    with pytest.raises(PipelineError, match=str(weights_file)):
        speaker.speaker_encoder()


def test_missing_package_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match="pip install"):
        speaker_encoder.__wrapped__()
