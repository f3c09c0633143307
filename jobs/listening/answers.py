"""The answers of a listening test, and their statistics."""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from whisper_gpt.jobs.common.bootstrap import Interval, holm, ratio_interval, sign_flip
from whisper_gpt.jobs.common.errors import JobError

_COLUMNS = ["test", "session", "listener", "first", "second", "answer", "seconds"]
_POINTS = {"first": 1.0, "none": 0.5, "second": 0.0}  # of the first clip
_ENOUGH_LISTENERS = 6  # with fewer, no sign-flip test over listeners can reach p < 0.05


@dataclass(frozen=True)
class Answer:
    """One listener's answer to one pair: the systems played first and second, and the points of the first, 0 to 1."""

    session: str
    item: str
    first: str
    second: str
    points: float


@dataclass(frozen=True)
class Preference:
    """How often `system` was preferred to `other`: share (no difference counts half), its 95 % interval, p of a
    sign-flip test against one half, corrected for the number of pairs of systems, and counts.

    Interval and test are over `over`: listeners, or items if there are too few of them.
    """

    system: str
    other: str
    share: float
    interval: Interval | None
    p: float | None
    over: str
    answers: int
    ties: int


def read_answers(files: Sequence[Path], key: Mapping) -> tuple[list[Answer], int]:
    """Read the CSV files that listeners saved; return the answers, and how many were left out as repeated.

    Raises `JobError` for a file of another test, or that was edited.
    """
    answers: dict[tuple[str, frozenset[str]], Answer] = {}
    repeated = 0
    for file in files:
        for number, row in _rows(file):
            where = f"{file}, line {number}"
            if row["test"] != key["id"]:
                raise JobError(f"{where}: of another test than the key")
            first, second = (key["clips"].get(row[name]) for name in ("first", "second"))
            if not first or not second or row["answer"] not in _POINTS:
                raise JobError(f"{where}: not an answer of this test; was the file edited?")
            pair = row["session"], frozenset((row["first"], row["second"]))
            repeated += pair in answers
            answer = Answer(row["session"], first["item"], first["system"], second["system"], _POINTS[row["answer"]])
            answers.setdefault(pair, answer)
    if not answers:
        raise JobError("no answers")
    return list(answers.values()), repeated


def preferences(answers: Sequence[Answer]) -> list[Preference]:
    """Return the preference of each pair of systems that was played."""
    systems = sorted({name for answer in answers for name in (answer.first, answer.second)})
    found = []
    for system, other in itertools.combinations(systems, 2):
        played = [answer for answer in answers if {answer.first, answer.second} == {system, other}]
        if played:
            found.append(_preference(system, other, played))
    corrected = holm([preference.p for preference in found])
    return [replace(preference, p=p) for preference, p in zip(found, corrected, strict=True)]


def first_share(answers: Iterable[Answer]) -> float:
    """Return the share of points that went to the clip shown first: far from one half, order decided."""
    return float(np.mean([answer.points for answer in answers]))


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the lines of a CSV file with their numbers. Raises `JobError` if it is not one of answers."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if rows.fieldnames != _COLUMNS:
                raise JobError(f"{file}: not the answers of a listening test, whose columns are {', '.join(_COLUMNS)}")
            return list(enumerate(rows, 2))
    except (csv.Error, UnicodeError) as error:
        raise JobError(f"{file}: not a CSV file as the page saves it ({error})") from error


def _preference(system: str, other: str, played: Sequence[Answer]) -> Preference:
    over = "listeners" if len({answer.session for answer in played}) >= _ENOUGH_LISTENERS else "items"
    groups: dict[str, list[float]] = {}
    for answer in played:
        for_system = answer.points if answer.first == system else 1 - answer.points
        groups.setdefault(answer.session if over == "listeners" else answer.item, []).append(for_system)
    points = np.array([sum(values) for values in groups.values()])
    counts = np.array([len(values) for values in groups.values()])
    return Preference(
        system=system,
        other=other,
        share=float(points.sum() / counts.sum()),
        interval=ratio_interval(points, counts),
        p=sign_flip(points - counts / 2),
        over=over,
        answers=len(played),
        ties=sum(answer.points == 0.5 for answer in played),
    )
