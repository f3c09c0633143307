"""Codes of a folder of recordings, as `preprocess` makes them, equal those of the `encodec` package except for ties.

This takes about a tenth of the audio's duration, so it runs only if `$WHISPER_GPT_EXACT` names a folder.
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

# One pass of the package over a longer recording does not fit in the memory of most machines.
_LONGEST_S = 360
_TOGETHER = 24


# Another order of additions changes a latent by a relative 1e-6. If two codewords are that equally near, either may be
# chosen; the later codebooks then encode another residual.
_TIE = 1e-4


def test_streamed_codes_equal_one_pass_except_for_ties(any_codec: Codec, log_mel: LogMel) -> None:
    root = os.environ.get("WHISPER_GPT_EXACT")
    if not root:
        pytest.skip("$WHISPER_GPT_EXACT names no folder of recordings to encode twice")
    paths = [Path(root) / recording.path for recording in folder.scan(Path(root)).recordings]
    paths = [path for path in paths if probe(path).duration_s <= _LONGEST_S]
    equal = total = 0
    margins: list[float] = []
    largest_difference = 0.0
    for at in range(0, len(paths), _TOGETHER):
        batch_paths = paths[at : at + _TOGETHER]
        aligned = align_recordings([stream_mono(path) for path in batch_paths], any_codec, log_mel, segment_frames=2250)
        for path, segments in zip(batch_paths, aligned, strict=True):
            codes = np.concatenate([segment.codes for segment in segments], axis=1)
            wav = np.concatenate(list(stream_mono(path)))
            expected = stock_codes(any_codec, wav)
            equal, total = equal + int((codes == expected).sum()), total + codes.size
            if not np.array_equal(codes, expected):
                margins += tie_margins(any_codec, wav, codes, expected)
            if at == 0:
                difference = np.abs(any_codec.decode(expected) - stock_audio(any_codec, expected)).max()
                largest_difference = max(largest_difference, float(difference))
    print(
        f"\n{len(paths)} recordings: {equal} of {total} codes equal; {len(margins)} frames of {total // len(codes)} "
        f"differ, in ties of at most {max(margins, default=0):.1g}; decoded audio within {largest_difference:.2g}"
    )
    assert max(margins, default=0) < _TIE
    assert largest_difference < 1e-5


@torch.no_grad()
def tie_margins(codec: Codec, wav: np.ndarray, codes: np.ndarray, expected: np.ndarray) -> list[float]:
    """For each frame with different codes: the relative difference in distance of the first two codewords that differ,
    measured in the package's latents.
    """
    padded = np.pad(wav, (PREROLL_FRAMES * codec.hop, -len(wav) % codec.hop))
    latents = codec.net.encoder(torch.from_numpy(padded)[None, None])[0, :, PREROLL_FRAMES:].T.double()
    margins = []
    for t in np.flatnonzero((codes != expected).any(axis=0)):
        residual = latents[t]
        for k, codebook in enumerate(codebooks(codec.net)):
            ours, theirs = codebook[int(codes[k, t])].double(), codebook[int(expected[k, t])].double()
            if codes[k, t] != expected[k, t]:
                near, far = sorted([(residual - ours).square().sum().item(), (residual - theirs).square().sum().item()])
                margins.append((far - near) / far)
                break
            residual = residual - theirs
    return margins
