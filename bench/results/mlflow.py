"""Mirrors the result store into MLflow. The only module that imports MLflow, and only when it is used.

Training never talks to MLflow: one publisher reads the trials' journals and writes what is new, in batches. MLflow
holds nothing of its own, so that a database that was wiped, or another server, gets everything anew; whatever is
published twice changes nothing.

    publisher = Publisher(store, plan, tracking_uri=default_tracking_uri(store), experiment=plan.suite.name)
    publisher.prepare()
    thread = PublisherThread(publisher)     # while trials run
    thread.start()
    ...
    outcome = thread.stop(timeout=30)       # outcome.is_behind: `bench publish` catches up later
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bench.results.mlflow_access import hand_over_login, refusal, without_login, without_secrets
from bench.results.mlflow_suite import (
    EXPERIMENT_KIND,
    NOTE,
    artifact_folder,
    experiment_tags,
    note_with_report,
    plan_record,
    report_note,
)
from bench.results.mlflow_trial import (
    GIVEN_NAME,
    DataSet,
    Point,
    TrialRun,
    milliseconds,
    plan_naming,
    read_trial,
    trial_standing,
)
from bench.results.mlflow_view import deep_link, saved_views
from bench.results.store import Busy, Store, exclusive

if TYPE_CHECKING:
    from bench.plan.plan import Plan, PlannedTrial

BATCH = 850
"""Metric points per call; MLflow takes 1000 points, parameters and tags together."""

SLOWEST_RETRY_SECONDS = 60.0

AILING_SECONDS = 5.0
"""What the end of a run waits for an MLflow that failed at the last try."""

PUBLISHED_EPOCH = "published_epoch"
"""The tag with the last epoch whose points MLflow has; an epoch is never published twice."""

PASSING_TAGS = ("failure", "traceback", "diverged")
"""Tags that a later attempt at the trial removes."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow's own 7 retries block for minutes, and a repeated request to create a run makes a second run.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every finished run
}
"""Set where the user has not set it."""

SILENT_SECONDS = 11.0
"""A little more than one request may take."""

BUSY_SECONDS = 5.0
"""What a local database's other users are waited for."""

BUSY = "another process publishes this results folder to MLflow"
SILENT = "MLflow does not answer"

Signature = tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What one pass did. published: trials brought up to date; points: metric values sent; pending: trials left."""

    published: int = 0
    points: int = 0
    pending: int = 0
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_behind(self) -> bool:
        """Whether `bench publish` has something left to do."""
        return self.pending > 0


@dataclass
class _Tally:
    published: int = 0
    points: int = 0
    pending: int = 0


@dataclass
class _Run:
    """What MLflow has of one trial."""

    run_id: str
    name: str
    status: str
    end_ms: int | None
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    inputs: set[tuple[str, str]]
    """Names and digests of its data sets."""

    @property
    def published_epoch(self) -> int:
        return int(self.tags.get(PUBLISHED_EPOCH, 0))


@dataclass
class _Connection:
    """A client, its experiment, and the trials' runs once they have been looked up.

    takes_inputs: False once MLflow has refused a run's data sets.
    """

    client: Any
    experiment_id: str
    runs: dict[str, _Run] | None = None
    takes_inputs: bool = True


def default_tracking_uri(store: Store) -> str:
    """MLFLOW_TRACKING_URI where it is set; else the database in the results folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.root.absolute() / 'mlflow.db'}"


