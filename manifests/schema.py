"""The columns of the manifest (one row per sample) and of the failures (one row per failed source)."""

import pyarrow as pa

SAMPLES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        # Byte offset and size of each member's data in SPLIT/SHARD.tar: a loader seeks there without reading the tar.
        pa.field("codes_offset", pa.int64(), nullable=False),
        pa.field("codes_size", pa.int64(), nullable=False),
        pa.field("json_offset", pa.int64(), nullable=False),
        pa.field("json_size", pa.int64(), nullable=False),
        pa.field("mel_offset", pa.int64(), nullable=False),
        pa.field("mel_size", pa.int64(), nullable=False),
        pa.field("mel_variants_offset", pa.int64(), nullable=False),  # 0 and 0 if there is one mel variant
        pa.field("mel_variants_size", pa.int64(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("codebooks", pa.int16(), nullable=False),
        pa.field("mel_bands", pa.int16(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),  # at 24 kHz; frames = ceil(samples / 320)
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("source_rate", pa.int32(), nullable=False),
        pa.field("source_channels", pa.int16(), nullable=False),
        # Levels of the 24 kHz mono signal that was encoded.
        pa.field("peak_dbfs", pa.float32(), nullable=False),
        pa.field("rms_dbfs", pa.float32(), nullable=False),
        pa.field("clipped_share", pa.float32(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("speaker_name", pa.string(), nullable=False),
        pa.field("sex", pa.string(), nullable=False),
        pa.field("chapter", pa.string(), nullable=False),
        pa.field("book", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("composer", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("year", pa.int16(), nullable=False),
        pa.field("midi", pa.string(), nullable=False),
        pa.field("extra", pa.string(), nullable=False),  # a JSON object, or ""
        pa.field("codes_sha256", pa.string(), nullable=False),  # of the member's bytes, with the header
        pa.field("mel_sha256", pa.string(), nullable=False),
        pa.field("mel_variants_sha256", pa.string(), nullable=False),
    ]
)

FAILURES = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # as planned
        pa.field("stage", pa.string(), nullable=False),  # scan, decode, resample, encode
        pa.field("error", pa.string(), nullable=False),  # the exception's type
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int16(), nullable=False),  # 1, and 1 more per --retry-failed
    ]
)
