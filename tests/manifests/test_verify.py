"""`verify` finds and names every kind of damage, and reports none in an intact dataset."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.preprocessing.planning import read_parts
from whisper_gpt.jobs.verify import check_shards, planned_shards
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.failures import read_failures
from whisper_gpt.manifests.fragments import committed_shards, listed_shards, read_samples
from whisper_gpt.manifests.verify import verify_whole

SHARD = "train-000000"


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset that a test may damage."""
    return Path(shutil.copytree(dataset, tmp_path / "dataset"))


def problems(dataset: Path) -> list[str]:
    info, parts = read_info(dataset), read_parts(dataset)
    checked = list(check_shards(dataset, info, planned_shards(parts), workers=0))
    names = {shard.name for shard in planned_shards(parts)}
    whole = verify_whole(dataset, info, [part.sha256 for part in parts], names, checked)
    found = [problem for shard in checked for problem in shard.problems]
    return [f"{p.file}: {p.key}: {p.what}" for p in [*found, *whole]]


def flip_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(data)


def rewrite_rows(dataset: Path, change: Callable[[dict], None]) -> None:
    """Change the manifest row of the shard's first sample, but not the file's footer metadata."""
    path = dataset / "manifest" / f"{SHARD}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def first_row(dataset: Path) -> dict:
    return pq.read_table(dataset / "manifest" / f"{SHARD}.parquet").to_pylist()[0]


def test_intact_dataset_is_ok(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(dataset)]) == 0
    assert "OK" in capsys.readouterr().err


def damage_codes(dataset: Path) -> None:
    flip_byte(dataset / "train" / f"{SHARD}.tar", first_row(dataset)["codes_offset"] + 130)


def damage_mel(dataset: Path) -> None:
    flip_byte(dataset / "train" / f"{SHARD}.tar", first_row(dataset)["mel_offset"] + 200)


def cut_in_half(dataset: Path) -> None:
    path = dataset / "train" / f"{SHARD}.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete_shard(dataset: Path) -> None:
    (dataset / "train" / f"{SHARD}.tar").unlink()


def delete_fragment(dataset: Path) -> None:
    (dataset / "manifest" / f"{SHARD}.parquet").unlink()


def damage_fragment(dataset: Path) -> None:
    (dataset / "manifest" / f"{SHARD}.parquet").write_bytes(b"no parquet")


def swap_shards(dataset: Path) -> None:
    first, second = (dataset / "train" / f"train-00000{i}.tar" for i in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def wrong_totals(dataset: Path) -> None:
    path = dataset / "dataset.json"
    content = json.loads(path.read_text())
    content["splits"]["train"]["samples"] += 1
    path.write_text(json.dumps(content))


def wrong_frames(dataset: Path) -> None:
    rewrite_rows(dataset, lambda row: row.update(samples=row["samples"] + 400))


def stray_tar(dataset: Path) -> None:
    (dataset / "train" / "train-000099.tar").write_bytes(b"")


def other_plan(dataset: Path) -> None:
    path = dataset / "plan.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")


def lost_sample(dataset: Path) -> None:
    """Remove a source from the manifest without a failure row."""
    path = dataset / "manifest" / f"{SHARD}.parquet"
    table = pq.read_table(path)
    source = table["source"][0].as_py()
    pq.write_table(table.filter(pc.not_equal(table["source"], source)), path)


def wrong_text(dataset: Path) -> None:
    rewrite_rows(dataset, lambda row: row.update(text="another text"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_codes, "the sha256 of its codes"),
        (damage_mel, "the sha256 of its mel"),
        (cut_in_half, f"train/{SHARD}.tar: : "),
        (delete_shard, "missing"),
        (delete_fragment, f"manifest/{SHARD}.parquet"),
        (damage_fragment, f"manifest/{SHARD}.parquet"),
        (swap_shards, "member"),
        (wrong_totals, "dataset.json"),
        (wrong_frames, "frames for"),
        (wrong_text, "text = "),
        (stray_tar, "train/train-000099.tar"),
        (other_plan, "plan.parquet"),
        (lost_sample, "neither in the manifest nor in the failures"),
    ],
)
def test_damage_is_found(copy: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(copy)
    assert any(words in problem for problem in problems(copy))


@pytest.mark.parametrize("seed", range(12))
def test_damaged_footer_never_causes_a_traceback(copy: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Flip one byte anywhere in the Parquet footer: no verb that reads it fails with a traceback."""
    path = copy / "manifest" / f"{SHARD}.parquet"
    size = path.stat().st_size
    footer = int.from_bytes(path.read_bytes()[-8:-4], "little")
    flip_byte(path, size - 9 - random.Random(seed).randrange(footer))
    for verb in ("verify", "inspect"):
        assert cli.main([verb, str(copy)]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_verify_names_the_damage_and_exits_1(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage_codes(copy)
    assert cli.main(["verify", str(copy)]) == 1
    out = capsys.readouterr().out
    assert f"train/{SHARD}.tar" in out and first_row(copy)["key"] in out


def test_operating_system_files_are_ignored(copy: Path) -> None:
    before = read_samples(copy)
    for folder in [copy, *(path for path in copy.iterdir() if path.is_dir())]:
        for file in [path for path in folder.iterdir() if path.is_file()]:
            (folder / f"._{file.name}").write_bytes(b"\0\5\26\7")
        (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (folder / "Thumbs.db").touch()
    (copy / "failures").mkdir(exist_ok=True)
    (copy / "failures" / "._train-000000.parquet").write_bytes(b"\0\5\26\7")
    shutil.copytree(copy / "train", copy / "__MACOSX" / "train")
    assert problems(copy) == []
    assert read_samples(copy).equals(before) and read_failures(copy).num_rows == 0
    assert committed_shards(copy) == listed_shards(copy) == {row["shard"] for row in before.to_pylist()}
    for verb in (["inspect", str(copy)], ["query", str(copy), "frames > 0"], ["verify", str(copy)]):
        assert cli.main(verb) == 0


def test_dataset_json_with_a_byte_order_mark_is_read(copy: Path) -> None:
    before = read_info(copy)
    (copy / "dataset.json").write_bytes(b"\xef\xbb\xbf" + (copy / "dataset.json").read_bytes())
    assert read_info(copy) == before
