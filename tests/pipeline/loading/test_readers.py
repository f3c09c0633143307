"""Third-party loaders read the shards unchanged: plain webdataset and Hugging Face datasets."""

from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from whisper_gpt.manifests.fragments import read_samples

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