class Publisher:
    """Mirrors one plan's trials into one MLflow experiment: flat runs, one per trial, found by the tag trial_id.

    Nothing here raises because MLflow is away: the outcome says so, the next try waits a little longer each time, and
    catches up. Of several processes with one results folder only the holder of publisher.lock publishes; `close`
    lets go of it. Artifacts of a local database lie in the results folder, by an absolute path: when the folder
    moves, delete mlflow.db and publish again.
    """

    def __init__(self, store: Store, plan: Plan, *, tracking_uri: str, experiment: str) -> None:
        self.tracking_uri = tracking_uri
        self._store = store
        self._plan = plan
        self._experiment = experiment
        self._naming = plan_naming(plan)
        self._paths = {planned.trial_id: _paths(store, planned.trial_id) for planned in plan.trials}
        self._mirrored: dict[str, Signature] = {}
        self._running: set[str] = set()
        self._connection: _Connection | None = None
        self._mutex = threading.Lock()  # a thread that hangs in a request must not be overtaken
        self._lock: contextlib.ExitStack | None = None
        self._experiment_id: str | None = None
        self._failures = 0
        self._error = ""
        self._notes: tuple[str, ...] = ()
        self._retry_at = -math.inf
        self._heard_at = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self) -> Outcome:
        """Create the database and the experiment, with its tags and its saved view, unless they are there."""
        with self._mutex:
            try:
                self._connect()
            except Exception as error:
                self._forget(error)
            return Outcome(error=self._error, notes=self._notes)

    def publish_once(self, *, now: bool = False, seconds: float = math.inf) -> Outcome:
        """Publish whatever is new; begin no further trial after `seconds`. now: do not wait after a failure."""
        tally = _Tally()
        self._heard_at = time.monotonic()
        with self._mutex:
            try:
                self._publish(tally, now=now, deadline=time.monotonic() + seconds)
            except Busy:
                return Outcome(pending=tally.pending, error=BUSY)
            except Exception as error:  # whatever MLflow, its database or the network comes up with: the trials go on
                self._forget(error)
            return Outcome(tally.published, tally.points, tally.pending, self._error, self._notes)

    def publish_report(self, files: Sequence[Path], *, verdicts: Sequence[str], seconds: float = math.inf) -> Outcome:
        """Put the report into the suite's own run (role=suite), one per suite version; a later report replaces it.

        files: shown as artifacts, the page first; tables, figures and the paper in folders of their own.
        verdicts: sentences, in Markdown.
        seconds: after these no further file is sent, and the report is behind.
        """
        deadline = time.monotonic() + seconds
        if not self._mutex.acquire(timeout=5):
            return Outcome(pending=1, error=self._error or SILENT)
        try:
            self._take_lock(wait_seconds=5)
            self._write_report(self._connect(), files, verdicts, deadline=deadline)
        except Busy:
            return Outcome(pending=1, error=BUSY)
        except Exception as error:
            self._forget(error)
            return Outcome(pending=1, error=self._error, notes=self._notes)
        finally:
            self._mutex.release()
        return Outcome(published=1, notes=self._notes)

    def link(self, base_url: str) -> str | None:
        """The address of the plan's charts below MLflow's `base_url`; None before `prepare` has found MLflow."""
        return self._experiment_id and deep_link(without_login(base_url), self._experiment_id, self._plan.plan_id)

    def num_pending(self) -> int:
        """How many trials' folders hold what MLflow may not have."""
        return len(self._news())

    def is_silent(self) -> bool:
        """Whether a server has not been heard of for longer than one request may take.

        A request that gets a byte now and then is never timed out.
        """
        return self.tracking_uri.startswith("http") and time.monotonic() - self._heard_at > SILENT_SECONDS

    def close(self) -> None:
        """Let another process publish."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _publish(self, tally: _Tally, *, now: bool, deadline: float) -> None:
        news = self._news()
        tally.pending = len(news)
        if not news or (not now and time.monotonic() < self._retry_at):
            return
        self._take_lock()
        connection = self._connect()
        if connection.runs is None:
            self._look_up_runs(connection)
            news = self._news()
        tally.pending = len(news)
        complaints = []
        for planned, signature in news:
            if time.monotonic() > deadline:
                break
            try:
                tally.points += self._mirror(connection, planned)
            except Exception as error:
                if not _concerns_one_run(error):
                    raise
                complaints.append(f"{planned.trial_id}: {mlflow_error(error, self.tracking_uri)}")
                continue
            self._heard_at = time.monotonic()
            self._mirrored[planned.trial_id] = signature
            tally.published += 1
            tally.pending -= 1
        if complaints:
            raise RuntimeError("; ".join(complaints[:3]))
        self._failures, self._error, self._retry_at = 0, "", -math.inf

    def _news(self) -> list[tuple[PlannedTrial, Signature]]:
        """The trials whose folder holds what MLflow may not have, with the state of the folder before it is read."""
        news = []
        for planned in self._plan.trials:
            signature = _signature(self._paths[planned.trial_id])
            if signature is None:
                continue
            if signature != self._mirrored.get(planned.trial_id) or (
                planned.trial_id in self._running and not self._store.trial(planned.trial_id).is_claimed()
            ):
                news.append((planned, signature))
        return news

    def _take_lock(self, *, wait_seconds: float = 0.0) -> None:
        if self._lock is not None:
            return
        stack = contextlib.ExitStack()
        stack.enter_context(exclusive(self._store.root / "publisher.lock", wait_seconds=wait_seconds))
        self._lock = stack
        if self._connection is not None:
            self._connection.runs = None  # another process may have created some meanwhile

    def _forget(self, error: Exception) -> None:
        """Forget what MLflow holds, because it may come back another; wait longer before each next try."""
        self._connection = None
        self._error = mlflow_error(error, self.tracking_uri)
        self._retry_at = time.monotonic() + min(2.0 * 2**self._failures, SLOWEST_RETRY_SECONDS)
        self._failures += 1

    def _connect(self) -> _Connection:
        if self._connection is not None:
            return self._connection
        mlflow = _import_mlflow()
        self._heard_at = time.monotonic()
        create_database(self.tracking_uri)
        check_database(self.tracking_uri)
        client = mlflow.MlflowClient(tracking_uri=hand_over_login(self.tracking_uri))
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            try:
                client.create_experiment(self._experiment, artifact_location=self._artifact_location())
            except mlflow.MlflowException:
                if client.get_experiment_by_name(self._experiment) is None:
                    raise
            experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None or experiment.name != self._experiment:
            raise ConnectionError("what answers there is not MLflow")
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        for key, value in experiment_tags(self._plan).items():
            there = experiment.tags.get(key, "")
            if there != value and not (key == NOTE and there.startswith(value)):  # a link to the report may follow
                client.set_experiment_tag(experiment.experiment_id, key, value)
        self._notes = self._save_views(client, experiment, mlflow.__version__)
        self._experiment_id = experiment.experiment_id
        self._connection = _Connection(client, experiment.experiment_id)
        return self._connection

    def _artifact_location(self) -> str | None:
        """A server knows best where artifacts go; a database on its own would take the working directory."""
        if self.tracking_uri.startswith(("http://", "https://")):
            return None
        return (self._store.root.absolute() / "mlflow-artifacts" / self._experiment).as_uri()

    def _save_views(self, client: Any, experiment: Any, version: str) -> tuple[str, ...]:
        """Save the plan's chart views, but none that a user has changed in the page; what it left undone."""
        views = [view for view in saved_views(self._plan) if view.replaces(experiment.tags.get(view.tag))]
        if not views:
            return ()
        if version.split(".")[0] != "3":
            return (f"no saved chart view: its format is known for MLflow 3, not for {version}",)
        try:
            for view in views:
                content = view.content(now_ms=milliseconds(time.time()))
                client.set_experiment_tag(experiment.experiment_id, view.tag, content)
        except Exception as error:  # looks only
            return (f"no saved chart view: {mlflow_error(error, self.tracking_uri)}",)
        return ()

    def _look_up_runs(self, connection: _Connection) -> None:
        """Find every trial's run with one search, and close those that nobody works on."""
        runs: dict[str, _Run] = {}
        for run in _search(connection.client, [connection.experiment_id], "tags.role = 'trial'"):
            trial_id = run.tags.get("trial_id", "")
            if trial_id not in runs:
                runs[trial_id] = run
                continue
            # A request to create a run that timed out, and yet was heard, leaves a second one: keep the fuller.
            fuller, other = sorted([runs[trial_id], run], key=lambda r: r.published_epoch, reverse=True)
            connection.client.delete_run(other.run_id)
            runs[trial_id] = fuller
        for trial_id, run in runs.items():
            if run.status == "RUNNING" and trial_id not in self._paths:
                self._close_stray(connection.client, run, trial_id)
        self._close_strays_elsewhere(connection)
        self._mirrored = {trial_id: seen for trial_id, seen in self._mirrored.items() if trial_id in runs}
        connection.runs = runs

    def _close_strays_elsewhere(self, connection: _Connection) -> None:
        """End the runs of other suites' trials that lie here and that nobody works on: their supervisor was killed."""
        from mlflow import MlflowException

        client = connection.client
        with contextlib.suppress(MlflowException):  # of a shared server, not everything may be ours to read or mend
            ours = f"tags.`mlflow.experimentKind` = '{EXPERIMENT_KIND}'"
            others = [each.experiment_id for each in client.search_experiments(filter_string=ours, max_results=1000)]
            others = [each for each in others if each != connection.experiment_id]
            where = "attributes.status = 'RUNNING' AND tags.role = 'trial'"
            for run in list(_search(client, others, where)) if others else ():
                self._close_stray(client, run, run.tags.get("trial_id", ""))

    def _close_stray(self, client: Any, run: _Run, trial_id: str) -> None:
        """Give a run of another plan its trial's status, if the trial lies here and nobody works on it.

        Points that are missing come when its own plan is published.
        """
        standing = trial_standing(self._store.trial(trial_id)) if trial_id in self._store.trial_ids() else None
        if standing is not None and standing.status != "RUNNING":
            client.set_tag(run.run_id, "status", standing.word)
            client.set_terminated(run.run_id, standing.status, standing.end_ms)

    def _mirror(self, connection: _Connection, planned: PlannedTrial) -> int:
        """Bring one trial's run up to its folder; the number of metric points that were sent."""
        trial_id = planned.trial_id
        content = read_trial(planned, self._plan, self._store.trial(trial_id), naming=self._naming)
        if content is None:
            return 0
        assert connection.runs is not None
        run = connection.runs.get(trial_id)
        if run is None:
            run = _new_run(connection, content.name, content.start_ms, content.tags)
            connection.runs[trial_id] = run
        points = _write(connection.client, run, content)
        self._write_inputs(connection, run, content)
        if content.status == "RUNNING":
            self._running.add(trial_id)
        else:
            self._running.discard(trial_id)
        return points

    def _write_inputs(self, connection: _Connection, run: _Run, content: TrialRun) -> None:
        """Name the run's data sets; where MLflow does not take them, a note says so, and the trials go on."""
        lacking = [each for each in content.inputs if (each.name, each.digest) not in run.inputs]
        if not lacking or not connection.takes_inputs:
            return
        try:
            _log_inputs(connection.client, run.run_id, lacking)
        except Exception as error:
            connection.takes_inputs = False
            self._notes = (*self._notes, f"data sets are not shown: {mlflow_error(error, self.tracking_uri)}")
            return
        run.inputs |= {(each.name, each.digest) for each in lacking}

    def _write_report(
        self, connection: _Connection, files: Sequence[Path], verdicts: Sequence[str], *, deadline: float
    ) -> None:
        client, plan = connection.client, self._plan
        identity = {"role": "suite", "suite": plan.suite.name, "suite_version": str(plan.suite.version)}
        where = " AND ".join(f"tags.{key} = '{value}'" for key, value in identity.items())
        found = list(_search(client, [connection.experiment_id], where))
        name = f"report | {plan.suite.name} v{plan.suite.version}"
        run = found[-1] if found else _new_run(connection, name, milliseconds(time.time()), identity)
        for other in found[:-1]:  # left by a request that timed out, and yet was heard
            client.delete_run(other.run_id)
        client.log_text(run.run_id, json.dumps(plan_record(plan), indent=1), "plan.json")
        for path in files:
            if time.monotonic() > deadline:
                raise TimeoutError("MLflow is too slow for the report")
            client.log_artifact(run.run_id, str(path), artifact_path=artifact_folder(path, page=files[0]))
        client.set_tag(run.run_id, "plan_id", plan.plan_id)
        client.set_tag(run.run_id, NOTE, report_note(plan, verdicts))
        client.set_terminated(run.run_id, "FINISHED", milliseconds(time.time()))
        note = note_with_report(plan, connection.experiment_id, run.run_id)
        client.set_experiment_tag(connection.experiment_id, NOTE, note)


