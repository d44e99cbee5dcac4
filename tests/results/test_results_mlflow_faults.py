"""MLflow at its worst while a suite runs: away, hanging, talking nonsense, locked, damaged, killed in the middle.

The trials all finish, the run ends soon after them, and what was missing comes exactly once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.plan.plan import Plan, PlannedTrial
from bench.results.mlflow import AILING_SECONDS, Publisher, PublisherThread
from bench.results.mlflow_server import server_command
from bench.results.store import Store

if TYPE_CHECKING:
    from conftest import Worker

    MakeWorker = Callable[[PlannedTrial], Worker]
    Bench = Callable[..., subprocess.CompletedProcess[str]]

# MLflow 3.17 maps its tables with a SQLAlchemy option that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

END_SECONDS = 40.0
"""A run is over at most so long after its last trial: one request of 10 s that hangs, and, on a busy machine, MLflow's
import before it and Python's own end after it. The waiting itself is bounded more tightly below."""

SUITE = """\
name: pair
question: Does it come through?
seeds: 1
base:
  dataset: digits
  model: mlp
  training: {epochs: EPOCHS, batch_size: 64, lr: 0.1}
methods:
  - erm
  - {name: mixup, alpha: 1}
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two trials of four epochs, well under a second each."""
    return write_suite(tmp_path, epochs=4)


def write_suite(folder: Path, *, epochs: int, name: str = "pair") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(SUITE.replace("EPOCHS", str(epochs)).replace("name: pair", f"name: {name}"))
    return path


