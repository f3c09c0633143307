"""Print codes of sound as it comes: usage: arecord -f S16_LE -r 24000 -c 1 -t raw | live_codes.py.

Blocks of any length come in, whole frames of codes go out, in constant memory; the last incomplete frame is padded.
"""

import sys
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from whisper_gpt.pipeline.codec.loading import load_codec


def live_codes(blocks: Iterable[np.ndarray], name: str = "encodec_24khz_small") -> Iterator[np.ndarray]:
    """Yield codes int16 `[K, n]` of mono audio at 24 kHz in float32 `blocks` `[samples]`."""
    codec = load_codec(name)
    state, rest = codec.encoder_start, np.zeros(0, np.float32)
    for block in blocks:
        samples = np.concatenate([rest, block])
        whole = len(samples) // codec.hop * codec.hop
        rest = samples[whole:]
        if whole:
            codes, state = codec.encode_chunk(state, torch.from_numpy(samples[None, :whole]))
            yield codes[0].numpy()
    if len(rest):
        last = np.pad(rest, (0, codec.hop - len(rest)))
        codes, state = codec.encode_chunk(state, torch.from_numpy(last[None]))
        yield codes[0].numpy()


def _blocks() -> Iterator[np.ndarray]:
    while data := sys.stdin.buffer.read(2 * 1000):
        yield np.frombuffer(data, np.int16).astype(np.float32) / 32768


if __name__ == "__main__":
    for codes in live_codes(_blocks()):
        for frame in codes.T:
            print(*frame, flush=True)
