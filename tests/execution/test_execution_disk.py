"""A disk that is full, and results that can only be read: in a mount namespace, whose mounts are real."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.data import cache
from bench.execution.task import NO_SPACE
from bench.results.store import is_no_space

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """Run a command, and a shell line before it, with a mount namespace of its own."""

    def run(line: str, *command: object, cwd: Path = ROOT, timeout: int = 200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", f'{line} && exec "$@"', "sh", *map(str, command)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    try:
        able = run(f"mount -t tmpfs none {tmp_path_factory.mktemp('mount')}", "true").returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("no file systems can be mounted here: `unshare -rm` is missing or not allowed")
    return run


def test_a_full_disk_costs_nothing_that_was_there(namespace, tmp_path):
    """It is told from other failures, leaves nothing half-written, and with room again the numbers are the same."""
    (tmp_path / "mount").mkdir()
    result = namespace("true", sys.executable, Path(__file__).with_name("full_disk.py"), tmp_path / "mount")
    assert result.returncode == 0, result.stderr
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(reports) == 24
    for report in reports:
        assert report["status"] == (0 if report["free"] >= 99 else NO_SPACE), report
        assert report["finished"] == (report["status"] == 0), report
        assert report["half written"] == report["left"] == [], report
        assert all("no space is left" in reason for reason in report["reasons"]), report
        if report["what"] == "resume" and report["status"]:
            assert report["checkpoints"] == ["checkpoint.previous.pt", "checkpoint.pt"], report
        assert (report["status with room"], report["same numbers"]) == (0, True), report
    assert sum(bool(report["reasons"]) for report in reports) > 5, "there was room for the reason now and then"


def test_errors_of_a_full_disk_are_told_from_others():
    for number in (errno.ENOSPC, errno.EDQUOT):
        error = ValueError("the data set cannot be built")
        error.__cause__ = OSError(number, os.strerror(number))
        assert is_no_space(error)
    assert not is_no_space(OSError(errno.EIO, "Input/output error"))
    assert not is_no_space(ValueError("3 requested and 2 written"))


def test_numpy_gives_no_number_for_a_full_disk(namespace, tmp_path):
    """What is_no_space goes by; when NumPy mends it this fails."""
    code = "import numpy as np, sys; from bench.results.store import is_no_space\n"
    code += "try: np.save(sys.argv[1], np.zeros(10**6))\n"
    code += "except OSError as error: print(error.errno, is_no_space(error), error)"
    result = namespace(f"mount -t tmpfs -o size=1m none {tmp_path}", sys.executable, "-c", code, tmp_path / "a.npy")
    assert result.stdout.startswith("None True"), result


def test_a_data_cache_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    import numpy as np

    images, labels = np.zeros((4, 1, 2, 2), dtype=np.uint8), np.zeros(4, dtype=np.int64)
    decoded = cache.Decoded(images, labels, images, labels, ("a", "b"))

    def full(path: Path) -> None:
        if path.name == "test_images.npy":
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "sync", full)
        with pytest.raises(OSError, match="No space"):
            cache.open_or_build(tmp_path / "data", lambda: decoded)
    assert [path.name for path in tmp_path.iterdir()] == ["data.lock"]
    assert cache.open_or_build(tmp_path / "data", lambda: decoded).class_names == ("a", "b")


def test_data_that_do_not_fit_the_disk_are_said_before_anything_trains(namespace, tmp_path):
    code = "import sys; from pathlib import Path; from bench.execution.preparation import prepare_data\n"
    code += "from bench.execution.task import DataPaths, Needs\n"
    code += "sys.path.insert(0, 'tests/execution'); from worker_processes import planned_trial\n"
    code += "needs = [Needs(planned_trial(Path(sys.argv[2])).trial, ())]; root = Path(sys.argv[1])\n"
    code += "print(prepare_data(DataPaths(root / 'data', root / 'cache'), needs, processes=1, say=lambda _: None))"
    full = tmp_path / "full"
    full.mkdir()
    result = namespace(f"mount -t tmpfs -o size=64k none {full}", sys.executable, "-c", code, full, tmp_path)
    assert result.stdout.startswith("no space is left, on the disk or in the quota, below "), result
    assert f"{full / 'cache'} (caches)" in result.stdout


READ_ONLY = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"


def test_results_that_can_only_be_read_are_looked_at(namespace, finished, tmp_path):
    """`plan` asks for a network of unknown size, which it would remember in the results folder."""
    _, folder = finished
    results = folder / "results"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    read_only = READ_ONLY.format(results)
    unknown = "model={name: mlp, hidden: [17, 13]}"
    for arguments, shown in (
        (["status", "tiny.yaml"], "8 completed"),
        (["plan", "tiny.yaml"], "8 done"),
        (["plan", "tiny.yaml", "--set", unknown], "0 done"),
        (["report", "tiny.yaml", "--out", tmp_path / "out"], "report.html"),
    ):
        result = namespace(read_only, sys.executable, "-m", "bench", *arguments, cwd=folder)
        assert result.returncode == 0, result.stderr
        assert shown in result.stdout
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_results_that_cannot_be_written_are_a_clear_error(namespace, tmp_path):
    results = tmp_path / "results"
    (results / "trials").mkdir(parents=True)
    code = "import sys; from pathlib import Path; from bench.results.store import Store\n"
    code += "from bench.errors import UserError\n"
    code += "try: Store(Path(sys.argv[1])).check_writable()\n"
    code += "except UserError as error: print(error)"
    for line, said in (
        (READ_ONLY.format(results), f"nothing can be written to {results}: Read-only file system; make it writable"),
        (READ_ONLY.format(results / "trials"), f"nothing can be written to {results / 'trials'}: Read-only"),
        (READ_ONLY.format(tmp_path), "Read-only file system"),
        (
            f"mount -t tmpfs -o size=4k,nr_inodes=9 none {results} && head -c 4096 /dev/zero > {results}/filler",
            f"nothing can be written to {results}: No space left on device; make room there",
        ),
    ):
        result = namespace(line, sys.executable, "-c", code, results)
        assert said in result.stdout, (line, result)
    assert sorted(path.name for path in results.rglob("*")) == ["trials"]
