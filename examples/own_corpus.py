"""Preprocess a corpus with a layout of its own: usage: own_corpus.py FOLDER OUT [options of preprocess].

Here FOLDER holds SPEAKER_TITLE.wav files and a texts.csv with the columns file and text. A recipe is one function that
lists the recordings; splits, shards, workers, resume and failures are the toolkit's.
"""

import csv
import sys
from collections.abc import Sequence

from whisper_gpt.jobs import cli
from whisper_gpt.manifests.location import Location, is_excluded, list_files
from whisper_gpt.pipeline.corpora.recording import Recording, Scan, make_id
from whisper_gpt.pipeline.corpora.registry import CORPORA


def scan(root: Location, name: str, exclude: Sequence[str]) -> Scan:
    """List the recordings below `root`; the speaker whose name comes last is the test split."""
    with (root / "texts.csv").open(encoding="utf-8") as file:
        texts = {row["file"]: row["text"] for row in csv.DictReader(file)}
    files = sorted(path for path in list_files(root) if path.endswith(".wav") and not is_excluded(path, exclude))
    speakers = sorted({path.split("_")[0] for path in files})
    recordings = []
    for path in files:
        speaker, _, title = path.removesuffix(".wav").partition("_")
        recordings.append(
            Recording(
                id=make_id(name, f"{speaker}-{title}", path),
                split="test" if speaker == speakers[-1] else "train",
                path=path,
                speaker=speaker,
                title=title,
                text=texts.get(path, ""),
            )
        )
    missing = {path: "train" for path in texts if path not in files and not is_excluded(path, exclude)}
    return Scan(name, recordings, absent=missing)


CORPORA["mine"] = scan

if __name__ == "__main__":
    folder, out, *options = sys.argv[1:]
    sys.exit(cli.main(["preprocess", "mine", folder, "--out", out, *options]))
