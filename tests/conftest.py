"""Fixtures shared by all rooms: the small codec, made corpora, and one dataset made once through Ray."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs import cli, ray_pool
from pipeline.codec.causal import Codec
from pipeline.codec.loading import load_codec
from pipeline.corpora import synthetic
from pipeline.mel import LogMel
from pipeline.mel_config import MelConfig

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The small codec with 8 codebooks."""
    return load_codec("encodec_24khz_small")


@pytest.fixture(scope="session")
def log_mel() -> LogMel:
    """The default mel transform."""
    return LogMel(MelConfig())


@pytest.fixture(scope="session")
def made_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LibriSpeech and a MAESTRO tree of made audio: 20 utterances, 10 pieces of 8 s."""
    root = tmp_path_factory.mktemp("made") / "corpora"
    synthetic.write(root, synthetic.SyntheticSize(utterances=20, pieces=10, piece_s=8.0))
    return root


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray on this machine for all tests that preprocess; they use it as they find it."""
    with ray_pool.cluster(None, workers=2):
        yield


@pytest.fixture(scope="session")
def dataset(ray_cluster: None, made_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the made corpora, made by `whisper-gpt preprocess` with two Ray workers. Not to be changed."""
    out = tmp_path_factory.mktemp("dataset") / "dataset"
    arguments = ["preprocess", "synthetic", str(made_corpora), "--out", str(out), "--codec", "encodec_24khz_small"]
    assert cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5", "--workers=2"]) == 0
    return out


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real corpora that `$WHISPER_GPT_DATA` names; without it the test is skipped."""
    folder = os.environ.get("WHISPER_GPT_DATA")
    if not folder:
        pytest.skip("$WHISPER_GPT_DATA names no folder of real corpora (LibriSpeech, maestro-real-audio)")
    return Path(folder)
