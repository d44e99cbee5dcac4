"""One trial again, in the foreground: to debug it, or to check that it gives the same numbers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.data.image_folder import decoders
from bench.errors import UserError
from bench.execution.devices import num_cores
from bench.execution.task import DataPaths, Task
from bench.plan.trial import NUMERICS_VERSION, Trial
from bench.results.store import TrialFolder
from bench.training.policy import CheckpointPolicy

NEVER = CheckpointPolicy(seconds=float("inf"))


def rerun_trial(folder: TrialFolder, data: DataPaths, *, device: str, say: Callable[[str], None]) -> dict[str, str]:
    """Train the trial from its beginning in a temporary folder; the stored result stays as it is.

    Says each epoch as it ends. Returns the metrics that differ from the stored ones, empty when all are equal to the
    bit or nothing is stored. An exception of the training comes out as it is, with its traceback.
    """
    from bench.execution.worker import run_trial

    trial = stored_trial(folder)
    with tempfile.TemporaryDirectory(prefix="bench-rerun-") as temporary:
        again = TrialFolder(Path(temporary) / folder.trial_id)
        task = Task(
            trial.record(), again.path, (), False, 1, data, NEVER, device=device, decoders=decoders(num_cores())
        )
        offset = 0

        def follow() -> bool:
            """Called at every step; an epoch's line is read once it is there."""
            nonlocal offset
            events, offset = again.events(offset=offset)
            for line in events:
                if line["event"] == "epoch":
                    say(_epoch_line(line, trial.training.epochs))
            return False

        started = time.perf_counter()
        run_trial(task, again, _every(0.2, follow))
        follow()
        final = again.final()
    assert final is not None
    stored = folder.final()
    say(f"{final['status']} in {time.perf_counter() - started:.1f} s")
    if stored is None:
        say("nothing is stored to compare with")
        return {}
    names = sorted(stored["metrics"].keys() | final["metrics"].keys())
    old, new = stored["metrics"], final["metrics"]
    differences = {name: f"{old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)}
    for name, change in differences.items():
        say(f"differs: {name} {change}")
    if not differences:
        say(f"all {len(names)} metrics equal the stored ones to the last bit")
    return differences


def stored_trial(folder: TrialFolder) -> Trial:
    """The trial that a folder is of. Raises UserError where it cannot be trained again."""
    record = folder.record()
    if record is None or record["numerics_version"] != NUMERICS_VERSION:
        raise UserError(f"{folder.path / 'trial.json'} is missing, torn, or of another numerics version")
    return Trial.model_validate(record["trial"])


def _every(seconds: float, look: Callable[[], bool]) -> Callable[[], bool]:
    """`look`, at most once in so many seconds: it is asked at every step of the training."""
    looked_at = time.monotonic()

    def asked() -> bool:
        nonlocal looked_at
        if time.monotonic() - looked_at < seconds:
            return False
        looked_at = time.monotonic()
        return look()

    return asked


def _epoch_line(line: dict[str, object], epochs: int) -> str:
    values = [
        f"{name} {line[name]:.4f}" for name in ("train_loss", "val_error", "test_error") if line.get(name) is not None
    ]
    return f"epoch {line['epoch']}/{epochs}: {', '.join(values)}"
