"""Saving and restoring a trial in the middle: the newest state, and the one before it should the newest be damaged."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.results.store import Json, TrialFolder, is_intact, write_atomically


@dataclass
class Progress:
    """Where a trial stands: after `step` steps of the 0-based epoch `epoch`, with all that this depends on.

    mixing_state: of the mixing stream within the epoch.  torch_state: of torch's generators (dropout), by device.
    step_losses: of the epoch so far.  diagnostics: see Diagnostics.state.  curve: the journal's lines of the epochs
    that are done, so that a journal which lost some in a power loss does not shorten the learning curve.
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
    curve: list[Json]


def save(folder: TrialFolder, progress: Progress) -> None:
    """Write `progress`; the checkpoint that was the newest becomes the previous one.

    Whatever happens, one of the two is whole. Raises OSError where the new one does not fit; the others stay.
    """
    buffer = io.BytesIO()
    torch.save(vars(progress), buffer)  # asdict would copy every tensor first
    write_atomically(folder.checkpoint, buffer.getvalue(), keep=folder.previous_checkpoint)


def load(folder: TrialFolder, misfit: Callable[[Progress], str]) -> tuple[Progress | None, str, dict[str, str]]:
    """The newest checkpoint to go on from, on the CPU: (progress, its file's name, what is wrong with newer ones).

    misfit: what speaks against going on from one that is whole, or "".  (None, "", ...) where none will do: training
    then starts from the beginning.  What is wrong is by file name; a file that is not there is nothing wrong.
    """
    problems: dict[str, str] = {}
    for path in (folder.checkpoint, folder.previous_checkpoint):
        found = _read(path)
        if isinstance(found, Progress):
            problem = misfit(found)
            if not problem:
                if path != folder.checkpoint:  # lest the next save put the bad one in the place of this
                    path.replace(folder.checkpoint)
                return found, path.name, problems
            problems[path.name] = f"does not fit: {problem}"
        elif found:
            problems[path.name] = found
    return None, "", problems


def _read(path: Path) -> Progress | str:
    """What the file holds, or what is wrong with it; "" where it is not there."""
    if not path.exists():
        return ""
    if not is_intact(path):
        return "damaged"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError) as error:
        return f"cannot be read: {error}"
    names = {field.name for field in fields(Progress)}
    if not isinstance(content, dict) or content.keys() != names:
        return "does not fit: another version of the program wrote it"
    return Progress(**content)


def model_misfit(model: nn.Module, state: Mapping[str, Any]) -> str:
    """What keeps the network from taking this state, or "": names, in order, and shapes are to be the same."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if list(found) == list(expected):
        differing = [name for name in expected if expected[name] != found[name]]
        return f"{differing[0]} is {found[differing[0]]}, not {expected[differing[0]]}" if differing else ""
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if missing or surplus:
        return f"it lacks {missing[:3]} and has {surplus[:3]}" if missing else f"it has {surplus[:3]} too"
    return "its weights are in another order"


def optimizer_misfit(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> str:
    """What keeps the optimizer from taking this state, or ""; it would itself not look at the shapes."""
    groups = optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in state["param_groups"]]:
        return "its optimizer has other groups of weights"
    parameters = [parameter for group in groups for parameter in group["params"]]
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameters[index].shape:
                return f"its optimizer's {name} is {tuple(value.shape)}, not {tuple(parameters[index].shape)}"
    return ""
