"""What a source holds beside good audio: files of the system, odd entries, other formats, byte-order marks."""

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

from whisper_gpt.jobs.preprocessing.planning import refuse_foreign_folder, scan_corpus
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.location import Location, list_files, location
from whisper_gpt.pipeline.audio import EXTENSIONS, AudioInfo, probe
from whisper_gpt.pipeline.corpora import folder, librispeech, maestro
from whisper_gpt.pipeline.corpora.recording import SPLITS, Scan
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
    """A copy of the synthetic corpora that a test may add to."""
    return Path(shutil.copytree(synthetic_corpora, tmp_path / "made"))


@pytest.fixture
def within_10_s() -> Iterator[None]:
    """Ends a test that hangs."""

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
    """As a worker reads it."""
    reader = SourceReader(ShardJob(root, Path("out"), "f", 100), planned_row(source))
    return sum(map(len, reader.blocks())) / 24_000


@pytest.mark.parametrize("corpus", SCANS)
def test_files_of_the_system_and_hidden_ones_are_passed_over(tree: Path, corpus: str) -> None:
    before = SCANS[corpus](tree)
    for beside in (tree, tree / CHAPTER, tree / TABLE.parent):
        for name in ("._a.flac", ".hidden.wav", ".DS_Store", "Thumbs.db", "desktop.ini", "._108-1108.trans.txt"):
            (beside / name).write_bytes(b"\0\5\26\7 of the system\n")
        for name in ("__MACOSX", ".Trashes", "@eaDir"):
            shutil.copytree(tree / CHAPTER, beside / name)
    (tree / TABLE.parent / f"._{TABLE.name}").write_bytes(b"\0\5\26\7")
    assert SCANS[corpus](tree) == before


def test_a_hidden_folder_may_itself_be_the_source(tmp_path: Path) -> None:
    write(tmp_path / ".cache" / "a.wav")
    assert [r.path for r in folder.scan(tmp_path / ".cache").recordings] == ["a.wav"]


@pytest.mark.usefixtures("within_10_s")
def test_odd_entries_stop_no_scan(tmp_path: Path) -> None:
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
    found = {r.path: examine(tmp_path, r).info for r in scan.recordings}
    assert found.keys() == {"good.wav", "loop.wav", "gone.wav"}
    assert isinstance(found["good.wav"], AudioInfo)
    assert "Too many levels" in str(found["loop.wav"]) and "no such file" in str(found["gone.wav"])
    assert [warning for warning in scan.warnings if r"caf\udce9.wav" in warning] == scan.warnings


NAMES = ["Mozart:/Requiem: Kyrie.wav", "live::take2.wav", "s3:x/a.wav", "file:b.wav", "what?/100%25#1.wav", "[a]*.wav"]


def test_any_name_is_found_and_read(tmp_path: Path) -> None:
    root = location(tmp_path / "music::of: S")
    for name in NAMES:
        write(tmp_path / "music::of: S" / name)
    found = [examine(root, r) for r in folder.scan(root).recordings]
    assert sorted(s.recording.path for s in found) == sorted(NAMES)
    assert [seconds_read(root, source) for source in found] == pytest.approx([0.5] * len(NAMES))


def test_any_name_is_found_and_read_in_an_object_store(tmp_path: Path) -> None:
    root = UPath("memory://any-name/music")
    for name in [*NAMES, ".hidden.wav", "__MACOSX/a.wav", "rejected/b.wav"]:
        root.fs.pipe_file(f"/any-name/music/{name}", write(tmp_path / "a.wav").read_bytes())
    found = [examine(root, r) for r in folder.scan(root, exclude=("rejected",)).recordings]
    assert sorted(s.recording.path for s in found) == sorted(NAMES)
    assert [seconds_read(root, source) for source in found] == pytest.approx([0.5] * len(NAMES))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_folder_that_may_not_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    write(tmp_path / "good.wav")
    write(tmp_path / "lost+found" / "bad.wav")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("lost+found"):
            raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    if error.errno == 5:  # of the disk: the rest of it may be wrong as well
        with pytest.raises(ManifestError):
            folder.scan(tmp_path)
    else:
        scan = folder.scan(tmp_path)
        assert [r.path for r in scan.recordings] == ["good.wav"]
        assert len(scan.warnings) == 1 and "lost+found" in scan.warnings[0]
    assert folder.scan(tmp_path, exclude=("lost+found",)).warnings == []
    with pytest.raises(ManifestError, match=r"lost\+found"):
        list_files(tmp_path)  # of a dataset nothing may be left out


@pytest.mark.parametrize("pattern", ["rejected", "*/rejected/*", "bad-*", "a/rejected/bad-1.wav"])
def test_what_is_excluded_is_not_taken(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "a" / "good.wav")
    write(tmp_path / "a" / "rejected" / "bad-1.wav")
    assert [r.path for r in folder.scan(tmp_path, exclude=(pattern,)).recordings] == ["a/good.wav"]


