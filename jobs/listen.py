"""Make a blind listening test of pairs: a folder with a web page to publish, and a key to keep.

The page needs no server of its own: any static web server will do, or `python -m http.server`. Listeners save their
answers as CSV files; `whisper-gpt listen score` turns them into statistics.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from rich.console import Console
from tyro.conf import Positional

from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.wav import wav_bytes
from whisper_gpt.jobs.listening.pairs import Clip, find_clips, levelled, make_pairs
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.errors import AudioError

PAGE_FOLDER, KEY_FILE = "page", "key.json"


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt listen`."""

    systems: Positional[tuple[Path, ...]]
    """Folders of audio files, one per system, named after it. Files of the same name, but for the extension, are
    compared; files that another folder lacks are not."""
    out: Path
    """Folder to write: page/ to publish, and key.json, which says whose clip is whose."""
    reference: Path | None = None
    """Folder with a reference for each pair, such as the originals; it is played beside the pair."""
    question: str = "Which of the two clips sounds better?"
    """The question that listeners answer."""
    pairs_each: int = 20
    """Number of pairs that each listener gets, drawn at random."""
    seed: int = 0
    """Random seed of the clips' public names."""


def run(config: Config) -> int:
    """Write the page and the key; return exit code 0."""
    folders = [*config.systems, *([config.reference] if config.reference else [])]
    names = [folder.absolute().name for folder in folders]
    require(len(config.systems) >= 2, "pass the folders of at least two systems")
    require(len(set(names)) == len(names), f"each folder needs its own name: {', '.join(names)}")
    require(config.pairs_each >= 1, f"--pairs-each {config.pairs_each}: must be at least 1")
    if (config.out / KEY_FILE).exists():
        raise JobError(f"{config.out / KEY_FILE}: there is a test already, with other answers; choose another --out")
    items, alone = find_clips(dict(zip(names, folders, strict=True)), config.seed)
    pairs = make_pairs(items, names[: len(config.systems)], names[-1] if config.reference else None)
    clips = [clip for of_item in items for clip in of_item.values()]
    for of_item in items:
        wavs = levelled([_read(clip) for clip in of_item.values()])
        for clip, wav in zip(of_item.values(), wavs, strict=True):
            publish_bytes(config.out / PAGE_FOLDER / "audio" / f"{clip.code}.wav", wav_bytes(wav))
    listed = [asdict(pair) for pair in pairs]
    identity = hashlib.sha256(json.dumps([listed, config.question]).encode()).hexdigest()[:16]
    test = {"id": identity, "question": config.question, "pairs_each": config.pairs_each, "pairs": listed}
    key = {"id": identity, "clips": {clip.code: {"system": clip.system, "item": clip.item} for clip in clips}}
    publish_bytes(config.out / PAGE_FOLDER / "index.html", _page(test).encode())
    publish_bytes(config.out / KEY_FILE, (json.dumps(key, indent=1) + "\n").encode())
    advice = f"publish {config.out / PAGE_FOLDER}, keep {config.out / KEY_FILE}"
    Console().print(f"{len(pairs)} pairs of {len(items)} items: {advice}", soft_wrap=True)
    if alone:
        Console().print(f"{alone} files are not compared, as another folder lacks their name", soft_wrap=True)
    return 0


def _read(clip: Clip) -> np.ndarray:
    try:
        return read_mono(clip.file)
    except AudioError as error:
        raise JobError(f"{clip.file}: {error}") from error


def _page(test: dict) -> str:
    """Return the page with the test in it, quoted for a JavaScript string inside of HTML."""
    template = resources.files("whisper_gpt.jobs.listening").joinpath("page.html").read_text(encoding="utf-8")
    text = json.dumps(test).replace("\\", "\\\\").replace("'", "\\'").replace("<", "\\u003c")
    return template.replace("TEST_AS_JSON", text)
