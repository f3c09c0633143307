"""The mels that a sample can hold: of its audio, of its decoded codes, and (a control) of its audio and the future."""

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
class ViewState:
    """What one recording's next mel frames depend on, a value for each view: the samples that its window reaches back
    to, and the decoder's state where it is of codes."""

    contexts: tuple[torch.Tensor | None, ...]  # None: a centred one, before the first samples
    decoders: tuple[StreamState | None, ...]


class MelViews:
    """The views that `log_mel.config` names, of recordings that are encoded in a stream."""

    def __init__(self, codec: Codec, log_mel: LogMel):
        self._codec = codec
        self.names = log_mel.config.views
        self.lookahead = max(map(lookahead_samples, self.names))
        self._transforms = [
            LogMel(replace(log_mel.config, window_samples=window)) if (window := centred_window(name)) else log_mel
            for name in self.names
        ]
        contexts = [
            None if lookahead_samples(name) else transform.start()
            for name, transform in zip(self.names, self._transforms, strict=True)
        ]
        decoders = [codec.decoder_start(books) if (books := decoded_codebooks(name)) else None for name in self.names]
        self.start = ViewState(tuple(contexts), tuple(decoders))  # before a recording

    def step(
        self, states: Sequence[ViewState], codes: torch.Tensor, wav: torch.Tensor, ahead: torch.Tensor
    ) -> tuple[torch.Tensor, list[ViewState]]:
        """The next frames of some recordings → log-mel float32 `[B, n, V, M]` and their states after them.

        `codes` `[B, K, n]` are those of the samples `wav` `[B, n·hop]`; `ahead` `[B, lookahead]` is what follows.
        """
        decoded = [self._decode(view, states, codes) for view in range(len(self.names))]
        mels, after = [], []
        for row, state in enumerate(states):
            frames, contexts = [], []
            for view, name in enumerate(self.names):
                sound, context = wav[row], state.contexts[view]
                if (of_codes := decoded[view]) is not None:
                    sound = of_codes[0][row]
                elif shift := lookahead_samples(name):
                    both = torch.cat([wav[row], ahead[row]])
                    sound = both[shift : shift + wav.shape[1]]
                    if context is None:
                        context = F.pad(both[:shift], (len(self._transforms[view].start()), 0))[shift:]
                assert context is not None
                mel, context = self._transforms[view].step(context, sound)
                frames.append(mel)
                contexts.append(context)
            mels.append(torch.stack(frames, dim=1))  # [n, V, M]
            decoders = tuple(of_codes and of_codes[1][row : row + 1] for of_codes in decoded)
            after.append(ViewState(tuple(contexts), decoders))
        return torch.stack(mels), after

    def _decode(
        self, view: int, states: Sequence[ViewState], codes: torch.Tensor
    ) -> tuple[torch.Tensor, StreamState] | None:
        books = decoded_codebooks(self.names[view])
        if not books:
            return None
        before = [state.decoders[view] for state in states]
        audio, after = self._codec.decode_chunk(join([one for one in before if one is not None]), codes[:, :books])
        return audio.cpu(), after


def with_lookahead(chunks: Iterable[np.ndarray], samples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each chunk, of which only the last may be shorter than `samples`, and the `samples` after it; zeros past the end.

    Where `samples` is 0 nothing is read before its turn.
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
