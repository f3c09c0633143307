"""Fixtures shared by all tests: the small codec, synthetic corpora, a dataset made from them, an object store."""

import logging
import os

# Waiting OpenMP threads must not spin: that slows a step many times over on a busy machine. Set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray gives its workers a low priority (nice 15), so beside other work they would hardly run. Set before Ray starts.
os.environ.setdefault("RAY_worker_niceness", "0")

import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
import torch
from moto.server import DomainDispatcherApplication, create_backend_app
from upath import UPath
from werkzeug.serving import make_server

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.ray_cluster import cluster
from whisper_gpt.model.config import PRESETS
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.loading import load_codec
from whisper_gpt.pipeline.corpora import synthetic
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig

torch.set_num_threads(1)  # `make test` runs one process per core

# A busy machine must not make property-based tests fail.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def restored_torch_settings() -> Iterator[None]:
    """A test may change torch's settings for the whole process; the next one starts with these."""
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The small codec with 8 codebooks."""
    return load_codec("encodec_24khz_small")


@pytest.fixture(scope="session")
def log_mel() -> LogMel:
    """The default mel transform."""
    return LogMel(MelConfig())


@pytest.fixture(scope="session")
def synthetic_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LibriSpeech and a MAESTRO tree of synthetic audio: 20 utterances and 10 pieces of 8 s."""
    root = tmp_path_factory.mktemp("synthetic") / "corpora"
    synthetic.write(root, synthetic.SyntheticSize(utterances=20, pieces=10, piece_s=8.0))
    return root


class ObjectStore:
    """A local S3 server with configurable failures and latency.

    It answers a share `error_share` of requests with HTTP 500 or 503, truncates a share `truncated_share` of its
    responses, and delays every response by `delay_s`.
    """

    def __init__(self, port: int):
        self._app = DomainDispatcherApplication(create_backend_app)
        self._random = random.Random(0)
        self.error_share, self.truncated_share, self.delay_s = 0.0, 0.0, 0.0
        self.failed = 0
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.server = make_server("127.0.0.1", port, self._respond, threaded=True)
        self._buckets = 0

    def bucket(self) -> UPath:
        """Create a new bucket."""
        self._buckets += 1
        path = UPath(f"s3://bucket-{self._buckets}")
        path.fs.mkdir(path.path)
        return path

    def _respond(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        time.sleep(self.delay_s)
        draw = self._random.random()
        if draw < self.error_share:
            self.failed += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(self._random.choice(["503 Slow Down", "500 Internal Server Error"]), [])
            return [b""]
        response = b"".join(self._app(environ, start_response))
        if draw < self.error_share + self.truncated_share and len(response) > 1:
            self.failed += 1
            return [response[: len(response) // 2]]  # shorter than Content-Length: the client sees a broken connection
        return [response]


@pytest.fixture(scope="session")
def store_port() -> int:
    """The object store's port; set in the environment before Ray starts and passes the environment to its workers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return port


@pytest.fixture(scope="session")
def running_store(store_port: int) -> Iterator[ObjectStore]:
    """The object store, running for the whole session."""
    store = ObjectStore(store_port)
    thread = threading.Thread(target=store.server.serve_forever, daemon=True)
    thread.start()
    yield store
    store.server.shutdown()
    thread.join()


@pytest.fixture
def store(running_store: ObjectStore) -> Iterator[ObjectStore]:
    """The object store, reset to no failures and no delay after the test."""
    yield running_store
    running_store.error_share, running_store.truncated_share, running_store.delay_s = 0.0, 0.0, 0.0


@pytest.fixture(scope="session")
def ray_cluster(store_port: int) -> Iterator[None]:
    """One local Ray cluster shared by all tests that preprocess with workers."""
    with cluster(None, workers=2):
        yield


@pytest.fixture(scope="session")
def dataset(synthetic_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the synthetic corpora, written by `whisper-gpt preprocess` in this process. Must not be modified."""
    out = tmp_path_factory.mktemp("dataset") / "dataset"
    arguments = ["preprocess", "synthetic", str(synthetic_corpora), "--out", str(out), "--codec", "encodec_24khz_small"]
    assert cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5", "--workers=0"]) == 0
    return out


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real corpora named by `$WHISPER_GPT_DATA`; tests are skipped without it."""
    folder = os.environ.get("WHISPER_GPT_DATA")
    if not folder:
        pytest.skip("$WHISPER_GPT_DATA names no folder of real corpora (LibriSpeech, maestro-real-audio)")
    return Path(folder)


@pytest.fixture(scope="module")
def tiny_presets() -> Iterator[None]:
    """Shrink the presets in this process to a size that tests can afford; no test depends on the size."""
    presets = dict(PRESETS)
    sizes = {"width": 64, "layers": 2, "heads": 2, "mel_width": 32, "mel_layers": 1, "mel_heads": 2}
    PRESETS.update({name: replace(preset, **sizes) for name, preset in presets.items()})
    yield
    PRESETS.update(presets)
