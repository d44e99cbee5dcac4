"""Fixtures for tests that run whole suites, and the marks of tests that need what not every machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Twice as fast: tensors are small, and with two test processes on two cores a second thread only waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = """\
name: tiny
question: Does a tiny suite run?
seeds: 2
base:
  dataset: digits
  model: {name: mlp, hidden: [16]}
  training: {epochs: 4, batch_size: 64, lr: 0.1}
methods:
  - erm
  - {name: mixup, alpha: 1}
matrix:
  label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}]
"""


Bench = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tiny_suite(tmp_path: Path) -> Path:
    """Eight trials of well under a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def bench_environment() -> dict[str, str]:
    """This environment without what would send a test's results elsewhere, or is set for the tests' own process."""
    hidden = ("BENCH_RESULTS", "BENCH_DATA", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in hidden}


@pytest.fixture(scope="session")
def make_bench(bench_environment: dict[str, str]) -> Callable[[Path], Bench]:
    """The real command line in a given folder, as `make_bench(folder)("run", suite, ...)`."""

    def bench_in(folder: Path) -> Bench:
        def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "bench", *map(str, arguments)],
                cwd=folder,
                env=bench_environment | (env or {}),
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )

        return run

    return bench_in


@pytest.fixture
def bench(make_bench: Callable[[Path], Bench], tmp_path: Path) -> Bench:
    """The real command line in this test's own folder."""
    return make_bench(tmp_path)


@pytest.fixture(scope="module")
def finished(make_bench: Callable[[Path], Bench], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The tiny suite after `bench run`, once for all tests of a module that leave it as it is.

    What the run printed, and the folder that holds tiny.yaml, results and reports.
    """
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    result = make_bench(folder)("run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {}
    if "BENCH_TEST_DATA" not in os.environ:
        missing["data"] = "BENCH_TEST_DATA names no folder with real data sets"
    if shutil.which("chromium") is None:
        missing["browser"] = "chromium is not installed"
    if shutil.which("nvidia-smi") is None:
        missing["gpu"] = "there is no NVIDIA GPU"
    if "BENCH_SOAK" not in os.environ:
        missing["soak"] = "takes ten minutes: make soak"
    for item in items:
        for mark, reason in missing.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
