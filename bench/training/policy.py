"""When a trial saves its state: no part of its identity, and known without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointPolicy:
    """Save after so many seconds, or epochs if given, since the last time; whichever comes first."""

    seconds: float = 60.0
    epochs: int | None = None
