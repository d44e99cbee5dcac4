"""The command line as a user meets it: every command, its errors and its exit status."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import _told_apart
from bench.results.store import Store


def test_help_is_quick(bench):
    bench("--help")
    best = min(timed(lambda: bench("--help")) for _ in range(3))
    result = bench("--help")
    assert result.returncode == 0
    for command in ("list", "plan", "run", "status", "report", "trial", "publish", "merge", "ui", "schema", "doctor"):
        assert f"\n  {command} " in result.stdout
    assert best < 0.3


def test_list_is_quick_and_shows_question_trials_and_cost(bench, tiny_suite, tmp_path):
    (tmp_path / "suites").mkdir()
    tiny_suite.rename(tmp_path / "suites" / "tiny.yaml")
    bench("list")
    assert min(timed(lambda: bench("list")) for _ in range(3)) < 1.0
    result = bench("list")
    assert "tiny\n  Does a tiny suite run?\n  8 trials (2 cells, 2 arms, 2 seeds), 0 done" in result.stdout


def timed(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def test_a_comparison_is_named_by_what_tells_the_folders_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _told_apart(Path("old"), Path("new")) == ["old", "new"]
    assert _told_apart(Path("a/results"), Path("b/results")) == ["a-results", "b-results"]
    assert _told_apart(Path("results"), Path("b/results")) == [f"{tmp_path.name}-results", "b-results"]


def test_list_names_a_broken_suite_and_shows_the_others(bench, tiny_suite, tmp_path):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "tiny.yaml").write_text(tiny_suite.read_text())
    (tmp_path / "suites" / "broken.yaml").write_text(tiny_suite.read_text().replace("methods", "method"))
    result = bench("list")
    assert result.returncode == 2
    assert "Does a tiny suite run?" in result.stdout
    assert "broken.yaml:8" in result.stderr
    assert "did you mean 'methods'?" in result.stderr


def test_plan_tells_cost_and_what_the_seeds_can_show(bench, tiny_suite):
    text = (
        tiny_suite.read_text().replace("alpha: 1}", "alpha: [0.1, 0.2, 0.5, 1, 2, 4]}").replace("seeds: 2", "seeds: 6")
    )
    tiny_suite.write_text(text)
    result = bench("plan", tiny_suite)
    assert result.returncode == 0, result.stderr
    assert "84 trials (2 cells, 7 arms, 6 seeds), 0 done, 84 to run" in result.stdout
    assert "6 seeds, 12 comparisons" in result.stdout
    assert "at best 0.375; 9 seeds would do" in result.stdout
    assert "time      about" in result.stdout
    assert "disk      " in result.stdout


def test_plan_shows_what_is_done(finished, make_bench):
    bench = make_bench(finished[1])
    result = bench("plan", "tiny.yaml", "--trials")
    assert "8 done, 0 to run" in result.stdout
    assert result.stdout.count("  completed  ") == 8
    more = bench("plan", "tiny.yaml", "--set", "seeds=3")
    assert "12 trials (2 cells, 2 arms, 3 seeds), 8 done, 4 to run" in more.stdout
    assert "from trials that finished here" in more.stdout


def test_status(finished, make_bench):
    result = make_bench(finished[1])("status", "tiny.yaml")
    assert result.returncode == 0
    assert "8 completed" in result.stdout


def test_a_network_that_cannot_take_the_images_is_refused_before_training(bench, tiny_suite):
    options = (
        "--set",
        "model={name: lenet}",
        "--set",
        "seeds=1",
        "--set",
        "methods=[erm]",
        "--no-mlflow",
        "--no-report",
    )
    result = bench("run", tiny_suite, *options)
    assert result.returncode == 2
    assert "lenet needs images of at least 28x28" in result.stderr


def test_trial_shows_one_and_reruns_it_to_the_same_bits(finished, make_bench):
    bench, trial_id = make_bench(finished[1]), Store(finished[1] / "results").trial_ids()[0]
    result = bench("trial", trial_id[:8])
    assert result.returncode == 0
    assert trial_id in result.stdout
    assert "completed" in result.stdout
    assert "test_error_last" in result.stdout
    again = bench("trial", trial_id[:8], "--rerun")
    assert again.returncode == 0, again.stderr
    assert "epoch 4/4" in again.stdout
    assert "equal the stored ones to the last bit" in again.stdout


def test_a_rerun_that_differs_says_so(finished, make_bench, tmp_path):
    shutil.copytree(finished[1] / "results", tmp_path / "results")
    store = Store(tmp_path / "results")
    folder = store.trial(store.trial_ids()[0])
    final = folder.final()
    final["metrics"]["test_error_last"] += 0.01
    folder.write_final(final)
    result = make_bench(tmp_path)("trial", folder.trial_id, "--rerun")
    assert result.returncode == 1
    assert "differs: test_error_last" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("plan", "nosuch"), "no suite 'nosuch'"),
        (("plan", "nosuch.yaml"), "nosuch.yaml: cannot be read"),
        (("plan", "tiny"), "did you mean the file tiny.yaml?"),
        (("report", "tiny.yaml"), "/results (there is no such folder) has no trial of tiny: bench run first"),
        (("report", "tiny.yaml", "--results", ".", "--seeds", "1"), " has no trial of tiny --set 'seeds=1': bench run"),
        (("publish", "tiny.yaml"), "/results (there is no such folder) has no trial of tiny: bench run first"),
        (("ui",), "/results: there is none; bench run first"),
        (("plan", "tiny.yaml", "--set", "training.epoch=2"), "epochs"),
        (("plan", "tiny.yaml", "--set", "seeds"), "should be key=value"),
        (("run", "tiny.yaml", "--devices", "7"), "no GPU '7' is visible"),
        (("trial", "0123"), "no trial"),
        (("trial", ""), "trial"),
    ],
)
def test_errors_are_one_message_and_status_2(bench, tiny_suite, arguments, complaint):
    result = bench(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_schema_is_json(bench):
    assert "properties" in json.loads(bench("schema").stdout)


def test_doctor_ticks_everything_here(bench, tmp_path):
    result = bench("doctor")
    assert result.returncode == 0, result.stdout
    assert "✗" not in result.stdout
    for word in ("Python", "torch", "MLflow", "CPU cores", "results", "data root", "precision: bf16"):
        assert word in result.stdout


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="torch can use the GPU here")
def test_doctor_says_when_torch_cannot_use_the_gpu(bench, tmp_path, bench_environment):
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 0, GPU-aaaa1111, NVIDIA H200, 143771, 143000, Disabled\n")
    smi.chmod(0o755)
    result = bench("doctor", env={"PATH": f"{smi.parent}:{bench_environment['PATH']}"})
    assert result.returncode == 1
    assert "✗ torch" in result.stdout
    assert "cannot use it: run with --devices cpu" in result.stdout


def test_doctor_says_what_is_wrong(bench, tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    result = bench("doctor")
    assert result.returncode == 1
    assert "✗ results" in result.stdout


def test_ctrl_c_is_status_130_wherever_it_falls(tiny_suite, tmp_path, bench_environment):
    """Here before the trials, while a driver is asked that does not answer."""
    smi, asked = tmp_path / "bin" / "nvidia-smi", tmp_path / "asked"
    smi.parent.mkdir()
    smi.write_text(f"#!/bin/sh\ntouch {asked}\nexec sleep 60\n")
    smi.chmod(0o755)
    command = [sys.executable, "-m", "bench", "run", str(tiny_suite)]
    env = bench_environment | {"PATH": f"{smi.parent}:{bench_environment['PATH']}"}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        while not asked.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said.strip()) == (130, "interrupted")