def rows(database: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def assert_whole(folder: Path, *, epochs: int, trials: int = 2) -> None:
    """Each trial has one run that is over, every epoch's point once, and one final error, which is its folder's."""
    database, store = folder / "results/mlflow.db", Store(folder / "results")
    runs = rows(
        database,
        "SELECT value, run_uuid, status FROM tags JOIN runs USING (run_uuid)"
        " WHERE key = 'trial_id' AND lifecycle_stage = 'active'",
    )
    assert sorted(trial_id for trial_id, *_ in runs) == store.trial_ids()
    assert len(runs) == trials
    for trial_id, run_id, status in runs:
        assert status == "FINISHED"
        points = rows(database, f"SELECT step FROM metrics WHERE run_uuid = '{run_id}' AND key = 'test/error'")
        assert sorted(step for (step,) in points) == list(range(1, epochs + 1))
        [(error,)] = rows(
            database, f"SELECT value FROM metrics WHERE run_uuid = '{run_id}' AND key = 'final/test_error'"
        )
        final = store.trial(trial_id).final()
        assert final is not None
        assert error == pytest.approx(final["metrics"]["test_error_last"])
    assert rows(database, "SELECT count(*) FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'") == [(0,)]


def last_finish(folder: Path) -> float:
    """When the last trial was over, unix seconds."""
    store = Store(folder / "results")
    events = [event for trial_id in store.trial_ids() for event in store.trial(trial_id).events()[0]]
    return max(event["time"] for event in events if event["event"] == "finished")


def run_to_the_end(bench: Bench, suite: Path, *, behind: str = "2 trials", **env: str) -> str:
    """`bench run`, which must finish both trials, soon be over, and say what is behind; what it printed."""
    result = bench("run", suite, "--no-report", env=env)
    waited = time.time() - last_finish(suite.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2/2 done" in result.stdout
    [line] = [line for line in result.stdout.splitlines() if line.startswith("MLflow")]
    assert f"is behind by {behind} (" in line
    assert "`bench publish` catches up" in line
    assert "Traceback" not in result.stdout + result.stderr
    assert waited < END_SECONDS
    return line


def send(connection: socket.socket, status: str, kind: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + body)


def misbehave(connection: socket.socket, how: str, over: threading.Event) -> None:
    """Answer one request in a bad way."""
    connection.recv(65536)
    if how == "hangs":
        over.wait()
    elif how == "drips":
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.2):
            connection.sendall(b"X-Drip: 1\r\n")
    elif how == "resets":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "talks nonsense":
        connection.sendall(bytes(range(256)) * 4)
    elif how == "shows a page":
        send(connection, "200 OK", "text/html", b"<html>Welcome to nginx!</html>")
    elif how == "says {}":
        send(connection, "200 OK", "application/json", b"{}")
    elif how == "says 500":
        send(connection, "500 Internal Server Error", "text/plain", b"no")


@contextlib.contextmanager
def bad_server(how: str) -> Iterator[str]:
    """The address of a server that takes every connection and misbehaves on each."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            misbehave(connection, how, over)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=one, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        accepting = threading.Thread(target=serve, args=(listener,))
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in [accepting, *threads]:
                thread.join()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("hangs", "timed out"),
        pytest.param("drips", "", marks=SLOW),
        pytest.param("resets", "Connection reset", marks=SLOW),
        pytest.param("talks nonsense", "", marks=SLOW),
        pytest.param("shows a page", "", marks=SLOW),
        pytest.param("says {}", "not MLflow", marks=SLOW),
        pytest.param("says 500", "500", marks=SLOW),
    ],
)
def test_a_run_with_a_bad_server_ends_soon_and_publish_catches_up(
    bench: Bench, pair: Path, tmp_path: Path, how: str, said: str
) -> None:
    with bad_server(how) as address:
        line = run_to_the_end(bench, pair, MLFLOW_TRACKING_URI=address)
    assert address in line
    assert said in line
    result = bench("publish", pair)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_whole(tmp_path, epochs=4)


@pytest.mark.parametrize("how", ["resets", "talks nonsense", "shows a page", "says {}", "says 500"])
def test_a_bad_server_is_an_error_in_one_line(store: Store, plan: Plan, worker: MakeWorker, how: str) -> None:
    for planned in plan.trials[:3]:
        worker(planned).complete()
    with (
        bad_server(how) as address,
        Publisher(store, plan, tracking_uri=address, experiment="digits") as publisher,
    ):
        began = time.monotonic()
        outcome = publisher.publish_once()
        assert (outcome.published, outcome.points, outcome.pending) == (0, 0, 3)
        assert outcome.error
        assert "\n" not in outcome.error
        assert how != "resets" or outcome.error == "Connection reset by peer"
        assert publisher.publish_report([], verdicts=[]).is_behind
        assert time.monotonic() - began < 20


def test_the_end_waits_for_one_hanging_request_and_not_for_two(
    store: Store, plan: Plan, worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    worker(plan.trials[0]).complete()
    with bad_server("hangs") as address:
        publisher = Publisher(store, plan, tracking_uri=address, experiment="digits")
        publisher.prepare()  # imports take longer than the request
        publisher._retry_at = 0.0
        thread = PublisherThread(publisher, interval_seconds=0.01)
        thread.start()
        time.sleep(0.5)
        worker(plan.trials[1]).complete()  # after the pass that hangs began
        began = time.monotonic()
        assert thread.stop().pending == 2
        assert 1 < time.monotonic() - began < 4.5
        assert thread.stop().is_behind


def test_the_end_does_not_wait_long_for_a_server_that_failed_before(
    store: Store, plan: Plan, worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sends a byte now and then is never timed out."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    worker(plan.trials[0]).complete()
    with bad_server("drips") as address:
        thread = PublisherThread(Publisher(store, plan, tracking_uri=address, experiment="digits"))
        thread.outcome = replace(thread.outcome, error="timed out", pending=1)
        thread.start()
        began = time.monotonic()
        assert thread.stop().is_behind
        assert time.monotonic() - began < AILING_SECONDS + 1
        began = time.monotonic()
        thread.stop()
        assert time.monotonic() - began < 0.5


def test_the_end_does_not_wait_long_for_a_server_that_drips(
    store: Store, plan: Plan, worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.results.mlflow.SILENT_SECONDS", 2.0)
    worker(plan.trials[0]).complete()
    with bad_server("drips") as address:
        thread = PublisherThread(
            Publisher(store, plan, tracking_uri=address, experiment="digits"), interval_seconds=0.1
        )
        thread.start()
        time.sleep(1)
        began = time.monotonic()
        assert "does not answer" in thread.stop().error
        assert time.monotonic() - began < 4


def test_a_report_that_goes_too_slowly_is_left_to_publish(
    store: Store, plan: Plan, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    files = [tmp_path / f"{number}.csv" for number in range(20)]
    for path in files:
        path.write_text("a,b\n")
    log_artifact = MlflowClient.log_artifact

    def slowly(self: Any, *arguments: Any, **options: Any) -> None:
        time.sleep(0.3)
        log_artifact(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_artifact", slowly)
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        publisher.prepare()
        began = time.monotonic()
        outcome = publisher.publish_report(files, verdicts=[], seconds=0.5)
        assert outcome.is_behind
        assert "too slow" in outcome.error
        assert time.monotonic() - began < 5
        monkeypatch.setattr(MlflowClient, "log_artifact", log_artifact)
        assert not publisher.publish_report(files, verdicts=[]).is_behind
    assert rows(database, "SELECT status FROM runs") == [("FINISHED",)]


LOCK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process holds the database's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    try:
        yield
    finally:
        process.communicate()


@contextlib.contextmanager
def unwritable(database: Path) -> Iterator[None]:
    """Nobody may write the file; root is kept off by its immutable flag."""
    root = os.geteuid() == 0
    if root and subprocess.run(["chattr", "+i", database], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable flag to keep root off")
    database.chmod(0o444) if not root else None
    try:
        with pytest.raises(OSError, match=r"not permitted|denied"):
            database.open("r+b")
        yield
    finally:
        subprocess.run(["chattr", "-i", database], check=True) if root else database.chmod(0o644)


@contextlib.contextmanager
def truncated(database: Path) -> Iterator[None]:
    """Half of it is gone; at the end somebody does what the message says."""
    os.truncate(database, database.stat().st_size // 2)
    yield
    for path in database.parent.glob("mlflow.db*"):
        path.unlink()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(locked, "database is locked", marks=SLOW),
        pytest.param(unwritable, "readonly database", marks=SLOW),
        pytest.param(truncated, "malformed", marks=SLOW),
    ],
)
def test_a_run_with_a_bad_database_ends_soon_and_publish_catches_up(
    bench: Bench, pair: Path, tmp_path: Path, database: Path, fault: Any, said: str
) -> None:
    with fault(database):
        line = run_to_the_end(bench, pair)
        assert said in line
        began = time.monotonic()
        result = bench("publish", pair)
        assert result.returncode == 2
        assert said in result.stderr
        assert "Traceback" not in result.stderr
        assert time.monotonic() - began < 40
    result = bench("publish", pair)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_whole(tmp_path, epochs=4)


@pytest.mark.parametrize(
    ("fault", "said"), [(locked, "locked"), (unwritable, "readonly"), (truncated, "malformed.*move .*mlflow.db away")]
)
def test_a_bad_database_is_said_at_once(
    store: Store, plan: Plan, worker: MakeWorker, database: Path, fault: Any, said: str
) -> None:
    """MLflow itself tries for minutes."""
    worker(plan.trials[0]).complete()
    with (
        fault(database),
        Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher,
    ):
        publisher.publish_once()
        began = time.monotonic()
        outcome = publisher.publish_once(now=True)
        assert outcome.pending == 1
        assert re.search(said, outcome.error)
        assert time.monotonic() - began < 8
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        assert publisher.publish_once().error == ""


KILLED_PUBLISHER = """
import os, signal, sys
from pathlib import Path
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.mlflow import Publisher
from bench.results.store import Store
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

root, suite, method = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
real = getattr(SqlAlchemyStore, method)

def then_die(*arguments, **options):
    real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(SqlAlchemyStore, method, then_die)
store, plan = Store(root), make_plan(load_suite(suite))
Publisher(store, plan, tracking_uri=f"sqlite:///{root / 'mlflow.db'}", experiment="digits").publish_once()
"""


@pytest.mark.parametrize(
    "method",
    [
        "create_run",
        "_log_metrics",
        *(pytest.param(m, marks=SLOW) for m in ("_log_params", "_set_tags", "update_run_info")),
    ],
)
def test_a_publisher_that_is_killed_leaves_no_double_and_no_gap(
    store: Store, plan: Plan, worker: MakeWorker, database: Path, method: str
) -> None:
    """Killed right after MLflow committed this part of a trial: its run, parameters, points, progress tag, status."""
    for planned in plan.trials[:2]:
        worker(planned).complete()
    command = [sys.executable, "-c", KILLED_PUBLISHER, str(store.root), str(plan.suite.path), method]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert rows(database, "SELECT count(*) FROM runs") == [(1,)]
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        outcome = publisher.publish_once()
    assert (outcome.error, outcome.pending) == ("", 0)
    assert rows(database, "SELECT status FROM runs") == [("FINISHED",)] * 2
    assert rows(database, "SELECT count(*), min(run_uuid) = max(run_uuid) FROM metrics") == [(2 * (4 * 8 + 7), 0)]
    steps = rows(database, "SELECT step FROM metrics WHERE key = 'test/error' ORDER BY step")
    assert [step for (step,) in steps] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_runs_of_a_killed_supervisor_get_their_status_when_another_suite_is_published(
    store: Store, plan: Plan, worker: MakeWorker, database: Path
) -> None:
    """Three were running; meanwhile one had finished, and one failed, before the machine went down."""
    finished, failed, killed, alive = plan.trials[:4]
    with contextlib.ExitStack() as claims, contextlib.ExitStack() as living:
        for planned in (finished, failed, killed):
            claims.enter_context(worker(planned).folder.claim())
        living.enter_context(worker(alive).folder.claim())
        for planned in (finished, failed, killed, alive):
            worker(planned).start()
        with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
            publisher.publish_once()
        assert rows(database, "SELECT status FROM runs") == [("RUNNING",)] * 4
        worker(finished).finish(seconds=50)
        worker(failed).log("failed", seconds=30, attempt=2, reason="no memory", traceback="")
        claims.close()

        other = Plan(plan.suite, plan.trials[6:], plan.cells)
        worker(other.trials[0]).complete()
        with Publisher(store, other, tracking_uri=f"sqlite:///{database}", experiment="another") as publisher:
            assert publisher.publish_once().error == ""
        query = (
            "SELECT trial.value, runs.status, end_time, state.value FROM runs"
            " JOIN tags AS trial ON trial.run_uuid = runs.run_uuid AND trial.key = 'trial_id'"
            " JOIN tags AS state ON state.run_uuid = runs.run_uuid AND state.key = 'status'"
        )
        found = {trial_id: rest for trial_id, *rest in rows(database, query)}
        assert found[finished.trial_id] == ["FINISHED", 1_700_000_050_000, "completed"]
        assert found[failed.trial_id] == ["FAILED", 1_700_000_030_000, "failed"]
        assert found[killed.trial_id] == ["KILLED", 1_700_000_000_000, "interrupted"]
        assert found[alive.trial_id] == ["RUNNING", None, "running"]


def test_a_second_run_of_the_report_is_removed(store: Store, plan: Plan, database: Path) -> None:
    from mlflow import MlflowClient

    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        publisher.publish_report([], verdicts=[])
        client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        [run] = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
        client.create_run(run.info.experiment_id, tags=run.data.tags)  # whose answer never arrived
        assert publisher.publish_report([], verdicts=[]).error == ""
    states = rows(database, "SELECT status FROM runs WHERE lifecycle_stage = 'active'")
    assert states == [("FINISHED",)]


def started(folder: Path, environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    """`bench` with a process group of its own, workers included."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(what: Callable[[], bool], *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def kill(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.mark.slow
def test_a_run_that_is_killed_whole_leaves_nothing_running_for_ever(
    make_bench: Callable[[Path], Bench], bench_environment: dict[str, str], tmp_path: Path
) -> None:
    """SIGKILL for supervisor and workers; then, in copies: publish, the same suite again, another suite."""
    folder = tmp_path / "killed"
    folder.mkdir()
    suite = write_suite(folder, epochs=2000)
    database = folder / "results/mlflow.db"
    process = started(folder, bench_environment, "run", suite, "--checkpoint-epochs", 50, "--no-report")
    query = "SELECT count(*) FROM runs JOIN metrics USING (run_uuid) WHERE status = 'RUNNING'"
    try:
        wait_for(lambda: database.exists() and rows(database, query)[0][0] > 0)
    finally:
        kill(process)
    trials = [Store(folder / "results").trial(i) for i in Store(folder / "results").trial_ids()]
    wait_for(lambda: not any(trial.is_claimed() for trial in trials), seconds=20)  # the kernel is done with them
    assert {trial.status() for trial in trials} == {"interrupted"}
    copies = {name: Path(shutil.copytree(folder, tmp_path / name)) for name in ("publish", "again", "other")}

    assert make_bench(copies["publish"])("publish", "pair.yaml").returncode == 0
    again = make_bench(copies["again"])("run", "pair.yaml", "--no-report")
    assert again.returncode == 0, again.stdout + again.stderr
    write_suite(copies["other"], epochs=4, name="other")
    assert make_bench(copies["other"])("run", "other.yaml", "--no-report").returncode == 0

    assert_whole(copies["again"], epochs=2000)
    for name in ("publish", "other"):
        found = rows(
            copies[name] / "results/mlflow.db",
            "SELECT runs.status, end_time >= start_time FROM runs JOIN experiments USING (experiment_id)"
            " WHERE experiments.name = 'pair' AND runs.name NOT LIKE 'report%'",
        )
        assert found
        assert set(found) == {("KILLED", 1)}


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_and_comes_back_before_publish(
    make_bench: Callable[[Path], Bench],
    bench_environment: dict[str, str],
    database: Path,
    tmp_path: Path,
) -> None:
    suite = write_suite(tmp_path, epochs=700)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = server_command(f"sqlite:///{database}", port=port)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def serve() -> subprocess.Popen[bytes]:
        with (tmp_path / "server.log").open("ab") as log:
            server = subprocess.Popen(
                command.command, env=command.env, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
            )

        def answers() -> bool:
            with contextlib.suppress(urllib.error.URLError, OSError):
                direct.open(f"{command.url}/health", timeout=10).close()
                return True
            return False

        wait_for(answers)
        return server

    environment = bench_environment | {"MLFLOW_TRACKING_URI": command.url}
    server = serve()
    try:
        process = started(tmp_path, environment, "run", suite, "--checkpoint-epochs", 50, "--no-report")
        wait_for(lambda: rows(database, "SELECT count(*) FROM metrics")[0][0] > 0)
        kill(server)
        printed, _ = process.communicate(timeout=200)
        waited = time.time() - last_finish(tmp_path)
        assert process.returncode == 0, printed
        assert "is behind by" in printed
        assert "Connection refused" in printed
        assert waited < END_SECONDS
        server = serve()
        result = make_bench(tmp_path)("publish", suite, env={"MLFLOW_TRACKING_URI": command.url})
        assert result.returncode == 0, result.stdout + result.stderr
    finally:
        kill(server)
    assert_whole(tmp_path, epochs=700)
