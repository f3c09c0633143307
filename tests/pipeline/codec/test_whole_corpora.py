"""Codes of a whole folder of recordings, as `preprocess` makes them, against the package's own whole-file encoder.

They are equal, but where two codewords are equally near to float rounding.

Takes about as long as a tenth of the audio, so it runs only where `$WHISPER_GPT_EXACT` names a folder.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from whisper_gpt.jobs.benchmarks.codec_speed import stock_audio, stock_codes
from whisper_gpt.pipeline.audio import probe, stream_mono
from whisper_gpt.pipeline.codec.architecture import codebooks
from whisper_gpt.pipeline.codec.causal import PREROLL_FRAMES, Codec
from whisper_gpt.pipeline.corpora import folder
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel

# The package's one pass over a longer recording does not fit in the memory of most machines.
_LONGEST_S = 360
_TOGETHER = 24


# Another order of additions moves a latent by about 1e-6 of its size. Where two codewords are that equally near, either
# may be chosen; the codebooks after it then see another residual.
_TIE = 1e-4


def test_streamed_codes_are_those_of_one_pass(any_codec: Codec, log_mel: LogMel) -> None:
    root = os.environ.get("WHISPER_GPT_EXACT")
    if not root:
        pytest.skip("$WHISPER_GPT_EXACT names no folder of recordings to encode twice")
    paths = [Path(root) / recording.path for recording in folder.scan(Path(root)).recordings]
    paths = [path for path in paths if probe(path).duration_s <= _LONGEST_S]
    equal = total = 0
    margins: list[float] = []
    largest = 0.0
    for at in range(0, len(paths), _TOGETHER):
        some = paths[at : at + _TOGETHER]
        aligned = align_recordings([stream_mono(path) for path in some], any_codec, log_mel, segment_frames=2250)
        for path, segments in zip(some, aligned, strict=True):
            codes = np.concatenate([segment.codes for segment in segments], axis=1)
            wav = np.concatenate(list(stream_mono(path)))
            expected = stock_codes(any_codec, wav)
            equal, total = equal + int((codes == expected).sum()), total + codes.size
            if not np.array_equal(codes, expected):
                margins += tie_margins(any_codec, wav, codes, expected)
            if at == 0:
                difference = np.abs(any_codec.decode(expected) - stock_audio(any_codec, expected)).max()
                largest = max(largest, float(difference))
    print(
        f"\n{len(paths)} recordings: {equal} of {total} codes equal; {len(margins)} frames of {total // len(codes)} "
        f"differ, in ties of at most {max(margins, default=0):.1g}; decoded audio within {largest:.2g}"
    )
    assert max(margins, default=0) < _TIE
    assert largest < 1e-5


@torch.no_grad()
def tie_margins(codec: Codec, wav: np.ndarray, codes: np.ndarray, expected: np.ndarray) -> list[float]:
    """Of each frame whose codes differ: by what share the first two codewords that do differ in their distance to what
    they stand for, in the package's latents."""
    padded = np.pad(wav, (PREROLL_FRAMES * codec.hop, -len(wav) % codec.hop))
    latents = codec.net.encoder(torch.from_numpy(padded)[None, None])[0, :, PREROLL_FRAMES:].T.double()
    margins = []
    for t in np.flatnonzero((codes != expected).any(axis=0)):
        residual = latents[t]
        for k, book in enumerate(codebooks(codec.net)):
            ours, theirs = book[int(codes[k, t])].double(), book[int(expected[k, t])].double()
            if codes[k, t] != expected[k, t]:
                near, far = sorted([(residual - ours).square().sum().item(), (residual - theirs).square().sum().item()])
                margins.append((far - near) / far)
                break
            residual = residual - theirs
    return margins
