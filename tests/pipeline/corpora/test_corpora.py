"""The corpus recipes on synthetic trees of the real layouts, complete and incomplete."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.pipeline.audio import probe
from whisper_gpt.pipeline.corpora import folder, librispeech, maestro, synthetic
from whisper_gpt.pipeline.errors import PipelineError


@pytest.fixture
def tree(synthetic_corpora: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic corpora that a test may damage."""
    return Path(shutil.copytree(synthetic_corpora, tmp_path / "corpora"))


def test_librispeech_with_all_its_tables(synthetic_corpora: Path) -> None:
    scan = librispeech.scan(synthetic_corpora)
    assert scan.warnings == [] and scan.absent == {} and len(scan.recordings) == 20
    assert {r.split for r in scan.recordings} == {"train", "validation", "test"}
    first = scan.recordings[0]
    assert first.id == "librispeech_dev-clean_108-1108-0008" and first.split == "validation"
    assert (first.speaker, first.chapter, first.sex) == ("108", "1108", "F")
    assert first.speaker_name == "Made Voice 108" and first.title == "Chapter 1108" and first.book == "A Made Book"
    assert first.text and set(first.text.split()) <= set(synthetic._LEXICON)
    assert (synthetic_corpora / first.path).is_file()


def test_librispeech_accepts_outer_or_inner_folder(synthetic_corpora: Path) -> None:
    inner, outer = librispeech.scan(synthetic_corpora / "LibriSpeech"), librispeech.scan(synthetic_corpora)
    assert [r.id for r in inner.recordings] == [r.id for r in outer.recordings]
    assert (synthetic_corpora / "LibriSpeech" / inner.recordings[0].path).is_file()


def test_librispeech_without_tables_or_transcripts(tree: Path) -> None:
    for path in [*(tree / "LibriSpeech").glob("*.TXT"), *tree.rglob("*.trans.txt")]:
        path.unlink()
    scan = librispeech.scan(tree)
    assert len(scan.recordings) == 20 and len(scan.warnings) == 1
    assert "20 without a transcript" in scan.warnings[0]
    assert {(r.text, r.speaker_name, r.book) for r in scan.recordings} == {("", "", "")}
    assert scan.recordings[0].speaker == "108"


def test_librispeech_lists_transcribed_but_absent_files(tree: Path) -> None:
    removed = sorted((tree / "LibriSpeech" / "dev-clean").rglob("*.flac"))[0]
    removed.unlink()
    assert librispeech.scan(tree).absent == {removed.relative_to(tree).as_posix(): "validation"}


def test_librispeech_with_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train-clean-100").mkdir()
    (tmp_path / "train-clean-100" / "not in a chapter.flac").touch()
    with pytest.raises(PipelineError, match="LibriSpeech"):
        librispeech.scan(tmp_path)


def test_maestro_scan(synthetic_corpora: Path) -> None:
    scan = maestro.scan(synthetic_corpora)
    assert len(scan.recordings) == 10 and scan.warnings == []
    first = scan.recordings[0]
    assert first.id == "maestro_2004_0001" and first.year == 2004
    assert first.composer == "A. Machine" and first.title == "Étude 1" and first.midi.endswith(".midi")
    assert [r.split for r in scan.recordings].count("validation") == 1
    assert [r.id for r in maestro.scan(synthetic_corpora / "maestro-v3.0.0").recordings] == [
        r.id for r in scan.recordings
    ]


def test_maestro_lists_rows_without_audio(tree: Path) -> None:
    removed = sorted(tree.rglob("*.wav"))[:3]
    for path in removed:
        path.unlink()
    scan = maestro.scan(tree)
    assert scan.absent.keys() == {p.relative_to(tree).as_posix() for p in removed}
    assert len(scan.recordings) == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n", r"maestro-v3\.0\.0\.csv: .*canonical_composer"),
        ("\xff\xfe broken", r"maestro-v3\.0\.0\.csv"),
        (None, r"maestro-v\*\.csv"),
    ],
)
def test_maestro_with_an_invalid_csv_is_refused(tree: Path, content: str | None, words: str) -> None:
    table = tree / "maestro-v3.0.0" / "maestro-v3.0.0.csv"
    if content is None:
        table.unlink()
    else:
        table.write_text(content, encoding="utf-8")
    with pytest.raises(PipelineError, match=words):
        maestro.scan(tree)


