"""A server that asks who one is: what bench says where it refuses, and that no secret is ever shown."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.doctor import _mlflow as doctor_on_mlflow
from bench.plan.plan import Plan, PlannedTrial
from bench.results.mlflow import Publisher
from bench.results.mlflow_access import hand_over_login, login, refusal, without_login, without_secrets
from bench.results.store import Store

if TYPE_CHECKING:
    from conftest import Worker

    MakeWorker = Callable[[PlannedTrial], Worker]
    Bench = Callable[..., subprocess.CompletedProcess[str]]

USER, PASSWORD = "ann", "correct-horse-battery"
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LOGIN:
        monkeypatch.setenv(name, "")  # so that what a test leaves is undone
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:secret@host:5000/x", "http://***@host:5000/x"),
        ("request to https://ann:se/cr@t@host/a failed", "request to https://***@host/a failed"),
        ("postgresql://ann:secret@db/mlflow", "postgresql://***@db/mlflow"),
        ("http://host:5000/x", "http://host:5000/x"),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("the server said hunter22 is wrong", "the server said *** is wrong"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    assert without_secrets(text) == shown


def test_a_login_in_the_address_goes_where_mlflow_looks_for_one() -> None:
    assert hand_over_login("http://host") == "http://host"
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ
    assert hand_over_login("postgresql://ann:secret@db/x") == "postgresql://ann:secret@db/x"
    assert hand_over_login("http://a%40b:s%2Fx@host:1/p") == "http://host:1/p"
    assert [os.environ[name] for name in LOGIN[:2]] == ["a@b", "s/x"]


def test_a_browser_gets_an_address_without_a_login() -> None:
    assert without_login("http://ann:secret@host:5000/x") == "http://host:5000/x"
    assert without_login("http://host:5000/at@sign") == "http://host:5000/at@sign"


def test_what_to_set_depends_on_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, full = "http://host", "http://bob:secret@host"
    assert (login(plain), login(full)) == ("", "user bob")
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN" in refusal(
        401, "", plain
    )
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    assert "does not take the token in MLFLOW_TRACKING_TOKEN" in refusal(401, "", plain)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert "does not know user ann" in refusal(401, "", plain)
    assert "does not know user bob with this password (401): both stand in MLFLOW_TRACKING_URI" in refusal(
        401, "", full
    )
    assert "user ann may not do this there (403): it takes the permission EDIT" in refusal(403, "denied", plain)
    assert "--allowed-hosts" in refusal(403, "Invalid Host header - possible DNS rebinding attack detected", plain)


@contextlib.contextmanager
def gate(status: int) -> Iterator[str]:
    """The host and port of a server that answers everything with this status and repeats whom it heard."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
            body = f"no entry for {given.partition(':')[2]}".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "said"), [(401, "does not know user ann"), (403, "user ann may not"), (400, "***")])
@pytest.mark.parametrize("in_address", [True, False])
def test_a_refusal_is_one_line_without_the_password(
    store: Store,
    plan: Plan,
    worker: MakeWorker,
    status: int,
    said: str,
    in_address: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker(plan.trials[0]).complete()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)  # masks what a server repeats
    if not in_address:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    with gate(status) as host:
        uri = f"http://{USER}:{PASSWORD}@{host}" if in_address else f"http://{host}"
        with Publisher(store, plan, tracking_uri=uri, experiment="digits") as publisher:
            outcome = publisher.publish_once()
            report = publisher.publish_report([], verdicts=[])
    assert outcome.pending == 1
    for error in (outcome.error, report.error):
        assert said in error
        assert PASSWORD not in error
        assert "\n" not in error


@contextlib.contextmanager
def guarded_server(folder: Path) -> Iterator[str]:
    """The host and port of a real MLflow that asks for a login and keeps the artifacts itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder.mkdir()
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = {USER}\n"
        f"admin_password = {PASSWORD}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1", "--port", port]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts"]
    env = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a test's",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            list(map(str, command)), env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            with contextlib.suppress(urllib.error.URLError, OSError):
                direct.open(f"http://127.0.0.1:{port}/health", timeout=10).close()
                break
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_publishing_to_a_server_with_logins(
    bench: Bench, store: Store, plan: Plan, worker: MakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask_wtf", reason="MLflow's server with logins needs Flask-WTF")
    from mlflow import MlflowClient

    page = tmp_path / "report.html"
    page.write_text("<html>the report</html>")
    for planned in plan.trials:
        worker(planned).complete()

    def publish(uri: str, **env: str) -> str:
        """What is wrong, if anything."""
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            with Publisher(store, plan, tracking_uri=uri, experiment="digits") as publisher:
                outcome = publisher.publish_once()
                return outcome.error or publisher.publish_report([page], verdicts=[]).error

    with guarded_server(tmp_path / "server") as host:
        plain, full = f"http://{host}", f"http://{USER}:{PASSWORD}@{host}"
        right, wrong = ({"MLFLOW_TRACKING_USERNAME": USER, LOGIN[1]: password} for password in (PASSWORD, "wrong"))
        assert "set MLFLOW_TRACKING_USERNAME" in publish(plain)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", plain)
        assert "set MLFLOW_TRACKING_USERNAME" in doctor_on_mlflow(store).remedy
        assert "see MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in publish(plain, **wrong)
        assert "does not take the token" in publish(plain, MLFLOW_TRACKING_TOKEN="wrong")
        assert publish(plain, **right) == ""
        assert "both stand in MLFLOW_TRACKING_URI" in publish(f"http://{USER}:wrong@{host}")
        assert publish(full) == ""

        monkeypatch.setenv("MLFLOW_TRACKING_URI", full)
        assert doctor_on_mlflow(store).text == f"MLflow at http://***@{host}, as user ann: 2 experiments"
        result = bench("publish", plan.suite.path, env={"MLFLOW_TRACKING_URI": f"http://{USER}:hunter22@{host}"})
        assert result.returncode == 2
        assert f"error: MLflow at http://***@{host}: the server does not know user ann" in result.stderr
        assert "hunter22" not in result.stdout + result.stderr

        for name, value in right.items():
            monkeypatch.setenv(name, value)
        client = MlflowClient(tracking_uri=plain)
        experiment = client.get_experiment_by_name("digits")
        runs = client.search_runs([experiment.experiment_id])
        assert len(runs) == len(plan.trials) + 1
        [report] = [run for run in runs if run.data.tags["role"] == "suite"]
        assert report.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert (tmp_path / "server/artifacts").is_dir()
        assert "report.html" in {each.path for each in client.list_artifacts(report.info.run_id)}
        assert PASSWORD not in f"{experiment.tags} {[run.to_dictionary() for run in runs]}"
