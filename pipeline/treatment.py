"""What is done to a recording on its way to the encoder, besides the downmix: speed, resampler, degradation."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Resampler = Literal["linear-phase", "minimum-phase"]
Degradation = Literal["none", "noise-20", "noise-10", "noise-0", "room", "telephone", "mp3", "clipped"]


@dataclass(frozen=True)
class Treatment:
    """`speed` plays a recording that many times as fast; `resampler` and `degradation` are named in `resampling` and
    `degradation`."""

    speed: float = 1.0
    resampler: Resampler = "linear-phase"
    degradation: Degradation = "none"

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that are not at their defaults."""
        return {name: value for name, value in asdict(self).items() if value != getattr(USUAL, name)}


USUAL = Treatment()


def noted(extra: str, treatment: Treatment) -> str:
    """Add a treatment to a recording's `extra`, a JSON object or empty; what is usual is not noted."""
    if not treatment.changes:
        return extra
    return json.dumps((json.loads(extra) if extra else {}) | treatment.changes)


def treatment_of(extra: str) -> Treatment:
    """Return the treatment noted in a recording's or a sample's `extra`."""
    known = json.loads(extra) if extra else {}
    return Treatment(**{field.name: known[field.name] for field in fields(Treatment) if field.name in known})
