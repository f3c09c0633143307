"""Read windows as padded batches; damaged samples are left out, counted and logged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from whisper_gpt.pipeline.errors import PipelineError, ShardError
from whisper_gpt.pipeline.loading.order import WindowTable
from whisper_gpt.pipeline.loading.shard_reader import ShardReader

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Windows padded on the right to the same length.

    From a stream: `codes` int64 `[B, K, T]`, `mel` float32 `[B, T, M]` (int16 and float16 if it is narrow), `mask` bool
    `[B, T]` (False at padding and at damaged samples), and for packed windows `doc_ids` int64 `[B, T]`, the index of a
    frame's piece in its window, otherwise None. `keys` and `starts` list, for each window, the samples of its pieces
    and their first frames.
    """

    codes: torch.Tensor
    mel: torch.Tensor
    mask: torch.Tensor
    doc_ids: torch.Tensor | None
    keys: list[tuple[str, ...]]
    starts: list[tuple[int, ...]]

    def to(self, device: torch.device, codebooks: int | None = None) -> "Batch":
        """Return a copy on `device`, with the coarsest `codebooks` or all of them, as int64 and float32.

        The copy runs beside other work of a GPU if the batch is in pinned memory.
        """
        return replace(
            self,
            codes=self.codes.to(device, non_blocking=True)[:, :codebooks].long(),
            mel=self.mel.to(device, non_blocking=True).float(),
            mask=self.mask.to(device, non_blocking=True),
            doc_ids=None if self.doc_ids is None else self.doc_ids.to(device, non_blocking=True),
        )

    def pinned(self) -> "Batch":
        """Return a copy in pinned memory."""
        return replace(
            self,
            codes=self.codes.pin_memory(),
            mel=self.mel.pin_memory(),
            mask=self.mask.pin_memory(),
            doc_ids=None if self.doc_ids is None else self.doc_ids.pin_memory(),
        )


class Damage:
    """Collects the samples that could not be read, by key, with the reason; more than `limit` are an error."""

    def __init__(self, limit: int):
        self.limit = limit
        self.samples: dict[str, str] = {}

    def add(self, key: str, error: PipelineError) -> None:
        """Record a damaged sample. Raises `PipelineError` if there are more than `limit`."""
        if key in self.samples:
            return
        if len(self.samples) == self.limit:
            before = f" (and {self.limit} damaged samples before it)" if self.limit else ""
            raise PipelineError(f"{error}{before}") from error
        self.samples[key] = str(error)
        _log.warning("left out: %s", error)


class BatchReader:
    """Reads windows from the shards of datasets, each with its `WindowTable` and `ShardReader`.

    Batches are padded to `frames`, or without it to their longest window.
    """

    def __init__(
        self,
        datasets: Sequence[tuple[WindowTable, ShardReader]],
        codebook_size: int,
        packed: bool,
        damage: Damage,
        frames: int | None = None,
    ):
        self._datasets = datasets
        self._codebook_size = codebook_size
        self._packed = packed
        self._damage = damage
        self._frames = frames

    def read(self, windows: Sequence[tuple[int, int, int]]) -> Batch:
        """Read `windows`, each given as dataset index, window index in its table and offset of the cuts.

        Codes stay int16 and mel float16, as in the shards. Raises `PipelineError` if too many samples are damaged, and
        `ShardError` if a whole shard cannot be read.
        """
        pieces_per_window = [self._datasets[dataset][0].pieces(window, offset) for dataset, window, offset in windows]
        lengths = [sum(piece.frames for piece in pieces) for pieces in pieces_per_window]
        count, longest = len(windows), self._frames or max(lengths)
        n_codebooks, bands = self._datasets[0][1].shape
        codes = np.empty((count, n_codebooks, longest), np.int16)  # zeroed below where no piece is written
        mel = np.empty((count, longest, bands), np.float16)
        mask = np.zeros((count, longest), np.bool_)
        doc_ids = np.zeros((count, longest), np.int64) if self._packed else None
        keys: list[tuple[str, ...]] = []
        starts: list[tuple[int, ...]] = []
        placed: list[tuple[int, slice, ShardReader, int]] = []
        for i, ((dataset, *_), pieces) in enumerate(zip(windows, pieces_per_window, strict=True)):
            reader = self._datasets[dataset][1]
            begin = 0
            for number, (row, start, frames) in enumerate(pieces):
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
                if doc_ids is not None:
                    doc_ids[i, begin:end] = number
                placed.append((i, slice(begin, end), reader, row))
                begin = end
            codes[i, :, begin:], mel[i, begin:] = 0, 0
            keys.append(tuple(reader.key(piece.sample) for piece in pieces))
            starts.append(tuple(piece.start for piece in pieces))
        # As uint16, negative codes are too large as well. The whole batch is checked first, because that is fast.
        if codes.view(np.uint16).max() >= self._codebook_size:
            for i, at, reader, row in placed:
                if codes[i, :, at].view(np.uint16).max() >= self._codebook_size:
                    self._damage.add(reader.key(row), reader.damaged(row, "codes: outside the codebook"))
                    codes[i, :, at], mel[i, at], mask[i, at] = 0, 0, False
        return Batch(
            torch.from_numpy(codes),
            torch.from_numpy(mel),
            torch.from_numpy(mask),
            None if doc_ids is None else torch.from_numpy(doc_ids),
            keys,
            starts,
        )
