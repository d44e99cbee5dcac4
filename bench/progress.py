"""What a run shows while it goes on: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from statistics import mean
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.execution.supervisor import Attempt, RunState
from bench.execution.task import Notice
from bench.plan.cost import duration
from bench.text import one_line, printable

PLAIN_SECONDS = 10.0
QUIET_SECONDS = 120.0
PANEL_ARMS, LINE_ARMS = 16, 6


class LivePanel:
    """Trials done, running and failed, the error of each arm so far, and the time left; redrawn in place."""

    def __init__(self, console: Console, *, arms: tuple[str, ...]) -> None:
        self._arms = arms
        self._live = Live(console=console, auto_refresh=False)
        self._noticed: Notice | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, state: RunState) -> None:
        if isinstance(state.preparing, Notice) and state.preparing is not self._noticed:
            self._noticed = state.preparing
            self._live.console.print(Text(printable(self._noticed), style="yellow"), soft_wrap=True)
        self._live.update(self._panel(state), refresh=True)

    def _panel(self, state: RunState) -> Group:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=max(1, state.planned), completed=state.done, width=40), _counts(state))
        running = Table.grid(padding=(0, 2))
        for attempt in state.running[:16]:
            running.add_row(*map(_plain, _attempt_fields(attempt)))
        errors = Table.grid(padding=(0, 2))
        shown, others = _leaders(state, self._arms, most=PANEL_ARMS)
        for arm, error in shown:
            errors.add_row(_plain(arm), f"{100 * error:.2f} %", f"({len(state.errors[arm])} trials)")
        if others:
            errors.add_row(f"and {others} more")
        parts: list[Table | Text] = [bar]
        if state.running:
            parts += [Text("running", style="bold"), running]
        if state.errors:
            parts += [Text("mean test error of the finished trials", style="bold"), errors]
        if state.preparing:
            parts.append(_plain(f"preparing {state.preparing}"))
        if state.latest:
            parts.append(Text(printable(state.latest), style="yellow"))
        return Group(*parts)


class PlainLines:
    """One line whenever something ended, at most every ten seconds, and every two minutes else: for logs and pipes."""

    def __init__(self, console: Console, *, arms: tuple[str, ...]) -> None:
        self._console, self._arms = console, arms
        self._printed_at, self._printed_done, self._latest = time.monotonic(), -1, ""
        self._prepared_at = time.monotonic()
        self._noticed: Notice | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, state: RunState) -> None:
        if state.latest != self._latest:
            self._latest = state.latest
            self._print(state.latest)
        if isinstance(state.preparing, Notice) and state.preparing is not self._noticed:
            self._noticed = state.preparing
            self._print(self._noticed)
        if state.preparing and time.monotonic() - self._prepared_at >= PLAIN_SECONDS:
            self._prepared_at = time.monotonic()
            self._print(f"preparing {state.preparing}")
        ended = state.done + len(state.failed)
        now = time.monotonic()
        last = ended == state.planned or state.stop is not None
        due = PLAIN_SECONDS if ended != self._printed_done else QUIET_SECONDS
        if now - self._printed_at >= due or (last and ended != self._printed_done):
            self._printed_at, self._printed_done = now, ended
            shown, others = _leaders(state, self._arms, most=LINE_ARMS)
            errors = [f"{arm} {100 * error:.2f} %" for arm, error in shown] + [f"and {others} more"] * bool(others)
            self._print(f"{_counts(state)}" + (f" | {', '.join(errors)}" if errors else ""))

    def _print(self, line: str) -> None:
        self._console.print(Text(printable(line)), soft_wrap=True)


def watch(console: Console, *, arms: tuple[str, ...]) -> LivePanel | PlainLines:
    """The watcher that suits the console."""
    return LivePanel(console, arms=arms) if console.is_terminal else PlainLines(console, arms=arms)


def _plain(text: str) -> Text:
    """One line as it is: brackets are no markup, and no character of it commands the terminal."""
    return Text(one_line(text))


def _leaders(state: RunState, arms: tuple[str, ...], *, most: int) -> tuple[list[tuple[str, float]], int]:
    """Arms with their mean error so far, and how many more there are: where too many, the first and the lowest.

    arms: the baseline first.
    """
    errors = [(arm, mean(values)) for arm in arms if (values := state.errors.get(arm))]
    if len(errors) <= most:
        return errors, 0
    lowest = sorted(errors[1:], key=lambda item: item[1])[: most - 1]
    return [each for each in errors if each is errors[0] or each in lowest], len(errors) - most


def _counts(state: RunState) -> str:
    parts = [f"{state.done}/{state.planned} done", f"{len(state.running)} running"]
    if state.failed:
        parts.append(f"{len(state.failed)} failed")
    if state.diverged:
        parts.append(f"{len(state.diverged)} diverged")
    if state.elsewhere:
        parts.append(f"{state.elsewhere} in another run")
    if state.seconds_left and state.done + len(state.failed) < state.planned:
        parts.append(f"{duration(state.seconds_left)} left")
    return ", ".join(parts)


def _attempt_fields(attempt: Attempt) -> tuple[str, ...]:
    planned = attempt.planned
    epoch = f"epoch {attempt.epoch}/{planned.trial.training.epochs}"
    return (attempt.place, planned.arm, planned.cell, f"seed {planned.trial.seed}", epoch)
