"""The process that trains a trial over and over and says how fast its steps are whenever `bench tune` asks."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench.execution.preparation import load_images
from bench.execution.task import DataPaths
from bench.plan.trial import Trial
from bench.results.store import TrialFolder
from bench.training.compiled import keep_compiled_code
from bench.training.data import TrialData, prepare
from bench.training.loop import train
from bench.training.policy import CheckpointPolicy

NEVER = CheckpointPolicy(seconds=float("inf"))
FEWEST_STEPS = 2


def step_on_command(trial: Trial, data: DataPaths, folder: Path, epoch_steps: int, link: Connection) -> None:
    """Train in the real loop until the other end of `link` is closed; orders and answers as `Pacer` takes them.

    The first answer, None, comes when the data are there; a text is what went wrong.

    epoch_steps: the data are cut to so many steps an epoch, validation and test with them: what an epoch evaluates
    keeps its share, and falls into every window.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the measuring process, whose end closes the link
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if trial.training.compile:
        keep_compiled_code(data.cache_root)
    try:
        cut = _cut(prepare(trial, load_images(data, trial.dataset), device=torch.device("cpu")), trial, epoch_steps)
        link.send(None)
        pacer = Pacer(link)
        for number in itertools.count():
            scratch = TrialFolder(folder / f"{os.getpid()}-{number}")
            scratch.path.mkdir(parents=True)
            threads = torch.get_num_threads()  # as ordered: the loop would set the trial's own again
            again = trial.model_copy(update={"training": trial.training.model_copy(update={"threads": threads})})
            train(again, cut, folder=scratch, policy=NEVER, stop_requested=pacer)
            shutil.rmtree(scratch.path)
    except (EOFError, ConnectionError):
        pass
    except Exception as error:
        link.send(f"{type(error).__name__}: {error}")


class Pacer:
    """Called by the training loop after every step: counts steps within a window, and waits between windows.

    An order is (threads, seconds): train with so many threads, count for so long and FEWEST_STEPS at least, send
    (steps, seconds), and go on, lest the slower neighbours have the machine to themselves. The order None ends that;
    it is answered with None. The step in which the threads change does not count.
    """

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._deadline: float | None = None
        self._began: float | None = None
        self._steps = 0
        self._wait()

    def __call__(self) -> bool:
        now = time.monotonic()
        if self._began is None:
            self._began = now
            return False
        self._steps += 1
        if self._deadline is not None and now >= self._deadline and self._steps >= FEWEST_STEPS:
            self._link.send((self._steps, now - self._began))
            self._deadline = None
        if self._link.poll():
            self._link.recv()
            self._link.send(None)
            self._wait()
        return False

    def _wait(self) -> None:
        threads, seconds = self._link.recv()
        torch.set_num_threads(threads)
        self._began, self._steps = None, 0
        self._deadline = time.monotonic() + seconds


def _cut(data: TrialData, trial: Trial, epoch_steps: int) -> TrialData:
    share = min(1.0, epoch_steps * trial.training.batch_size / len(data.train))
    train, val, test = (max(1, round(share * len(rows))) for rows in (data.train, data.val, data.test_labels))
    return replace(
        data,
        train=data.train[:train],
        val=data.val[:val],
        test_images=data.test_images[:test],
        test_labels=data.test_labels[:test],
    )
