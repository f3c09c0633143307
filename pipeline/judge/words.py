"""Which words can be made out: the recognizer pocketsphinx, with the English model that its package ships."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from whisper_gpt.pipeline.judge.packages import JUDGE_RATE, at_judge_rate

if TYPE_CHECKING:
    from pocketsphinx import Decoder


def recognized_words(wav: np.ndarray) -> list[str]:
    """Words of 24 kHz English speech `[N]`, in lower case. Takes a third of its duration, of distorted speech all."""
    pcm = (at_judge_rate(wav) * 32_767).astype(np.int16)
    decoder = _decoder()
    decoder.start_utt()
    # The whole utterance at once: its mean is taken off, not that of what was decoded before.
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return words(found.hypstr) if found else []


def words(text: str) -> list[str]:
    """Words of a transcript as the recognizer would write them: lower case, nothing but letters and apostrophes."""
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower())
    return kept.split()


def word_errors(reference: list[str], found: list[str]) -> int:
    """The fewest words to replace, insert and delete that make `found` of `reference`."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, start=1):
            diagonal, row[j] = row[j], min(diagonal + (word != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@cache
def _decoder() -> "Decoder":
    from pocketsphinx import Decoder  # an optional extra

    return Decoder(samprate=JUDGE_RATE, loglevel="FATAL")