def test_what_is_excluded_is_not_absent(synthetic_corpora: Path) -> None:
    def scanned(corpus: str, *exclude: str) -> Scan:
        return scan_corpus(corpus, corpus, synthetic_corpora, SPLITS, (0.0, 0.0), exclude)

    speech, piano = scanned("librispeech", "108-1108-*.flac"), scanned("maestro", "maestro-v3.0.0/2004")
    assert len(speech.recordings) < len(scanned("librispeech").recordings) and speech.absent == {}
    assert len(piano.recordings) < len(scanned("maestro").recordings) and piano.absent == {}


def marked(tree: Path, pattern: str) -> None:
    paths = list(tree.rglob(pattern))
    assert paths
    for path in paths:
        path.write_bytes(BOM + path.read_bytes())


@pytest.mark.parametrize("corpus", ["librispeech", "maestro"])
def test_a_byte_order_mark_changes_nothing(tree: Path, corpus: str) -> None:
    for path in (tree / "LibriSpeech").glob("*.TXT"):  # so that the first line is one that counts
        path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(";")))
    before = SCANS[corpus](tree)
    for pattern in ("*.csv", "*.trans.txt", "SPEAKERS.TXT", "CHAPTERS.TXT"):
        marked(tree, pattern)
    assert SCANS[corpus](tree) == before


def converted(path: Path, extension: str) -> Path:
    samples, rate = soundfile.read(str(path))
    new = path.with_suffix(extension)
    subtype = "OPUS" if extension.lower() == ".opus" else None
    container = {".opus": "OGG", ".oga": "OGG", ".wave": "WAV", ".aif": "AIFF"}.get(extension.lower())
    soundfile.write(str(new), samples[: rate * 2], 16_000, subtype, format=container)
    path.unlink()
    return new


FORMATS = [".FLAC", ".Wav", ".wave", ".opus", ".oga", ".OGG", ".aiff", ".aif", ".w64", ".au", ".caf", ".mp3"]


@pytest.mark.parametrize("corpus", SCANS)
def test_every_format_is_taken_in_every_recipe(tree: Path, corpus: str) -> None:
    files = sorted((tree / "maestro-v3.0.0").rglob("*.wav") if corpus == "maestro" else tree.rglob("*.flac"))
    new = [converted(path, FORMATS[i % len(FORMATS)]) for i, path in enumerate(files)]
    scan = SCANS[corpus](tree)
    taken = {r.path: r for r in scan.recordings}
    assert taken.keys() >= {path.relative_to(tree).as_posix() for path in new}
    assert scan.warnings == [] and scan.absent == {}
    assert all(probe(tree / path).frames for path in taken)
    if corpus == "librispeech":
        assert all(r.text for r in taken.values())


def test_an_utterance_in_two_formats_is_one(tree: Path) -> None:
    before = librispeech.scan(tree)
    for path in (tree / CHAPTER).glob("*.flac"):
        shutil.copy(path, path.with_suffix(".aaa.flac"))  # another name, another utterance
        shutil.copy(path, path.with_suffix(".wav"))
    after = librispeech.scan(tree)
    assert [r for r in after.recordings if ".aaa" not in r.path] == before.recordings
    assert any("second format" in warning for warning in after.warnings)


@pytest.mark.parametrize("corpus", SCANS)
def test_audio_that_cannot_be_read_is_counted(tree: Path, corpus: str) -> None:
    before = SCANS[corpus](tree)
    for name in ("a.m4a", "b.M4A", "c.wma", "d.aac"):
        (tree / CHAPTER / name).touch()
    scan = SCANS[corpus](tree)
    assert scan.recordings == before.recordings
    assert len(scan.warnings) == 1 and "2 .m4a, 1 .aac, 1 .wma" in scan.warnings[0]


def test_a_folder_of_nothing_else_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").touch()
    with pytest.raises(PipelineError, match=r"no audio file .* 1 \.m4a"):
        folder.scan(tmp_path)


def test_every_extension_is_one_that_libsndfile_reads(tmp_path: Path) -> None:
    kinds = {"flac": "FLAC", "mp3": "MP3", "ogg": "OGG", "voc": "VOC", "avr": "AVR", "caf": "CAF", "w64": "W64"}
    kinds |= {"svx": "SVX", "8svx": "SVX", "paf": "PAF", "pvf": "PVF", "ircam": "IRCAM", "sf": "IRCAM", "sph": "NIST"}
    kinds |= {"au": "AU", "snd": "AU", "aiff": "AIFF", "rf64": "RF64", "wav": "WAV"}
    for extension, kind in kinds.items():
        assert f".{extension}" in EXTENSIONS
        soundfile.write(str(tmp_path / f"a.{extension}"), np.zeros(8_000), 16_000, format=kind)
    found = [examine(tmp_path, r) for r in folder.scan(tmp_path).recordings]
    assert len(found) == len(kinds)
    assert not [source for source in found if isinstance(source.info, AudioError)]


def test_files_of_the_system_are_no_foreign_ones(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    refuse_foreign_folder(tmp_path)
