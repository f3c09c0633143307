"""A codec file's fingerprint is computed once per file, with or without a writable cache folder."""

from pathlib import Path

import pytest

from whisper_gpt.jobs.preprocessing import codec_fingerprint
from whisper_gpt.jobs.preprocessing.codec_fingerprint import begin_fingerprint
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.files import SMALL_NAME, weights_file


@pytest.mark.parametrize("in_process", [True, False])
def test_fingerprint_is_computed_once_per_file(
    in_process: bool, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_fingerprint, "user_cache_path", lambda name: tmp_path / name)
    weights = weights_file(SMALL_NAME)
    assert begin_fingerprint(weights, 8, "fp32", in_process)() == codec.fingerprint
    monkeypatch.setattr(codec_fingerprint, "_compute", None)
    assert begin_fingerprint(weights, 8, "fp32", in_process)() == codec.fingerprint
    with pytest.raises(TypeError):
        begin_fingerprint(weights, 4, "fp32", True)()


def test_unwritable_cache_folder_is_ignored(codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(codec_fingerprint, "user_cache_path", lambda name: tmp_path / "file")
    assert begin_fingerprint(weights_file(SMALL_NAME), 8, "fp32", True)() == codec.fingerprint
