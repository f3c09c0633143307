"""Codes of a whole folder of recordings, as `preprocess` makes them, against the package's own whole-file encoder.

Takes about as long as a tenth of the audio, so it runs only where `$WHISPER_GPT_EXACT` names a folder.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from jobs.benchmarks.codec_speed import stock_audio, stock_codes
from pipeline.align import align_recordings
from pipeline.audio import probe, stream_mono
from pipeline.codec.causal import Codec
from pipeline.corpora import folder
from pipeline.mel import LogMel

# The package's one pass over a longer recording does not fit in the memory of most machines.
_LONGEST_S = 360
_TOGETHER = 24


def test_streamed_codes_are_those_of_one_pass(any_codec: Codec, log_mel: LogMel) -> None:
    root = os.environ.get("WHISPER_GPT_EXACT")
    if not root:
        pytest.skip("$WHISPER_GPT_EXACT names no folder of recordings to encode twice")
    paths = [Path(root) / recording.path for recording in folder.scan(Path(root)).recordings]
    paths = [path for path in paths if probe(path).duration_s <= _LONGEST_S]
    equal = total = 0
    largest = 0.0
    for at in range(0, len(paths), _TOGETHER):
        some = paths[at : at + _TOGETHER]
        aligned = align_recordings([stream_mono(path) for path in some], any_codec, log_mel, segment_frames=2250)
        for path, segments in zip(some, aligned, strict=True):
            codes = np.concatenate([segment.codes for segment in segments], axis=1)
            wav = np.concatenate(list(stream_mono(path)))
            expected = stock_codes(any_codec, wav)
            equal, total = equal + int((codes == expected).sum()), total + codes.size
            if at == 0:
                difference = np.abs(any_codec.decode(expected) - stock_audio(any_codec, expected)).max()
                largest = max(largest, float(difference))
    print(f"\n{len(paths)} recordings: {equal} of {total} codes equal; decoded audio within {largest:.2g}")
    assert equal == total
    assert largest < 1e-5
