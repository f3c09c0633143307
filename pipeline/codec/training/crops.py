"""Training audio, decoded once into one memory-mapped file, and random crops as a pure function of seed and step."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from whisper_gpt.manifests.publish import publish_bytes, publishing
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec.training.augment import augment
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.frames import SAMPLE_RATE

_FULL_SCALE = 32767


@dataclass(frozen=True)
class AudioStore:
    """24 kHz mono audio: all recordings concatenated as int16; recording i is `samples[bounds[i]:bounds[i+1]]`."""

    samples: np.ndarray
    bounds: np.ndarray
    names: list[str]

    @property
    def hours(self) -> float:
        return len(self.samples) / SAMPLE_RATE / 3600


def build_store(
    files: Sequence[Path], path: Path, threads: int, skipped: Callable[[Path, AudioError], None]
) -> AudioStore:
    """Decode `files` into `path`.i16 and `path`.json, unless these already contain the same files.

    `skipped` is called for a file that cannot be decoded. Raises `PipelineError` if no file could be decoded.
    """
    data, index = path.with_suffix(".i16"), path.with_suffix(".json")
    wanted = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    if not (data.is_file() and index.is_file() and json.loads(index.read_text())["wanted"] == wanted):
        bounds, names = [0], []
        index.unlink(missing_ok=True)  # otherwise a run that is killed now would leave an index of other data
        with publishing(data) as out, ThreadPoolExecutor(threads) as pool:
            for file, samples in zip(files, _in_order(pool, files, threads), strict=True):
                if isinstance(samples, AudioError):
                    skipped(file, samples)
                    continue
                out.write(samples.tobytes())
                bounds.append(bounds[-1] + len(samples))
                names.append(str(file))
        publish_bytes(index, json.dumps({"wanted": wanted, "bounds": bounds, "names": names}).encode())
    content = json.loads(index.read_text())
    if not content["names"]:
        raise PipelineError(f"{path}: none of its {len(files)} audio files could be decoded")
    return AudioStore(np.memmap(data, np.int16, mode="r"), np.array(content["bounds"]), content["names"])


def random_crops(
    store: AudioStore, batch: int, samples: int, seed: tuple[int, ...], step: int, degraded: float = 1.0
) -> torch.Tensor:
    """Draw `batch` augmented crops float32 `[B, samples]` for one training step, uniformly over all seconds of audio.

    A recording shorter than a crop is padded with silence. The crops depend only on `seed`, `step` and
    `degraded` (see `augment`).
    """
    random = np.random.default_rng((*seed, step))

    def draw() -> np.ndarray:
        return _random_crop(store, samples, random)

    return torch.from_numpy(np.stack([augment(draw(), draw, random, degraded) for _ in range(batch)]))


def _random_crop(store: AudioStore, samples: int, random: np.random.Generator) -> np.ndarray:
    i = int(np.searchsorted(store.bounds, random.integers(len(store.samples)), side="right")) - 1
    first, last = int(store.bounds[i]), int(store.bounds[i + 1])
    start = first + int(random.integers(max(1, last - first - samples + 1)))
    piece = store.samples[start : min(last, start + samples)]
    crop = np.zeros(samples, np.float32)
    crop[: len(piece)] = piece * np.float32(1 / _FULL_SCALE)
    return crop


def _in_order(pool: ThreadPoolExecutor, files: Sequence[Path], ahead: int):
    """Yield each file's samples, or its error, in order; only a few files are in memory at a time."""
    pending = []
    for file in files:
        pending.append(pool.submit(_decode, file))
        if len(pending) > 2 * ahead:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()


def _decode(file: Path) -> np.ndarray | AudioError:
    try:
        return np.rint(np.clip(read_mono(file), -1, 1) * _FULL_SCALE).astype(np.int16)
    except AudioError as error:
        return error
