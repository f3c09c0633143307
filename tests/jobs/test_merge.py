"""Merging datasets: nothing rewritten, nothing lost, one fingerprint, and clear refusals."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import hashes
from whisper_gpt.jobs import cli
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.failures import open_failures
from whisper_gpt.manifests.fragments import read_samples

OPTIONS = ["--codec", "encodec_24khz_small", "--workers=0", "--max-failed=1"]


@pytest.fixture(scope="module")
def other_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three sounds and a text file named .wav."""
    source, out = tmp_path_factory.mktemp("other"), tmp_path_factory.mktemp("datasets") / "other"
    for i in range(3):
        noise = np.random.default_rng(i).standard_normal(24_000) * 0.1
        soundfile.write(str(source / f"sound {i}.flac"), noise, 16_000)
    (source / "text.wav").write_text("no audio")
    assert cli.main(["preprocess", "folder", str(source), "--out", str(out), *OPTIONS]) == 0
    return out


def test_name_option_allows_merging_equal_file_names(tmp_path: Path) -> None:
    parts = []
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        noise = np.random.default_rng(len(parts)).standard_normal(24_000) * 0.1
        soundfile.write(str(tmp_path / name / "a.wav"), noise, 24_000)
        parts.append(tmp_path / f"{name}-dataset")
        arguments = ["preprocess", "folder", str(tmp_path / name), "--name", name, "--out", str(parts[-1])]
        assert cli.main([*arguments, "--codec", "encodec_24khz_small", "--workers=0"]) == 0
    assert cli.main(["merge", *map(str, parts), "--out", str(tmp_path / "both")]) == 0
    assert cli.main(["verify", str(tmp_path / "both")]) == 0
    rows = read_samples(tmp_path / "both")
    assert sorted(rows["corpus"].to_pylist()) == ["left", "right"]
    assert len(set(rows["key"].to_pylist())) == 2


def test_merge_joins_two_datasets(dataset: Path, other_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = hashes(dataset), hashes(other_dataset)
    assert cli.main(["merge", str(dataset), str(other_dataset), "--out", str(out)]) == 0
    assert cli.main(["verify", str(out)]) == 0
    assert (hashes(dataset), hashes(other_dataset)) == before
    rows = read_samples(out)
    assert rows.num_rows == read_samples(dataset).num_rows + read_samples(other_dataset).num_rows
    assert open_failures(out).equals(open_failures(other_dataset))
    info = read_info(out)
    assert info.corpus == "synthetic + folder" and info.failed_sources == 1
    tars = {path.read_bytes() for path in out.rglob("*.tar")}
    assert tars == {path.read_bytes() for part in (dataset, other_dataset) for path in part.rglob("*.tar")}
    assert (out / "train" / "train-000000.tar").samefile(dataset / "train" / "train-000000.tar")  # linked
    # If interrupted, it resumes to the same bytes.
    resumed = Path(shutil.copytree(out, tmp_path / "again"))
    for name in ("dataset.json", "manifest/train-000002.parquet", "test/test-000000.tar"):
        (resumed / name).unlink()
    assert cli.main(["merge", str(dataset), str(other_dataset), "--out", str(resumed)]) == 0
    assert hashes(resumed) == hashes(out)


def test_incompatible_datasets_are_refused(
    dataset: Path, other_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*datasets: Path) -> str:
        assert cli.main(["merge", *map(str, datasets), "--out", str(tmp_path / "out")]) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "synthetic-piano_2004_0001" in refusal(dataset, dataset)
    fewer = tmp_path / "fewer"
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(str(source / "a.flac"), np.zeros(16_000), 16_000)
    assert cli.main(["preprocess", "folder", str(source), "--out", str(fewer), *OPTIONS, "--codebooks=4"]) == 0
    assert "codec.codebooks" in refusal(dataset, fewer)
    unfinished = Path(shutil.copytree(other_dataset, tmp_path / "unfinished"))
    next((unfinished / "manifest").iterdir()).unlink()
    assert str(unfinished) in refusal(dataset, unfinished)
    assert cli.main(["merge", str(dataset), "--out", str(tmp_path / "out")]) == 2
    assert cli.main(["merge", str(dataset), str(other_dataset), "--out", str(dataset)]) == 2


def test_merge_refuses_a_held_out_speaker_in_training(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for subset, utterance in (("train-clean-100", 0), ("test-clean", 1)):
        chapter = tmp_path / subset / "LibriSpeech" / subset / "19" / "198"
        chapter.mkdir(parents=True)
        noise = np.random.default_rng(utterance).standard_normal(16_000) * 0.1
        soundfile.write(str(chapter / f"19-198-000{utterance}.flac"), noise, 16_000)
        tree, out = chapter.parents[2], tmp_path / f"of-{subset}"
        assert cli.main(["preprocess", "librispeech", str(tree), "--out", str(out), *OPTIONS]) == 0
    parts = [str(tmp_path / f"of-{subset}") for subset in ("test-clean", "train-clean-100")]
    assert cli.main(["merge", *parts, "--out", str(tmp_path / "out")]) == 1
    assert f"{parts[1]} trains on speaker 19 of librispeech, whom {parts[0]} holds out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_merged_dataset_is_not_mistaken_for_one_of_its_parts(
    synthetic_corpora: Path, dataset: Path, other_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["merge", str(dataset), str(other_dataset), "--out", str(out)]) == 0
    arguments = ["preprocess", "synthetic", str(synthetic_corpora), "--out", str(out), *OPTIONS]
    assert cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5"]) == 1
    assert "corpus was 'folder' and is now 'synthetic'" in capsys.readouterr().err
    assert cli.main(["merge", str(other_dataset), str(dataset), "--out", str(out)]) == 1
    assert "holds another dataset" in capsys.readouterr().err
