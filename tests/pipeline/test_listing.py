"""Scanning source folders: system files, odd entries, other formats, byte-order marks, unreadable folders."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from upath import UPath

from whisper_gpt.jobs.preprocessing.planning import refuse_foreign_folder
from whisper_gpt.jobs.preprocessing.scanning import Chosen, Survey, scan_corpus
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.location import Location, list_files, location
from whisper_gpt.pipeline.audio import EXTENSIONS, AudioInfo, probe
from whisper_gpt.pipeline.corpora import folder, librispeech, maestro
from whisper_gpt.pipeline.corpora.recording import SPLITS
from whisper_gpt.pipeline.corpora.registry import CORPORA
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.shards.source import Source, examine
from whisper_gpt.pipeline.shards.source_reader import SourceReader
from whisper_gpt.pipeline.shards.task import ShardJob

SCANS = {"folder": folder.scan, "librispeech": librispeech.scan, "maestro": maestro.scan}
CHAPTER = Path("LibriSpeech/dev-clean/108/1108")
TABLE = Path("maestro-v3.0.0/maestro-v3.0.0.csv")
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def tree(synthetic_corpora: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic corpora that a test may modify."""
    return Path(shutil.copytree(synthetic_corpora, tmp_path / "corpora"))


@pytest.fixture
def within_10_s() -> Iterator[None]:
    """Fail a test that hangs."""

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError("still waiting after 10 s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), np.zeros(round(16_000 * seconds)), 16_000)
    return path


def planned_row(source: Source) -> dict:
    return {"path": source.recording.path, "scan_error": "", "content_id": source.content_id}


def seconds_read(root: Location, source: Source) -> float:
    """Seconds of audio in a source, read as a worker reads it."""
    reader = SourceReader(ShardJob(root, Path("out"), "f", 100), planned_row(source))
    return sum(map(len, reader.blocks())) / 24_000


@pytest.mark.parametrize("corpus", SCANS)
def test_system_and_hidden_files_are_skipped(tree: Path, corpus: str) -> None:
    before = SCANS[corpus](tree)
    for place in (tree, tree / CHAPTER, tree / TABLE.parent):
        for name in ("._a.flac", ".hidden.wav", ".DS_Store", "Thumbs.db", "desktop.ini", "._108-1108.trans.txt"):
            (place / name).write_bytes(b"\0\5\26\7 of the system\n")
        for name in ("__MACOSX", ".Trashes", "@eaDir"):
            shutil.copytree(tree / CHAPTER, place / name)
    (tree / TABLE.parent / f"._{TABLE.name}").write_bytes(b"\0\5\26\7")
    assert SCANS[corpus](tree) == before


def test_hidden_folder_can_be_the_source(tmp_path: Path) -> None:
    write(tmp_path / ".cache" / "a.wav")
    assert [r.path for r in folder.scan(tmp_path / ".cache").recordings] == ["a.wav"]


@pytest.mark.usefixtures("within_10_s")
def test_odd_entries_do_not_stop_the_scan(tmp_path: Path) -> None:
    write(tmp_path / "good.wav")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "gone.wav").symlink_to("nothing")
    (tmp_path / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    os.mkfifo(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    (tmp_path / "to a pipe.wav").symlink_to("pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.wav"))
    scan = folder.scan(tmp_path)
    infos = {r.path: examine(tmp_path, r).info for r in scan.recordings}
    assert infos.keys() == {"good.wav", "loop.wav", "gone.wav"}
    assert isinstance(infos["good.wav"], AudioInfo)
    assert "Too many levels" in str(infos["loop.wav"]) and "no such file" in str(infos["gone.wav"])
    assert [warning for warning in scan.warnings if r"caf\udce9.wav" in warning] == scan.warnings


NAMES = ["Mozart:/Requiem: Kyrie.wav", "live::take2.wav", "s3:x/a.wav", "file:b.wav", "what?/100%25#1.wav", "[a]*.wav"]


def test_any_file_name_is_found_and_read(tmp_path: Path) -> None:
    root = location(tmp_path / "music::of: S")
    for name in NAMES:
        write(tmp_path / "music::of: S" / name)
    sources = [examine(root, r) for r in folder.scan(root).recordings]
    assert sorted(s.recording.path for s in sources) == sorted(NAMES)
    assert [seconds_read(root, source) for source in sources] == pytest.approx([0.5] * len(NAMES))


def test_any_file_name_is_read_in_an_object_store(tmp_path: Path) -> None:
    root = UPath("memory://any-name/music")
    for name in [*NAMES, ".hidden.wav", "__MACOSX/a.wav", "rejected/b.wav"]:
        root.fs.pipe_file(f"/any-name/music/{name}", write(tmp_path / "a.wav").read_bytes())
    sources = [examine(root, r) for r in folder.scan(root, exclude=("rejected",)).recordings]
    assert sorted(s.recording.path for s in sources) == sorted(NAMES)
    assert [seconds_read(root, source) for source in sources] == pytest.approx([0.5] * len(NAMES))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_unreadable_folder_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    write(tmp_path / "good.wav")
    write(tmp_path / "lost+found" / "bad.wav")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("lost+found"):
            raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    if error.errno == 5:  # a disk error: the rest of the disk may be damaged as well
        with pytest.raises(ManifestError):
            folder.scan(tmp_path)
    else:
        scan = folder.scan(tmp_path)
        assert [r.path for r in scan.recordings] == ["good.wav"]
        assert len(scan.warnings) == 1 and "lost+found" in scan.warnings[0]
    assert folder.scan(tmp_path, exclude=("lost+found",)).warnings == []
    with pytest.raises(ManifestError, match=r"lost\+found"):
        list_files(tmp_path)  # a dataset must be listed completely


@pytest.mark.parametrize("pattern", ["rejected", "*/rejected/*", "bad-*", "a/rejected/bad-1.wav"])
def test_excluded_files_are_not_scanned(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "a" / "good.wav")
    write(tmp_path / "a" / "rejected" / "bad-1.wav")
    assert [r.path for r in folder.scan(tmp_path, exclude=(pattern,)).recordings] == ["a/good.wav"]


def test_excluded_files_do_not_count_as_absent(synthetic_corpora: Path, tmp_path: Path) -> None:
    def scanned(corpus: str, *exclude: str) -> Survey:
        return scan_corpus(CORPORA[corpus], corpus, synthetic_corpora, Chosen(SPLITS, exclude=exclude), tmp_path / "f")

    speech, piano = scanned("librispeech", "108-1108-*.flac"), scanned("maestro", "maestro-v3.0.0/2004")
    for corpus, without in ("librispeech", speech), ("maestro", piano):
        assert sum(without.per_split.values()) < sum(scanned(corpus).per_split.values()) and without.absent == {}


def add_byte_order_mark(tree: Path, pattern: str) -> None:
    paths = list(tree.rglob(pattern))
    assert paths
    for path in paths:
        path.write_bytes(BOM + path.read_bytes())


@pytest.mark.parametrize("corpus", ["librispeech", "maestro"])
def test_byte_order_marks_are_ignored(tree: Path, corpus: str) -> None:
    for path in (tree / "LibriSpeech").glob("*.TXT"):  # so that the first line is data, not a comment
        path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(";")))
    before = SCANS[corpus](tree)
    for pattern in ("*.csv", "*.trans.txt", "SPEAKERS.TXT", "CHAPTERS.TXT"):
        add_byte_order_mark(tree, pattern)
    assert SCANS[corpus](tree) == before


