"""What a user sees in MLflow's own page: the link opens runs and charts, the description leads to the report."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.plan.plan import Plan, PlannedTrial
from bench.results.mlflow import Publisher
from bench.results.store import Store

if TYPE_CHECKING:
    from conftest import Worker
    from playwright.sync_api import Page

    MakeWorker = Callable[[PlannedTrial], Worker]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]

REPORT = "<!doctype html><title>page</title><h1>The answer</h1><script>document.title = 'alive'</script>"


@pytest.fixture
def ui(store: Store, database: Path, bench_environment: dict[str, str]) -> Iterator[str]:
    """The address of `bench ui`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "bench", "ui", "--results", str(store.root), "--port", str(port)]
    log = store.root / "ui.log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, env=bench_environment, stdout=file, stderr=file, start_new_session=True)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(urllib.error.URLError, OSError):
                direct.open(f"http://127.0.0.1:{port}/health", timeout=10).close()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def page() -> Iterator[Page]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 2000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_the_link_opens_runs_columns_and_charts_and_the_description_the_report(
    store: Store, plan: Plan, worker: MakeWorker, tmp_path: Path, ui: str, page: Page
) -> None:
    for planned in plan.trials:
        worker(planned).complete()
    report = tmp_path / "report.html"
    report.write_text(REPORT)
    uri = f"sqlite:///{store.root / 'mlflow.db'}"
    with Publisher(store, plan, tracking_uri=uri, experiment="digits") as publisher:
        assert publisher.publish_once().error == ""
        assert publisher.publish_report([report], verdicts=["mixup is better"]).error == ""
        link = publisher.link(ui)
    assert link is not None

    page.goto(link)
    page.get_by_text(re.compile(r"12\s+matching runs")).first.wait_for()
    page.get_by_text("Group: erm", exact=False).first.wait_for()
    page.get_by_text("Comparison: mean over seeds").wait_for()
    for title in ("alpha vs. final/test_error", "Parallel Coordinates", "test/error", "train/loss", "final/test_nll"):
        page.get_by_text(title, exact=True).first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for()
    page.get_by_text("mixup a=1 | uniform 40 %").first.wait_for()  # in a chart's legend
    page.get_by_text(re.compile("^label_.*rate$")).first.wait_for()  # an axis

    page.get_by_role("button", name="Views").click()
    for entry in ("means of 2 seeds, 12 runs", "single seeds, 12 runs"):
        page.get_by_text(re.compile(f"^{entry}")).wait_for()

    page.goto("about:blank")
    page.goto(f"{link}-seeds")
    page.get_by_text("Comparison: single seeds").wait_for()
    page.get_by_role("link", name="erm | clean | seed 1").first.wait_for()

    page.goto("about:blank")
    page.goto(f"{link}-seeds".replace("compareRunsMode=CHART&", ""))  # the list
    page.get_by_text("digits train n=900").first.wait_for()
    for column in ("Dataset", "final/test_error"):
        page.get_by_role("columnheader", name=column).first.wait_for()

    page.get_by_text("Does mixup help?").first.click()
    address = page.get_by_text("The report", exact=True).get_attribute("href")
    page.goto("about:blank")
    page.goto(f"{ui}/{address}")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="The answer").wait_for()
