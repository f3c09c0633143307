"""Synthetic piano-like pieces in many timbres, for training a codec without music that may not be redistributed.

Each piece has a random instrument (brightness, inharmonicity, attack, decay, hammer noise, detuned strings), room,
pedalling, texture and dynamics. The same random generator gives the same audio.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve

from whisper_gpt.pipeline.frames import SAMPLE_RATE

_HIGHEST_PARTIAL_HZ = 10_500.0
_LOUDNESS_LAYERS = 4
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 8, 11), (0, 2, 4, 7, 9))


@dataclass(frozen=True)
class Instrument:
    """The timbre of one piece. Rates are per second, times in seconds."""

    inharmonicity: float
    brightness: float  # partial n begins at n ** -brightness
    attack_s: float
    decay: float  # of the fundamental at middle C
    partial_decay: float  # added for each partial above it
    second_decay: float  # share of the slow part of the two-stage decay
    detuning: float  # between the strings of one note, relative
    hammer: float
    release: float


@dataclass(frozen=True)
class Note:
    """One key press: MIDI number, start and end in seconds, loudness layer 0 to 3."""

    midi: int
    start_s: float
    end_s: float
    layer: int


def play(seconds: float, random: np.random.Generator) -> np.ndarray:
    """Compose and synthesise one piece; return float32 `[N]` at 24 kHz with a peak of 0.2 to 0.9."""
    instrument = _draw_instrument(random)
    out = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    sounds: dict[tuple[int, int], np.ndarray] = {}
    for note in _compose(seconds, random):
        key = note.midi, note.layer
        if key not in sounds:
            sounds[key] = _sound(instrument, note.midi, note.layer, random)
        first = int(note.start_s * SAMPLE_RATE)
        pressed = int((note.end_s - note.start_s) * SAMPLE_RATE)
        sound = sounds[key][: len(out) - first].copy()
        released_s = np.arange(max(0, len(sound) - pressed), dtype=np.float32) / SAMPLE_RATE
        sound[len(sound) - len(released_s) :] *= np.exp(-instrument.release * released_s)
        out[first : first + len(sound)] += sound
    out = _add_reverb(out, random) + 10 ** random.uniform(-4.5, -3) * random.standard_normal(len(out), np.float32)
    return (out * (random.uniform(0.2, 0.9) / np.abs(out).max())).astype(np.float32)


def _draw_instrument(random: np.random.Generator) -> Instrument:
    return Instrument(
        inharmonicity=10 ** random.uniform(-4.3, -3.1),
        brightness=random.uniform(0.6, 1.8),
        attack_s=10 ** random.uniform(-3, -1.9),
        decay=random.uniform(0.5, 2.5),
        partial_decay=random.uniform(0.1, 0.8),
        second_decay=random.uniform(0.1, 0.5),
        detuning=10 ** random.uniform(-4.2, -3),
        hammer=random.uniform(0.0, 0.25),
        release=random.uniform(8, 40),
    )


def _sound(instrument: Instrument, midi: int, layer: int, random: np.random.Generator) -> np.ndarray:
    """Synthesise one key, pressed for as long as it sounds, float32 `[N]`."""
    fundamental = 440.0 * 2 ** ((midi - 69) / 12)
    decay = instrument.decay * 2 ** ((midi - 60) / 24)
    t = np.arange(int(min(6.0, 5.5 / (decay * instrument.second_decay)) * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    loudness = (layer + 1) / _LOUDNESS_LAYERS
    sound = np.zeros_like(t)
    for n in range(1, 40):
        frequency = fundamental * n * np.sqrt(1 + instrument.inharmonicity * n**2)
        if frequency > _HIGHEST_PARTIAL_HZ:
            break
        strength = n ** -(instrument.brightness + 0.8 * (1 - loudness)) * random.uniform(0.5, 1.0)
        fast = decay * (1 + instrument.partial_decay * (n - 1))
        envelope = (1 - instrument.second_decay) * np.exp(-2 * fast * t)
        envelope += instrument.second_decay * np.exp(-instrument.second_decay * fast * t)
        for detuning in (-instrument.detuning, instrument.detuning):
            phase = np.float32(2 * np.pi * frequency * (1 + detuning)) * t + np.float32(random.uniform(0, 2 * np.pi))
            sound += np.float32(0.5 * strength) * envelope * np.sin(phase)
    knock = random.standard_normal(len(t), dtype=np.float32) * np.exp(-t * random.uniform(60, 200))
    sound += np.float32(instrument.hammer * loudness) * knock
    return loudness * sound * np.minimum(1, t / instrument.attack_s)


def _compose(seconds: float, random: np.random.Generator) -> list[Note]:
    """Compose chords in the bass and a melody in one scale; the pedal sustains notes until its next change."""
    beat = random.uniform(0.12, 0.5)
    scale, key = _SCALES[random.integers(len(_SCALES))], int(random.integers(36, 48))
    pedal = random.choice([0, 4, 8]) * beat
    density, chordal = random.uniform(0.4, 0.95), random.random()
    notes: list[Note] = []
    degree, root = int(random.integers(7, 21)), 0
    for index in range(int((seconds - 0.5) / beat)):
        start = index * beat + random.uniform(0, 0.02)
        if index % 8 == 0:
            root = int(random.integers(0, 7))
        strong = index % 4 == 0
        pitches = []
        if strong or random.random() < 0.5:
            chord = [key + _pitch(scale, root + step) for step in (0, 2, 4)]
            pitches += chord if strong and random.random() < chordal else [chord[index % 3]]
        if random.random() < density:
            degree = int(np.clip(degree + random.integers(-3, 4), 4, 27))
            pitches.append(key + 12 + _pitch(scale, degree))
        end = start + beat * random.uniform(0.5, 2.0)
        if pedal:
            end = max(end, (np.floor(start / pedal) + 1) * pedal)
        swell = 1.5 + 1.2 * np.sin(index / 11) + random.normal(0, 0.7) + (0.5 if strong else 0)
        notes += [Note(pitch, start, end, int(np.clip(round(swell), 0, _LOUDNESS_LAYERS - 1))) for pitch in pitches]
    return notes


def _pitch(scale: tuple[int, ...], degree: int) -> int:
    return 12 * (degree // len(scale)) + scale[degree % len(scale)]


def _add_reverb(signal: np.ndarray, random: np.random.Generator) -> np.ndarray:
    decay_s = random.uniform(0.15, 1.2)
    t = np.arange(int(decay_s * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    tail = random.standard_normal(len(t), dtype=np.float32) * np.exp(-6.9 * t / decay_s)
    return signal + fftconvolve(signal, tail * np.float32(random.uniform(0, 0.5) / np.linalg.norm(tail)))[: len(signal)]
