"""The index of a split equals the fragments, is ignored if it was made from others, and is rewritten if they change."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from upath import UPath

from whisper_gpt.jobs import verify
from whisper_gpt.manifests.dataset_info import FILE_NAME, read_info
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import fragment_path, read_samples
from whisper_gpt.manifests.index import COLUMNS, index_path, publish_indexes, read_index, wrong_indexes
from whisper_gpt.manifests.publish import publishing


def rows_of(table: pa.Table) -> list[dict]:
    return table.to_pylist()


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset that may be changed."""
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


def test_preprocess_writes_an_index_per_split_that_equals_the_manifest(dataset: Path) -> None:
    info = read_info(dataset)
    for split in info.splits:
        assert index_path(dataset, split).is_file()
        assert rows_of(read_index(dataset, info, split)) == rows_of(read_samples(dataset, split, COLUMNS))


def test_the_fragments_are_not_opened_if_there_is_an_index(copy: Path) -> None:
    expected = rows_of(read_index(copy, read_info(copy), "train"))
    for fragment in (copy / "manifest").glob("*.parquet"):
        fragment.write_bytes(b"")
    assert rows_of(read_index(copy, read_info(copy), "train")) == expected


@pytest.mark.parametrize("shards_sha256", ["0" * 64, ""])  # another content; made by an earlier version
def test_an_index_of_other_shards_is_not_used(copy: Path, shards_sha256: str) -> None:
    info = replace(read_info(copy), shards_sha256=shards_sha256)
    first = read_samples(copy, "train")["shard"][0].as_py()
    fragment_path(copy, first).unlink()
    with pytest.raises(ManifestError, match="whisper-gpt verify"):  # it looked at the fragments, and one is missing
        read_index(copy, info, "train")


def test_an_index_that_is_up_to_date_is_not_written_again(copy: Path) -> None:
    info = read_info(copy)
    before = index_path(copy, "train").stat().st_mtime_ns
    publish_indexes(copy, info)
    assert index_path(copy, "train").stat().st_mtime_ns == before
    index_path(copy, "train").unlink()
    publish_indexes(copy, info)
    assert rows_of(read_index(copy, info, "train")) == rows_of(read_samples(copy, "train", COLUMNS))


@pytest.mark.parametrize("start", [0.0, 0.3, 0.6])
def test_an_index_with_wrong_bytes_is_an_error_in_the_loader_and_in_verify(copy: Path, start: float) -> None:
    info, path = read_info(copy), index_path(copy, "train")
    expected, data = rows_of(read_index(copy, info, "train")), bytearray(path.read_bytes())
    begin = round(start * len(data))
    for at in range(begin, min(begin + 40, len(data))):
        data[at] ^= 0x7F
    path.unlink()
    path.write_bytes(data)
    wrong = [what for _, what in wrong_indexes(copy, info)]
    try:
        assert rows_of(read_index(copy, info, "train")) == expected or wrong
    except ManifestError as error:
        assert "train.arrow" in str(error) and wrong


def test_preprocess_replaces_a_damaged_index(copy: Path) -> None:
    info, path = read_info(copy), index_path(copy, "train")
    path.write_bytes(path.read_bytes()[:100])
    publish_indexes(copy, info)
    assert rows_of(read_index(copy, info, "train")) == rows_of(read_samples(copy, "train", COLUMNS))


@pytest.mark.parametrize("end", [0, 100, -100])
def test_a_damaged_index_is_an_error_that_names_it(copy: Path, end: int) -> None:
    path = index_path(copy, "train")
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ManifestError, match=r"train\.arrow: not a complete index"):
        read_index(copy, read_info(copy), "train")


def test_verify_compares_the_index_with_the_manifest(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info, path = read_info(copy), index_path(copy, "train")
    table = read_index(copy, info, "train")
    frames = pa.array([1, *table["frames"].to_pylist()[1:]], pa.int32())
    changed = table.set_column(table.schema.get_field_index("frames"), table.schema.field("frames"), frames)
    for wrong in (changed, table.slice(1)):
        with publishing(path) as file, pa.ipc.new_file(file, table.schema) as writer:  # `table` maps the old file
            writer.write_table(wrong)
        assert verify.run(verify.Config(UPath(copy))) == 1
        assert "index/train.arrow: differs from the manifest" in capsys.readouterr().out
    path.unlink()
    assert verify.run(verify.Config(UPath(copy))) == 0


def test_the_description_holds_a_hash_of_all_shards(dataset: Path, copy: Path) -> None:
    content = json.loads((copy / FILE_NAME).read_text())
    assert len(content["shards_sha256"]) == 64
    del content["shards_sha256"]  # as written by an earlier version
    (copy / FILE_NAME).write_text(json.dumps(content))
    assert replace(read_info(copy), shards_sha256=read_info(dataset).shards_sha256) == read_info(dataset)
