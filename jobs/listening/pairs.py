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


def find_clips(systems: Mapping[str, Path], seed: int) -> list[Clip]:
    """Return the clips of all systems (name: folder): the files whose names, without extension, are in every folder.

    Raises `JobError` if there are none, or a folder has two files of one name.
    """
    files = {system: _files(folder) for system, folder in systems.items()}
    items = set.intersection(*(set(found) for found in files.values()))
    if not items:
        raise JobError(f"no file name is in all of {', '.join(map(str, systems.values()))}; extensions may differ")
    return [
        Clip(system, item, found[item], _code(seed, system, item))
        for system, found in files.items()
        for item in sorted(items)
    ]


def count_alone(systems: Mapping[str, Path]) -> int:
    """Count the files whose names are not in every folder."""
    names = [set(_files(folder)) for folder in systems.values()]
    return sum(len(found) for found in names) - len(names) * len(set.intersection(*names))


def make_pairs(clips: Sequence[Clip], systems: Sequence[str], reference: str | None) -> list[Pair]:
    """Return every pair of `systems` on every item; which clip is played first is drawn anew for each listener."""
    code_of = {(clip.system, clip.item): clip.code for clip in clips}
    pairs = []
    for item in sorted({clip.item for clip in clips}):
        known = code_of[reference, item] if reference else None
        for one, other in itertools.combinations(systems, 2):
            # By code, so that the published order says nothing.
            first, second = sorted((code_of[one, item], code_of[other, item]))
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
