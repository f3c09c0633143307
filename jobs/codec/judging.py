"""Speech metrics of each installed package, and their means over recordings with intervals."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np

from whisper_gpt.jobs.common.bootstrap import ratio_interval
from whisper_gpt.pipeline.judge import closeness, dnsmos, speaker, words

# none: no metric of the extra; fast: all but the recognizer, which takes most of the time.
Judges = Literal["none", "fast", "all"]


class Share(NamedTuple):
    """The contribution of one piece of audio to a mean: value and weight; ignored if the value is NaN."""

    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Figure:
    """Mean over recordings with its 95 % interval (None for one recording), and the largest value of any piece."""

    mean: float
    low: float | None
    high: float | None
    largest: float
    recordings: int


@dataclass
class Scores:
    """Collects the scores of pieces of recordings."""

    _shares: dict[str, dict[int, list[Share]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, recording: int, shares: Mapping[str, Share]) -> None:
        """Add the scores of a piece of recording number `recording`."""
        for name, share in shares.items():
            if np.isfinite(share.value):
                self._shares[name][recording].append(share)

    def figures(self) -> dict[str, Figure]:
        """Return the figure of each metric, in order of first use; intervals treat a recording's pieces as one unit."""
        return {name: _figure(list(groups.values())) for name, groups in self._shares.items()}


@dataclass(frozen=True)
class Reference:
    """The original of judged audio: 24 kHz audio `[N]` and its transcript, "" if there is none."""

    wav: np.ndarray
    text: str = ""

    @cached_property
    def voice(self) -> np.ndarray:
        return speaker.voice(self.wav)

    @cached_property
    def words(self) -> list[str]:
        return words.words(self.text)


def judged(wav: np.ndarray, reference: Reference, judges: Judges) -> dict[str, Share]:
    """Return the scores of 24 kHz audio `[N]`, of the reference's length.

    Metrics whose package or transcript is missing are omitted. If `wav` is the reference itself, so are those that
    compare the two; instead, the voices of its two halves are compared.
    """
    shares: dict[str, Share] = {}
    if judges == "none":
        return shares
    shares |= naturalness(wav)
    if find_spec("resemblyzer"):
        if wav is reference.wav:
            shares["halves_similarity"] = Share(speaker.halves_similarity(wav))
        else:
            shares["voice_similarity"] = Share(float(reference.voice @ speaker.voice(wav)))
    if wav is not reference.wav and find_spec("pesq"):
        shares["pesq"] = Share(closeness.pesq(reference.wav, wav))
    if wav is not reference.wav and find_spec("pystoi"):
        shares["stoi"] = Share(closeness.stoi(reference.wav, wav))
    if judges == "all" and reference.words and find_spec("pocketsphinx"):
        errors = words.word_errors(reference.words, words.recognized_words(wav))
        shares["wer"] = Share(errors / len(reference.words), len(reference.words))
    return shares


def naturalness(wav: np.ndarray) -> dict[str, Share]:
    """Return the DNSMOS scores of 24 kHz audio `[N]`, or nothing if the packages are missing."""
    if not (find_spec("speechmos") and find_spec("onnxruntime")):
        return {}
    scores = dnsmos.dnsmos(wav)
    return {f"dnsmos_{field.name}": Share(getattr(scores, field.name)) for field in fields(scores)}


def figure_text(figure: Figure | None, digits: int, factor: float = 1) -> str:
    """Return a table's cell: the mean and half of the interval, both times `factor`."""
    if figure is None:
        return "–"
    text = f"{factor * figure.mean:.{digits}f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ±{factor * (figure.high - figure.low) / 2:.{digits}f}"


def _figure(recordings: list[list[Share]]) -> Figure:
    sums = np.array([sum(share.value * share.weight for share in shares) for shares in recordings])
    weights = np.array([sum(share.weight for share in shares) for shares in recordings])
    interval = ratio_interval(sums, weights)
    return Figure(
        float(sums.sum() / weights.sum()),
        interval.low if interval else None,
        interval.high if interval else None,
        max(share.value for shares in recordings for share in shares),
        len(recordings),
    )
