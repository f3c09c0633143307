"""A scan keeps what was chosen, in a file, and refuses what cannot become a dataset."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.preprocessing.scanning import Chosen, scan_corpus
from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.corpora.recording import SPLITS, Find, Found, Notes, Recording
from whisper_gpt.pipeline.treatment import Treatment


def finding(*recordings: Recording) -> Find:
    def find(root: Location, corpus: str, exclude: Sequence[str], notes: Notes) -> Iterator[Found]:
        yield from (Found(recording, 100 + i) for i, recording in enumerate(recordings))
        notes.warnings.append("a warning")
        notes.absent["gone.wav"] = "train"

    return find


SPEECH = [Recording(f"c_{i}", "train", f"{i}.wav", speaker=str(i // 10), text="A" * i) for i in range(5_000)]


def test_recordings_and_sizes_survive_the_file(tmp_path: Path) -> None:
    survey = scan_corpus(finding(*SPEECH), "c", tmp_path, Chosen(SPLITS), tmp_path / "found.parquet")
    assert list(survey.recordings()) == [Found(recording, 100 + i) for i, recording in enumerate(SPEECH)]
    assert survey.per_split == {"train": 5_000}
    assert survey.warnings == ["a warning"] and survey.absent == {"gone.wav": "train"}


def test_only_the_chosen_splits_are_kept_after_holding_out(tmp_path: Path) -> None:
    chosen = Chosen(("test",), hold_out=(0.1, 0.3), treatment=Treatment(speed=1.1))
    survey = scan_corpus(finding(*SPEECH), "c", tmp_path, chosen, tmp_path / "found.parquet")
    kept = [found.recording for found in survey.recordings()]
    assert {recording.split for recording in kept} == {"test"} and 0.25 < len(kept) / len(SPEECH) < 0.35
    assert len({recording.speaker for recording in kept}) * 10 == len(kept)  # speakers are held out whole
    assert all('"speed": 1.1' in recording.extra for recording in kept) and survey.absent == {}


@pytest.mark.parametrize(
    ("chosen", "recordings", "message"),
    [
        (Chosen(SPLITS), [Recording("x", "train", "a.wav"), Recording("x", "train", "b.wav")], r"a\.wav and b\.wav"),
        (Chosen(SPLITS), [Recording("x", "train", "a.wav"), Recording("y", "train", "a.wav")], "lists this file twice"),
        (Chosen(("test",)), SPEECH[:3], "no recording in the splits test, 3 in others"),
        (Chosen(SPLITS, hold_out=(0.1, 0.1)), [Recording("x", "train", "a.wav")], "--hold-out: no training recording"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    chosen: Chosen, recordings: list[Recording], message: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=message):
        scan_corpus(finding(*recordings), "c", tmp_path, chosen, tmp_path / "found.parquet")
