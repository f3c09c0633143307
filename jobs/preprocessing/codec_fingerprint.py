"""The fingerprint of a codec, for a process that should not load the codec: computed once per file, and remembered."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from platformdirs import user_cache_path

from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint, Precision


def begin_fingerprint(weights: Path, codebooks: int, precision: Precision) -> Callable[[], CodecFingerprint]:
    """Begin to compute the fingerprint of the codec in `weights`; the function returned waits for it.

    It is computed in a process of its own, because torch and the codec are three quarters of what this one would then
    hold. A file of the same path, size and time of change is not loaded again.
    """
    remembered = _memory(weights, codebooks, precision)
    try:
        found = CodecFingerprint(**json.loads(remembered.read_text()))
        return lambda: found
    except (OSError, ValueError, TypeError):
        pass  # not there yet, or of another version
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    computing = pool.submit(compute_fingerprint, weights, codebooks, precision)
    pool.shutdown(wait=False)

    def wait() -> CodecFingerprint:
        fingerprint = computing.result()
        publish_bytes(remembered, (json.dumps(asdict(fingerprint)) + "\n").encode())
        return fingerprint

    return wait


def compute_fingerprint(weights: Path, codebooks: int, precision: Precision) -> CodecFingerprint:
    """Load the codec in the file `weights` for its fingerprint alone."""
    from whisper_gpt.pipeline.codec.loading import read_codec

    return read_codec(weights, codebooks, precision).fingerprint


def _memory(weights: Path, codebooks: int, precision: Precision) -> Path:
    found = weights.stat()
    fields = sorted(CodecFingerprint.__dataclass_fields__)
    key = json.dumps([str(weights.resolve()), found.st_size, found.st_mtime_ns, codebooks, precision, fields])
    return user_cache_path("whisper-gpt") / "fingerprints" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
