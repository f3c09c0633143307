"""Synthetic audio in the layouts of LibriSpeech and MAESTRO: speech-like utterances and piano-like pieces.

For the demo and for tests, which have no real data. The same `SyntheticSize` gives the same audio. It has structure
that a language model can learn (recurring syllables, chord progressions) and no other meaning.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import Location, is_file, is_remote
from whisper_gpt.pipeline.corpora import librispeech, maestro
from whisper_gpt.pipeline.corpora.recording import Found, Notes, Scan, collect
from whisper_gpt.pipeline.errors import PipelineError

SPEECH_RATE = 16_000  # LibriSpeech's
PIANO_RATE = 44_100  # MAESTRO's, stereo


@dataclass(frozen=True)
class SyntheticSize:
    """How much to generate: utterances of about 6 s and pieces of `piece_s`, divided 8:1:1 among the splits."""

    utterances: int = 60
    pieces: int = 10
    piece_s: float = 30.0
    seed: int = 0


def find(root: Location, corpus: str, exclude: Sequence[str], notes: Notes) -> Iterator[Found]:
    """Yield the recordings of the synthetic corpora in `root`, except matches of `exclude`.

    If `root` is missing or empty, they are generated first, at the default size. Raises `PipelineError` if it contains
    anything else.
    """
    if not is_file(root / _MARKER):
        if is_remote(root):
            raise PipelineError(f"{root}: synthetic audio can only be generated in a local folder")
        write(root, SyntheticSize())
    speech, piano = Notes(), Notes()
    yield from librispeech.find(root, f"{corpus}-speech", exclude, speech)
    yield from maestro.find(root, f"{corpus}-piano", exclude, piano)
    notes.absent |= speech.absent | piano.absent
    notes.warnings += dict.fromkeys(speech.warnings + piano.warnings)


def scan(root: Location, corpus: str = "synthetic", exclude: Sequence[str] = ()) -> Scan:
    """Return everything that `find` yields, sorted by id."""
    return collect(find, root, corpus, exclude)


def write(root: Path, size: SyntheticSize) -> None:
    """Write `root`/LibriSpeech and `root`/maestro-v3.0.0, atomically: to a temporary folder that is then renamed.

    Raises `PipelineError` if `root` is not empty.
    """
    if root.exists() and any(root.iterdir()):
        raise PipelineError(f"{root}: contains other files; synthetic audio needs a new or empty folder")
    temporary = root.with_name(f".{root.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with naming_full_disk(temporary):
        _write_speech(temporary / "LibriSpeech", size)
        _write_piano(temporary / _MAESTRO, size)
        (temporary / _MARKER).write_text(json.dumps(asdict(size)) + "\n")
    if root.exists():
        root.rmdir()
    temporary.replace(root)


def write_sound(path: Path, audio: np.ndarray, rate: int) -> None:
    """Write `audio` `[n]` or `[n, channels]` as 16-bit samples. Raises `PipelineError` if it cannot be written."""
    try:
        soundfile.write(str(path), audio, rate, "PCM_16")
    except soundfile.LibsndfileError as error:  # its message does not mention a full disk
        raise PipelineError(f"{path}: cannot be written ({error}); is the disk full?") from error


_MAESTRO = "maestro-v3.0.0"
_MARKER = "synthetic.json"
_SUBSETS = ["train-clean-100"] * 8 + ["dev-clean", "test-clean"]
_SPLITS = ["train"] * 8 + ["validation", "test"]

# The first three formants of an average adult, in Hz (Peterson and Barney 1952).
_VOWELS = {
    "A": (730, 1090, 2440),
    "E": (530, 1840, 2480),
    "I": (270, 2290, 3010),
    "O": (570, 840, 2410),
    "U": (300, 870, 2240),
}
_CONSONANTS = {
    "S": 5500.0,
    "SH": 3000.0,
    "T": 4000.0,
    "K": 1800.0,
    "P": 900.0,
    "": 0.0,
}  # centre of the noise, Hz
_LEXICON = ("SATO", "KI", "PESHU", "TAKA", "SHI", "OPU", "SEKITO", "A", "PUSHA", "TOKE", "ISU", "KAPO")


def _write_speech(home: Path, size: SyntheticSize) -> None:
    home.mkdir(parents=True, exist_ok=True)
    speaker_rows, chapter_rows = set(), set()
    for number in range(size.utterances):
        random = np.random.default_rng((size.seed, 1, number))
        subset = _SUBSETS[number % len(_SUBSETS)]
        speaker = 100 + number % (2 * len(_SUBSETS))
        chapter = 1000 + speaker
        words = [str(w) for w in random.choice(_LEXICON, size=int(random.integers(12, 20)))]
        folder = home / subset / str(speaker) / str(chapter)
        folder.mkdir(parents=True, exist_ok=True)
        utterance = f"{speaker}-{chapter}-{number:04d}"
        write_sound(folder / f"{utterance}.flac", _speak(words, speaker, random), SPEECH_RATE)
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8") as transcript:
            transcript.write(f"{utterance} {' '.join(words)}\n")
        sex = "FM"[speaker % 2]
        speaker_rows.add(f"{speaker:<6} | {sex} | {subset:<16} | 0.10  | Made Voice {speaker}")
        chapter_rows.add(
            f"{chapter:<6} | {speaker:<4} | 0.10  | {subset:<16} | 0 | 0 | Chapter {chapter} | A Made Book"
        )
    (home / "SPEAKERS.TXT").write_text("\n".join([";ID |SEX| SUBSET |MINUTES| NAME", *sorted(speaker_rows), ""]))
    (home / "CHAPTERS.TXT").write_text(
        "\n".join(
            [
                ";ID |READER|MINUTES| SUBSET | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE",
                *sorted(chapter_rows),
                "",
            ]
        )
    )


def _speak(words: list[str], speaker: int, random: np.random.Generator) -> np.ndarray:
    """Synthesise `[N]`: vowels are a pulse train through three resonators, consonants bursts of band-passed noise."""
    pitch = (210.0 if speaker % 2 == 0 else 115.0) * (1 + 0.02 * (speaker % 7))
    tract = (1.12 if speaker % 2 == 0 else 1.0) * (1 + 0.01 * (speaker % 5))
    parts = []
    for word in words:
        rest = word
        while rest:
            consonant = next(c for c in ("SH", "S", "T", "K", "P", "") if rest.startswith(c))
            vowel = rest[len(consonant)]
            rest = rest[len(consonant) + 1 :]
            if consonant:
                parts.append(_burst(_CONSONANTS[consonant] * tract, random))
            parts.append(_vowel([f * tract for f in _VOWELS[vowel]], pitch * (0.95 + 0.1 * random.random()), random))
        parts.append(np.zeros(int(0.08 * SPEECH_RATE)))
    speech = np.concatenate(parts)
    return (0.5 * speech / np.abs(speech).max() + 0.0005 * random.standard_normal(len(speech))).astype(np.float32)


def _vowel(formants: list[float], pitch: float, random: np.random.Generator) -> np.ndarray:
    samples = int((0.10 + 0.06 * random.random()) * SPEECH_RATE)
    phase = np.cumsum(np.full(samples, pitch / SPEECH_RATE) * np.linspace(1.04, 0.96, samples))
    pulses = np.diff(np.floor(phase), prepend=0.0)
    sound = pulses
    for formant, bandwidth in zip(formants, (80, 100, 140), strict=True):
        sound = _resonate(sound, formant, bandwidth)
    return sound / (np.abs(sound).max() + 1e-9) * np.hanning(samples) ** 0.5


def _burst(centre: float, random: np.random.Generator) -> np.ndarray:
    samples = int(0.06 * SPEECH_RATE)
    noise = _resonate(random.standard_normal(samples), min(centre, 7000.0), 900)
    return 0.3 * noise / np.abs(noise).max() * np.hanning(samples)


def _resonate(x: np.ndarray, frequency: float, bandwidth: float) -> np.ndarray:
    """Apply a two-pole resonator."""
    from scipy.signal import lfilter  # here, because it takes 60 MB that listing a corpus does not need

    radius = np.exp(-np.pi * bandwidth / SPEECH_RATE)
    return lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * frequency / SPEECH_RATE), radius**2], x)


def _write_piano(home: Path, size: SyntheticSize) -> None:
    home.mkdir(parents=True, exist_ok=True)
    columns = (
        "canonical_composer",
        "canonical_title",
        "split",
        "year",
        "midi_filename",
        "audio_filename",
        "duration",
    )
    with (home / f"{_MAESTRO}.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for number in range(size.pieces):
            random = np.random.default_rng((size.seed, 2, number))
            year = 2004 + number % 3
            stem = f"{year}/MADE-PIECE_{number:02d}_ORIG_MID--AUDIO_{number:02d}_R1_{year}_wav--1"
            (home / str(year)).mkdir(exist_ok=True)
            write_sound(home / f"{stem}.wav", _play(size.piece_s, random), PIANO_RATE)
            composer = ("A. Machine", "B. Machine")[number % 2]
            split = _SPLITS[number % len(_SPLITS)]
            table.writerow((composer, f"Étude {number + 1}", split, year, f"{stem}.midi", f"{stem}.wav", size.piece_s))


# Triads of a recurring cadence, in semitones above C.
_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))


def _play(seconds: float, random: np.random.Generator) -> np.ndarray:
    """Synthesise stereo `[N, 2]`: broken chords and a melody above, each note panned by its pitch."""
    samples = int(seconds * PIANO_RATE)
    out = np.zeros((samples + 3 * PIANO_RATE, 2), np.float32)
    beat = 0.22 + 0.06 * random.random()
    key = int(random.integers(-3, 4))
    for index in range(int(seconds / beat)):
        chord = _CHORDS[index // 8 % len(_CHORDS)]
        notes = [48 + key + chord[index % 3]]
        if index % 2 == 0:
            notes.append(60 + key + int(random.choice(chord)))
        at = int(index * beat * PIANO_RATE)
        for note in notes:
            sound = _note(note, float(random.uniform(0.4, 1.0)))
            pan = (note - 40) / 48
            out[at : at + len(sound)] += sound[:, None] * np.array([1 - pan, pan], np.float32)
    return 0.7 * out[:samples] / np.abs(out[:samples]).max()


def _note(midi: int, velocity: float) -> np.ndarray:
    """Synthesise 2.5 s of a struck string, float32: eight slightly stretched harmonics; higher ones decay faster."""
    t = np.arange(int(2.5 * PIANO_RATE), dtype=np.float32) / PIANO_RATE
    fundamental = 440.0 * 2 ** ((midi - 69) / 12)
    sound = np.zeros_like(t)
    for harmonic in range(1, 9):
        frequency = fundamental * harmonic * np.sqrt(1 + 4e-4 * harmonic**2)
        sound += np.sin(2 * np.pi * np.float32(frequency) * t) * np.exp(-t * (1.2 + 0.7 * harmonic)) / harmonic
    return velocity * sound * np.minimum(1, t / 0.004)
