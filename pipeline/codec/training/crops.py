"""Audio decoded once into one memory-mapped file, and random crops of it that are a pure function of seed and step."""

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
    """24 kHz mono audio, all recordings one after another as int16; recording i is `samples[bounds[i]:bounds[i+1]]`."""

    samples: np.ndarray
    bounds: np.ndarray
    names: list[str]

    @property
    def hours(self) -> float:
        return len(self.samples) / SAMPLE_RATE / 3600


def build_store(
    files: Sequence[Path], path: Path, threads: int, skipped: Callable[[Path, AudioError], None]
) -> AudioStore:
    """Decode `files` into `path`.i16 and `path`.json, unless they hold the same files already.

    A file that cannot be decoded goes to `skipped`. Raises `PipelineError` where nothing is left.
    """
    data, index = path.with_suffix(".i16"), path.with_suffix(".json")
    wanted = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    if not (data.is_file() and index.is_file() and json.loads(index.read_text())["wanted"] == wanted):
        bounds, names = [0], []
        index.unlink(missing_ok=True)  # or a run that is killed now would leave it beside other data
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


def random_crops(store: AudioStore, batch: int, samples: int, seed: tuple[int, ...], step: int) -> torch.Tensor:
    """Draw `batch` augmented crops float32 `[B, samples]` for one training step, uniformly over all seconds of audio.

    A recording shorter than a crop is followed by silence. The draw depends on `seed` and `step` alone.
    """
    random = np.random.default_rng((*seed, step))

    def draw() -> np.ndarray:
        return _random_crop(store, samples, random)

    return torch.from_numpy(np.stack([augment(draw(), draw, random) for _ in range(batch)]))


def _random_crop(store: AudioStore, samples: int, random: np.random.Generator) -> np.ndarray:
    i = int(np.searchsorted(store.bounds, random.integers(len(store.samples)), side="right")) - 1
    first, last = int(store.bounds[i]), int(store.bounds[i + 1])
    start = first + int(random.integers(max(1, last - first - samples + 1)))
    piece = store.samples[start : min(last, start + samples)]
    crop = np.zeros(samples, np.float32)
    crop[: len(piece)] = piece * np.float32(1 / _FULL_SCALE)
    return crop


def _in_order(pool: ThreadPoolExecutor, files: Sequence[Path], ahead: int):
    """Each file decoded, or its error; in order, with only a few in memory at a time."""
    waiting = []
    for file in files:
        waiting.append(pool.submit(_decode, file))
        if len(waiting) > 2 * ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _decode(file: Path) -> np.ndarray | AudioError:
    try:
        return np.rint(np.clip(read_mono(file), -1, 1) * _FULL_SCALE).astype(np.int16)
    except AudioError as error:
        return error
