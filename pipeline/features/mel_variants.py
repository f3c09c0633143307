"""Mel variants: of the audio, of the audio decoded from the codes, and (as a leaky control) with a centred window."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.streaming import StreamState, join
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import centred_window, decoded_codebooks, lookahead_samples


@dataclass(frozen=True)
class MelState:
    """The streaming state of one recording, per mel variant: the window's context, and the codec decoder's state."""

    contexts: tuple[torch.Tensor | None, ...]  # None: a centred window before the first samples
    decoders: tuple[StreamState | None, ...]  # None: not decoded from codes


class MelVariants:
    """Computes the mel variants in `log_mel.config` for recordings that are encoded chunk by chunk."""

    def __init__(self, codec: Codec, log_mel: LogMel):
        self._codec = codec
        self.names = log_mel.config.variants
        self.lookahead = max(map(lookahead_samples, self.names))
        self._transforms = [
            LogMel(replace(log_mel.config, window_samples=window)) if (window := centred_window(name)) else log_mel
            for name in self.names
        ]
        contexts = [
            None if lookahead_samples(name) else transform.start()
            for name, transform in zip(self.names, self._transforms, strict=True)
        ]
        decoders = [codec.decoder_start(k) if (k := decoded_codebooks(name)) else None for name in self.names]
        self.start = MelState(tuple(contexts), tuple(decoders))  # before a recording

    def step(
        self, states: Sequence[MelState], codes: torch.Tensor, wav: torch.Tensor, ahead: torch.Tensor
    ) -> tuple[torch.Tensor, list[MelState]]:
        """Compute the next frames of a batch of recordings; return log-mel float32 `[B, n, V, M]` and the next states.

        `codes` `[B, K, n]` are the codes of `wav` `[B, n·hop]`; `ahead` `[B, lookahead]` are the samples after `wav`.
        """
        decoded = [self._decode(variant, states, codes) for variant in range(len(self.names))]
        mels, after = [], []
        for row, state in enumerate(states):
            frames, contexts = [], []
            for variant, name in enumerate(self.names):
                samples, context = wav[row], state.contexts[variant]
                if (from_codes := decoded[variant]) is not None:
                    samples = from_codes[0][row]
                elif shift := lookahead_samples(name):
                    both = torch.cat([wav[row], ahead[row]])
                    samples = both[shift : shift + wav.shape[1]]
                    if context is None:
                        context = F.pad(both[:shift], (len(self._transforms[variant].start()), 0))[shift:]
                assert context is not None
                mel, context = self._transforms[variant].step(context, samples)
                frames.append(mel)
                contexts.append(context)
            mels.append(torch.stack(frames, dim=1))  # [n, V, M]
            decoders = tuple(from_codes and from_codes[1][row : row + 1] for from_codes in decoded)
            after.append(MelState(tuple(contexts), decoders))
        return torch.stack(mels), after

    def _decode(
        self, variant: int, states: Sequence[MelState], codes: torch.Tensor
    ) -> tuple[torch.Tensor, StreamState] | None:
        n_codebooks = decoded_codebooks(self.names[variant])
        if not n_codebooks:
            return None
        decoders = [decoder for state in states if (decoder := state.decoders[variant]) is not None]
        audio, after = self._codec.decode_chunk(join(decoders), codes[:, :n_codebooks], batch_independent=True)
        return audio.cpu(), after


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
