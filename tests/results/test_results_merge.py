"""Joining results folders: what is taken, what stays, what is a conflict, and what a kill in the middle leaves."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.results.merge import Merged, merge, merged_lines
from bench.results.store import Store, TrialFolder

HOLD = """
import sys, time
from pathlib import Path
from bench.results.store import TrialFolder
with TrialFolder(Path(sys.argv[1])).claim():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def trained(finished, tmp_path: Path) -> Store:
    """Eight trials that a machine has finished."""
    shutil.copytree(finished[1] / "results", tmp_path / "machine" / "results")
    return Store(tmp_path / "machine" / "results")


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store(tmp_path / "all")


def content(store: Store) -> dict[str, bytes]:
    """Every file below the trials folder, but for locks."""
    trials = store.root / "trials"
    return {
        str(path.relative_to(trials)): path.read_bytes()
        for path in trials.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def said(merged: Merged) -> str:
    return "\n".join(merged_lines(merged, Path("all")))


def edit_final(folder: TrialFolder, **metrics: float) -> None:
    final = folder.final()
    assert final is not None
    folder.write_final(final | {"metrics": final["metrics"] | metrics})


def unfinish(folder: TrialFolder, *, epochs: int) -> None:
    """As a trial is that was killed after `epochs` epochs and a checkpoint."""
    lines = (folder.path / "journal.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["event"] == "started"][:1]
    kept += [line for line in lines if json.loads(line)["event"] == "epoch"][:epochs]
    kept += [json.dumps({"event": "checkpoint", "epoch": epochs, "time": 1.0})]
    (folder.path / "journal.jsonl").write_text("".join(f"{line}\n" for line in kept))
    folder.checkpoint.write_bytes(b"as it was after epoch %d" % epochs)
    for path in ("final.json", "weights.pt", "logits.npz"):
        (folder.path / path).unlink()
    shutil.rmtree(folder.path / "evaluations", ignore_errors=True)


def test_two_machines_come_together_and_once_more_changes_nothing(trained, target, tmp_path):
    other = Store(tmp_path / "other")
    shutil.copytree(trained.root, other.root)
    ids = trained.trial_ids()
    for store, gone in ((trained, ids[:3]), (other, ids[5:])):
        for trial_id in gone:
            shutil.rmtree(store.trial(trial_id).path)
    merged = merge([trained.root, other.root], target.root)
    assert merged.counts == {"copied": 8, "the same": 2}
    assert target.trial_ids() == ids
    assert content(target) == content(trained) | content(other)
    before = {path: path.stat().st_mtime_ns for path in target.root.rglob("*")}
    again = merge([trained.root, other.root], target.root)
    assert again.counts == {"the same": 10}
    assert again.is_whole
    after = {path: path.stat().st_mtime_ns for path in target.root.rglob("*")}
    assert after.pop(target.root / "merge.lock")
    assert after == {path: when for path, when in before.items() if path.name != "merge.lock"}


def test_a_dry_run_says_the_same_and_changes_nothing(trained, target, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained.root, other)
    ids = trained.trial_ids()
    shutil.copytree(trained.trial(ids[0]).path, target.trial(ids[0]).path)
    target.trial(ids[0]).logits.unlink()
    before = content(target)
    dry = merge([trained.root, other], target.root, dry_run=True)
    assert content(target) == before
    assert dry == merge([trained.root, other], target.root)
    assert dry.counts == {"completed": 1, "copied": 7, "the same": 8}


def test_what_only_the_other_has_of_an_equal_trial_is_brought_over(trained, target):
    merge([trained.root], target.root)
    whole = content(target)
    folder = target.trial(trained.trial_ids()[0])
    for path in (*(folder.path / "evaluations").glob("*.json"), folder.logits, folder.weights):
        path.unlink()
    final = folder.final()
    folder.write_final(final | {"provenance": final["provenance"] | {"host": "other"}, "total_seconds": 1.5})
    own = (folder.path / "final.json").read_bytes()
    merged = merge([trained.root], target.root)
    assert merged.counts == {"completed": 1, "the same": 7}
    assert f"the same results, with {merged.files} files that were missing here" in said(merged)
    assert merged.files >= 3
    assert (folder.path / "final.json").read_bytes() == own
    assert content(target) == whole | {f"{folder.trial_id}/final.json": own}


def test_different_results_are_a_conflict_and_the_rest_is_merged(trained, target, make_bench, tmp_path):
    ids = trained.trial_ids()
    shutil.copytree(trained.trial(ids[2]).path, target.trial(ids[2]).path)
    edit_final(target.trial(ids[2]), test_error_last=0.123)
    before = content(target)
    result = make_bench(tmp_path)("merge", trained.root, "--results", target.root)
    assert result.returncode == 1, result.stderr
    there = trained.trial(ids[2]).final()
    assert f"conflict  {ids[2]}  with {trained.root}" in result.stdout
    error = json.dumps(there["metrics"]["test_error_last"])
    assert f"metrics test_error_last: 0.123 here, {error} there" in result.stdout
    assert result.stdout.count(there["provenance"]["host"]) == 2
    assert f"torch {there['provenance']['versions']['torch']}" in result.stdout
    assert target.trial_ids() == ids
    assert {name: content(target)[name] for name in before} == before


def test_a_curve_that_differs_is_a_conflict(trained, target):
    merge([trained.root], target.root)
    folder = target.trial(trained.trial_ids()[0])
    epoch = folder.epochs()[1]
    del epoch["event"], epoch["time"]
    folder.append("epoch", **epoch | {"test_error": 0.5, "train_seconds": 77.0})
    final = folder.final()
    folder.write_final(final | {"total_seconds": 1.5})
    [conflict] = merge([trained.root], target.root).conflicts
    assert [what for what, *_ in conflict.differences] == ["journal epoch 2 test_error"]


def test_an_evaluation_that_differs_is_a_conflict_and_nothing_of_the_trial_is_taken(trained, target):
    merge([trained.root], target.root)
    folder = target.trial(trained.trial_ids()[0])
    key = next((folder.path / "evaluations").glob("*.json")).stem
    record = folder.evaluation(key)
    folder.write_evaluation(key, record | {"seconds": 99.0})
    assert merge([trained.root], target.root).counts == {"the same": 8}
    metric = next(iter(record["metrics"]))
    folder.write_evaluation(key, record | {"metrics": record["metrics"] | {metric: 0.5}})
    folder.logits.unlink()
    before = content(target)
    [conflict] = merge([trained.root], target.root).conflicts
    assert conflict.differences == ((f"evaluations/{key} metrics {metric}", 0.5, record["metrics"][metric]),)
    assert content(target) == before


def test_a_trial_file_that_differs_is_a_conflict_but_not_for_a_path(trained, target):
    merge([trained.root], target.root)
    path = target.trial(trained.trial_ids()[0]).path / "trial.json"
    record = json.loads(path.read_text())
    record["trial"]["dataset"]["root"] = "/elsewhere"
    record["trial"]["label_noise"]["option_of_a_later_version"] = None
    path.write_text(json.dumps(record))
    assert merge([trained.root], target.root).counts == {"the same": 8}
    record["trial"]["seed"] += 1
    path.write_text(json.dumps(record))
    [conflict] = merge([trained.root], target.root).conflicts
    assert conflict.differences == (("trial.json seed", record["trial"]["seed"], record["trial"]["seed"] - 1),)


def test_a_finished_trial_replaces_an_unfinished_one_whole(trained, target):
    merge([trained.root], target.root)
    whole, ids = content(target), trained.trial_ids()
    unfinish(target.trial(ids[0]), epochs=2)
    assert merge([trained.root], target.root).counts == {"replaced": 1, "the same": 7}
    assert content(target) == whole
    unfinish(trained.trial(ids[1]), epochs=2)
    assert merge([trained.root], target.root).counts == {"kept": 1, "the same": 7}
    assert content(target) == whole


@pytest.mark.parametrize(("here", "there", "outcome"), [(1, 3, "further on"), (3, 1, "kept"), (2, 2, "the same")])
def test_of_two_unfinished_trials_the_one_further_on_stays(trained, target, here, there, outcome):
    merge([trained.root], target.root)
    trial_id = trained.trial_ids()[0]
    unfinish(target.trial(trial_id), epochs=here)
    unfinish(trained.trial(trial_id), epochs=there)
    assert merge([trained.root], target.root).counts == Counter({"the same": 7}) + Counter({outcome: 1})
    assert target.trial(trial_id).checkpoint.read_bytes() == b"as it was after epoch %d" % max(here, there)
    assert len(target.trial(trial_id).epochs()) == max(here, there)


def test_epochs_without_their_checkpoint_do_not_count(trained, target):
    merge([trained.root], target.root)
    trial_id = trained.trial_ids()[0]
    unfinish(target.trial(trial_id), epochs=1)
    unfinish(trained.trial(trial_id), epochs=3)
    trained.trial(trial_id).checkpoint.unlink()
    assert merge([trained.root], target.root).counts["kept"] == 1


@pytest.mark.parametrize("where", ["source", "target"])
def test_a_trial_that_is_worked_on_is_left_out_and_said(trained, target, where):
    merge([trained.root], target.root)
    trial_id = trained.trial_ids()[0]
    unfinish(target.trial(trial_id), epochs=2)
    before = content(target)
    folder = (trained if where == "source" else target).trial(trial_id)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        merged = merge([trained.root], target.root)
        holder.kill()
    assert merged.counts == {"in use": 1, "the same": 7}
    assert not merged.is_whole
    assert f"in use    {folder.path}" in said(merged)
    assert content(target) == before
    assert merge([trained.root], target.root).counts == {"replaced": 1, "the same": 7}


@pytest.mark.parametrize("text", ['{"status": "comp', "{}", ""])
def test_a_damaged_final_file_is_no_result(trained, target, text):
    ids = trained.trial_ids()
    shutil.copytree(trained.trial(ids[0]).path, target.trial(ids[0]).path)
    for trial_id in ids[:2]:
        (trained.trial(trial_id).path / "final.json").write_text(text)
    merged = merge([trained.root], target.root)
    assert merged.counts == {"kept": 1, "copied": 7}
    assert target.trial(ids[0]).status() == "completed"
    assert target.trial(ids[1]).status() == "interrupted"


def test_folders_that_are_no_trials_are_left_out(trained, target):
    ids = trained.trial_ids()
    (trained.root / "trials" / "empty").mkdir()
    (trained.root / "trials" / "a file").touch()
    trained.trial(ids[0]).path.rename(trained.root / "trials" / "renamed")
    merged = merge([trained.root], target.root)
    assert merged.counts == {"copied": 7, "unreadable": 2}
    assert target.trial_ids() == ids[1:]


def make_bad(kind: str, trained: Store, target: Store, tmp_path: Path) -> Path:
    if kind == "inside":
        return shutil.copytree(trained.root, target.root / "x")
    if kind == "links":  # every trial of another results folder
        (tmp_path / "links" / "trials").mkdir(parents=True)
        for trial_id in trained.trial_ids():
            (tmp_path / "links" / "trials" / trial_id).symlink_to(trained.trial(trial_id).path)
        return tmp_path / "links"
    if kind == "link below":
        path = trained.trial(trained.trial_ids()[-1]).weights
        path.rename(tmp_path / "weights.pt")
        path.symlink_to(tmp_path / "weights.pt")
        return trained.root
    return {
        "no results": tmp_path,
        "gone": tmp_path / "gone",
        "trials": trained.root / "trials",
        "target": target.root,
        "target by another name": target.root / ".." / target.root.name,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("no results", "no results folder: it has no folder trials/"),
        ("gone", "no results folder"),
        ("trials", "give the folder that holds trials/"),
        ("target", "is the results folder that is merged into"),
        ("target by another name", "is the results folder that is merged into"),
        ("inside", "lies inside"),
        ("links", "is a symbolic link"),
        ("link below", "is a symbolic link"),
    ],
)
def test_a_source_that_is_none_is_refused_before_anything_is_copied(trained, target, tmp_path, kind, complaint):
    good = shutil.copytree(trained.root, tmp_path / "good")
    (target.root / "trials").mkdir(parents=True)
    bad = make_bad(kind, trained, target, tmp_path)
    with pytest.raises(UserError, match=complaint):
        merge([good, bad], target.root)
    assert target.trial_ids() == []


def test_the_results_folder_inside_a_source_is_refused(trained):
    with pytest.raises(UserError, match="lies inside"):
        merge([trained.root], trained.root / "all")


def test_one_merge_at_a_time(trained, target):
    target.root.mkdir()
    hold = HOLD.replace("TrialFolder(Path(sys.argv[1])).claim()", "exclusive(Path(sys.argv[1]))")
    hold = hold.replace("import TrialFolder", "import exclusive")
    command = [sys.executable, "-c", hold, str(target.root / "merge.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another merge works on"):
            merge([trained.root], target.root)
        holder.kill()


def run_merge(source: Store, target: Store, *, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "merge", str(source.root), "--results", str(target.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_merge_that_is_killed_leaves_no_half_of_a_trial_and_the_same_command_goes_on(trained, target, unfinished):
    """The big one is the last; in the middle of it the merge is killed."""
    ids = trained.trial_ids()
    if unfinished:
        merge([trained.root], target.root)
        unfinish(target.trial(ids[-1]), epochs=2)
    earlier = content(target)
    with trained.trial(ids[-1]).weights.open("ab") as file:
        for _ in range(100):
            file.write(bytes(2**20))
    copying = target.root / "trials" / f".merge-new-{ids[-1]}"
    with run_merge(trained, target) as process:
        while not copying.exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert copying.exists(), "killed too late to show anything"
    assert target.trial_ids() == (ids if unfinished else ids[:-1])
    whole = content(trained)
    assert {k: v for k, v in content(target).items() if not k.startswith(".")} == earlier | {
        k: v for k, v in whole.items() if not k.startswith(ids[-1])
    }
    with run_merge(trained, target) as process:
        assert process.wait() == 0, process.stderr.read()
    assert content(target) == whole


def test_an_unfinished_trial_whose_replacing_was_killed_comes_back(trained, target, tmp_path):
    """Between the two renames: the old folder has gone aside, the new one is not there yet."""
    merge([trained.root], target.root)
    whole, trial_id = content(target), trained.trial_ids()[0]
    folder = target.trial(trial_id)
    shutil.copytree(folder.path, target.root / "trials" / f".merge-new-{trial_id}")
    unfinish(folder, epochs=2)
    folder.path.rename(target.root / "trials" / f".merge-old-{trial_id}")
    other = Store(tmp_path / "other")
    other.trial("x").create({"trial_id": "x", "trial": {}})
    assert merge([other.root], target.root).counts == {"copied": 1}
    assert folder.checkpoint.read_bytes() == b"as it was after epoch 2"
    shutil.copytree(folder.path, target.root / "trials" / f".merge-old-{trial_id}")
    shutil.rmtree(target.trial("x").path)
    assert merge([trained.root], target.root).counts == {"replaced": 1, "the same": 7}
    assert content(target) == whole


def test_a_full_disk_leaves_whole_trials_and_the_same_command_goes_on(trained, target):
    """A limit on the size of files stands for it: the copy of the last trial's weights fails half way."""
    ids = trained.trial_ids()
    with trained.trial(ids[-1]).weights.open("ab") as file:
        file.write(bytes(2**22))
    limited = run_merge(
        trained, target, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, resource.RLIM_INFINITY))
    )
    _, stderr = limited.communicate()
    assert limited.returncode == 2
    assert "File too large" in stderr
    assert "the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    assert target.trial_ids() == ids[:-1]
    assert not list((target.root / "trials").glob(".*"))
    assert merge([trained.root], target.root).counts == {"copied": 1, "the same": 7}
    assert content(target) == content(trained)


def test_a_file_system_that_cannot_synchronise_a_folder_will_do(trained, target, monkeypatch):
    real = os.fsync

    def refusing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    assert merge([trained.root], target.root).is_whole
    assert content(target) == content(trained)
