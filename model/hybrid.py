"""The language model: token embeddings concatenated with mel vectors, one causal decoder, and its heads.

Input t is frame t − 1: its tokens (a begin token at t = 0) and its mel. Output t predicts frame t: a distribution over
its coarsest token, and one over its mel. A token-only model is the same without the mel branch and the mel head. The
depth decoder, if there is one, predicts the frame's finer tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.attention import DocumentMask
from whisper_gpt.model.cache import Cache
from whisper_gpt.model.checkpoint import Pretrained
from whisper_gpt.model.compilation import compiled_if
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.depth import DepthDecoder
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.layers import Block, initialise, norm, run_blocks
from whisper_gpt.model.mel_encoder import MelEncoder
from whisper_gpt.model.sampling import Sampling, gumbel_noise, sample


@dataclass(frozen=True)
class Prediction:
    """`logits` `[B, T, V]` of the coarsest codebook, and the `hidden` states `[B, T, D]` that they come from; for a
    hybrid also a Laplace distribution per normalised mel value: `mel_location` and `mel_log_scale` `[B, T, M]`."""

    hidden: torch.Tensor
    logits: torch.Tensor
    mel_location: torch.Tensor | None
    mel_log_scale: torch.Tensor | None


class HybridLM(Pretrained):
    """A decoder of `config.output_codebooks` codebooks per frame; conditioned on mel if `config.mel_bands` > 0."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.pattern != "depth":
            raise ModelError(f"{config.name}: has the {config.pattern} pattern, which is PatternLM's")
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
        nn.init.normal_(self.head.weight, std=0.1 * config.width**-0.5)  # predictions start almost uniform
        self.depth = DepthDecoder(config) if config.output_codebooks > 1 else None

    @property
    def begin_token(self) -> int:
        """The embedding row (the last one) that is the input before a window's first frame."""
        return self.config.input_codebooks * self.config.vocab

    def forward(
        self,
        codes: torch.Tensor,
        mel: torch.Tensor | None,
        keep_mel: torch.Tensor | None = None,
        doc_ids: torch.Tensor | None = None,
    ) -> Prediction:
        """Predict each frame of a window from the frames before it.

        `codes` int64 `[B, K, T]`, of which the coarsest `input_codebooks` are read. `mel` normalised `[B, T, M]`, or
        None: no mel in any window. `keep_mel` bool `[B]`: which windows keep their mel (default: all).
        `doc_ids` int64 `[B, T]` numbers the pieces of packed windows: each piece is predicted independently.
        """
        begins = torch.zeros_like(codes[:, 0], dtype=torch.bool)  # [B, T]
        begins[:, 0] = True
        if doc_ids is not None:
            begins[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
        previous = F.pad(self.embedding_rows(codes[..., :-1]), (1, 0)).masked_fill(begins[:, None], self.begin_token)
        mel_mask = torch.zeros_like(begins)
        if mel is not None:
            mel = F.pad(mel[:, :-1], (0, 0, 1, 0)).masked_fill(begins[..., None], 0)  # [B, T, M]
            mel_mask = ~begins if keep_mel is None else ~begins & keep_mel[:, None]
        return self.predict_next(previous, mel, mel_mask, doc_ids=doc_ids)

    def embedding_rows(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the embedding rows, int64 `[…, input_codebooks, n]`, of the codes that are read of `[…, K, n]`."""
        n_codebooks = self.config.input_codebooks
        offsets = self.config.vocab * torch.arange(n_codebooks, device=codes.device)[:, None]  # [K, 1]
        return codes[..., :n_codebooks, :] + offsets

    def draw(
        self,
        prediction: Prediction,
        how: Sampling,
        generators: Sequence[torch.Generator | None] | None = None,
        compiled: bool = False,
    ) -> torch.Tensor:
        """Sample the frame that the last output predicts: the coarsest code, then the finer ones given it.

        Return its codes int64 `[B, K]` on the CPU. Each row has its own generator; `compiled` runs generated code.
        """
        shape = (self.config.output_codebooks, self.config.vocab)
        noise = gumbel_noise(*shape, generators or [None] * len(prediction.hidden)).to(self.device)
        return compiled_if(compiled, HybridLM._draw)(self, prediction, how, noise).cpu()

    def _draw(self, prediction: Prediction, how: Sampling, noise: torch.Tensor) -> torch.Tensor:
        coarsest = sample(prediction.logits[:, -1], how, noise[:, 0])  # [B]
        if self.depth is None:
            return coarsest[:, None]
        return self.depth.draw(prediction.hidden[:, -1], coarsest, how.finer, noise[:, 1:])

    def predict_next(
        self,
        tokens: torch.Tensor,
        mel: torch.Tensor | None,
        mel_mask: torch.Tensor,
        cache: Cache | None = None,
        doc_ids: torch.Tensor | None = None,
    ) -> Prediction:
        """Predict the frame after each input: `tokens` `[B, K, n]` and normalised `mel` `[B, n, M]`.

        `tokens` are embedding rows: code + k · vocab for codebook k, or the begin token. `mel_mask` bool `[B, n]` is
        False where there is no mel. With `cache`, the inputs follow those already in it, and are added to it. See
        `forward` for `doc_ids`.
        """
        position = cache.position if cache else 0
        attn_mask = None if doc_ids is None else DocumentMask(doc_ids)
        vectors = []  # each [B, n, …], with an RMS of 1
        if self.config.input_codebooks:
            vectors.append(norm(self.embed(tokens).sum(dim=1)))
        if self.config.hybrid:
            if mel is None:
                mel = self.head.weight.new_zeros(*mel_mask.shape, self.config.mel_bands)
            mel_features = self.mel_encoder(mel, mel_mask, cache, doc_ids, attn_mask)
            vectors.append(norm(self.narrow(mel_features)) if self.config.fusion_width else mel_features)
        x = self.fuse(torch.cat(vectors, dim=-1)) if self.config.hybrid else vectors[0]  # [B, n, D]
        x = run_blocks(self.blocks, self.config.heads, x, cache.decoder if cache else None, position, attn_mask)
        if cache:
            cache.position += mel_mask.shape[1]
        logits = self.head(x)  # [B, n, V]
        if not self.config.hybrid:
            return Prediction(x, logits, None, None)
        location, log_scale = self.mel_head(x).chunk(2, dim=-1)  # each [B, n, M]
        return Prediction(x, logits, location, log_scale)
