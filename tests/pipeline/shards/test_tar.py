"""Samples and tar shards: validation, equal bytes for equal samples, and members that any tar reader finds."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.manifests.publish import publish_bytes, publishing
from whisper_gpt.pipeline.shards.sample import Sample, SampleMeta, npy_bytes, npy_view, pack_members
from whisper_gpt.pipeline.shards.tar import ShardWriter, shard_name

META = SampleMeta(
    key="corpus_one_0000",
    corpus="corpus",
    split="train",
    source="a/b.wav",
    segment=0,
    start_s=0.0,
    duration_s=0.1,
    samples=2400,
    speaker="7",
    speaker_name="Zoë",
    sex="F",
    chapter="",
    book="",
    text="",
    composer="",
    title="",
    year=0,
    midi="",
    extra="",
)


def sample(key: str = META.key, frames: int = 8, variants: int = 1) -> Sample:
    random = np.random.default_rng(frames)
    return Sample(
        replace(META, key=key),
        random.integers(0, 1024, (8, frames)).astype(np.int16),
        random.standard_normal((frames, 64)).astype(np.float16),
        random.standard_normal((variants - 1, frames, 64)).astype(np.float16),
    )


def test_offsets_point_to_the_members() -> None:
    file = io.BytesIO()
    writer = ShardWriter(file)
    spans = [writer.add(sample(f"k{i}", frames=i + 1)) for i in range(3)]
    writer.close()
    data = file.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [f"k{i}.{e}" for i in range(3) for e in ("codes.npy", "json", "mel.npy")]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o444)}
    for i, span in enumerate(spans):
        codes = npy_view(memoryview(data)[span["codes"].offset : span["codes"].offset + span["codes"].size])
        assert np.array_equal(codes, sample(frames=i + 1).codes)


def test_other_mel_variants_are_one_more_member() -> None:
    with_variants = sample(variants=3)
    members = dict(pack_members(with_variants))
    assert list(members) == sorted(members) and list(members)[-1] == f"{META.key}.mel_variants.npy"
    assert np.array_equal(npy_view(members[f"{META.key}.mel_variants.npy"]), with_variants.mel_variants)
    assert f"{META.key}.mel_variants.npy" not in dict(pack_members(sample()))


def test_equal_samples_give_equal_bytes() -> None:
    def shard() -> tuple[bytes, str]:
        file = io.BytesIO()
        writer = ShardWriter(file)
        writer.add(sample())
        digest = writer.close()
        return file.getvalue(), digest

    assert shard() == shard()


def test_rollback_leaves_no_trace() -> None:
    plain, rolled_back = io.BytesIO(), io.BytesIO()
    plain_writer, rolled_back_writer = ShardWriter(plain), ShardWriter(rolled_back)
    plain_writer.add(sample("a"))
    rolled_back_writer.add(sample("a"))
    mark = rolled_back_writer.mark()
    rolled_back_writer.add(sample("failed", frames=500))
    rolled_back_writer.rollback(mark)
    for writer in (plain_writer, rolled_back_writer):
        writer.add(sample("b"))
    assert plain_writer.close() == rolled_back_writer.close()
    assert plain.getvalue() == rolled_back.getvalue()


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "é", "x" * 81])
def test_unsafe_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        sample(key)


def test_misaligned_or_mistyped_samples_are_refused() -> None:
    good = sample()
    with pytest.raises(ValueError, match=r"8 code frames .* 7 mel frames"):
        Sample(good.meta, good.codes, good.mel[:7], good.mel_variants)
    with pytest.raises(ValueError, match="int16 and float16"):
        Sample(good.meta, good.codes.astype(np.int64), good.mel, good.mel_variants)
    with pytest.raises(ValueError, match="variants"):
        Sample(good.meta, good.codes, good.mel, good.mel_variants[:, :7])


def test_json_keeps_types_and_has_no_nulls() -> None:
    meta = json.loads(dict(pack_members(sample()))[f"{META.key}.json"])
    assert isinstance(meta["start_s"], float) and meta["speaker_name"] == "Zoë" and meta["text"] == ""
    assert all(isinstance(value, str | int | float) for value in meta.values())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple), st.sampled_from(["<i2", "<f2", "<f4"]))
def test_npy_round_trip(shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    view = npy_view(npy_bytes(array))
    assert view.dtype == array.dtype and np.array_equal(view, array)


def test_pickled_arrays_are_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="plain"):
        npy_view(buffer.getvalue())
    with pytest.raises(ValueError, match="npy"):
        npy_view(b"nonsense")


def test_shard_name_is_zero_padded() -> None:
    assert shard_name("train", 12) == "train-000012"


def test_publishing_is_atomic(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with pytest.raises(RuntimeError), publishing(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    publish_bytes(target, b"whole")
    publish_bytes(target, b"whole again")
    assert target.read_bytes() == b"whole again" and list(target.parent.iterdir()) == [target]
