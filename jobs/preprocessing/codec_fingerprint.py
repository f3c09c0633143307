"""Compute a codec's fingerprint without loading the codec in this process; cached per file."""

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
    """Start computing the fingerprint of the codec in `weights`; return a function that waits for it.

    It is computed in a separate process, because torch and the codec would be three quarters of this one's memory.
    Results are cached by path, size and modification time.
    """
    cache_file = _cache_file(weights, codebooks, precision)
    try:
        cached = CodecFingerprint(**json.loads(cache_file.read_text()))
        return lambda: cached
    except (OSError, ValueError, TypeError):
        pass  # not cached yet, or by another version
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    computing = pool.submit(compute_fingerprint, weights, codebooks, precision)
    pool.shutdown(wait=False)

    def wait() -> CodecFingerprint:
        fingerprint = computing.result()
        publish_bytes(cache_file, (json.dumps(asdict(fingerprint)) + "\n").encode())
        return fingerprint

    return wait


def compute_fingerprint(weights: Path, codebooks: int, precision: Precision) -> CodecFingerprint:
    """Load the codec in the file `weights`, and return its fingerprint."""
    from whisper_gpt.pipeline.codec.loading import read_codec

    return read_codec(weights, codebooks, precision).fingerprint


def _cache_file(weights: Path, codebooks: int, precision: Precision) -> Path:
    stat = weights.stat()
    fields = sorted(CodecFingerprint.__dataclass_fields__)
    key = json.dumps([str(weights.resolve()), stat.st_size, stat.st_mtime_ns, codebooks, precision, fields])
    return user_cache_path("whisper-gpt") / "fingerprints" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
