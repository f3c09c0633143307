"""Mel variants: of the audio, of the audio decoded from the codes, and (as a leaky control) with a centred window."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.streaming import StreamState, join
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import centred_window, decoded_codebooks, lookahead_samples


@dataclass(frozen=True)
class MelState:
    """The streaming state of one recording, per mel variant: the window's context, and the codec decoder's state."""

    contexts: tuple[torch.Tensor | None, ...]  # None: before the first samples
    decoders: tuple[StreamState | None, ...]  # None: not decoded from codes


class MelVariants:
    """Computes the mel variants in `log_mel.config` of recordings that are encoded chunk by chunk; both must be on
    the codec's device."""

    def __init__(self, codec: Codec, log_mel: LogMel):
        self._codec = codec
        self.names = log_mel.config.variants
        self.lookahead = max(map(lookahead_samples, self.names))
        self._transforms = [
            LogMel(replace(log_mel.config, window_samples=window), log_mel.device) if window else log_mel
            for window in map(centred_window, self.names)
        ]
        decoders = [codec.decoder_start(k) if (k := decoded_codebooks(name)) else None for name in self.names]
        self.start = MelState((None,) * len(self.names), tuple(decoders))  # before a recording

    def step(
        self, states: Sequence[MelState], codes: torch.Tensor, wav: torch.Tensor, ahead: torch.Tensor
    ) -> tuple[torch.Tensor, list[MelState]]:
        """Compute the next frames of a batch of recordings; return log-mel float32 `[B, n, V, M]` and the next states.

        `codes` `[B, K, n]` are the codes of `wav` `[B, n·hop]`; `ahead` `[B, lookahead]` are the samples after `wav`.
        """
        mels, contexts, decoders = [], [], []
        for variant, (name, transform) in enumerate(zip(self.names, self._transforms, strict=True)):
            samples, silence = wav, transform.start().expand(len(states), -1)
            first = silence
            decoder: StreamState | None = None
            if decoded_codebooks(name):
                samples, decoder = self._decode(variant, states, codes)
            elif shift := lookahead_samples(name):
                both = torch.cat([wav, ahead], dim=1)
                samples = both[:, shift : shift + wav.shape[1]]
                first = torch.cat([silence, both[:, :shift]], dim=1)[:, shift:]
            before = [
                own if (context := state.contexts[variant]) is None else context
                for own, state in zip(first, states, strict=True)
            ]
            mel, after = _in_parts(transform, torch.stack(before), samples)
            mels.append(mel)
            contexts.append(after.unbind())
            decoders.append([decoder and decoder[row : row + 1] for row in range(len(states))])
        after_states = map(MelState, zip(*contexts, strict=True), zip(*decoders, strict=True))
        return torch.stack(mels, dim=2), list(after_states)

    def _decode(
        self, variant: int, states: Sequence[MelState], codes: torch.Tensor
    ) -> tuple[torch.Tensor, StreamState]:
        decoders = [decoder for state in states if (decoder := state.decoders[variant]) is not None]
        chosen = codes[:, : decoded_codebooks(self.names[variant])]
        return self._codec.decode_chunk(join(decoders), chosen, batch_independent=True)


def _in_parts(transform: LogMel, contexts: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Transform the recordings of a batch; on a CPU one at a time, as a product of more rows rounds differently."""
    size = len(samples) if samples.is_cuda else 1
    parts = zip(contexts.split(size), samples.split(size), strict=True)
    mels, after = zip(*itertools.starmap(transform.step, parts), strict=True)
    return torch.cat(mels), torch.cat(after)


def with_lookahead(chunks: Iterable[np.ndarray], samples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each chunk with the `samples` samples after it, zero-padded at the end.

    Only the last chunk may be shorter than `samples`. If `samples` is 0, no chunk is read ahead.
    """
    if samples == 0:
        for chunk in chunks:
            yield chunk, chunk[:0]
        return
    before: np.ndarray | None = None
    for chunk in chunks:
        if before is not None:
            ahead = chunk[:samples]
            yield before, np.pad(ahead, (0, samples - len(ahead)))
        before = chunk
    if before is not None:
        yield before, np.zeros(samples, before.dtype)
