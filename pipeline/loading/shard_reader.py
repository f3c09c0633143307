"""Samples out of shards, by the offsets in the manifest: local ones memory-mapped, remote ones through a cache."""

import hashlib
import mmap
from functools import lru_cache

import numpy as np
import pyarrow as pa

from whisper_gpt.manifests.fragments import fragment_path, read_record
from whisper_gpt.manifests.location import Location, is_remote
from whisper_gpt.pipeline.errors import PipelineError, ShardError
from whisper_gpt.pipeline.loading.shard_cache import ShardCache
from whisper_gpt.pipeline.shards.sample import npy_view
from whisper_gpt.pipeline.shards.tar import shard_path

_NUMBERS = ("frames", "codebooks", "mel_bands", "codes_offset", "codes_size")
_MELS = ("mel_offset", "mel_size", "mel_views_offset", "mel_views_size")
COLUMNS = ("key", "split", "shard", *_NUMBERS, *_MELS)
_OPEN_SHARDS = 64
_CODES, _MEL = np.dtype(np.int16), np.dtype(np.float16)


class ShardReader:
    """Cuts pieces out of the samples in `rows` of a manifest (with `COLUMNS`); only a piece's own bytes are touched.

    `view` is the place, of `views`, of the mel that is read. Shards in an object store come through `cache`; without
    one, whole into memory.
    """

    def __init__(
        self, dataset: Location, rows: pa.Table, cache: ShardCache | None = None, view: int = 0, views: int = 1
    ):
        self._dataset = dataset
        self._cache = cache
        self._keys = rows["key"].combine_chunks()
        self.shard_of = rows["shard"].combine_chunks().dictionary_encode().indices.to_numpy()  # int32 [N]
        firsts = np.unique(self.shard_of, return_index=True)[1]
        self._shards = [(rows["split"][int(i)].as_py(), rows["shard"][int(i)].as_py()) for i in firsts]
        # The first view is a member by itself, the others lie in one together.
        member = "mel_views" if view else "mel"
        self._others: tuple[int, ...] = (views - 1,) if view else ()
        self._at: tuple[int, ...] = (view - 1,) if view else ()
        names = (*_NUMBERS, f"{member}_offset", f"{member}_size")
        self._numbers = np.stack([rows[name].to_numpy() for name in names], axis=1).astype(np.int64)  # [N, 7]
        self.frames = self._numbers[:, 0]
        self.shape = int(self._numbers[0, 1]), int(self._numbers[0, 2])  # K, M
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._map_shard)

    def samples_sha256(self) -> str:
        """A hash of what places in the stream depend on: how long the samples are, and in which shards, in order."""
        return hashlib.sha256(self.frames.tobytes() + self.shard_of.tobytes()).hexdigest()

    def key(self, row: int) -> str:
        """The key of the sample in that row."""
        return self._keys[row].as_py()

    def read(self, row: int, start: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames `start` to `start + frames` of a sample → codes int16 `[K, frames]`, mel float16 `[frames, M]`.

        Raises `PipelineError`, naming shard and sample, for what is not what the manifest says, and `ShardError` for a
        shard that cannot be read at all.
        """
        total, books, bands, codes_offset, codes_size, mel_offset, mel_size = self._numbers[row].tolist()
        shard = int(self.shard_of[row])
        data, end, member = self._open(shard), start + frames, "codes"
        try:
            codes = _array(data[codes_offset : codes_offset + codes_size], _CODES, (books, total))
            member = "mel"
            mel = _array(data[mel_offset : mel_offset + mel_size], _MEL, (*self._others, total, bands))[self._at]
        except ValueError as error:
            raise self.damaged(row, f"{member}: {error}") from error
        return codes[:, start:end], mel[start:end]

    def damaged(self, row: int, why: str) -> PipelineError:
        """The error that says what is wrong with a sample."""
        path = shard_path(self._dataset, *self._shards[self.shard_of[row]])
        return PipelineError(f"{path}: {self.key(row)} cannot be read ({why}); run whisper-gpt verify {self._dataset}")

    def fetch(self, shard: int) -> None:
        """Have a remote shard in the cache for a later `read`."""
        path = shard_path(self._dataset, *self._shards[shard])
        if self._cache is not None and is_remote(path):
            self._cache.fetch(path, self._sha256(shard))

    def _map_shard(self, shard: int) -> memoryview:
        path = shard_path(self._dataset, *self._shards[shard])
        try:
            if not is_remote(path):
                with path.open("rb") as file:
                    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if self._cache is None:
                return memoryview(path.read_bytes())
            return self._cache.map(path, self._sha256(shard))
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise ShardError(f"{path}: cannot be read ({error}); run whisper-gpt verify {self._dataset}") from error

    def _sha256(self, shard: int) -> str:
        return read_record(fragment_path(self._dataset, self._shards[shard][1])).sha256


def _array(member: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    array = npy_view(member)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{array.dtype} {array.shape} where the manifest has {dtype} {shape}")
    return array
