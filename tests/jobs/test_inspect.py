"""The page of `inspect --html`: sound decoded from the codes, in one small file."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.jobs import cli
from whisper_gpt.manifests.dataset_info import info_bytes, read_info
from whisper_gpt.manifests.fragments import read_samples


def test_page_has_sound_and_is_small(dataset: Path, tmp_path: Path) -> None:
    assert cli.main(["inspect", str(dataset), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(page) < 3e6
    sounds = re.findall(r"data:audio/ogg;base64,([^\"]+)", page)
    assert len(sounds) == 8 and page.count("<figcaption>8 codebooks</figcaption>") == 4  # 4 samples, 1 and 8 codebooks
    first_s = read_samples(dataset)["duration_s"][0].as_py()
    wav, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[1])))
    assert len(wav) / rate == pytest.approx(min(first_s, 10), abs=0.02) and np.abs(wav).max() > 0.01


def test_page_without_the_codec_says_why_it_is_silent(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("manifest", "train", "validation", "test", "failures"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).symlink_to(dataset / name)
    info = read_info(dataset)
    other = replace(info, codec=info.codec | {"name": "mine"})
    (tmp_path / "set" / "dataset.json").write_bytes(info_bytes(other))
    assert cli.main(["inspect", str(tmp_path / "set"), "--html", str(tmp_path / "page.html")]) == 0
    assert "has no sound" in (error := capsys.readouterr().err) and "--codec-weights" in error
    assert "<audio" not in (tmp_path / "page.html").read_text(encoding="utf-8")
