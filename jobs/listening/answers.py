"""The answers of a listening test, and their statistics."""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_gpt.jobs.common.bootstrap import Interval, ratio_interval, sign_flip
from whisper_gpt.jobs.common.errors import JobError

_COLUMNS = ["test", "listener", "first", "second", "answer", "seconds"]
_POINTS = {"first": 1.0, "none": 0.5, "second": 0.0}  # of the first clip


@dataclass(frozen=True)
class Answer:
    """One listener's answer to one pair: the systems played first and second, and the points of the first, 0 to 1."""

    listener: str
    item: str
    first: str
    second: str
    points: float


@dataclass(frozen=True)
class Preference:
    """How often `system` was preferred to `other`: share (no difference counts half), 95 % interval, p of a sign-flip
    test against one half, both over `over` (listeners, or items if there is one listener), and the counts."""

    system: str
    other: str
    share: float
    interval: Interval | None
    p: float | None
    over: str
    answers: int
    ties: int


def read_answers(files: Sequence[Path], key: Mapping) -> list[Answer]:
    """Read the CSV files that listeners saved. Raises `JobError` for one of another test, or that was edited."""
    answers, seen = [], set()
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            if rows.fieldnames != _COLUMNS:
                raise JobError(f"{file}: not the answers of a listening test, whose columns are {', '.join(_COLUMNS)}")
            for number, row in enumerate(rows, 2):
                if row["test"] != key["id"]:
                    raise JobError(f"{file}, line {number}: of another test than the key")
                clips = [key["clips"].get(row[name]) for name in ("first", "second")]
                if None in clips or row["answer"] not in _POINTS:
                    raise JobError(f"{file}, line {number}: not an answer of this test; was the file edited?")
                same = (row["listener"], row["first"], row["second"])
                if same in seen:
                    raise JobError(f"{file}, line {number}: {same[0]} answered this pair twice; pass each file once")
                seen.add(same)
                first, second = clips
                points = _POINTS[row["answer"]]
                answers.append(Answer(row["listener"], first["item"], first["system"], second["system"], points))
    if not answers:
        raise JobError("no answers")
    return answers


def preferences(answers: Sequence[Answer]) -> list[Preference]:
    """Return the preference of each pair of systems that was played."""
    systems = sorted({name for answer in answers for name in (answer.first, answer.second)})
    found = []
    for system, other in itertools.combinations(systems, 2):
        played = [answer for answer in answers if {answer.first, answer.second} == {system, other}]
        if played:
            found.append(_preference(system, other, played))
    return found


def first_share(answers: Iterable[Answer]) -> float:
    """Return the share of points that went to the clip played first: far from one half, order decided."""
    return float(np.mean([answer.points for answer in answers]))


def _preference(system: str, other: str, played: Sequence[Answer]) -> Preference:
    over = "listeners" if len({answer.listener for answer in played}) > 1 else "items"
    groups: dict[str, list[float]] = {}
    for answer in played:
        for_system = answer.points if answer.first == system else 1 - answer.points
        groups.setdefault(answer.listener if over == "listeners" else answer.item, []).append(for_system)
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
