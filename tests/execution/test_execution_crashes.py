"""Whatever happens to a worker's process or its files, the next attempt ends with the very same numbers."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from worker_processes import (
    die_after,
    die_at,
    die_at_name,
    found,
    jump_clock,
    jump_clock_and_die,
    log_order,
    make_task,
    names,
    planned_trial,
    run,
    start,
    take_long,
)

from bench.execution.task import INTERRUPTED
from bench.results.store import TrialFolder, is_intact
from bench.training.policy import CheckpointPolicy

FINISHED_FILES = {"trial.json", "lock", "output.log", "journal.jsonl", "label_noise.json", "logits.npz", "weights.pt"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    return planned_trial(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def undisturbed(planned, cache, tmp_path_factory):
    task = make_task(planned, tmp_path_factory.mktemp("undisturbed"), cache=cache)
    assert run(task) == 0
    return task


@pytest.fixture(scope="module")
def interrupted(planned, cache, tmp_path_factory):
    """A trial killed in its third checkpoint: the two before are there, and the journal's three epochs."""
    task = make_task(planned, tmp_path_factory.mktemp("interrupted"), cache=cache)
    assert run(task, die_at_name, ".checkpoint.pt", 3) == -signal.SIGKILL
    assert {"checkpoint.pt", "checkpoint.previous.pt", "heartbeat"} < names(task.folder)
    assert len(TrialFolder(task.folder).epochs()) == 3
    return task


def copied(task, root: Path):
    folder = root / task.folder.name
    shutil.copytree(task.folder, folder)
    return replace(task, folder=folder)


def events(task) -> list[str]:
    return [event["event"] for event in TrialFolder(task.folder).events()[0]]


def event(task, name: str):
    return [each for each in TrialFolder(task.folder).events()[0] if each["event"] == name]


def two_at_once(function: Callable[..., object], arguments) -> list:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, arguments))


def assert_whole(task, undisturbed) -> None:
    assert found(task) == found(undisturbed)
    records = {f"evaluations/{each.key}.json" for each in task.evaluations}
    assert names(task.folder) == FINISHED_FILES | {"final.json"} | records, "something was left behind"
    assert events(task).count("finished") == 1


def test_killed_before_any_change_to_its_folder(planned, cache, undisturbed, tmp_path):
    """The k-th file that is opened, renamed or removed, for every k: killed, then run again."""

    def attempt(k: int) -> bool:
        task = make_task(planned, tmp_path / str(k), cache=cache)
        killed = run(task, die_at, k) == -signal.SIGKILL
        assert run(task) == 0, k
        assert_whole(task, undisturbed)
        shutil.rmtree(tmp_path / str(k))
        return killed

    for first in itertools.count(1, 10):
        killed = two_at_once(attempt, range(first, first + 10))
        if not all(killed):
            break
    assert first > 40, "a trial changes more files than that"
    assert killed == sorted(killed, reverse=True), "none was killed after one that was not"


def test_killed_at_random_moments(planned, cache, undisturbed, tmp_path):
    """Again and again, with a checkpoint after every step, until an attempt is not killed."""
    rng = random.Random(0)

    def attempt(number: int) -> int:
        task = make_task(planned, tmp_path / str(number), cache=cache, policy=CheckpointPolicy(0.0))
        kills = sum(run(task, die_after, seconds) == -signal.SIGALRM for seconds in delays[number])
        assert run(task) == 0
        assert_whole(task, undisturbed)
        return kills

    began = time.perf_counter()
    assert run(make_task(planned, tmp_path / "timed", cache=cache, policy=CheckpointPolicy(0.0))) == 0
    took = time.perf_counter() - began
    delays = [[rng.uniform(0.05, 0.4) * took for _ in range(6)] for _ in range(4)]
    assert sum(two_at_once(attempt, range(4))) >= 4


