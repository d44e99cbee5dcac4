"""A report's figures, drawn and as files: those of many trials by several processes."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import pickle
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.processes import end_with_parent
from reports.figures import FIGURES, Drawing, Painter
from reports.figures.drawing import Files
from reports.load import Results
from reports.statistics import Comparison

MANY_TRIALS = 50
"""From here on it pays that other processes start, import pandas and matplotlib and are handed the results.

On two cores, a report of 50 trials takes 5.2 s instead of 6.4, one of 100 with every evaluation 10.7 instead of 18.
"""

MOST_PROCESSES = 4
"""Each takes 300 MB or more, and the longest figure an eighth of the time of all."""

FEW_COLLECTIONS = (100_000, 50, 100)
"""Drawing makes millions of objects: to look for garbage as often as usual takes a tenth of the time."""

Drawn = tuple[Drawing, Files]
"""The words of a figure, without its marks, and its files."""


class Drawers:
    """Processes that draw: they start at once, so that the results can be loaded in the meantime.

    A context. There are none where there is not enough to draw for them to pay, where `processes` is 1, or where none
    can be had; then all is drawn here.
    """

    def __init__(self, processes: int, *, num_trials: int) -> None:
        pays = num_trials >= MANY_TRIALS and not multiprocessing.current_process().daemon  # a daemon may start none
        self._processes = min(processes, MOST_PROCESSES) if pays else 1
        self._pool: ProcessPoolExecutor | None = None
        self._leash: tuple[Connection, ...] = ()

    def __enter__(self) -> Self:
        if self._processes > 1:
            try:
                self._start()
            except OSError:  # too many processes or open files, or no room for semaphores
                self._stop(at_once=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        self._stop(at_once=kind is not None)

    def _start(self) -> None:
        # spawn: the caller may have threads, of torch or MLflow, which a fork loses in the middle of their work
        context = multiprocessing.get_context("spawn")
        self._leash = theirs, _ = context.Pipe(duplex=False)  # theirs stays open for a process that starts later
        self._pool = ProcessPoolExecutor(self._processes, context, initializer=_begin, initargs=(theirs,))
        with _without_interrupts():  # not the line above: multiprocessing's own helper lets them in again
            for _ in range(self._processes):
                self._pool.submit(_begun)

    def _stop(self, *, at_once: bool) -> None:
        if self._pool is not None:
            if at_once:
                self._let_go()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._let_go()

    def _let_go(self) -> None:
        for end in self._leash:
            end.close()

    def draw(self, results: Results, comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Drawn]]:
        """Every figure that applies to this suite and has data by now, with its name.

        A figure of many cells takes hundreds of megabytes while it is drawn: a process draws one at a time.
        """
        here = functools.cache(lambda: Painter(results, comparisons))
        with _few_garbage_collections(), self._at_work(results, comparisons) as futures:
            for name in FIGURES:
                try:
                    drawn = futures[name].result() if futures else _draw(here(), name)
                except BrokenProcessPool:  # one was killed, as for want of memory: the rest is drawn here
                    drawn = _draw(here(), name)
                if drawn is not None:
                    yield name, drawn

    @contextmanager
    def _at_work(
        self, results: Results, comparisons: Sequence[Comparison]
    ) -> Iterator[dict[str, Future[Drawn | None]]]:
        """What the processes are at, by figure; nothing where there are none, none is left, or the disk is full."""
        with ExitStack() as stack:
            futures: dict[str, Future[Drawn | None]] = {}
            if self._pool is not None:
                with suppress(BrokenProcessPool, OSError):
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mixup-bench-"))
                    handed_over = Path(folder) / "results.pickle"
                    handed_over.write_bytes(pickle.dumps((results, comparisons)))
                    with _without_interrupts():  # a process may start as late as now
                        futures = {name: self._pool.submit(_draw_there, handed_over, name) for name in FIGURES}
            yield futures


def _draw(painter: Painter, name: str) -> Drawn | None:
    drawing = painter.draw(name)
    return None if drawing is None else (drawing.words(), drawing.files(name))


@contextmanager
def _few_garbage_collections() -> Iterator[None]:
    usual = gc.get_threshold()
    gc.set_threshold(*FEW_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start in here never get Ctrl-C, which is their parent's to answer."""
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)


def _begin(leash: Connection) -> None:
    """In each of the processes."""
    end_with_parent(leash)
    gc.set_threshold(*FEW_COLLECTIONS)


def _begun() -> None:
    """A task that makes the pool start a process, which takes a second and more."""


@functools.cache
def _painter(handed_over: Path) -> Painter:
    results, comparisons = pickle.loads(handed_over.read_bytes())
    return Painter(results, comparisons)


def _draw_there(handed_over: Path, name: str) -> Drawn | None:
    return _draw(_painter(handed_over), name)
