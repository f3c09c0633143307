"""The design of a study: datasets to make, what rows are trained and tested on, and the differences of interest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from whisper_gpt.jobs.common.errors import UsageError
from whisper_gpt.pipeline.corpora.registry import CORPORA


@dataclass(frozen=True)
class Corpus:
    """A corpus to study: its layout, its folder, and the name of both in the study."""

    layout: str
    source: UPath
    name: str


@dataclass(frozen=True)
class Made:
    """A dataset that a study makes: `changes` are the options of `preprocess` that differ from the study's."""

    name: str
    corpus: Corpus
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """Rows to train on an equal mixture of `datasets`, and the datasets whose test splits score them, all by name.

    They are trained for the study's tokens per trial divided by `divisor`. `name`, that of the training's folder in the
    results, is by default the datasets' names, joined by a plus sign.
    """

    datasets: tuple[str, ...]
    rows: tuple[str, ...]
    tests: tuple[str, ...]
    divisor: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "+".join(self.datasets))


@dataclass(frozen=True)
class Cell:
    """A row trained on `training` and scored on the test split of `test`."""

    training: str
    row: str
    test: str


@dataclass(frozen=True)
class Comparison:
    """Cell `of` minus cell `base`, or that minus the same difference of two other cells, `less`."""

    text: str
    of: Cell
    base: Cell
    less: tuple[Cell, Cell] | None = None


@dataclass(frozen=True)
class Study:
    """A question, what answers it, and what to keep in mind. With `all_codebooks` rows are compared in bits per second,
    else in NLL."""

    question: str
    all_codebooks: bool
    made: list[Made]
    trainings: list[Training]
    comparisons: list[Comparison]
    caveats: tuple[str, ...] = ()

    def cells(self) -> Iterator[Cell]:
        """Yield every row on every test set."""
        for training in self.trainings:
            for test in training.tests:
                for row in training.rows:
                    yield Cell(training.name, row, test)


@dataclass(frozen=True)
class CodecChoice:
    """A codec as for `preprocess`, and how many of its codebooks are kept."""

    codec: str
    codebooks: int

    @property
    def name(self) -> str:
        """The name of its datasets."""
        return f"{Path(self.codec).stem}-{self.codebooks}"


def parse_codecs(words: tuple[str, ...]) -> list[CodecChoice]:
    """Return the codecs written as CODEC or CODEC:K, for K codebooks instead of 8. Raises `UsageError`."""
    codecs = []
    for word in words:
        name, colon, count = word.rpartition(":")
        codecs.append(CodecChoice(name, int(count)) if colon and count.isdigit() else CodecChoice(word, 8))
    names = [codec.name for codec in codecs]
    if len(set(names)) < len(names):
        raise UsageError(f"--codecs: each needs a file of its own name: {', '.join(names)}")
    return codecs


def parse_corpora(words: tuple[str, ...]) -> list[Corpus]:
    """Return the corpora written as LAYOUT=FOLDER; each is named after its folder. Raises `UsageError`."""
    corpora = []
    for word in words:
        layout, equals, folder = word.partition("=")
        if not equals or layout not in CORPORA or layout == "synthetic":
            layouts = ", ".join(name for name in CORPORA if name != "synthetic")
            raise UsageError(f"{word}: pass a corpus as LAYOUT=FOLDER; the layouts are {layouts}")
        source = UPath(folder) if "://" in folder else UPath(Path(folder).absolute())
        corpora.append(Corpus(layout, source, source.name))
    names = [corpus.name for corpus in corpora]
    if len(set(names)) < len(names):
        raise UsageError(f"each corpus needs a folder of its own name: {', '.join(names)}")
    return corpora


def dataset_options(made: Made, datasets: Path, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `preprocess` that make a dataset in the folder `datasets`."""
    held_out = {"hold_out": (0.0, 0.0)} if made.corpus.layout != "librispeech" else {}
    options = {**common, **held_out, **made.changes, "out": UPath(datasets / made.name)}
    return {"corpus": made.corpus.layout, "source": made.corpus.source, **options}
