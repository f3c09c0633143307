"""What differs between a plan and a later listing of its corpus; both may be larger than memory."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from whisper_gpt.manifests.database import Rows, attach, database
from whisper_gpt.pipeline.corpora.recording import Recording

_DESCRIPTION = [field.name for field in fields(Recording) if field.name != "path"]


@dataclass(frozen=True)
class SourceChanges:
    """Paths of sources that differ between a plan and a later listing.

    `changed`: another size (a worker refuses another content of the same size); `described`: different metadata in the
    corpus tables, or another split.
    """

    added: list[str]
    gone: list[str]
    changed: list[str]
    described: list[str]

    def in_words(self) -> list[str]:
        """Describe each kind of change in a clause; return an empty list if nothing changed."""
        kinds = (
            ("new", self.added),
            ("gone", self.gone),
            ("changed", self.changed),
            ("different in the corpus metadata or in another split", self.described),
        )
        return [f"{len(paths)} source files are {kind} (such as {min(paths)})" for kind, paths in kinds if paths]


def source_changes(parts: Sequence[Rows], found: Rows, scratch: Path) -> SourceChanges:
    """Compare `found` recordings and their sizes with a plan's parts, in their order: if a source was planned twice,
    its later row counts. Folder `scratch` takes what does not fit into memory."""
    with database(scratch) as connection:
        attach(connection, "found", found)
        for i, part in enumerate(parts):
            attach(connection, f"part{i}", part)
        plan = " UNION ALL ".join(
            f"SELECT * FROM part{i}" + "".join(f" ANTI JOIN part{j} USING (path)" for j in range(i + 1, len(parts)))
            for i in range(len(parts))
        )
        description = ", ".join(f"{{table}}.{name}" for name in _DESCRIPTION)
        rows = connection.execute(
            f"""
            SELECT coalesce(plan.path, found.path) AS path,
                CASE WHEN plan.path IS NULL THEN 'added'
                     WHEN found.path IS NULL THEN 'gone'
                     WHEN plan.size_bytes <> found.size_bytes THEN 'changed'
                     ELSE 'described' END AS kind
            FROM ({plan}) AS plan FULL JOIN found ON plan.path = found.path
            WHERE plan.path IS NULL OR found.path IS NULL OR plan.size_bytes <> found.size_bytes
                OR ({description.format(table="plan")}) IS DISTINCT FROM ({description.format(table="found")})
            ORDER BY path
            """
        ).fetchall()
    kinds: dict[str, list[str]] = {"added": [], "gone": [], "changed": [], "described": []}
    for path, kind in rows:
        kinds[kind].append(path)
    return SourceChanges(**kinds)
