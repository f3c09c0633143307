"""Windows as padded batches; damaged samples are left out of them, counted and named."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from whisper_gpt.pipeline.errors import PipelineError, ShardError
from whisper_gpt.pipeline.loading.order import WindowTable
from whisper_gpt.pipeline.loading.shard_reader import ShardReader

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Windows padded on the right to one length.

    From a stream `codes` int64 `[B, K, T]`, `mel` float32 `[B, T, M]`; `mask` bool `[B, T]`, False where nothing is;
    `segments` int64 `[B, T]`, which piece of a packed window a frame belongs to, or None where each window is one
    piece; and of each window's pieces the samples' `keys` and the first frames, `starts`.
    """

    codes: torch.Tensor
    mel: torch.Tensor
    mask: torch.Tensor
    segments: torch.Tensor | None
    keys: list[tuple[str, ...]]
    starts: list[tuple[int, ...]]

    def padded(self, frames: int) -> "Batch":
        """The same with every window padded on the right to `frames` frames, of which it must not have more."""
        missing = frames - self.codes.shape[-1]
        return replace(
            self,
            codes=F.pad(self.codes, (0, missing)),
            mel=F.pad(self.mel, (0, 0, 0, missing)),
            mask=F.pad(self.mask, (0, missing)),
            segments=None if self.segments is None else F.pad(self.segments, (0, missing)),
        )

    def to(self, device: torch.device, codebooks: int | None = None) -> "Batch":
        """The same on `device`, with the coarsest `codebooks` or all."""
        return replace(
            self,
            codes=self.codes[:, :codebooks].to(device),
            mel=self.mel.to(device),
            mask=self.mask.to(device),
            segments=None if self.segments is None else self.segments.to(device),
        )


class Damage:
    """The samples that could not be read so far, by key, and why; one more than `limit` is an error."""

    def __init__(self, limit: int):
        self.limit = limit
        self.samples: dict[str, str] = {}

    def add(self, key: str, error: PipelineError) -> None:
        """Count a sample. Raises `PipelineError` past the limit."""
        if key in self.samples:
            return
        if len(self.samples) == self.limit:
            before = f" (and {self.limit} damaged samples before it)" if self.limit else ""
            raise PipelineError(f"{error}{before}") from error
        self.samples[key] = str(error)
        _log.warning("left out: %s", error)


class BatchReader:
    """Reads windows of a table from the shards of its dataset, one `WindowTable` and `ShardReader` for each dataset."""

    def __init__(
        self,
        datasets: Sequence[tuple[WindowTable, ShardReader]],
        codebook_size: int,
        packed: bool,
        damage: Damage,
    ):
        self._datasets = datasets
        self._codebook_size = codebook_size
        self._packed = packed
        self._damage = damage

    def read(self, windows: Sequence[tuple[int, int, int]]) -> Batch:
        """Read `windows`, each a dataset, a window of its table and the offset of the cuts.

        Codes stay int16 and mel float16, as in the shards.

        Raises `PipelineError` past the limit of damage, `ShardError` for a shard that cannot be read at all.
        """
        pieces = [self._datasets[dataset][0].pieces(window, offset) for dataset, window, offset in windows]
        lengths = [sum(piece.frames for piece in own) for own in pieces]
        count, longest = len(windows), max(lengths)
        books, bands = self._datasets[0][1].shape
        codes = np.empty((count, books, longest), np.int16)  # and zeros only where no piece is written
        mel = np.empty((count, longest, bands), np.float16)
        mask = np.zeros((count, longest), np.bool_)
        segments = np.zeros((count, longest), np.int64) if self._packed else None
        keys: list[tuple[str, ...]] = []
        starts: list[tuple[int, ...]] = []
        placed: list[tuple[int, slice, ShardReader, int]] = []
        for i, ((dataset, *_), own) in enumerate(zip(windows, pieces, strict=True)):
            reader = self._datasets[dataset][1]
            begin = 0
            for number, (row, start, frames) in enumerate(own):
                end = begin + frames
                try:
                    piece_codes, piece_mel = reader.read(row, start, frames)
                except ShardError:
                    raise
                except PipelineError as error:
                    self._damage.add(reader.key(row), error)
                    codes[i, :, begin:end], mel[i, begin:end] = 0, 0
                else:
                    codes[i, :, begin:end], mel[i, begin:end], mask[i, begin:end] = piece_codes, piece_mel, True
                if segments is not None:
                    segments[i, begin:end] = number
                placed.append((i, slice(begin, end), reader, row))
                begin = end
            codes[i, :, begin:], mel[i, begin:] = 0, 0
            keys.append(tuple(reader.key(piece.sample) for piece in own))
            starts.append(tuple(piece.start for piece in own))
        if codes.view(np.uint16).max() >= self._codebook_size:  # below 0 too; of all at once, because it takes no time
            for i, at, reader, row in placed:
                if codes[i, :, at].view(np.uint16).max() >= self._codebook_size:
                    self._damage.add(reader.key(row), reader.damaged(row, "codes: more than the codebook has"))
                    codes[i, :, at], mel[i, at], mask[i, at] = 0, 0, False
        return Batch(
            torch.from_numpy(codes),
            torch.from_numpy(mel),
            torch.from_numpy(mask),
            None if segments is None else torch.from_numpy(segments),
            keys,
            starts,
        )
