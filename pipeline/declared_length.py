"""Check that a file contains as much audio as its header declares, for formats of a header and plain chunks.

libsndfile does not report a mismatch: of a truncated WAV it reads the part that is left, and of a file that continues
after the declared audio, the declared part. Only headers are read here, however long the file is.
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from whisper_gpt.pipeline.chained_audio import skip_tag
from whisper_gpt.pipeline.errors import AudioError

# Sizes that mean "until the end of the file", as written to a pipe; some exclude the header.
_UNKNOWN = (range(0, 1), range(0x7FFF_F000, 0x8000_0000), range(0xFFFF_F000, 0x1_0000_0000), range(2**63, 2**64))
# Tolerance: a header may count itself as audio, and some writers append a few bytes.
SLACK_BYTES = 64
_CHUNK_NAME = re.compile(rb"[\w (){}.-]{4}", re.ASCII)
_NIST_BYTES = 1024


@dataclass(frozen=True)
class _Chunks:
    """A format's chunks: a name, a size (`size` is its `struct` format; it may count the header), an alignment.

    `sound` is the name of the chunk with the samples; the first chunk is at byte `first`.
    """

    sound: bytes
    size: str
    first: int
    align: int
    name_bytes: int = 4
    counts_header: bool = False


_FORMATS = {
    b"RIFF": _Chunks(b"data", "<I", 12, 2),
    b"RIFX": _Chunks(b"data", ">I", 12, 2),
    b"RF64": _Chunks(b"data", "<I", 12, 2),
    b"BW64": _Chunks(b"data", "<I", 12, 2),
    b"FORM": _Chunks(b"SSND", ">I", 12, 2),
    b"caff": _Chunks(b"data", ">Q", 8, 1),
    b"riff": _Chunks(b"data", "<Q", 40, 8, name_bytes=16, counts_header=True),
}


def declared_bytes(file: BinaryIO) -> int | None:
    """Return how many bytes of audio `file` declares, or None for other formats and if the length is left open.

    Raises `AudioError` (stage `scan`) if audio is missing, or if something other than metadata follows it.
    """
    size = file.seek(0, io.SEEK_END)
    start = skip_tag(file, 0)
    file.seek(start)
    head = file.read(_NIST_BYTES)
    if head[:4] in _FORMATS:
        layout = _FORMATS[head[:4]]
        if head[8:12] in (b"8SVX", b"16SV"):
            layout = _Chunks(b"BODY", ">I", 12, 2)
        return _declared_by_chunks(file, start, size, layout, head[:4])
    if head[:4] in (b".snd", b"dns.") and len(head) >= 12:
        begin, length = struct.unpack(">II" if head[:1] == b"." else "<II", head[4:12])
        return _checked(file, size, start + begin, length)
    if head[:7] == b"NIST_1A":
        fields = dict(re.findall(rb"(\w+) -i (\d+)", head.partition(b"end_head")[0]))
        counts = [int(fields.get(name, 0)) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
        if all(counts):
            return _checked(file, size, start + _NIST_BYTES, counts[0] * counts[1] * counts[2])
    return None


def _declared_by_chunks(file: BinaryIO, start: int, size: int, layout: _Chunks, magic: bytes) -> int | None:
    header = layout.name_bytes + struct.calcsize(layout.size)
    at = start + layout.first
    long_size: int | None = None
    sound: int | None = None
    while at + header <= size:
        name, length, plausible = _chunk(file, at, layout, size)
        # Some writers omit the byte that makes sizes even.
        if not plausible and (at - start) % 2 == 0 and sound is not None:
            name, length, plausible = _chunk(file, at - 1, layout, size)
            at -= plausible
        if name == magic and sound is not None:
            raise AudioError("scan", f"a second file begins at byte {at} of {size}; split it, or join the sounds")
        if not plausible:
            break
        if name == b"ds64":
            file.seek(at + header + 8)
            (long_size,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if name == layout.sound:
            if sound is not None:
                raise AudioError("scan", f"a second piece of sound begins at byte {at}, of which nothing would be read")
            if magic in (b"RF64", b"BW64") and long_size is not None:
                length = long_size
            if _is_unknown(length):
                return None
            _require_sound(size, at + header, length)
            sound = length
        at += header + length
        at += (start - at) % layout.align
    if sound is not None:
        _require_nothing_more(file, at, size)
    return sound


def _chunk(file: BinaryIO, at: int, layout: _Chunks, size: int) -> tuple[bytes, int, bool]:
    """Return name and size of the chunk at byte `at`, and whether they look like a chunk."""
    file.seek(at)
    header = file.read(layout.name_bytes + struct.calcsize(layout.size))
    name = header[:4]
    (length,) = struct.unpack(layout.size, header[layout.name_bytes :])
    if not layout.counts_header:
        return name, length, _CHUNK_NAME.fullmatch(name) is not None
    # Names of 16 bytes are not text: a size within the file identifies a chunk.
    length -= len(header)
    return name, length if length >= 0 else 0, 0 <= length <= size or name == layout.sound


def _checked(file: BinaryIO, size: int, begin: int, length: int) -> int | None:
    """Check a file that is a header and `length` bytes of audio from `begin` on; return `length` if it is known."""
    if _is_unknown(length):
        return None
    _require_sound(size, begin, length)
    _require_nothing_more(file, begin + length, size)
    return length


def _is_unknown(length: int) -> bool:
    return any(length in sizes for sizes in _UNKNOWN)


def _require_sound(size: int, begin: int, length: int) -> None:
    held = max(0, size - begin)
    if held < length - SLACK_BYTES:
        raise AudioError("scan", f"cut off: {held:,} of the {length:,} bytes of sound that its header declares")


def _require_nothing_more(file: BinaryIO, at: int, size: int) -> None:
    """Raise `AudioError` unless only tags, padding and a few bytes follow from byte `at` on."""
    while size - at > SLACK_BYTES:
        after = max(skip_tag(file, at), _skip_zeros(file, at))
        if after == at:
            much = f"{size - at:,} bytes follow the sound that its header declares, and are no metadata"
            raise AudioError("scan", much)
        at = after


def _skip_zeros(file: BinaryIO, at: int) -> int:
    file.seek(at)
    while block := file.read(1 << 16):
        if rest := block.lstrip(b"\0"):
            return at + len(block) - len(rest)
        at += len(block)
    return at