def convert(path: Path, extension: str) -> Path:
    samples, rate = soundfile.read(str(path))
    new = path.with_suffix(extension)
    subtype = "OPUS" if extension.lower() == ".opus" else None
    container = {".opus": "OGG", ".oga": "OGG", ".wave": "WAV", ".aif": "AIFF"}.get(extension.lower())
    soundfile.write(str(new), samples[: rate * 2], 16_000, subtype, format=container)
    path.unlink()
    return new


FORMATS = [".FLAC", ".Wav", ".wave", ".opus", ".oga", ".OGG", ".aiff", ".aif", ".w64", ".au", ".caf", ".mp3"]


@pytest.mark.parametrize("corpus", SCANS)
def test_every_corpus_accepts_every_format(tree: Path, corpus: str) -> None:
    files = sorted((tree / "maestro-v3.0.0").rglob("*.wav") if corpus == "maestro" else tree.rglob("*.flac"))
    new = [convert(path, FORMATS[i % len(FORMATS)]) for i, path in enumerate(files)]
    scan = SCANS[corpus](tree)
    by_path = {r.path: r for r in scan.recordings}
    assert by_path.keys() >= {path.relative_to(tree).as_posix() for path in new}
    assert scan.warnings == [] and scan.absent == {}
    assert all(probe(tree / path).frames for path in by_path)
    if corpus == "librispeech":
        assert all(r.text for r in by_path.values())


def test_utterance_in_two_formats_counts_once(tree: Path) -> None:
    before = librispeech.scan(tree)
    for path in (tree / CHAPTER).glob("*.flac"):
        shutil.copy(path, path.with_suffix(".aaa.flac"))  # another name is another utterance
        shutil.copy(path, path.with_suffix(".wav"))
    after = librispeech.scan(tree)
    assert [r for r in after.recordings if ".aaa" not in r.path] == before.recordings
    assert any("second format" in warning for warning in after.warnings)


@pytest.mark.parametrize("corpus", SCANS)
def test_unsupported_audio_formats_are_a_warning(tree: Path, corpus: str) -> None:
    before = SCANS[corpus](tree)
    for name in ("a.m4a", "b.M4A", "c.wma", "d.aac"):
        (tree / CHAPTER / name).touch()
    scan = SCANS[corpus](tree)
    assert scan.recordings == before.recordings
    assert len(scan.warnings) == 1 and "2 .m4a, 1 .aac, 1 .wma" in scan.warnings[0]


def test_folder_with_only_unsupported_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").touch()
    with pytest.raises(PipelineError, match=r"no audio file .* 1 \.m4a"):
        folder.scan(tmp_path)


def test_libsndfile_reads_the_listed_extensions(tmp_path: Path) -> None:
    kinds = {"flac": "FLAC", "mp3": "MP3", "ogg": "OGG", "voc": "VOC", "avr": "AVR", "caf": "CAF", "w64": "W64"}
    kinds |= {"svx": "SVX", "8svx": "SVX", "paf": "PAF", "pvf": "PVF", "ircam": "IRCAM", "sf": "IRCAM", "sph": "NIST"}
    kinds |= {"au": "AU", "snd": "AU", "aiff": "AIFF", "rf64": "RF64", "wav": "WAV"}
    for extension, kind in kinds.items():
        assert f".{extension}" in EXTENSIONS
        soundfile.write(str(tmp_path / f"a.{extension}"), np.zeros(8_000), 16_000, format=kind)
    sources = [examine(tmp_path, r) for r in folder.scan(tmp_path).recordings]
    assert len(sources) == len(kinds)
    assert not [source for source in sources if isinstance(source.info, AudioError)]


def test_system_files_do_not_make_a_folder_foreign(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    refuse_foreign_folder(tmp_path)
