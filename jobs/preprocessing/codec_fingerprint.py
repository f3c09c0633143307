"""The fingerprint of a codec's file, computed once per file and cached."""

import contextlib
import hashlib
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint, Precision


def begin_fingerprint(
    weights: Path, codebooks: int, precision: Precision, in_process: bool
) -> Callable[[], CodecFingerprint]:
    """Start computing the fingerprint of the codec in `weights`; return a function that waits for it.

    Unless `in_process`, a separate process computes it: torch and the codec would be three quarters of this one's
    memory. Results are cached by path, size and modification time, if the user's cache folder can be written.
    """
    cache_file = _cache_file(weights, codebooks, precision)
    try:
        cached = CodecFingerprint(**json.loads(cache_file.read_text()))
        return lambda: cached
    except (OSError, ValueError, TypeError):
        pass  # not cached yet, or by another version
    compute: Callable[[], CodecFingerprint] = partial(_compute, weights, codebooks, precision)
    if not in_process:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        compute = pool.submit(compute).result
        pool.shutdown(wait=False)

    def wait() -> CodecFingerprint:
        fingerprint = compute()
        with contextlib.suppress(OSError, ManifestError):  # without the cache it is only computed again
            publish_bytes(cache_file, (json.dumps(asdict(fingerprint)) + "\n").encode())
        return fingerprint

    return wait


def _compute(weights: Path, codebooks: int, precision: Precision) -> CodecFingerprint:
    """Load the codec in the file `weights`, and return its fingerprint."""
    from whisper_gpt.pipeline.codec.loading import read_codec

    return read_codec(weights, codebooks, precision).fingerprint


def _cache_file(weights: Path, codebooks: int, precision: Precision) -> Path:
    stat = weights.stat()
    fields = sorted(CodecFingerprint.__dataclass_fields__)
    key = json.dumps([str(weights.resolve()), stat.st_size, stat.st_mtime_ns, codebooks, precision, fields])
    return user_cache_path("whisper-gpt") / "fingerprints" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
