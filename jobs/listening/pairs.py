"""The pairs of a listening test: which clips of which systems are played against each other, under names that say
nothing."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.pipeline.audio import EXTENSIONS

_LEVEL_DBFS = -26.0  # of every clip: the louder of two is often preferred
_PEAK = 0.99


@dataclass(frozen=True)
class Clip:
    """One recording as one system made it; `code` is its public name."""

    system: str
    item: str
    file: Path
    code: str


@dataclass(frozen=True)
class Pair:
    """Two clips of one item, by their codes, and that of a reference, if there is one."""

    clips: tuple[str, str]
    reference: str | None


def find_clips(systems: Mapping[str, Path], seed: int) -> tuple[list[dict[str, Clip]], int]:
    """Return, for each item, the clip of every system (name: folder), and how many files are in no item.

    An item is a file name, without extension, that is in every folder. Raises `JobError` if there is none, or a folder
    has two files of one name.
    """
    files = {system: _files(folder) for system, folder in systems.items()}
    items = sorted(set.intersection(*(set(found) for found in files.values())))
    if not items:
        raise JobError(f"no file name is in all of {', '.join(map(str, systems.values()))}; extensions may differ")
    clips = [
        {system: Clip(system, item, found[item], _code(seed, system, item)) for system, found in files.items()}
        for item in items
    ]
    return clips, sum(map(len, files.values())) - len(files) * len(items)


def make_pairs(items: Sequence[Mapping[str, Clip]], systems: Sequence[str], reference: str | None) -> list[Pair]:
    """Return every pair of `systems` on every item; the page shuffles the two clips of a pair for each listener."""
    pairs = []
    for clips in items:
        known = clips[reference].code if reference else None
        for one, other in itertools.combinations(systems, 2):
            # By code, so that the published order says nothing.
            first, second = sorted((clips[one].code, clips[other].code))
            pairs.append(Pair((first, second), known))
    return pairs


def levelled(wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scale signals `[N]` to one level: the usual one, or the highest at which none of them clips."""
    loudness = [float(np.sqrt(np.mean(np.square(wav, dtype=np.float64)))) or 1.0 for wav in wavs]
    peaks = [float(np.abs(wav).max()) / rms for wav, rms in zip(wavs, loudness, strict=True)]
    level = min(10 ** (_LEVEL_DBFS / 20), _PEAK / max(*peaks, 1e-9))
    return [wav * np.float32(level / rms) for wav, rms in zip(wavs, loudness, strict=True)]


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise JobError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in EXTENSIONS:
            if file.stem in found:
                raise JobError(f"{folder}: {found[file.stem].name} and {file.name} have one name; remove one")
            found[file.stem] = file
    return found


def _code(seed: int, system: str, item: str) -> str:
    return hashlib.sha256(f"{seed}\n{system}\n{item}".encode()).hexdigest()[:16]
