"""Speech recognition by pocketsphinx, with the English model in its package, and word errors."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from whisper_gpt.pipeline.judge.packages import JUDGE_RATE, at_judge_rate

if TYPE_CHECKING:
    from pocketsphinx import Decoder


def recognized_words(wav: np.ndarray) -> list[str]:
    """Recognize the words of 24 kHz English speech `[N]`, in lower case.

    Takes a third of the duration, and the whole duration for distorted speech.
    """
    pcm = (at_judge_rate(wav) * 32_767).astype(np.int16)
    decoder = _decoder()
    decoder.start_utt()
    # The whole utterance at once: so the mean that is subtracted is its own, not that of earlier utterances.
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return words(hypothesis.hypstr) if hypothesis else []


def words(text: str) -> list[str]:
    """Split a transcript into words as the recognizer writes them: lower case, only alphanumerics and apostrophes."""
    cleaned = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower())
    return cleaned.split()


def word_errors(reference: list[str], hypothesis: list[str]) -> int:
    """Return the word edit distance: the fewest replacements, insertions and deletions."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, recognized in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(diagonal + (word != recognized), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@cache
def _decoder() -> "Decoder":
    from pocketsphinx import Decoder  # an optional extra

    return Decoder(samprate=JUDGE_RATE, loglevel="FATAL")
