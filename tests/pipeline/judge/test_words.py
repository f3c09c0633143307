"""Word errors are a minimum edit distance; the recognizer keeps no state between utterances."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.corpora.librispeech import transcript
from whisper_gpt.pipeline.judge.words import recognized_words, word_errors, words

sentences = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8)


@pytest.mark.parametrize(
    ("reference", "recognized", "errors"),
    [("a b c", "a b c", 0), ("a b c", "a x c", 1), ("a b c", "a c", 1), ("a b", "x a y b", 2), ("a b", "", 2)],
)
def test_word_errors_count_substitutions_insertions_deletions(reference: str, recognized: str, errors: int) -> None:
    assert word_errors(reference.split(), recognized.split()) == errors


@given(sentences, sentences, sentences)
def test_word_errors_are_a_metric(a: list[str], b: list[str], c: list[str]) -> None:
    assert (word_errors(a, b) == 0) == (a == b)
    assert word_errors(a, b) == word_errors(b, a) <= max(len(a), len(b))
    assert word_errors(a, c) <= word_errors(a, b) + word_errors(b, c)


def test_words_are_normalized() -> None:
    assert words("HE'S  HERE, AT LAST.\n") == ["he's", "here", "at", "last"]
    assert words("") == []


def test_recognizer_keeps_no_state_between_utterances(speech: np.ndarray, noise: np.ndarray) -> None:
    pytest.importorskip("pocketsphinx", reason="needs the extra judge")
    first = recognized_words(speech[:12_000])
    assert recognized_words(noise[:12_000] + speech[12_000:24_000]) != first
    assert recognized_words(speech[:12_000]) == first


def test_recognizer_on_real_speech(real_data: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="needs the extra judge")
    path = real_data / "LibriSpeech/test-clean/1089/134686/1089-134686-0001.flac"
    reference, wav = words(transcript(path)), read_mono(path)
    assert len(reference) == 8
    assert word_errors(reference, recognized_words(wav)) <= 3
