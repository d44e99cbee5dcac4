"""The publisher and a server: one that dies and comes back, one that refuses, hangs or only gives errors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from bench.plan.plan import Plan, PlannedTrial
from bench.results.mlflow import Publisher, PublisherThread
from bench.results.mlflow_server import server_command
from bench.results.store import Store

if TYPE_CHECKING:
    from conftest import Worker

    MakeWorker = Callable[[PlannedTrial], Worker]

# MLflow 3.17 maps its tables with a SQLAlchemy option that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def serve(database: Path, port: int, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `mlflow server` on the database; what is left of it dies with the test."""
    started: list[subprocess.Popen[bytes]] = []
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def serve() -> subprocess.Popen[bytes]:
        server = server_command(f"sqlite:///{database}", port=port)
        with (tmp_path / "server.log").open("ab") as log:
            process = subprocess.Popen(
                server.command, env=server.env, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
            )
        started.append(process)
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            with contextlib.suppress(urllib.error.URLError, OSError):
                direct.open(f"{server.url}/health", timeout=10).close()
                return process
            time.sleep(0.1)

    yield serve
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def only_errors() -> Iterator[int]:
    """A server that answers every request with 500."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def counts(database: Path) -> tuple[int, int]:
    """Runs and metric points."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        [runs], [points] = (
            connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("runs", "metrics")
        )
        return runs, points


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_middle_gets_everything_once_it_is_back(
    store: Store,
    plan: Plan,
    worker: MakeWorker,
    database: Path,
    port: int,
    serve: Callable[[], subprocess.Popen[bytes]],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    uri = f"http://127.0.0.1:{port}"
    process = serve()
    assert len(psutil.Process(process.pid).children(recursive=True)) == 1
    trial = worker(plan.trials[0])
    with Publisher(store, plan, tracking_uri=uri, experiment="digits") as publisher:
        trial.start()
        trial.epochs(1, 3)
        trial.log("checkpoint", epoch=2, step=0)
        assert not publisher.publish_once().is_behind
        assert counts(database) == (1, 2 * 8)

        kill(process)
        trial.epochs(4, 4)
        trial.finish(test_error_last=0.15)
        worker(plan.trials[1]).complete()
        began = time.monotonic()
        outcome = publisher.publish_once()
        assert (outcome.pending, outcome.published) == (2, 0)
        assert outcome.error
        assert time.monotonic() - began < 3

        serve()
        outcome = publisher.publish_once(now=True)
        assert (outcome.error, outcome.pending) == ("", 0)
        complete = (2, 2 * 4 * 8 + 2 + 7)
        assert counts(database) == complete

        report = tmp_path / "report.html"
        report.write_text("<p>better</p>")
        assert not publisher.publish_report([report], verdicts=["better"]).is_behind
        assert not publisher.publish_report([report], verdicts=["better"]).is_behind
        assert counts(database) == (3, complete[1])
    # A publisher that remembers nothing, and a run whose progress tags were lost: MLflow ignores what it has.
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM tags WHERE key = 'published_epoch'")
    with Publisher(store, plan, tracking_uri=uri, experiment="digits") as publisher:
        assert publisher.publish_once().points == 2 * 4 * 8
    assert counts(database) == (3, complete[1])
    assert capfd.readouterr() == ("", "")


def test_a_server_that_refuses_costs_a_moment_and_is_asked_less_and_less(
    store: Store, plan: Plan, worker: MakeWorker, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(plan.trials[0]).complete()
    publisher = Publisher(store, plan, tracking_uri=f"http://127.0.0.1:{port}", experiment="digits")
    tries = []
    connect = publisher._connect

    def counted() -> Any:
        tries.append(time.monotonic())
        return connect()

    monkeypatch.setattr(publisher, "_connect", counted)
    for now in (False, False, False, True, False):
        began = time.monotonic()
        outcome = publisher.publish_once(now=now)
        assert time.monotonic() - began < 3
        assert outcome.is_behind
        assert outcome.error == "Connection refused"
    assert len(tries) == 2  # at first, and when told to; in between it waits
    waits = []
    for _ in range(8):
        publisher.publish_once(now=True)
        waits.append(publisher._retry_at - time.monotonic())
    assert sorted(waits) == waits or max(waits) <= 60
    assert 30 < waits[-1] <= 60
    publisher.close()


def test_a_server_that_never_answers_blocks_no_longer_than_one_request(
    store: Store, plan: Plan, worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    worker(plan.trials[0]).complete()
    with black_hole() as port:
        publisher = Publisher(store, plan, tracking_uri=f"http://127.0.0.1:{port}", experiment="digits")
        began = time.monotonic()
        outcome = publisher.publish_once()
        assert time.monotonic() - began < 4
        assert outcome.is_behind
        assert outcome.error == "timed out"
        publisher.close()


def test_stopping_the_thread_does_not_wait_for_a_server_that_never_answers(
    store: Store, plan: Plan, worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    worker(plan.trials[0]).complete()
    with black_hole() as port:
        publisher = Publisher(store, plan, tracking_uri=f"http://127.0.0.1:{port}", experiment="digits")
        thread = PublisherThread(publisher, interval_seconds=0.01)
        thread.start()
        time.sleep(0.2)
        began = time.monotonic()
        outcome = thread.stop(timeout=0.5)
        assert time.monotonic() - began < 1.5
        assert outcome.is_behind
        assert "does not answer" in outcome.error


def test_a_server_that_only_gives_errors_is_reported(store: Store, plan: Plan, worker: MakeWorker) -> None:
    worker(plan.trials[0]).complete()
    with only_errors() as port:
        uri = f"http://127.0.0.1:{port}"
        with Publisher(store, plan, tracking_uri=uri, experiment="digits") as publisher:
            outcome = publisher.publish_once()
            assert outcome.is_behind
            assert "500" in outcome.error
            assert publisher.prepare().error
            assert publisher.publish_report([], verdicts=[]).is_behind


def test_a_port_that_is_taken_is_said(database: Path) -> None:
    with black_hole() as port, pytest.raises(OSError, match=rf"127.0.0.1:{port}.*another --port"):
        server_command(f"sqlite:///{database}", port=port)


def test_the_command_leaves_a_choice_to_the_user(database: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    server = server_command(f"sqlite:///{database}", port=port)
    assert server.env["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert server.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert server.env["PATH"] == os.environ["PATH"]
    assert server.url == f"http://127.0.0.1:{port}"
