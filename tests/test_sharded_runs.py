"""A suite in two shards on two machines that share nothing, through the real command line."""

from __future__ import annotations

import re

import pytest

from bench.results.store import Store


@pytest.fixture(scope="module")
def machines(finished, make_bench, tmp_path_factory):
    """Two folders, each with its shard of the tiny suite, and what was printed there."""
    text = (finished[1] / "tiny.yaml").read_text()
    folders, printed = [], []
    for index in (1, 2):
        folder = tmp_path_factory.mktemp(f"machine{index}")
        (folder / "tiny.yaml").write_text(text)
        result = make_bench(folder)("run", "tiny.yaml", "--shard", f"{index}/2", *["--no-mlflow"][: index - 1])
        assert result.returncode == 0, result.stdout + result.stderr
        folders.append(folder)
        printed.append(result.stdout)
    return folders, printed


def test_a_shard_runs_its_part_and_renders_no_report(machines):
    folders, printed = machines
    for index, (folder, text) in enumerate(zip(folders, printed, strict=True), start=1):
        assert f"shard {index}/2: 4 of 8 trials (2 cells, 2 arms, 2 seeds), 0 done" in text
        assert "4/4 done" in text
        assert f"shard {index}/2 has ended" in text
        assert not (folder / "reports").exists()
    first, second = (set(Store(folder / "results").trial_ids()) for folder in folders)
    assert len(first) == len(second) == 4
    assert not first & second


def test_plan_and_status_of_a_shard(machines, make_bench):
    bench = make_bench(machines[0][0])
    plan = bench("plan", "tiny.yaml", "--shard", "1/2")
    assert "shard 1/2: 4 of 8 trials (2 cells, 2 arms, 2 seeds), 4 done, 0 to run" in plan.stdout
    assert "2 seeds, 2 comparisons" in plan.stdout
    assert "4 completed\n" in bench("status", "tiny.yaml", "--shard", "1/2").stdout
    assert "4 completed, 4 new\n" in bench("status", "tiny.yaml").stdout


def test_merged_shards_are_the_suite(machines, finished, make_bench, tmp_path):
    folders, _ = machines
    (tmp_path / "tiny.yaml").write_text((finished[1] / "tiny.yaml").read_text())
    bench = make_bench(tmp_path)
    merged = bench("merge", *(folder / "results" for folder in folders))
    assert merged.returncode == 0, merged.stderr
    assert "8  copied" in merged.stdout
    report = bench("report", "tiny.yaml")
    assert report.returncode == 0, report.stderr
    names = ("comparison.csv", "comparison.md", "secondary.csv")
    for name in names:
        own = (tmp_path / "reports/out/tiny" / name).read_bytes()
        assert own == (finished[1] / "reports/out/tiny" / name).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results/trials").rglob("*.json*")}
    again = bench("run", "tiny.yaml", "--no-report", "--no-mlflow")
    assert again.returncode == 0, again.stderr
    assert "8 done" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_shard_is_published_as_a_part_of_the_whole_plan(machines, finished):
    address = r"viewStateShareKey=bench-\w{8}"
    assert re.search(address, machines[1][0])[0] == re.search(address, finished[0])[0]


@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_bad_and_empty_shards(bench, tiny_suite, tmp_path, command):
    bad = bench(command, tiny_suite, "--shard", "5/4")
    assert bad.returncode == 2
    assert "--shard 5/4: shards count from 1, so that of 4 the last is 4/4" in bad.stderr
    empty = bench(command, tiny_suite, "--shard", "5/5")
    assert empty.returncode == 0, empty.stderr
    assert "tiny: shard 5/5 is empty" in empty.stdout
    assert not (tmp_path / "results").exists()
