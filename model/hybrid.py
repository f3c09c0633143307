"""The language model: token embeddings, mel vectors of the same instants beside them, one causal decoder, two heads.

Input t is what frame t − 1 was: its tokens (a begin token at t = 0) and its mel. Output t is frame t: a distribution
over its coarsest token, and one over its mel frame. A token-only model is the same without the mel branch and the mel
head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.cache import Cache
from whisper_gpt.model.checkpoint import Pretrained
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.layers import Block, initialise, norm, run_blocks, within_segments
from whisper_gpt.model.mel_encoder import MelEncoder


@dataclass(frozen=True)
class Prediction:
    """`logits` `[B, T, V]`; for a hybrid, a Laplace distribution over each normalised mel value: `mel_location` and
    `mel_log_scale` `[B, T, M]`."""

    logits: torch.Tensor
    mel_location: torch.Tensor | None
    mel_log_scale: torch.Tensor | None


class HybridLM(nn.Module, Pretrained):
    """A decoder that predicts the coarsest codebook's tokens, with mel frames as input where `config.mel_bands` > 0."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        token_width = config.token_width
        if config.input_codebooks:
            self.embed = nn.Embedding(self.begin_token + 1, token_width)
        if config.hybrid:
            self.mel_encoder = MelEncoder(config)
            mel_width = config.fusion_width or config.mel_width
            if config.fusion_width:
                self.narrow = nn.Linear(config.mel_width, mel_width, bias=False)
            self.fuse = nn.Linear(bool(config.input_codebooks) * token_width + mel_width, config.width, bias=False)
            self.mel_head = nn.Linear(config.width, 2 * config.mel_bands)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
        self.head = nn.Linear(config.width, config.vocab, bias=False)
        initialise(self)
        nn.init.normal_(self.head.weight, std=0.1 * config.width**-0.5)  # an almost uniform first prediction

    @property
    def begin_token(self) -> int:
        """The row of the embeddings that stands before a window's first frame: the last one."""
        return self.config.input_codebooks * self.config.vocab

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return self.head.weight.device

    def parameter_count(self) -> int:
        """All trained parameters."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self,
        codes: torch.Tensor,
        mel: torch.Tensor | None,
        mel_kept: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
    ) -> Prediction:
        """Predict every frame of a window from those before it.

        `codes` int64 `[B, K, T]`, of which the coarsest are read that the model wants; `mel` normalised `[B, T, M]` or
        None (then the hybrid sees no mel at all);
        `mel_kept` bool `[B]`, where given, says which windows see theirs. `segments` int64 `[B, T]`, where given,
        numbers the pieces of packed windows: each is predicted as if it stood alone.
        """
        begins = torch.zeros_like(codes[:, 0], dtype=torch.bool)  # [B, T]
        begins[:, 0] = True
        if segments is not None:
            begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        books = self.config.input_codebooks
        offsets = self.config.vocab * torch.arange(books, device=codes.device)[:, None]  # [K, 1]
        previous = F.pad(codes[:, :books, :-1] + offsets, (1, 0)).masked_fill(begins[:, None], self.begin_token)
        present = torch.zeros_like(begins)
        if mel is not None:
            mel = F.pad(mel[:, :-1], (0, 0, 1, 0)).masked_fill(begins[..., None], 0)  # [B, T, M]
            present = ~begins if mel_kept is None else ~begins & mel_kept[:, None]
        return self.predict_next(previous, mel, present, segments=segments)

    def predict_next(
        self,
        tokens: torch.Tensor,
        mel: torch.Tensor | None,
        present: torch.Tensor,
        cache: Cache | None = None,
        segments: torch.Tensor | None = None,
    ) -> Prediction:
        """Predict the frame after each input: `tokens` `[B, K, n]`, and normalised `mel` `[B, n, M]` where `present`.

        `tokens` are rows of the embeddings: a code of codebook k plus k vocabularies, or the begin token. With `cache`
        the inputs follow those that it has seen, and are added to it. See `forward` for `segments`.
        """
        position = cache.position if cache else 0
        visible = None if segments is None else within_segments(segments)
        vectors = []  # each [B, n, …], of one scale
        if self.config.input_codebooks:
            vectors.append(norm(self.embed(tokens).sum(dim=1)))
        if self.config.hybrid:
            if mel is None:
                mel = self.head.weight.new_zeros(*present.shape, self.config.mel_bands)
            heard = self.mel_encoder(mel, present, cache, segments, visible)
            vectors.append(norm(self.narrow(heard)) if self.config.fusion_width else heard)
        x = self.fuse(torch.cat(vectors, dim=-1)) if self.config.hybrid else vectors[0]  # [B, n, D]
        x = run_blocks(self.blocks, self.config.heads, x, cache.decoder if cache else None, position, visible)
        if cache:
            cache.position += present.shape[1]
        logits = self.head(x)  # [B, n, V]
        if not self.config.hybrid:
            return Prediction(logits, None, None)
        location, log_scale = self.mel_head(x).chunk(2, dim=-1)  # each [B, n, M]
        return Prediction(logits, location, log_scale)
