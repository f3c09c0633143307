"""Statistics of a dataset from its records and manifest: totals, histograms, code usage, failures by reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DURATION_EDGES_S = (0, 1, 2, 5, 10, 15, 20, 25, 30, 60, float("inf"))
# Digital silence is −120. Only float files exceed full scale; they clip on playback.
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
        """The share of codewords that occur."""
        return self.used / self.size


@dataclass(frozen=True)
class FailureGroup:
    """Failures with the same stage and message."""

    stage: str
    reason: str
    sources: int
    seconds: float
    example: str


def groups(samples: pa.Table, column: str) -> list[Group]:
    """Return samples and seconds per value of `column` (empty values excluded), longest first."""
    named = samples.filter(pc.not_equal(samples[column], ""))
    totals = named.group_by(column).aggregate([("duration_s", "count"), ("duration_s", "sum")])
    rows = [Group(row[column], row["duration_s_count"], round(row["duration_s_sum"], 3)) for row in totals.to_pylist()]
    return sorted(rows, key=lambda g: (-g.seconds, g.name))


def histogram(values: pa.ChunkedArray, edges: Sequence[float]) -> Histogram:
    """Count `values` between `edges`, the last of which is infinite; the first bin also counts lower values."""
    clamped = np.maximum(values.to_numpy(), edges[0])
    return Histogram(list(edges), [int(n) for n in np.histogram(clamped, edges)[0]])


def code_usage(code_counts: np.ndarray) -> list[CodeUsage]:
    """Return the usage of each codebook from how often each code occurs, `code_counts` `[K, codebook_size]`."""
    usage = []
    for k, counts in enumerate(code_counts):
        share = counts[counts > 0] / max(1, counts.sum())
        usage.append(CodeUsage(k, len(share), len(counts), round(float(-(share * np.log2(share)).sum()) + 0.0, 4)))
    return usage


def failure_groups(failures: pa.Table) -> list[FailureGroup]:
    """Group failures by stage and message, the most frequent first."""
    grouped: dict[tuple[str, str], list[dict]] = {}
    for row in failures.to_pylist():
        grouped.setdefault((row["stage"], row["message"]), []).append(row)
    rows = [
        FailureGroup(stage, reason, len(group), round(sum(r["seconds"] for r in group), 3), group[0]["source"])
        for (stage, reason), group in grouped.items()
    ]
    return sorted(rows, key=lambda g: (-g.sources, g.stage, g.reason))