class PublisherThread:
    """Publishes every few seconds while trials run, in a daemon thread, so that MLflow never holds a trial back."""

    def __init__(self, publisher: Publisher, *, interval_seconds: float = 5.0) -> None:
        self.outcome = Outcome()
        self._publisher = publisher
        self._interval = interval_seconds
        self._stopping = threading.Event()
        self._deadline = math.inf
        self._thread = threading.Thread(target=self._run, name="mlflow-publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, timeout: float = 30.0) -> Outcome:
        """Make a last pass and let go of MLflow; the last outcome, within about `timeout` seconds whatever happens.

        Where the pass before failed, within AILING_SECONDS; where a server is silent, not much longer than for one
        request. A second call waits for nothing.
        """
        first = not self._stopping.is_set()
        if self.outcome.error and self.outcome.error != BUSY:
            timeout = min(timeout, AILING_SECONDS)
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        while first and self._thread.is_alive() and time.monotonic() < self._deadline:
            self._thread.join(0.1)
            if self._publisher.is_silent():
                break
        outcome = self.outcome
        if self._thread.is_alive():
            outcome = replace(outcome, pending=max(outcome.pending, 1), error=outcome.error or SILENT)
        if outcome.is_behind:  # by what there is now: trials may have ended since the pass that failed
            outcome = replace(outcome, pending=max(self._publisher.num_pending(), 1))
        return outcome

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self.outcome = self._publisher.publish_once(seconds=self._interval)
            if self._stopping.is_set() and self.outcome.error not in ("", BUSY):
                break  # a request that hung while the run ended: another would hang as long
        else:
            self.outcome = self._publisher.publish_once(now=True, seconds=self._deadline - time.monotonic())
        while self.outcome.error == BUSY and time.monotonic() + 0.5 < self._deadline:
            time.sleep(0.5)
            self.outcome = self._publisher.publish_once(now=True, seconds=self._deadline - time.monotonic())
        self._publisher.close()


def create_database(tracking_uri: str) -> None:
    """Create a local SQLite database with MLflow's tables, unless it is there; any other URI is left alone.

    Under a lock, and under another name until it is whole: MLflow's own way breaks when two processes race for it,
    and leaves half a schema when it is interrupted. WAL doubles the writes per second; MLflow does not set it.
    """
    prefix, path = "sqlite:///", Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith(prefix) or "?" in tracking_uri or path.exists():
        return
    with exclusive(path.with_name(f"{path.name}.lock"), wait_seconds=60):
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        _import_mlflow().MlflowClient(tracking_uri=f"{prefix}{temporary}").search_experiments(max_results=1)
        temporary.replace(path)
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database, contextlib.suppress(sqlite3.Error):
            database.execute("PRAGMA journal_mode=WAL")


def check_database(tracking_uri: str) -> None:
    """Raise what is wrong with a local SQLite database; any other URI is left alone.

    MLflow (3.17) would try ten times, for minutes, before it said so.
    """
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith("sqlite:///") or "?" in tracking_uri:
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")  # of a file that may only be read this makes no error yet
            (version,) = database.execute("PRAGMA user_version").fetchone()
            database.execute(f"PRAGMA user_version = {version}")
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise OSError(f"{error}: is another process at it, and may it be written?") from None
    except sqlite3.DatabaseError as error:
        raise OSError(f"{error}: move {path} away, and it is written anew") from None


def count_experiments(tracking_uri: str) -> int:
    """How many experiments MLflow has, to see whether it answers; 0 for a local database that is not made yet."""
    if tracking_uri.startswith("sqlite:///") and not Path(tracking_uri.removeprefix("sqlite:///")).exists():
        return 0
    client = _import_mlflow().MlflowClient(tracking_uri=hand_over_login(tracking_uri))
    return len(client.search_experiments(max_results=1000))


def _import_mlflow() -> Any:
    """The mlflow module, without telemetry, long retries and log lines; each can be had back by its variable."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what goes wrong stands in the outcome
        logging.getLogger("alembic").setLevel(logging.WARNING)
    return mlflow


def _paths(store: Store, trial_id: str) -> tuple[str, str, str]:
    folder = store.trial(trial_id).path
    return str(folder / "journal.jsonl"), str(folder / "final.json"), str(folder / "evaluations")


def _signature(paths: tuple[str, str, str]) -> Signature | None:
    """Changes whenever the trial's folder holds something new; None before its first event. Three stats, no reading."""
    journal, *others = paths
    try:
        stat = os.stat(journal)  # noqa: PTH116  a thousand Path objects a second would cost more than the stats
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, *map(_modified_ns, others)


def _modified_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except FileNotFoundError:
        return 0


def _search(client: Any, experiment_ids: list[str], where: str) -> Iterator[_Run]:
    token = None
    while True:
        page = client.search_runs(experiment_ids, where, max_results=1000, page_token=token)
        for run in page:
            tags, params, metrics = (dict(values) for values in (run.data.tags, run.data.params, run.data.metrics))
            info, given = run.info, getattr(run.inputs, "dataset_inputs", None) or ()
            inputs = {(each.dataset.name, each.dataset.digest) for each in given}
            yield _Run(info.run_id, info.run_name, info.status, info.end_time, tags, params, metrics, inputs)
        token = page.token
        if not token:
            return


def _new_run(connection: _Connection, name: str, start_ms: int, tags: dict[str, str]) -> _Run:
    run = connection.client.create_run(connection.experiment_id, start_time=start_ms, tags=tags, run_name=name)
    return _Run(run.info.run_id, name, "RUNNING", None, dict(tags), {}, {}, set())


def _log_inputs(client: Any, run_id: str, data_sets: Sequence[DataSet]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client.log_inputs(
        run_id,
        datasets=[
            DatasetInput(
                Dataset(each.name, each.digest, "code", each.source, profile=each.profile),
                [InputTag("mlflow.data.context", each.context)],
            )
            for each in data_sets
        ],
    )


def _write(client: Any, run: _Run, content: TrialRun) -> int:
    """Send what the run lacks: tags and parameters, new epochs and final scalars in batches, then its status."""
    from mlflow.entities import Metric, Param, RunTag

    if content.name != run.name == run.tags.get(GIVEN_NAME, run.name):  # none that a user has chosen
        client.update_run(run.run_id, name=content.name)
        run.name = content.name
    plans = dict.fromkeys([*run.tags.get("plan_id", "").split(), content.tags["plan_id"]])
    wanted = {**content.tags, "plan_id": " ".join(plans)}
    tags = {key: value for key, value in wanted.items() if run.tags.get(key) != value}
    params = {key: value for key, value in content.params.items() if key not in run.params}
    finals = _new_finals(run, content)
    batches = list(_batches(run, content, finals))
    if (tags or params) and not batches:
        batches = [([], {})]
    for points, progress in batches:
        tags |= progress
        client.log_batch(
            run.run_id,
            [Metric(point.key, point.value, point.ms, point.step) for point in points],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in tags.items()],
        )
        run.tags |= tags
        run.params |= params
        tags, params = {}, {}
    run.metrics |= {point.key: point.value for point in finals}
    for key in PASSING_TAGS:
        if key in run.tags and key not in content.tags:
            client.delete_tag(run.run_id, key)
            del run.tags[key]
    if content.status == "RUNNING" != run.status:
        client.update_run(run.run_id, status="RUNNING")
    elif content.status != "RUNNING" and (run.status, run.end_ms) != (content.status, content.end_ms):
        client.set_terminated(run.run_id, content.status, content.end_ms)
    run.status, run.end_ms = content.status, content.end_ms
    return sum(len(points) for points, _ in batches)


def _new_finals(run: _Run, content: TrialRun) -> list[Point]:
    """Final scalars that the run lacks. One that has changed is stamped now: MLflow shows the latest of a step."""
    finals = []
    for point in content.finals:
        known = run.metrics.get(point.key)
        if known is None:
            finals.append(point)
        elif not math.isclose(known, point.value, rel_tol=1e-9, abs_tol=1e-12):
            finals.append(replace(point, ms=milliseconds(time.time())))
    return finals


def _batches(run: _Run, content: TrialRun, finals: list[Point]) -> Iterator[tuple[list[Point], dict[str, str]]]:
    """Points for one call each, with the tag that says how far they reach. MLflow writes tags after points."""
    batch: list[Point] = []
    progress: dict[str, str] = {}
    for epoch, points in content.epochs:
        if epoch <= run.published_epoch:
            continue
        if len(batch) + len(points) > BATCH:
            yield batch, progress
            batch = []
        batch = [*batch, *points]
        progress = {PUBLISHED_EPOCH: str(epoch)}
    if len(batch) + len(finals) > BATCH:
        yield batch, progress
        batch = []
    if batch or finals:
        yield [*batch, *finals], progress


def _concerns_one_run(error: Exception) -> bool:
    """Whether another trial may well succeed: a run that was deleted meanwhile, a folder that makes no sense."""
    from mlflow import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code()) in (400, 404)
    return isinstance(error, KeyError | TypeError | ValueError)


def mlflow_error(error: BaseException, tracking_uri: str = "") -> str:
    """One short line: of a failed request, what the network said, without the layers around it; no secret in it."""
    found = [error]
    for each in found:  # urllib3 gives one error as the cause and another as the context
        inner = [other for other in (each.__cause__, each.__context__) if other is not None]
        found += [other for other in inner if all(other is not known for known in found)]
    for each in found:
        if (status := _http_status(each)) in (401, 403):
            return refusal(status, str(each), tracking_uri)
    for each in reversed(found):
        if isinstance(each, OSError) and (each.strerror or not (each.__cause__ or each.__context__)):
            return without_secrets(each.strerror or str(each))
    lines = without_secrets(str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _http_status(error: BaseException) -> int:
    """The status of a server's answer, 0 for another error."""
    answer = getattr(error, "response", None)  # of requests, which sends the artifacts; one of 400 and more is false
    if answer is not None:
        return int(answer.status_code)
    code = getattr(error, "get_http_status_code", None)
    return int(code()) if code is not None else 0
