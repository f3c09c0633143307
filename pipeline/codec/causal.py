"""EnCodec 24 kHz made exactly causal: encode and decode, whole signals or streaming.

Start and end policy (part of the fingerprint): EnCodec's codes 0–2 look ahead, because its innermost convolution pads
by reflection. So 8 frames of zeros are put before the signal, and zeros after it to a whole frame; the codes of the 8
frames are dropped. Then every code t depends on samples < 320·(t+1) only, T = ceil(N / 320), and the state after the 8
frames is a constant. Decoding does the same: the 8 dropped codes are always equal, so they are decoded first and their
audio is dropped, and every sample of frame t depends on codes ≤ t only.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from whisper_gpt.pipeline.codec import streaming
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, build_network, codebooks, seed_weights
from whisper_gpt.pipeline.codec.encodec_import import EncodecModel
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint, Precision
from whisper_gpt.pipeline.codec.quantizer import ResidualQuantizer
from whisper_gpt.pipeline.codec.streaming import Layer, StreamState, join
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.float32 import full_float32
from whisper_gpt.pipeline.frames import frame_count

PREROLL_FRAMES = 8
# One second per step: its activations stay in cache; those of a whole clip are fetched from memory layer by layer.
CHUNK_FRAMES = 75

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Codec:
    """A loaded codec, on the device of its `net`.

    `codebooks` is the number of codebooks that `encode` returns and the maximum for `decode`. With precision `bf16` the
    network (not the quantizer) computes in bfloat16: faster if the CPU has instructions for it, but some codes differ.
    """

    name: str
    weights_sha256: str
    codebooks: int
    net: EncodecModel
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not 1 <= self.codebooks <= self.net.quantizer.n_q:
            raise PipelineError(
                f"--codebooks {self.codebooks}: the codec {self.name} has 1 to {self.net.quantizer.n_q}"
            )

    @property
    def sample_rate(self) -> int:
        return self.net.sample_rate

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return int(self.net.encoder.hop_length)

    @property
    def codebook_size(self) -> int:
        return self.net.quantizer.bins

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def fingerprint(self) -> CodecFingerprint:
        return CodecFingerprint(
            self.name,
            self.weights_sha256,
            self.sample_rate,
            self.hop,
            self.codebooks,
            self.codebook_size,
            self.precision,
        )

    def encode(self, wav: np.ndarray | torch.Tensor) -> np.ndarray:
        """Encode a mono 24 kHz signal `[N]` to codes int16 `[K, ceil(N / hop)]`, or several `[B, N]` to `[B, K, T]`."""
        signals = torch.as_tensor(wav, dtype=torch.float32, device=self.device).reshape(-1, wav.shape[-1])
        frames = frame_count(signals.shape[1])
        signals = torch.nn.functional.pad(signals, (0, -signals.shape[1] % (CHUNK_FRAMES * self.hop)))
        state, codes = join([self.encoder_start] * len(signals)), []
        for chunk in signals.split(CHUNK_FRAMES * self.hop, dim=-1):
            chunk_codes, state = self.encode_chunk(state, chunk)
            codes.append(chunk_codes)
        return torch.cat(codes, dim=-1)[..., :frames].reshape(*wav.shape[:-1], self.codebooks, -1).cpu().numpy()

    def decode(self, codes: np.ndarray | torch.Tensor) -> np.ndarray:
        """Decode codes `[K', T]`, K' from 1 to `codebooks`, to audio float32 `[T · hop]`."""
        tokens = torch.as_tensor(codes, device=self.device)[None]
        state, audio = self.decoder_start(tokens.shape[1]), []
        for chunk in tokens.split(CHUNK_FRAMES, dim=-1):
            samples, state = self.decode_chunk(state, chunk)
            audio.append(samples[0])
        return torch.cat(audio).cpu().numpy()

    def encode_chunk(self, state: StreamState, samples: torch.Tensor) -> tuple[torch.Tensor, StreamState]:
        """Encode the next `samples` `[B, n·hop]`; return codes int16 `[B, K, n]` and the next state.

        On a CPU both have the same bits in any batch of chunks as long. Raises `ValueError` if they are not a whole
        number of frames.
        """
        if samples.shape[-1] % self.hop:
            raise ValueError(f"{samples.shape[-1]} samples are not a whole number of {self.hop}-sample frames")
        return self._encode(state, samples)

    def decode_chunk(
        self, state: StreamState, codes: torch.Tensor, batch_independent: bool = False
    ) -> tuple[torch.Tensor, StreamState]:
        """Decode the next `codes` `[B, K', n]`; return audio float32 `[B, n·hop]` and the next state.

        If `batch_independent`, the audio has on a CPU the same bits in any batch, as codes always have; that of a
        single frame has them anyway.
        """
        with torch.no_grad(), full_float32():
            return self.run_decoder(state, codes, batch_independent)

    def run_decoder(
        self, state: StreamState | None, codes: torch.Tensor, batch_independent: bool = False
    ) -> tuple[torch.Tensor, StreamState]:
        """Decode as `decode_chunk`, for callers that compile this and set `full_float32` around it."""
        layers = self._batch_independent_decoder if batch_independent else self._decoder
        latents = self._quantizer.decode(codes).to(_DTYPES[self.precision])
        audio, state = streaming.run(layers, state, latents)
        return audio[..., 0].float(), state

    @cached_property
    def encoder_start(self) -> StreamState:
        """The encoder's state before a recording: after the 8 frames of zeros (batch of one)."""
        return self._preroll[1]

    def decoder_start(self, codebooks: int) -> StreamState:
        """Return the decoder's state before a recording, for decoding `codebooks` codebooks (batch of one)."""
        if not 1 <= codebooks <= self.codebooks:
            raise ValueError(f"{codebooks} codebooks to decode, but this codec was loaded with {self.codebooks}")
        with torch.no_grad(), full_float32():
            return self.run_decoder(None, self._preroll[0][:, :codebooks])[1]

    @property
    def preroll_codes(self) -> torch.Tensor:
        """The codes int16 `[1, K, 8]` of the 8 frames of zeros before every recording, which are dropped."""
        return self._preroll[0]

    @cached_property
    def _preroll(self) -> tuple[torch.Tensor, StreamState]:
        return self._encode(None, torch.zeros(1, PREROLL_FRAMES * self.hop, device=self.device))

    @torch.no_grad()
    @full_float32()
    def _encode(self, state: StreamState | None, samples: torch.Tensor) -> tuple[torch.Tensor, StreamState]:
        latents, state = streaming.run(self._encoder, state, samples[..., None].to(_DTYPES[self.precision]))
        signals = latents.float().split(len(latents) if latents.is_cuda else 1)
        return torch.cat([self._quantizer.encode(signal) for signal in signals]), state

    @cached_property
    def _encoder(self) -> list[Layer]:
        layers = streaming.compile_layers(self.net.encoder.model, _DTYPES[self.precision])
        return streaming.batch_independent(layers)

    @cached_property
    def _decoder(self) -> list[Layer]:
        return streaming.compile_layers(self.net.decoder.model, _DTYPES[self.precision])

    @cached_property
    def _batch_independent_decoder(self) -> list[Layer]:
        return streaming.batch_independent(self._decoder)

    @cached_property
    def _quantizer(self) -> ResidualQuantizer:
        return ResidualQuantizer.of(codebooks(self.net)[: self.codebooks])


def untrained_codec(architecture: CodecArchitecture, codebooks: int) -> Codec:
    """Return a codec with seeded random weights, as fast as a trained one; its codes vary, but mean nothing."""
    net = build_network(architecture)
    seed_weights(net, seed=0)
    return Codec("untrained", "", codebooks, net.eval().requires_grad_(False))
