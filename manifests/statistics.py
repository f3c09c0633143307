"""What is in a dataset, from its records and manifest alone: totals, histograms, code usage, failures by reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DURATION_EDGES_S = (0, 1, 2, 5, 10, 15, 20, 25, 30, 60, float("inf"))
# Digital silence is −120. What is above full scale is a float file's: it clips wherever it is played.
LEVEL_EDGES_DBFS = (-120, -60, -50, -40, -35, -30, -25, -20, -15, -10, -5, 0.01, float("inf"))


@dataclass(frozen=True)
class Group:
    """Samples and seconds of one speaker or composer."""

    name: str
    samples: int
    seconds: float


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie in [`edges[i]`, `edges[i + 1]`)."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class CodeUsage:
    """How one codebook is used: codes seen at least once, and the entropy of their distribution."""

    codebook: int
    used: int
    size: int
    entropy_bits: float

    @property
    def share(self) -> float:
        """Of the codewords, those that occur."""
        return self.used / self.size


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one stage with one message."""

    stage: str
    reason: str
    sources: int
    seconds: float
    example: str


def groups(samples: pa.Table, column: str) -> list[Group]:
    """Samples and seconds for each value of `column` that is not empty, the longest first."""
    named = samples.filter(pc.not_equal(samples[column], ""))
    totals = named.group_by(column).aggregate([("duration_s", "count"), ("duration_s", "sum")])
    rows = [Group(row[column], row["duration_s_count"], round(row["duration_s_sum"], 3)) for row in totals.to_pylist()]
    return sorted(rows, key=lambda g: (-g.seconds, g.name))


def histogram(values: pa.ChunkedArray, edges: Sequence[float]) -> Histogram:
    """Counts of `values` between `edges`, the last of which is infinite; what is lower is counted in the first bin."""
    raised = np.maximum(values.to_numpy(), edges[0])
    return Histogram(list(edges), [int(n) for n in np.histogram(raised, edges)[0]])


def code_usage(code_counts: np.ndarray) -> list[CodeUsage]:
    """Usage of each codebook whose codewords occur `code_counts` `[K, codebook_size]` times."""
    usage = []
    for k, counts in enumerate(code_counts):
        share = counts[counts > 0] / max(1, counts.sum())
        usage.append(CodeUsage(k, len(share), len(counts), round(float(-(share * np.log2(share)).sum()) + 0.0, 4)))
    return usage


def failure_groups(failures: pa.Table) -> list[FailureGroup]:
    """Failures by stage and message, the most frequent first."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in failures.to_pylist():
        found.setdefault((row["stage"], row["message"]), []).append(row)
    rows = [
        FailureGroup(stage, reason, len(own), round(sum(r["seconds"] for r in own), 3), own[0]["source"])
        for (stage, reason), own in found.items()
    ]
    return sorted(rows, key=lambda g: (-g.sources, g.stage, g.reason))
