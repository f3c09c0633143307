"""Find concatenated streams in an Ogg, MP3 or FLAC file: libsndfile reads only the first.

Such files are legal (Ogg calls them chained), and `cat` produces them. Each stream has to be decoded separately. The
container is scanned in constant memory, which also shows whether parts are missing, as far as the format allows.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from whisper_gpt.pipeline.errors import AudioError

# An MP3 frame has 1,152 samples, and encoders declare their delay in different ways.
MP3_SLACK = 2 * 1152
_BLOCK = 1 << 16
_OGG_BEGINS, _OGG_ENDS = 2, 4
# A stream's first bytes: the marker, and the header of STREAMINFO, whose length is fixed.
_FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_FLAC_HEAD_BYTES = 42
# Key 1: MPEG 1; key 2: MPEG 2 and 2.5. Indices are the codes in a frame's header.
_MP3_KBPS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Stream:
    """The bytes from `begin` to `end` of a file, and what its format declares about the samples in them.

    At least `samples` per channel must be decoded. `md5` is the hash in a FLAC header, over samples of `width` bytes.
    They are 0 and empty if the format does not declare them.
    """

    begin: int
    end: int
    samples: int = 0
    md5: bytes = b""
    width: int = 0


def find_streams(file: BinaryIO, kind: str) -> list[Stream]:
    """Return the streams in an open file of the libsndfile format `kind`: one, except in OGG, FLAC and MP3.

    Raises `AudioError` (stage `decode`) if the container shows that part of the audio is missing or damaged.
    """
    size = file.seek(0, io.SEEK_END)
    find = {"OGG": _ogg_streams, "FLAC": _flac_streams, "MP3": _mp3_streams}.get(kind)
    return find(file, size) if find else [Stream(skip_tag(file, 0), size)]


def skip_tag(file: BinaryIO, at: int) -> int:
    """Return the byte after an ID3v2, APE or ID3v1 tag that begins at byte `at`, or `at` if there is none."""
    file.seek(at)
    head = file.read(32)
    if head[:3] == b"ID3" and len(head) >= 10:  # its size is four bytes of seven bits
        return at + 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(head[6:10])))
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return at + 32 + struct.unpack("<I", head[12:16])[0]
    return at + 128 if head[:3] == b"TAG" else at


def _ogg_streams(file: BinaryIO, size: int) -> list[Stream]:
    """Multiplexed streams, such as audio with pictures, begin together and count as one."""
    begins: list[int] = []
    next_page: dict[int, int] = {}  # by serial number
    ended: set[int] = set()
    beginning = False
    for at, flags, serial, number in _ogg_pages(file, size):
        if flags & _OGG_BEGINS:
            if not beginning:
                _require_ended(next_page, ended, at)
                next_page, ended = {}, set()
                begins.append(at if begins else skip_tag(file, 0))
            next_page[serial] = number
        beginning = bool(flags & _OGG_BEGINS)
        if next_page.get(serial) != number:
            raise AudioError("decode", f"damaged: pages of the Ogg stream are missing before byte {at:,} of {size:,}")
        next_page[serial] = number + 1 & 0xFFFFFFFF
        if flags & _OGG_ENDS:
            ended.add(serial)
    _require_ended(next_page, ended, size)
    return [Stream(begin, end) for begin, end in pairwise([*begins, size])]


def _require_ended(next_page: dict[int, int], ended: set[int], at: int) -> None:
    if next_page.keys() - ended:
        raise AudioError(
            "decode", f"cut off: the Ogg stream before byte {at:,} has no last page; what followed is lost"
        )


def _ogg_pages(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield offset, flags, serial and page number of each valid page; skip damaged ones, as decoders do."""
    at = 0
    while 0 <= at < size:
        file.seek(at)
        head = file.read(27)
        if len(head) == 27 and head[:5] == b"OggS\0":
            table = file.read(head[26])
            body = file.read(sum(table))
            flags, serial, number, checksum = struct.unpack("<5xB8xIII", head[:26])
            page = head[:22] + bytes(4) + head[26:] + table + body
            if len(page) == 27 + head[26] + sum(table) and _ogg_checksum(page) == checksum:
                yield at, flags, serial, number
                at += len(page)
                continue
        at = next(_find(file, re.compile(b"OggS"), at + 1, 4), (-1, b""))[0]


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with zlib's polynomial, but with initial value 0 and reversed bits."""
    mirrored = zlib.crc32(page.translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _flac_streams(file: BinaryIO, size: int) -> list[Stream]:
    heads = list(_find(file, _FLAC_BEGINS, 0, _FLAC_HEAD_BYTES))
    if not heads:  # a damaged file, of which a decoder may still read something
        return [Stream(0, size)]
    begins = [0, *(at for at, _ in heads[1:]), size]
    streams = []
    for (at, head), (begin, end) in zip(heads, pairwise(begins), strict=True):
        if len(head) < _FLAC_HEAD_BYTES:
            raise AudioError("decode", f"cut off: the FLAC that begins at byte {at:,} has no header")
        bits = ((head[20] & 1) << 4 | head[21] >> 4) + 1
        md5 = head[26:42] if bits in (8, 16, 24) and any(head[26:42]) else b""
        streams.append(Stream(begin, end, md5=md5, width=bits // 8))
    return streams


def _mp3_streams(file: BinaryIO, size: int) -> list[Stream]:
    """A Xing, Info or VBRI header starts a stream; it occupies a frame of its own."""
    streams: list[Stream] = []
    begin, samples = 0, 0
    for at, frame in _mp3_frames(file, size):
        added = 1152 if frame[1] & 8 else 576
        trimmed = _mp3_trimmed(frame)
        if trimmed is None:
            samples += added
            continue
        if samples > 0:
            streams.append(Stream(begin, at, samples))
            begin = at
        samples = -trimmed - MP3_SLACK
    return [*streams, Stream(begin, size, max(0, samples))]


def _mp3_frames(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and bytes of every layer III frame; tags and damage are skipped."""
    at = 0
    while at < size:
        file.seek(at)
        length = _mp3_frame_bytes(file.read(4))
        if length and at + length <= size:
            file.seek(at)
            yield at, file.read(length)
            at += length
        elif (after := skip_tag(file, at)) > at:
            at = after
        else:
            at = _next_mp3_frame(file, at + 1, size)


def _next_mp3_frame(file: BinaryIO, at: int, size: int) -> int:
    """Return the next offset where two frames follow each other: a sync word alone matches by chance too often."""
    for place, head in _find(file, re.compile(rb"\xff[\xe2-\xfb]"), at, 4):
        length = _mp3_frame_bytes(head)
        if length:
            file.seek(place + length)
            if _mp3_frame_bytes(file.read(4)):
                return place
    return size


def _mp3_frame_bytes(head: bytes) -> int:
    """Return the length of the frame that begins with these four bytes, or 0 if they are not a frame header."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version not in _MP3_RATES or rate == 3 or bitrate in (0, 15):
        return 0
    bits, kbps = (144, _MP3_KBPS[1]) if version == 3 else (72, _MP3_KBPS[2])
    return bits * 1000 * kbps[bitrate] // _MP3_RATES[version][rate] + (head[2] >> 1 & 1)


def _mp3_trimmed(frame: bytes) -> int | None:
    """Return how many samples decoders trim at both ends, or None if the frame is no Xing, Info or VBRI header."""
    mono = frame[3] >> 6 == 3
    side_bytes = (17 if mono else 32) if frame[1] & 8 else (9 if mono else 17)
    for at in (4 + side_bytes, 6 + side_bytes):  # two bytes of checksum may come first
        if frame[at : at + 4] in (b"Xing", b"Info") and not any(frame[6:at]):
            flags = int.from_bytes(frame[at + 4 : at + 8])
            lame = at + 8 + sum(count for bit, count in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
            trim = int.from_bytes(frame[lame + 21 : lame + 24])
            return (trim >> 12) + (trim & 0xFFF)
    return 0 if frame[36:40] == b"VBRI" else None


def _find(file: BinaryIO, pattern: re.Pattern[bytes], at: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Yield every offset from `at` on where `pattern` (at most `count` bytes) matches, and `count` bytes from there."""
    while True:
        file.seek(at)
        block = file.read(_BLOCK + count)
        for match in pattern.finditer(block):
            if match.start() < _BLOCK:
                yield at + match.start(), block[match.start() : match.start() + count]
        if len(block) <= _BLOCK:
            return
        at += _BLOCK
