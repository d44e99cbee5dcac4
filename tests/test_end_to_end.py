"""One command from YAML to MLflow and a report, through the real command line."""

import csv
import os
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest

from bench.results.store import Store


def runs_in_mlflow(tmp_path) -> list[tuple[str, str]]:
    with sqlite3.connect(tmp_path / "results" / "mlflow.db") as database:
        query = "SELECT run_uuid, value FROM tags WHERE key = 'trial_id'"
        return database.execute(query).fetchall()


def test_from_yaml_to_report_and_mlflow(finished):
    printed, folder = finished
    assert "8/8 done" in printed
    assert "mixup alpha=1" in printed
    page = folder / "reports" / "out" / "tiny" / "report.html"
    assert str(page) in printed
    assert "compareRunsMode=CHART" in printed
    text = page.read_text()
    assert "Does a tiny suite run?" in text
    for outside in ('src="http', 'href="http', "url(http", "<script src", "<link "):
        assert outside not in text, "the page asks for something outside of itself"
    for figure in ("differences", "learning_curves", "reliability"):
        assert (page.parent / "figures" / f"{figure}.png").stat().st_size > 5000
        assert (page.parent / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    assert len(runs_in_mlflow(folder)) == 8
    assert len({trial for _, trial in runs_in_mlflow(folder)}) == 8


def test_the_table_is_what_the_trials_found(finished):
    """The paired difference in comparison.csv, computed again from the result store by hand."""
    _, folder = finished
    store = Store(folder / "results")
    error = {}
    for trial_id in store.trial_ids():
        trial = store.trial(trial_id).record()["trial"]
        key = (trial["label_noise"]["rate"], trial["method"]["name"], trial["seed"])
        error[key] = store.trial(trial_id).final()["metrics"]["test_error_last"]
    with (folder / "reports" / "out" / "tiny" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    compared = [row for row in rows if row["arm"] == "mixup alpha=1"]
    assert len(compared) == 2
    for row, rate in zip(compared, (0.0, 0.4), strict=True):
        by_hand = sum(error[rate, "mixup", seed] - error[rate, "erm", seed] for seed in (0, 1)) / 2
        assert float(row["difference"]) == pytest.approx(by_hand)


def test_the_same_command_again_trains_and_publishes_nothing_twice(finished, make_bench):
    _, folder = finished
    before = runs_in_mlflow(folder)
    again = make_bench(folder)("run", "tiny.yaml")
    assert again.returncode == 0, again.stderr
    assert "8 done" in again.stdout
    assert sorted(runs_in_mlflow(folder)) == sorted(before)
    assert make_bench(folder)("publish", "tiny.yaml").returncode == 0
    assert sorted(runs_in_mlflow(folder)) == sorted(before)


def test_publish_catches_up_after_a_run_without_mlflow(bench, tiny_suite, tmp_path):
    away = bench("run", tiny_suite, env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert away.returncode == 0, away.stderr
    assert "is behind" in away.stdout
    assert "bench publish" in away.stdout
    assert bench("publish", tiny_suite).returncode == 0
    assert len(runs_in_mlflow(tmp_path)) == 8


def test_a_report_of_half_a_suite(bench, tiny_suite, tmp_path):
    """One seed of two: the report says that pairs are missing and draws no conclusion from one."""
    assert bench("run", tiny_suite, "--seeds", "1", "--no-mlflow", "--no-report").returncode == 0
    result = bench("report", tiny_suite)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "reports" / "out" / "tiny" / "report.html").read_text()
    assert "4 not started" in text
    assert "too few pairs" in text
    assert "provisional" in text
    assert "better" not in result.stdout


def test_where_nothing_can_be_written(finished, make_bench, tmp_path):
    """One error before anything is made; and a report of no trials does not take the place of one of many."""
    _, folder = finished
    bench = make_bench(folder)
    page = folder / "reports" / "out" / "tiny" / "report.html"
    before = page.read_bytes()
    shutil.copytree(folder / "results", tmp_path / "results")
    for command in (("report", "tiny.yaml"), ("compare", "results", tmp_path / "results")):
        refused = bench(*command, "--out", "tiny.yaml")
        assert refused.returncode == 2
        assert refused.stderr == "error: nothing can be written to tiny.yaml: File exists; choose another with --out\n"
    (tmp_path / "empty").mkdir()
    refused = bench("report", "tiny.yaml", "--results", tmp_path / "empty")
    assert refused.returncode == 2
    assert "has no trial of tiny: bench run first" in refused.stderr
    assert page.read_bytes() == before


def test_a_watched_report_grows_with_the_run(bench, tiny_suite, tmp_path, bench_environment):
    page = tmp_path / "reports" / "out" / "tiny" / "report.html"
    assert bench("run", tiny_suite, "--max-trials", 4, "--no-mlflow", "--no-report").returncode == 3
    command = [sys.executable, "-m", "bench", "report", str(tiny_suite), "--watch", "--every", "1"]
    with subprocess.Popen(command, cwd=tmp_path, env=bench_environment, stdout=subprocess.PIPE, text=True) as watching:
        lines = iter(watching.stdout.readline, "")
        assert next(line for line in lines if "of 8 trials" in line).split("  ")[1].startswith("4 of 8 trials, 2 of 4")
        assert '<meta http-equiv="refresh" content="1">' in page.read_text()
        assert bench("run", tiny_suite, "--no-mlflow", "--no-report").returncode == 0
        rest = watching.communicate(timeout=100)[0]
    assert watching.returncode == 0
    assert "8 of 8 trials, 4 of 4 pairs" in rest
    assert "refresh" not in page.read_text(), "it would reload for ever"
    assert "provisional" not in page.read_text()


def test_her_own_images_in_a_ten_line_suite(bench, tmp_path):
    """Two classes that differ in brightness, as folders of PNG files."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for name, level in (("dark", 60), ("light", 190)):
            folder = tmp_path / "birds" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(level, 40, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    suite = tmp_path / "birds.yaml"
    suite.write_text(
        "name: birds\n"
        "question: Does mixup help on my birds?\n"
        "seeds: 2\n"
        "base:\n"
        "  dataset: {name: image_folder, root: ./birds, image_size: 16}\n"
        "  model: {name: timm/test_resnet}\n"
        "  training: {epochs: 3, batch_size: 16, lr: 0.05, flip: true, crop_padding: 2}\n"
        "methods:\n"
        "  - erm\n"
        "  - {name: mixup, alpha: [0.2, 1]}\n"
    )
    result = bench("run", suite, "--no-mlflow")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6/6 done" in result.stdout
    trials = Store(tmp_path / "results").trial_ids()
    os.rename(tmp_path / "birds", tmp_path / "moved")  # noqa: PTH104
    suite.write_text(suite.read_text().replace("./birds", "./moved"))
    again = bench("run", suite, "--no-mlflow")
    assert "6 done" in again.stdout, "a moved folder is the same data"
    assert Store(tmp_path / "results").trial_ids() == trials


def test_an_override_that_changes_no_trial_still_counts(finished, make_bench):
    """Of evaluations and of the baseline no trial's id knows anything."""
    _, folder = finished
    bench = make_bench(folder)
    measured = "evaluate=[clean, {name: in_between, pairs: 20}]"
    assert "0 done, 8 trained and to be evaluated" in bench("plan", "tiny.yaml", "--set", measured).stdout
    assert "8 done" in bench("plan", "tiny.yaml", "--set", "training.epochs=4").stdout
    shown = bench("report", "tiny.yaml", "--set", "baseline=mixup alpha=1", "--out", folder / "turned").stdout
    assert re.search(r"mixup alpha=1 .* baseline\nERM .* no clear difference", shown), shown


def test_a_run_with_overrides_has_a_report_of_its_own(finished, make_bench):
    """And overrides that change nothing are none."""
    _, folder = finished
    bench, page = make_bench(folder), folder / "reports" / "out" / "tiny" / "report.html"
    before = page.read_bytes()
    other = bench("report", "tiny.yaml", "--seeds", "1")
    assert other.returncode == 0, other.stderr
    assert page.read_bytes() == before
    assert "tiny-" in other.stdout
    same = bench("report", "tiny.yaml", "--seeds", "2")
    assert str(page) in same.stdout
    assert "overridden" not in page.read_text()


def test_two_suites_in_one_report(finished, make_bench):
    """Of one that has no trial yet as well: it is part of the family, and its pairs are left out."""
    _, folder = finished
    text = (folder / "tiny.yaml").read_text()
    (folder / "wide.yaml").write_text(text.replace("name: tiny", "name: wide").replace("[16]", "[24]"))
    result = make_bench(folder)("report", "tiny.yaml", "wide.yaml")
    assert result.returncode == 0, result.stderr
    with (folder / "reports" / "out" / "tiny+wide" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = {row["cell"]: row["pairs"] for row in rows if row["arm"] == "mixup alpha=1"}
    assert pairs == {
        "mlp hidden=[16], clean": "2",
        "mlp hidden=[16], uniform 40 %": "2",
        "mlp hidden=[24], clean": "0",
        "mlp hidden=[24], uniform 40 %": "0",
    }
    refused = make_bench(folder)("report", "tiny.yaml", "tiny.yaml")
    assert refused.returncode == 2
    assert "given twice" in refused.stderr
