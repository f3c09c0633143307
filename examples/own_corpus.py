"""Preprocess a corpus with a layout of its own: usage: own_corpus.py FOLDER OUT [options of preprocess].

Here FOLDER holds SPEAKER_TITLE.wav files and a texts.csv with the columns file and text. A recipe is one function that
yields the recordings; splits, shards, workers, resume and failures are the toolkit's.
"""

import csv
import sys
from collections.abc import Iterator, Sequence

from whisper_gpt.jobs import cli
from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.corpora.listing import list_source
from whisper_gpt.pipeline.corpora.recording import Found, Notes, Recording, make_id
from whisper_gpt.pipeline.corpora.registry import CORPORA


def find(root: Location, name: str, exclude: Sequence[str], notes: Notes) -> Iterator[Found]:
    """Yield the recordings below `root`; the speaker whose name comes last is the test split."""
    with (root / "texts.csv").open(encoding="utf-8") as file:
        texts = {row["file"]: row["text"] for row in csv.DictReader(file)}
    sizes = {path: size for path, size in list_source(root, exclude, notes) if path.endswith(".wav")}
    speakers = sorted({path.split("_")[0] for path in sizes})
    for path, size in sizes.items():
        speaker, _, title = path.removesuffix(".wav").partition("_")
        recording = Recording(
            id=make_id(name, f"{speaker}-{title}", path),
            split="test" if speaker == speakers[-1] else "train",
            path=path,
            speaker=speaker,
            title=title,
            text=texts.get(path, ""),
        )
        yield Found(recording, size)
    notes.absent |= {path: "train" for path in texts if path not in sizes}


CORPORA["mine"] = find

if __name__ == "__main__":
    folder, out, *options = sys.argv[1:]
    sys.exit(cli.main(["preprocess", "mine", folder, "--out", out, *options]))
