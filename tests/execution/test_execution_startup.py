"""What a run has to load, and when: a trial's process finds all of it, and the supervisor waits for none of it."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest

from bench.perf.startup import SUITE, startup_seconds

TARGET = """\
import gc, sys

def run(task, answer):
    before = set(sys.modules)
    from bench.execution.worker import work
    work(task)
    answer.send([gc.isenabled(), gc.get_freeze_count() > 100_000, *sorted(set(sys.modules) - before)])
"""

SCRIPT = """\
import json, sys
import target

if __name__ == "__main__":
    from pathlib import Path
    from bench.execution import local
    from bench.execution.task import DataPaths, Task
    from bench.plan.plan import make_plan
    from bench.plan.suite import load_suite
    from bench.results.store import Store
    from bench.training.policy import CheckpointPolicy

    folder, context, found = Path(sys.argv[1]), local.forkserver(), []
    paths = DataPaths(folder / "data", folder / "cache")
    for planned in make_plan(load_suite(folder / "suite.yaml")).trials:
        record, trial = planned.trial.record(), Store(folder).trial(planned.trial_id)
        trial.create(record)
        answer, end = context.Pipe(duplex=False)
        task = Task(record, trial.path, planned.evaluations, True, 1, paths, CheckpointPolicy(epochs=1))
        process = context.Process(target=target.run, args=(task, end))
        local.start(process)
        end.close()
        found.append(answer.recv())
        process.join()
    print(json.dumps(found))
"""


def test_a_trials_process_finds_everything_loaded(tmp_path, bench_environment):
    (tmp_path / "target.py").write_text(TARGET)
    (tmp_path / "script.py").write_text(SCRIPT)
    methods = "[erm, mixup, cutmix, {name: mixup, partner: same_class}, {name: augmix}, fmix]"
    suite = SUITE.format(seeds=1, network="mlp", epochs=2)
    suite = suite.replace("methods: [mixup]", f"methods: {methods}").replace("baseline: mixup", "baseline: erm")
    (tmp_path / "suite.yaml").write_text(suite)
    command = [sys.executable, tmp_path / "script.py", tmp_path]
    result = subprocess.run(command, env=bench_environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    first, *others = json.loads(result.stdout)
    # the first one decodes the data, which a run does before its trials
    assert first[:2] == [True, True]
    assert others == [[True, True]] * 5  # no module; garbage is collected, but not among what the forkserver loaded


def test_a_supervisor_has_nothing_heavy_loaded_when_the_first_trial_starts(tmp_path, bench_environment):
    (tmp_path / "suite.yaml").write_text(SUITE.format(seeds=1, network="mlp", epochs=1))
    (tmp_path / "script.py").write_text(
        """\
import sys

if __name__ == "__main__":
    from bench import cli
    from bench.execution.local import LocalEngine

    start = LocalEngine.start

    def told(*arguments):
        print("LOADED", *(m for m in ("torch", "mlflow", "pandas", "matplotlib", "scipy") if m in sys.modules))
        return start(*arguments)

    LocalEngine.start = told
    cli.main(["run", "suite.yaml", "--no-report", "--no-mlflow"])
"""
    )
    result = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=bench_environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("LOADED")] == ["LOADED"]


@pytest.mark.slow
def test_the_parts_of_a_start_are_numbers_that_add_up(tmp_path):
    found = startup_seconds(tmp_path, epochs=2, rounds=2)
    assert {len(values) for values in found.values()} == {2}
    assert all(value > 0 for values in found.values() for value in values)
    for name in ("run", "run, mlflow"):
        assert min(found[f"{name}: first step"]) > min(found["imports: bench.cli"])
    for fast, slow in pairwise(["imports: bench.cli", "imports: bench.execution.supervisor", "run: first step"]):
        assert min(found[fast]) < min(found[slow])
    assert max(found["trial: set up"]) < min(found["imports: bench.execution.preload"])
