"""Read samples from shards by the offsets in the manifest: local shards memory-mapped, remote ones through a cache."""

import hashlib
import mmap
from functools import lru_cache

import numpy as np
import pyarrow as pa

from whisper_gpt.manifests.fragments import fragment_path, read_record, split_of
from whisper_gpt.manifests.location import Location, is_remote
from whisper_gpt.pipeline.errors import PipelineError, ShardError
from whisper_gpt.pipeline.loading.shard_cache import ShardCache
from whisper_gpt.pipeline.shards.sample import npy_view
from whisper_gpt.pipeline.shards.tar import shard_path

_NUMBERS = ("frames", "codebooks", "mel_bands", "codes_offset", "codes_size")
_OPEN_SHARDS = 64
_CODES, _MEL = np.dtype(np.int16), np.dtype(np.float16)


class ShardReader:
    """Reads pieces of the samples in `rows` of a manifest or an index; only a piece's own bytes are touched.

    `variant` is the index of the mel variant to read, of `variants`. Shards in an object store are read through
    `cache`, or whole into memory if there is none.
    """

    def __init__(
        self, dataset: Location, rows: pa.Table, cache: ShardCache | None = None, variant: int = 0, variants: int = 1
    ):
        self._dataset = dataset
        self._cache = cache
        self._keys = rows["key"]
        # Rows are grouped by shard: a row begins a shard if its name is not that of the row before.
        indices = [chunk.indices.to_numpy() for chunk in rows["shard"].dictionary_encode().chunks]
        firsts = np.flatnonzero(np.diff(np.concatenate(indices), prepend=-1))
        lengths = np.diff(firsts, append=rows.num_rows)
        self.shard_of = np.repeat(np.arange(len(firsts), dtype=np.int32), lengths)  # int32 [N]
        self._shards: list[str] = rows["shard"].take(pa.array(firsts)).to_pylist()
        # The first variant has its own member; the others share a second one.
        member = "mel_variants" if variant else "mel"
        self._leading_shape: tuple[int, ...] = (variants - 1,) if variant else ()
        self._variant_index: tuple[int, ...] = (variant - 1,) if variant else ()
        self._numbers = [rows[name].to_numpy() for name in (*_NUMBERS, f"{member}_offset", f"{member}_size")]
        self.frames = self._numbers[0].astype(np.int64)
        self.shape = int(self._numbers[1][0]), int(self._numbers[2][0])  # K, M
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._map_shard)

    @property
    def is_remote(self) -> bool:
        """Whether the shards are in an object store."""
        return is_remote(self._dataset)

    def samples_sha256(self) -> str:
        """Return a hash of what stream positions depend on: the samples' lengths and shards, in order."""
        return hashlib.sha256(self.frames.tobytes() + self.shard_of.tobytes()).hexdigest()

    def key(self, row: int) -> str:
        """Return the key of the sample in `row`."""
        return self._keys[row].as_py()

    def read(self, row: int, start: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Read `frames` frames from `start` on; return codes int16 `[K, frames]` and mel float16 `[frames, M]`.

        Raises `PipelineError` with shard and key if the sample does not match the manifest, and `ShardError` if the
        whole shard cannot be read.
        """
        total, n_codebooks, bands, codes_offset, codes_size, mel_offset, mel_size = (int(n[row]) for n in self._numbers)
        shard = int(self.shard_of[row])
        data, end, member = self._open(shard), start + frames, "codes"
        try:
            codes = _array(data[codes_offset : codes_offset + codes_size], _CODES, (n_codebooks, total))
            member = "mel"
            mel_shape = (*self._leading_shape, total, bands)
            mel = _array(data[mel_offset : mel_offset + mel_size], _MEL, mel_shape)[self._variant_index]
        except ValueError as error:
            raise self.damaged(row, f"{member}: {error}") from error
        return codes[:, start:end], mel[start:end]

    def damaged(self, row: int, why: str) -> PipelineError:
        """Return the error for a damaged sample, with the reason."""
        path = self._path(self.shard_of[row])
        return PipelineError(f"{path}: {self.key(row)} cannot be read ({why}); run whisper-gpt verify {self._dataset}")

    def fetch(self, shard: int) -> None:
        """Fetch a remote shard into the cache for a later `read`."""
        path = self._path(shard)
        if self._cache is not None and is_remote(path):
            self._cache.fetch(path, self._sha256(shard))

    def _map_shard(self, shard: int) -> memoryview:
        path = self._path(shard)
        try:
            if not is_remote(path):
                with path.open("rb") as file:
                    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if self._cache is None:
                return memoryview(path.read_bytes())
            return self._cache.map(path, self._sha256(shard))
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise ShardError(f"{path}: cannot be read ({error}); run whisper-gpt verify {self._dataset}") from error

    def _path(self, shard: int) -> Location:
        name = self._shards[shard]
        return shard_path(self._dataset, split_of(name), name)

    def _sha256(self, shard: int) -> str:
        return read_record(fragment_path(self._dataset, self._shards[shard])).sha256


def _array(member: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    array = npy_view(member)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{array.dtype} {array.shape}, but {dtype} {shape} in the manifest")
    return array
