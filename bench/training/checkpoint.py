"""Saving and restoring a trial in the middle, atomically."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.results.store import write_atomically


@dataclass
class Progress:
    """Where a trial stands: after `step` steps of the 0-based epoch `epoch`, with all that this depends on.

    mixing_state: of the mixing stream within the epoch.  torch_state: of torch's generators (dropout), by device.
    step_losses: of the epoch so far.  diagnostics: see Diagnostics.state.
    """

    epoch: int
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    mixing_state: dict[str, Any] | None
    torch_state: dict[str, torch.Tensor]
    step_losses: torch.Tensor
    diagnostics: dict[str, Any]
    train_seconds: float


def save(path: Path, progress: Progress) -> None:
    """Write `progress` atomically: after a crash the file is the old checkpoint or the new one."""
    buffer = io.BytesIO()
    torch.save(vars(progress), buffer)  # asdict would copy every tensor first
    write_atomically(path, buffer.getvalue())


def load(path: Path, *, device: torch.device) -> Progress | None:
    """The checkpoint, or None when there is none or it cannot be read: training then starts from the beginning."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        return Progress(**content)
    except FileNotFoundError:
        return None
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, KeyError, OSError):
        return None