def test_all_that_a_final_stands_for_is_on_disk_before_it(planned, cache, tmp_path):
    """And what a checkpoint stands for before that, so that no power loss leaves the one without the other."""
    task = make_task(planned, tmp_path, cache=cache, policy=CheckpointPolicy(float("inf"), 2))
    assert run(task, log_order, tmp_path / "order") == 0
    order = (tmp_path / "order").read_text().splitlines()

    def last(line: str, *, before: int) -> int:
        return max(index for index in range(before) if order[index] == line)

    final = order.index("rename final.json")
    folder = task.folder.name
    assert last("append epoch", before=final) < last("sync journal.jsonl", before=final)
    needed = {"logits.npz": folder, "weights.pt": folder, "label_noise.json": folder}
    needed |= {f"{each.key}.json": "evaluations" for each in task.evaluations[:2]}
    for name, parent in needed.items():
        renamed = last(f"rename {name}", before=final)
        assert order[renamed - 1].startswith(f"sync .{name}.")
        assert last(f"sync {parent}", before=final) > renamed
    assert order[final + 1] == f"sync {folder}"
    saves = [index for index, line in enumerate(order) if line == "rename checkpoint.pt"]
    assert len(saves) == 1
    assert last("append epoch", before=saves[0]) < last("sync journal.jsonl", before=saves[0])


def test_every_cut_of_a_journal_reads_as_its_whole_lines(undisturbed, tmp_path):
    task = copied(undisturbed, tmp_path)
    folder, path = TrialFolder(task.folder), task.folder / "journal.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) > 8
    ends = list(itertools.accumulate(map(len, lines)))
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        assert folder.events() == ([json.loads(line) for line in lines[:whole]], ([0, *ends])[whole])


def test_no_cut_of_a_final_or_a_record_counts(undisturbed, tmp_path):
    task = copied(undisturbed, tmp_path)
    folder, key = TrialFolder(task.folder), task.evaluations[0].key
    for path, status in (
        (task.folder / "evaluations" / f"{key}.json", "unevaluated"),
        (task.folder / "final.json", "interrupted"),
    ):
        content = path.read_bytes().rstrip()
        for cut in range(len(content)):
            path.write_bytes(content[:cut])
            assert folder.status((key,)) == status
            path.write_bytes(content[:cut].ljust(len(content), b"\0"))
            assert folder.status((key,)) == status
        path.write_bytes(content)


