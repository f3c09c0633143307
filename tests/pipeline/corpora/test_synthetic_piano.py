"""Synthetic piano: the same seed gives the same piece, other seeds give other ones, and nothing clips."""

import numpy as np

from whisper_gpt.pipeline.corpora.synthetic_piano import play
from whisper_gpt.pipeline.frames import SAMPLE_RATE


def test_piece_depends_only_on_its_generator() -> None:
    pieces = [play(2.0, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(pieces[0], pieces[1])
    assert not np.array_equal(pieces[0], pieces[2])
    for piece in pieces:
        assert piece.shape == (2 * SAMPLE_RATE,) and piece.dtype == np.float32
        assert 0.19 < np.abs(piece).max() < 0.91