def test_maestro_with_an_unknown_split_is_refused(tree: Path) -> None:
    table = tree / "maestro-v3.0.0" / "maestro-v3.0.0.csv"
    table.write_text(table.read_text().replace("validation", "valid"))
    with pytest.raises(PipelineError, match="row 9 has split 'valid'"):
        maestro.scan(tree)


def test_maestro_with_a_binary_csv_is_refused(tree: Path) -> None:
    (tree / "maestro-v3.0.0" / "maestro-v3.0.0.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineError, match=r"maestro-v3\.0\.0\.csv"):
        maestro.scan(tree)


def test_folder_finds_all_audio_and_splits_stably(synthetic_corpora: Path, tree: Path) -> None:
    whole = folder.scan(synthetic_corpora)
    assert len(whole.recordings) == 30 and len({r.id for r in whole.recordings}) == 30
    sorted(tree.rglob("*.flac"))[0].unlink()
    split_of = {r.path: r.split for r in whole.recordings}
    assert all(split_of[r.path] == r.split for r in folder.scan(tree).recordings)


def test_top_folders_named_after_splits_are_these(tmp_path: Path) -> None:
    for name in ("train/a", "dev/b", "test/c", "test/deeper/d", "other/test/e", "test"):
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(1000), 24_000)
    split_of = {r.path: r.split for r in folder.scan(tmp_path).recordings}
    assert [split_of[f"{name}.wav"] for name in ("train/a", "dev/b", "test/c", "test/deeper/d")] == [
        *("train", "validation", "test", "test")
    ]
    assert split_of["other/test/e.wav"] == split_of["test.wav"] == "train"


def test_folder_ids_are_safe_for_any_name(tmp_path: Path) -> None:
    for name in ("ü ber.wav", "a.b.c.WAV", "x" * 200 + ".mp3", "ü_ber.wav"):
        (tmp_path / name).touch()
    ids = [r.id for r in folder.scan(tmp_path).recordings]
    assert len(set(ids)) == 4
    assert all(len(i) <= 74 and i.replace("-", "").replace("_", "").isalnum() and i.isascii() for i in ids)


def test_odd_names_in_librispeech_get_safe_ids(tree: Path) -> None:
    file = sorted(tree.rglob("*.flac"))[0]
    file.rename(file.with_name(f"{file.stem} (1).flac"))
    odd = next(r for r in librispeech.scan(tree).recordings if "(1)" in r.path)
    assert odd.id.startswith("librispeech_dev-clean_") and "(" not in odd.id and " " not in odd.id


def test_non_utf_8_file_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
    with pytest.raises(PipelineError, match="not UTF-8; rename it"):
        folder.scan(tmp_path)


@pytest.mark.parametrize("audio", ["/etc/passwd", "../../secret.wav", ""])
def test_maestro_table_cannot_point_outside_the_corpus(tree: Path, audio: str) -> None:
    table = tree / "maestro-v3.0.0" / "maestro-v3.0.0.csv"
    lines = table.read_text().splitlines()
    cells = lines[1].split(",")
    table.write_text("\n".join([lines[0], ",".join([*cells[:5], audio, cells[6]])]))
    with pytest.raises(PipelineError, match="row 1 has"):
        maestro.scan(tree)


def test_synthetic_audio_is_not_mixed_with_other_files(synthetic_corpora: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic_corpora / "LibriSpeech", tmp_path / "LibriSpeech")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PipelineError, match=str(tmp_path)):
        synthetic.scan(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no audio file"):
        folder.scan(tmp_path)


def test_synthetic_corpora_are_deterministic(tmp_path: Path, synthetic_corpora: Path) -> None:
    synthetic.write(tmp_path / "again", synthetic.SyntheticSize(utterances=20, pieces=10, piece_s=8.0))
    files = [p.relative_to(tmp_path / "again") for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == len([p for p in synthetic_corpora.rglob("*") if p.is_file()])
    assert all((tmp_path / "again" / f).read_bytes() == (synthetic_corpora / f).read_bytes() for f in files)


def test_synthetic_audio_has_the_sample_rates_of_the_real(synthetic_corpora: Path) -> None:
    infos = [probe(synthetic_corpora / r.path) for r in synthetic.scan(synthetic_corpora).recordings]
    assert {(i.sample_rate, i.channels) for i in infos} == {(16_000, 1), (44_100, 2)}