def test_no_cut_and_no_flipped_bit_of_a_checkpoint_is_intact(interrupted, tmp_path):
    content = (interrupted.folder / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    for cut in [*range(0, len(content) - 200, 41), *range(len(content) - 200, len(content))]:
        path.write_bytes(content[:cut])
        assert not is_intact(path, thoroughly=False)
        if cut <= len(content) - 22:  # the list's end; no disk loses less
            path.write_bytes(content[:cut].ljust(len(content), b"\0"))
            assert not is_intact(path, thoroughly=False)
    path.write_bytes(content)
    assert is_intact(path)


def resumed(damage: Callable[[Path], None], interrupted, undisturbed, root: Path):
    """The interrupted trial with its folder damaged, then run to its end."""
    task = copied(interrupted, root)
    damage(task.folder)
    assert run(task) == 0
    assert_whole(task, undisturbed)
    return task


def test_resumed_from_a_torn_journal(interrupted, undisturbed, tmp_path):
    """Cut at and beside every line's end, and as a power loss leaves it, with zeros or garbage as its tail."""
    content = (interrupted.folder / "journal.jsonl").read_bytes()
    ends = list(itertools.accumulate(map(len, content.splitlines(keepends=True))))
    cuts = {0, 1, ends[0] // 2} | {end + beside for end in ends for beside in (-1, 0, 1)}
    cuts = sorted(cuts - {ends[-1] + 1})
    contents = [content[:cut] for cut in cuts]
    contents += [content[:cut].ljust(len(content), b"\0") for cut in (0, ends[1], ends[2] + 30)]
    contents += [content[: ends[1]] + random.Random(0).randbytes(400), b"[" * 5000 + b"\n" + content[:100]]

    def resume(number: int) -> None:
        def damage(folder: Path) -> None:
            (folder / "journal.jsonl").write_bytes(contents[number])

        task = resumed(damage, interrupted, undisturbed, tmp_path / str(number))
        assert [each["epoch"] for each in event(task, "resumed")] == [2]

    two_at_once(resume, range(len(contents)))


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_resumed_from_a_damaged_checkpoint(interrupted, undisturbed, tmp_path):
    """From the previous one, and the journal says so; without that from the beginning."""
    content = (interrupted.folder / "checkpoint.pt").read_bytes()
    size = len(content)
    weights = content.index(b"data/0") + 200
    damaged = [content[:cut] for cut in (0, 1, 30, size // 2, size - 22, size - 1)]
    damaged += [content[:cut].ljust(size, b"\0") for cut in (0, 4096, size - 64)]
    damaged += [flipped(content, place) for place in (0, weights, size // 2)]
    damaged += [random.Random(0).randbytes(size)]

    def resume(number: int) -> None:
        def damage(folder: Path) -> None:
            (folder / "checkpoint.pt").write_bytes(damaged[number])
            if number % 4 == 3:
                (folder / "checkpoint.previous.pt").write_bytes(damaged[number])

        task = resumed(damage, interrupted, undisturbed, tmp_path / str(number))
        said = [(each["file"], each["reason"]) for each in event(task, "checkpoint_unusable")]
        again = [(each["epoch"], each["file"]) for each in event(task, "resumed")]
        if number % 4 == 3:
            assert said == [("checkpoint.pt", "damaged"), ("checkpoint.previous.pt", "damaged")]
            assert again == []
        else:
            assert said == [("checkpoint.pt", "damaged")]
            assert again == [(1, "checkpoint.previous.pt")]

    two_at_once(resume, range(len(damaged)))


def rewritten(path: Path, change: Callable[[dict], None]) -> None:
    """As another version of the program, or of timm, would have written the checkpoint."""
    import torch

    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.pop("curve"), "another version of the program"),
        (lambda content: content.update(surplus=1), "another version of the program"),
        (lambda content: content["model"].popitem(), "it lacks"),
        (lambda content: content["model"].update(more=content["step_losses"]), "it has ['more'] too"),
        (lambda content: content["model"].update({"1.weight": content["step_losses"]}), "not (16, 64)"),
        (lambda content: content.update(model=dict(reversed(content["model"].items()))), "another order"),
        (lambda content: content["optimizer"]["param_groups"][0]["params"].pop(), "other groups"),
        (lambda content: content["curve"].pop(), "its learning curve"),
        (lambda content: content.update(step_losses=content["step_losses"][:1]), "another number of epochs or steps"),
    ],
)
def test_a_checkpoint_that_does_not_fit_starts_from_the_beginning(interrupted, undisturbed, tmp_path, change, reason):
    def damage(folder: Path) -> None:
        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            rewritten(folder / name, change)

    task = resumed(damage, interrupted, undisturbed, tmp_path)
    reasons = [each["reason"] for each in event(task, "checkpoint_unusable")]
    assert len(reasons) == 2
    assert all("does not fit" in each and reason in each for each in reasons)
    assert event(task, "resumed") == []


def test_a_damaged_file_of_a_finished_trial_is_made_again(undisturbed, planned, tmp_path):
    """And the trial does not count as finished with it, as far as its status can tell without reading all of it."""
    keys = planned.evaluation_keys
    damages = [
        ("final.json", lambda content: content[:-3], "interrupted"),
        ("final.json", lambda content: b"\0" * len(content), "interrupted"),
        ("final.json", lambda content: content.replace(b"completed", b"comp"), "interrupted"),
        ("weights.pt", lambda content: content[:-1], "unevaluated"),
        ("weights.pt", lambda content: content[: len(content) // 2].ljust(len(content), b"\0"), "unevaluated"),
        ("weights.pt", lambda content: flipped(content, content.index(b"data/0") + 200), "completed"),
        (f"evaluations/{keys[0]}.json", lambda content: content[:-3], "unevaluated"),
        (f"evaluations/{keys[2]}.json", lambda content: content[:-3], "unevaluated"),
    ]

    def again(number: int) -> None:
        name, damage, status = damages[number]
        task = replace(copied(undisturbed, tmp_path / str(number)), is_source=True)
        path = task.folder / name
        path.write_bytes(damage(path.read_bytes()))
        assert TrialFolder(task.folder).status(keys, with_weights=True) == status
        assert run(task) == 0
        assert found(task) == found(undisturbed)

    two_at_once(again, range(len(damages)))


def test_damaged_logits_are_no_ground_for_a_record(undisturbed, planned, tmp_path):
    """They are made again from the weights, and where these are damaged too, by training."""

    def again(with_weights: bool) -> None:
        task = copied(undisturbed, tmp_path / str(with_weights))
        (task.folder / "evaluations" / f"{planned.evaluation_keys[1]}.json").unlink()
        for name in ("logits.npz", *(["weights.pt"] if with_weights else [])):
            content = (task.folder / name).read_bytes()
            (task.folder / name).write_bytes(flipped(content, len(content) // 2))
        assert run(task) == 0
        assert found(task) == found(undisturbed)
        assert events(task).count("started") == 1 + with_weights

    two_at_once(again, [False, True])


@pytest.mark.parametrize(("first", "second"), [(-86400.0, -86400.0), (0.0, -7200.0), (86400.0, 0.0), (-5.0, 90000.0)])
def test_a_clock_that_jumps_changes_no_duration_and_no_number(planned, cache, undisturbed, tmp_path, first, second):
    """Within both attempts and between them. MLflow's runs do not end before they start either."""
    from bench.results.mlflow_trial import Naming, read_trial

    task = make_task(planned, tmp_path, cache=cache)
    began = time.monotonic()
    assert run(task, jump_clock_and_die, -first, -second) == -signal.SIGKILL
    assert TrialFolder(task.folder).status() == "interrupted"
    assert run(task, jump_clock, first, second) == 0
    lasted = time.monotonic() - began
    assert_whole(task, undisturbed)
    folder = TrialFolder(task.folder)
    final = folder.final()
    assert final["train_seconds"] < final["total_seconds"] < lasted
    measured = sum(line["train_seconds"] + line["eval_seconds"] for line in folder.epochs())
    assert measured < final["total_seconds"]

    class OnlyThis:
        plan_id, suite = "plan", type("Suite", (), {"name": "durable", "version": 1})

    naming = Naming(frozenset(), {(planned.cell, planned.arm): "erm"}, {planned.trial_id: "erm | seed 0"})
    shown = read_trial(planned, OnlyThis, folder, naming=naming)
    assert shown.status == "FINISHED"
    assert shown.start_ms <= shown.end_ms


def test_attempts_of_an_older_journal_count_what_their_epochs_took(interrupted, undisturbed, tmp_path):
    def damage(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        for line in lines:
            del line["uptime_seconds"]
            line["time"] -= 1e9 * (line["event"] == "epoch")
            if line["event"] == "epoch":
                line["train_seconds"] = line["eval_seconds"] = 1000.0
        (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    task = resumed(damage, interrupted, undisturbed, tmp_path)
    assert 6000 < TrialFolder(task.folder).final()["total_seconds"] < 6060


def wait_for(condition: Callable[[], object], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


SUPERVISOR = """
import pickle, sys
sys.path.insert(0, {tests!r})
import worker_processes
process = worker_processes.start(pickle.loads({task!r}), worker_processes.hang, {orphan_seconds})
print("started", flush=True)
process.join()
"""


@pytest.fixture
def hanging(planned, cache, tmp_path):
    """Start a worker that hangs, under a supervisor that can be killed."""
    import pickle

    task = make_task(planned, tmp_path, cache=cache)

    def supervise(orphan_seconds: float):
        code = SUPERVISOR.format(
            tests=str(Path(__file__).parent), task=pickle.dumps(task), orphan_seconds=orphan_seconds
        )
        supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "started\n"
        wait_for(lambda: "started" in events(task))
        return supervisor, TrialFolder(task.folder)

    return supervise


def test_a_worker_that_hangs_ends_with_its_supervisor(hanging):
    supervisor, folder = hanging(0.5)
    heartbeat = folder.heartbeat.stat().st_mtime_ns
    time.sleep(1.5)
    assert folder.is_claimed()
    assert folder.heartbeat.stat().st_mtime_ns == heartbeat, "a sign of life from a process that hangs"
    supervisor.kill()
    supervisor.communicate()
    wait_for(lambda: not folder.is_claimed(), seconds=10)
    assert folder.status() == "interrupted"


def test_the_heart_beats_while_steps_are_done(planned, cache, undisturbed, tmp_path):
    """At most once a second: nine steps of 0.4 s. At its end the file is gone."""
    task = make_task(planned, tmp_path, cache=cache)
    process = start(task, take_long)
    folder, seen = TrialFolder(task.folder), set()

    def look() -> bool:
        if folder.heartbeat.exists():
            seen.add(folder.heartbeat.stat().st_mtime_ns)
        return process.exitcode is not None

    wait_for(look)
    assert process.exitcode == 0
    assert 3 <= len(seen) <= 8
    assert_whole(task, undisturbed)


def test_asked_to_stop_it_leaves_no_heartbeat(planned, cache, tmp_path):
    task = make_task(planned, tmp_path, cache=cache)
    process = start(task, take_long)
    wait_for(lambda: event(task, "epoch"))
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == INTERRUPTED
    assert "heartbeat" not in names(task.folder)
    assert TrialFolder(task.folder).status() == "interrupted"
