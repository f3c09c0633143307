"""Others read the shards and the manifest unchanged: webdataset, wids, datasets, energon, torch, data frames."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
import yaml
from torch.utils.data import DataLoader

from tests.helpers import hashes
from whisper_gpt.jobs import cli
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.stream import Stream, StreamConfig, stream

hf = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed (pip install datasets)")


def test_plain_webdataset_reads_every_sample(dataset: Path) -> None:
    rows = {row["key"]: row for row in read_samples(dataset, "train").to_pylist()}
    tars = sorted(str(path) for path in (dataset / "train").glob("*.tar"))
    seen = set()
    for sample in wds.WebDataset(tars, shardshuffle=False).decode():
        row = rows[sample["__key__"]]
        assert sample["codes.npy"].shape == (row["codebooks"], row["frames"])
        assert sample["mel.npy"].shape == (row["frames"], row["mel_bands"])
        assert sample["codes.npy"].dtype == np.int16 and sample["mel.npy"].dtype == np.float16
        assert sample["json"]["text"] == row["text"] and sample["json"]["duration_s"] == row["duration_s"]
        seen.add(sample["__key__"])
    assert seen == rows.keys()


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets_reads_every_sample(dataset: Path, tmp_path: Path, streaming: bool) -> None:
    files = {
        split: sorted(str(path) for path in (dataset / split).glob("*.tar"))
        for split in ("train", "validation", "test")
    }
    opened = hf.load_dataset("webdataset", data_files=files, streaming=streaming, cache_dir=str(tmp_path))
    for split in files:
        rows = {row["key"]: row for row in read_samples(dataset, split).to_pylist()}
        seen = set()
        for sample in opened[split]:
            row = rows[sample["__key__"]]
            assert np.asarray(sample["codes.npy"]).shape == (row["codebooks"], row["frames"])
            assert np.asarray(sample["mel.npy"]).shape == (row["frames"], row["mel_bands"])
            assert all(sample["json"][name] == row[name] for name in ("key", "speaker", "composer", "year", "start_s"))
            seen.add(sample["__key__"])
        assert seen == rows.keys()


def test_with_its_card_a_folder_is_opened_by_its_name(dataset: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dataset, tmp_path / "set")
    assert cli.main(["card", str(folder), "--license=cc-by-4.0"]) == 0
    assert cli.main(["card", str(folder)]) == 1  # a README.md of the user's is not overwritten
    opened = hf.load_dataset(str(folder), streaming=True)
    for split in ("train", "validation", "test"):
        assert sum(1 for _ in opened[split]) == read_samples(dataset, split).num_rows
    front = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"]
    assert cli.main(["verify", str(folder)]) == 0


def test_wids_reads_any_sample_by_its_number(dataset: Path, tmp_path: Path) -> None:
    wids = pytest.importorskip("wids", reason="wids is not installed (pip install wids)")
    rows = {row["key"]: row for row in read_samples(dataset, "train").to_pylist()}
    counts = Counter(row["shard"] for row in rows.values())
    shards = [{"url": str(dataset / "train" / f"{shard}.tar"), "nsamples": n} for shard, n in sorted(counts.items())]
    opened = wids.ShardListDataset(shards, cache_dir=str(tmp_path), keep=True)
    assert len(opened) == len(rows)
    for index in (len(rows) - 1, 0, len(rows) // 2):
        sample = opened[index]
        row = rows[sample["__key__"]]
        assert sample[".codes.npy"].shape == (row["codebooks"], row["frames"])


def test_energon_prepares_and_loads_the_folder_as_it_is(dataset: Path, tmp_path: Path) -> None:
    """`energon lint` refuses every crude dataset, whatever its content: it has no cooker. So it is not run."""
    energon = pytest.importorskip("megatron.energon", reason="megatron-energon is not installed")
    folder = shutil.copytree(dataset, tmp_path / "set")
    before = hashes(folder)
    parts = [f"--split-parts={name}:{split}/.*" for name, split in (("train", "train"), ("val", "validation"))]
    options = ["--non-interactive", *parts, "--sample-type=CrudeWebdataset", "--no-progress"]
    subprocess.run([Path(sys.executable).with_name("energon"), "prepare", folder, *options], check=True)
    assert before.items() <= hashes(folder).items()  # indexes are added beside the tars, nothing is changed

    @energon.stateless
    def keep(sample: dict) -> dict:
        return sample

    class Encoder(energon.DefaultTaskEncoder):
        cookers = (energon.Cooker(keep),)

        @energon.stateless
        def batch(self, samples: list[dict]) -> list[dict]:
            return samples

    workers = energon.WorkerConfig(rank=0, world_size=1, num_workers=0)
    samples = energon.get_train_dataset(
        folder, worker_config=workers, batch_size=1, shuffle_buffer_size=None, max_samples_per_sequence=None,
        task_encoder=Encoder(), repeat=False,
    )  # fmt: skip
    rows = {row["key"]: row for row in read_samples(dataset, "train").to_pylist()}
    seen = {}
    for (sample,) in energon.get_loader(samples):
        seen[Path(sample["__key__"]).name.removeprefix("train-")] = sample["codes.npy"].shape
    assert len(seen) == len(rows)
    assert sorted(seen.values()) == sorted((row["codebooks"], row["frames"]) for row in rows.values())


def test_polars_pandas_and_duckdb_read_the_manifest(dataset: Path) -> None:
    import duckdb
    import pandas
    import polars

    total_s = sum(read_samples(dataset)["duration_s"].to_pylist())
    assert pandas.read_parquet(dataset / "manifest")["duration_s"].sum() == pytest.approx(total_s)
    assert polars.read_parquet(dataset / "manifest" / "*.parquet")["duration_s"].sum() == pytest.approx(total_s)
    ((summed,),) = duckdb.sql(f"SELECT sum(duration_s) FROM '{dataset}/manifest/*.parquet'").fetchall()
    assert summed == pytest.approx(total_s)


class Batches(torch.utils.data.IterableDataset):
    """Holds a stream as an attribute, as a spawned worker gets it: pickled."""

    def __init__(self, batches: Stream):
        self.batches = batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in self.batches:
            yield batch.codes


def test_a_stream_is_pickled_to_a_spawned_worker_at_its_position(dataset: Path) -> None:
    config = StreamConfig(context=60, batch=3, shuffle=False)
    alone = [batch.codes for batch in stream(dataset, "validation", config)]
    begun = stream(dataset, "validation", config)
    first = next(begun).codes
    loader = DataLoader(Batches(begun), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    together = [first, *loader]
    assert len(together) == len(alone) > 2
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_several_workers_of_one_stream_are_refused(dataset: Path) -> None:
    batches = stream(dataset, "validation", StreamConfig(context=60, batch=3, shuffle=False))
    loader = DataLoader(Batches(batches), batch_size=None, num_workers=2)
    with pytest.raises(PipelineError, match="2 DataLoader workers would read the same windows"):
        next(iter(loader))
