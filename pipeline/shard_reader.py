"""Samples out of shards, by the offsets in the manifest: local ones memory-mapped, remote ones through a cache."""

import mmap
from functools import lru_cache

import numpy as np
import pyarrow as pa

from manifests.fragments import fragment_path, read_record
from manifests.location import Location, is_remote
from pipeline.errors import PipelineError
from pipeline.sample import npy_view
from pipeline.shard_cache import ShardCache
from pipeline.shards import shard_path

COLUMNS = (
    *("key", "split", "shard", "frames", "codebooks", "mel_bands"),
    *("codes_offset", "codes_size", "mel_offset", "mel_size"),
)
_OPEN_SHARDS = 64
_NUMBERS = COLUMNS[3:]


class ShardReader:
    """Cuts pieces out of the samples in `rows` of a manifest (with `COLUMNS`); only a piece's own bytes are touched.

    Shards in an object store come through `cache`; without one, whole into memory.
    """

    def __init__(self, dataset: Location, rows: pa.Table, cache: ShardCache | None = None):
        self._dataset = dataset
        self._cache = cache
        self._keys = rows["key"].combine_chunks()
        self.shard_of = rows["shard"].combine_chunks().dictionary_encode().indices.to_numpy()  # int32 [N]
        firsts = np.unique(self.shard_of, return_index=True)[1]
        self._shards = [(rows["split"][int(i)].as_py(), rows["shard"][int(i)].as_py()) for i in firsts]
        self._numbers = {name: rows[name].to_numpy() for name in _NUMBERS}
        self.frames = self._numbers["frames"].astype(np.int64)  # [N]
        self.shape = int(rows["codebooks"][0].as_py()), int(rows["mel_bands"][0].as_py())  # K, M
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._map_shard)

    def key(self, row: int) -> str:
        """The key of the sample in that row."""
        return self._keys[row].as_py()

    def read(self, row: int, start: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames `start` to `start + frames` of a sample → codes int16 `[K, frames]`, mel float16 `[frames, M]`.

        Raises `PipelineError`, naming shard and sample, for what cannot be read or is not what the manifest says.
        """
        numbers, end = self._numbers, start + frames
        shape = int(numbers["codebooks"][row]), int(numbers["frames"][row]), int(numbers["mel_bands"][row])
        codes = self._member(row, "codes", shape[:2])
        mel = self._member(row, "mel", shape[1:])
        return codes[:, start:end], mel[start:end]

    def fetch(self, shard: int) -> None:
        """Have a remote shard in the cache for a later `read`."""
        path = shard_path(self._dataset, *self._shards[shard])
        if self._cache is not None and is_remote(path):
            self._cache.fetch(path, self._sha256(shard))

    def _member(self, row: int, member: str, shape: tuple[int, ...]) -> np.ndarray:
        offset, size = int(self._numbers[f"{member}_offset"][row]), int(self._numbers[f"{member}_size"][row])
        shard = int(self.shard_of[row])
        data = self._open(shard)[offset : offset + size]
        try:
            array = npy_view(data)
            if array.shape != shape:
                raise ValueError(f"its shape is {array.shape}, in the manifest {shape}")
        except ValueError as error:
            path = shard_path(self._dataset, *self._shards[shard])
            raise PipelineError(
                f"{path}: {member} of {self.key(row)} cannot be read ({error}); run whisper-gpt verify {self._dataset}"
            ) from error
        return array

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
            raise PipelineError(f"{path}: cannot be read ({error}); run whisper-gpt verify {self._dataset}") from error

    def _sha256(self, shard: int) -> str:
        return read_record(fragment_path(self._dataset, self._shards[shard][1])).sha256
