"""The sample contract: what one sample of a shard contains, and its members byte for byte.

A sample has three members with fixed names and types: `KEY.codes.npy` int16 `[K, T]`, `KEY.json` with the fields of
`SampleMeta`, `KEY.mel.npy` float16 `[T, M]`. If a dataset has several mel variants, each sample has a fourth member
with the others: `KEY.mel_variants.npy` float16 `[V − 1, T, M]`. Loaders that infer a schema from the first samples
(Hugging Face `datasets`) never see a different one: missing text is `""`, a missing number is 0, and a float is always
written as a float.
"""

import io
import json
import math
import re
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

MEMBERS = ("codes.npy", "json", "mel.npy", "mel_variants.npy")  # in the order of the tar
MAX_NAME = 90  # key and extension; below the 100 characters of USTAR's name field
_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True)
class SampleMeta:
    """The metadata of a sample; the fixed schema of its JSON member."""

    key: str
    corpus: str
    split: str
    source: str  # path below the corpus root
    segment: int  # counted from 0 within the source
    start_s: float
    duration_s: float
    samples: int  # at 24 kHz; T = ceil(samples / 320)
    speaker: str
    speaker_name: str
    sex: str
    chapter: str
    book: str
    text: str
    composer: str
    title: str
    year: int
    midi: str
    extra: str  # a JSON object, or ""


@dataclass(frozen=True)
class Sample:
    """One aligned sample: `codes` int16 `[K, T]`, `mel` float16 `[T, M]`, `mel_variants` float16 `[V − 1, T, M]`."""

    meta: SampleMeta
    codes: np.ndarray
    mel: np.ndarray
    mel_variants: np.ndarray

    def __post_init__(self) -> None:
        key = self.meta.key
        if not _KEY.match(key) or len(key) + len(".codes.npy") > MAX_NAME:
            raise ValueError(
                f"key {key!r}: only A-Z a-z 0-9 _ -, and at most {MAX_NAME - len('.codes.npy')} characters"
            )
        if self.codes.dtype != np.int16 or {self.mel.dtype, self.mel_variants.dtype} != {np.dtype(np.float16)}:
            raise ValueError(f"{key}: codes {self.codes.dtype} and mel {self.mel.dtype}, not int16 and float16")
        if self.codes.shape[1] != self.mel.shape[0]:
            raise ValueError(f"{key}: {self.codes.shape[1]} code frames but {self.mel.shape[0]} mel frames")
        if self.mel_variants.shape[1:] != self.mel.shape:
            raise ValueError(f"{key}: mel_variants {self.mel_variants.shape} do not match mel {self.mel.shape}")


def pack_members(sample: Sample) -> list[tuple[str, bytes]]:
    """Return member names and bytes of `sample`, in tar order; equal samples give equal bytes."""
    data = {
        "codes.npy": npy_bytes(sample.codes),
        "json": json.dumps(asdict(sample.meta), sort_keys=True, ensure_ascii=False).encode(),
        "mel.npy": npy_bytes(sample.mel),
    }
    if len(sample.mel_variants):
        data["mel_variants.npy"] = npy_bytes(sample.mel_variants)
    return [(f"{sample.meta.key}.{extension}", data[extension]) for extension in MEMBERS if extension in data]


def npy_bytes(array: np.ndarray) -> bytes:
    """Return `array` in NumPy's .npy format 1.0, C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def npy_view(data: memoryview | bytes) -> np.ndarray:
    """Return the array of a .npy member, without a copy. Raises `ValueError` if it is not a plain array."""
    length = int.from_bytes(data[8:10], "little")
    shape, dtype, offset = _npy_header(bytes(data[: 10 + length]))
    return np.frombuffer(data, dtype, count=math.prod(shape), offset=offset).reshape(shape)


# Cached: a corpus has few different headers, and NumPy takes longer to parse one than to read the array.
@lru_cache(maxsize=4096)
def _npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, dtype and offset of the array, from the header of a .npy member of format 1.0."""
    header = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(header)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(header)
    except (ValueError, EOFError) as error:
        raise ValueError(f"not a .npy member: {error}") from error
    if fortran or dtype.hasobject:
        raise ValueError(f"not a plain C-ordered array: {dtype}")
    return shape, dtype, header.tell()
