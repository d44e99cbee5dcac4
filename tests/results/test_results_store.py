"""The result store: what survives a crash, and what a reader sees of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.results.store import Busy, Store, TrialFolder, exclusive, read_json, write_atomically, write_json

HOLD = """
import sys, time
from pathlib import Path
from bench.results.store import TrialFolder
with TrialFolder(Path(sys.argv[1])).claim():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    folder = Store(tmp_path).trial("abc123")
    folder.create({"trial_id": "abc123", "trial": {"seed": 0}})
    return folder


def journal(folder: TrialFolder) -> Path:
    return folder.path / "journal.jsonl"


def hold(folder: TrialFolder) -> subprocess.Popen[str]:
    """Another process that works on the trial."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.stdout.close()
    return holder


def test_events_come_back_with_their_time(folder: TrialFolder) -> None:
    before = time.time()
    folder.append("epoch", epoch=1, test_error=0.25)
    [event], _ = folder.events()
    assert (event["event"], event["epoch"], event["test_error"]) == ("epoch", 1, 0.25)
    assert before <= event["time"] <= time.time()


def test_a_number_that_is_not_finite_is_stored_as_null(folder: TrialFolder) -> None:
    folder.append("epoch", epoch=1, train_loss=float("inf"), nested={"values": [float("nan"), 1.0]})
    assert json.loads(journal(folder).read_text())["nested"] == {"values": [None, 1.0]}
    assert folder.events()[0][0]["train_loss"] is None


@pytest.mark.parametrize("torn", ['{"event": "epoch", "epo', "\x00\x00\x00", '{"event": "epoch", "epoch": 3}'])
def test_a_last_line_without_its_end_is_not_read(folder: TrialFolder, torn: str) -> None:
    folder.append("epoch", epoch=1)
    with journal(folder).open("a") as file:
        file.write(torn)
    assert [event["epoch"] for event in folder.events()[0]] == [1]


def test_appending_after_a_torn_line_costs_that_line_only(folder: TrialFolder) -> None:
    folder.append("epoch", epoch=1)
    with journal(folder).open("a") as file:
        file.write('{"event": "epoch", "epoch": 2, "test_er')
    folder.append("epoch", epoch=3)
    folder.append("epoch", epoch=4)
    assert [event["epoch"] for event in folder.events()[0]] == [1, 3, 4]


def test_a_line_that_does_not_fit_the_disk_is_closed_by_the_next(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    room = [40]

    def nearly_full(descriptor: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, content[: room[0]])
        room[0] -= written
        return written

    folder.append("epoch", epoch=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        with pytest.raises(OSError, match="No space"):
            folder.append("epoch", epoch=2, test_error=0.25)
    assert len(journal(folder).read_bytes().splitlines()[1]) == 40
    folder.append("epoch", epoch=3)
    assert [event["epoch"] for event in folder.events()[0]] == [1, 3]


def test_a_line_that_is_written_in_two_parts_is_whole(folder: TrialFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:25]))
    written = folder.append("epoch", epoch=1, train_loss=float("nan"), test_error=0.25)
    assert folder.events()[0] == [written]
    assert written["train_loss"] is None


def test_a_line_that_is_written_again_keeps_its_time(folder: TrialFolder) -> None:
    assert folder.append("epoch", epoch=1, time=7.0) == {"event": "epoch", "epoch": 1, "time": 7.0}
    first, second = folder.append("started"), folder.append("finished")
    assert 0 <= second["uptime_seconds"] - first["uptime_seconds"] < 5


def test_lines_that_are_no_event_are_skipped(folder: TrialFolder) -> None:
    lines = ["[1]", '"epoch"', '{"epoch": 1}', "", '{"event": "epoch", "epo": 1}', "[" * 9999]
    journal(folder).write_text("\n".join([*lines, '{"event": "started", "time": 1.0}', ""]))
    assert [event["event"] for event in folder.events()[0]] == ["started"]
    assert folder.epochs() == []


def test_reading_from_an_offset_gives_every_event_once(folder: TrialFolder) -> None:
    seen, offset = [], 0
    for epoch in range(1, 8):
        line = json.dumps({"event": "epoch", "epoch": epoch}) + "\n"
        for part in (line[:9], line[9:]):  # a reader that comes in the middle of a write
            with journal(folder).open("a") as file:
                file.write(part)
            events, offset = folder.events(offset=offset)
            seen += [event["epoch"] for event in events]
    assert seen == list(range(1, 8))
    assert offset == journal(folder).stat().st_size
    assert folder.events(offset=offset) == ([], offset)


def test_a_folder_without_a_journal_has_no_events(tmp_path: Path) -> None:
    assert Store(tmp_path).trial("nothing").events(offset=7) == ([], 7)


def test_of_an_epoch_done_again_the_last_line_counts(folder: TrialFolder) -> None:
    for epoch, error in [(1, 0.5), (2, 0.4), (3, 0.3), (2, 0.45), (3, 0.35)]:
        folder.append("epoch", epoch=epoch, test_error=error)
    assert [(event["epoch"], event["test_error"]) for event in folder.epochs()] == [(1, 0.5), (2, 0.45), (3, 0.35)]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "final.json"
    write_json(path, {"value": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"value": 2})
    assert read_json(path) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["final.json"]


def test_a_write_whose_file_is_taken_for_a_leftover_is_done_again(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process claims the trial and clears it up between the write and the rename."""
    real, taken = os.fsync, []

    def clear_up(descriptor: int) -> None:
        real(descriptor)
        if not taken:
            taken.extend(folder.path.glob(".*.tmp"))
            folder.remove_leftovers()

    monkeypatch.setattr(os, "fsync", clear_up)
    write_json(folder.path / "final.json", {"value": 1})
    assert taken
    assert read_json(folder.path / "final.json") == {"value": 1}


def test_the_old_content_can_be_kept_beside_the_new(tmp_path: Path) -> None:
    path, kept = tmp_path / "checkpoint.pt", tmp_path / "checkpoint.previous.pt"
    contents = []
    for content in (b"1", b"2", b"3"):
        write_atomically(path, content, keep=kept)
        contents.append((path.read_bytes(), kept.read_bytes() if kept.exists() else None))
    assert contents == [(b"1", None), (b"2", b"1"), (b"3", b"2")]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_write_relies_on_is_on_disk_before_it(folder: TrialFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content before the rename, the name after it, and each new folder's name."""
    calls: list[tuple[str, str]] = []
    fsync, replace, mkdir = os.fsync, Path.replace, Path.mkdir

    def name(path: Path) -> str:
        return path.name.removesuffix(f".{os.getpid()}.tmp").removeprefix(".")

    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(("sync", name(Path(f"/proc/self/fd/{fd}").readlink()))), fsync(fd))
    )
    monkeypatch.setattr(Path, "replace", lambda old, new: (calls.append(("rename", name(new))), replace(old, new)))
    monkeypatch.setattr(Path, "mkdir", lambda path, **k: (calls.append(("make", name(path))), mkdir(path, **k)))
    folder.write_evaluation("clean", {"kind": "clean", "metrics": {}})
    assert calls == [
        ("make", "evaluations"),
        ("sync", folder.path.name),
        ("sync", "clean.json"),
        ("rename", "clean.json"),
        ("sync", "evaluations"),
    ]


def test_a_reader_never_sees_half_a_write(tmp_path: Path) -> None:
    """A process that rewrites a file as fast as it can, killed in the middle, and a reader that looks on."""
    path = tmp_path / "final.json"
    write_atomically(path, b"a" * 100_000)
    code = """
import sys, itertools
from pathlib import Path
from bench.results.store import write_atomically
print("writing", flush=True)
for letter in itertools.cycle((b"a", b"b")):
    write_atomically(Path(sys.argv[1]), letter * 100_000)
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    try:
        contents = {path.read_bytes() for _ in range(300)}
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    contents.add(path.read_bytes())
    assert contents <= {b"a" * 100_000, b"b" * 100_000}


@pytest.mark.parametrize("content", ["", '{"status": "comp', "[1, 2]", "\x00\x00"])
def test_a_torn_record_reads_as_missing(folder: TrialFolder, content: str) -> None:
    (folder.path / "final.json").write_text(content)
    assert folder.final() is None


def test_creating_a_folder_again_keeps_its_record(folder: TrialFolder) -> None:
    folder.create({"trial_id": "another"})
    assert folder.record() == {"trial_id": "abc123", "trial": {"seed": 0}}


def test_a_claim_excludes_others_until_its_holder_is_killed(folder: TrialFolder) -> None:
    holder = hold(folder)
    try:
        assert folder.is_claimed()
        with pytest.raises(Busy, match="held by another process"), folder.claim():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not folder.is_claimed()
    with folder.claim():
        assert folder.is_claimed()
    assert not folder.is_claimed()


def test_an_observer_is_not_taken_for_a_worker(folder: TrialFolder) -> None:
    """Two runs, a publisher and `bench status` may all look at the same moment."""
    code = "import sys; from bench.results import store; import fcntl, time; from pathlib import Path"
    code += "; real = fcntl.flock; fcntl.flock = lambda *a: (real(*a), print('looking', flush=True), time.sleep(60))"
    code += "; store.TrialFolder(Path(sys.argv[1])).is_claimed()"
    with folder.claim():
        pass  # so that the lock file is there
    command = [sys.executable, "-c", code, str(folder.path)]
    observer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert observer.stdout is not None
    try:
        assert observer.stdout.readline() == "looking\n"
        assert not folder.is_claimed()
    finally:
        observer.kill()
        observer.wait()
        observer.stdout.close()


def test_waiting_for_a_lock_ends_when_it_comes_free(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    holder = hold(folder)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {holder.pid}"])
    with exclusive(folder.path / "lock", wait_seconds=20):
        assert holder.wait() == -signal.SIGKILL
    killer.wait()


def test_the_status_follows_a_trials_life(folder: TrialFolder) -> None:
    assert folder.status() == "new"
    with folder.claim():
        folder.append("started", attempt=1)
        folder.append("epoch", epoch=1)
        assert folder.status() == "running"
    assert folder.status() == "interrupted"
    folder.append("failed", attempt=1, reason="killed by SIGKILL", traceback="")
    assert folder.status() == "failed"
    failure = folder.last_failure()
    assert failure is not None
    assert failure["reason"] == "killed by SIGKILL"
    with folder.claim():
        folder.append("started", attempt=2)
        assert folder.status() == "running"
        assert folder.last_failure() is None
        folder.append("finished", status="completed")
        folder.write_final({"status": "completed", "metrics": {}})
        assert folder.status() == "completed"
    assert folder.status(("clean",)) == "unevaluated"
    folder.write_evaluation("clean", {"kind": "clean", "metrics": {}})
    assert folder.status(("clean",)) == "completed"
    assert folder.status(("clean", "calibration")) == "unevaluated"


def test_a_diverged_trial_needs_no_evaluation(folder: TrialFolder) -> None:
    folder.append("started", attempt=1)
    folder.write_final({"status": "diverged", "metrics": {}})
    assert folder.status(("clean",)) == "diverged"


def test_a_trial_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.trial_ids() == []
    for trial_id in ("b222", "a123", "a145"):
        store.trial(trial_id).create({"trial_id": trial_id})
    assert store.trial_ids() == ["a123", "a145", "b222"]
    assert store.find("a12").trial_id == "a123"
    with pytest.raises(UserError, match="2 trials"):
        store.find("a1")
    with pytest.raises(UserError, match="no trial"):
        store.find("c")


def test_a_lock_on_a_folder_that_was_replaced_meanwhile_is_no_lock(folder: TrialFolder) -> None:
    """Who waits for a trial while `bench merge` puts another copy in its place gets the new one's lock, or none."""
    holder = hold(folder)
    waiting = threading.Event()
    held: list[bool] = []

    def work() -> None:
        waiting.set()
        with exclusive(folder.path / "lock", wait_seconds=10):
            held.append(folder.is_claimed())

    thread = threading.Thread(target=work)
    thread.start()
    waiting.wait()
    time.sleep(0.2)
    folder.path.rename(folder.path.with_name("old"))
    folder.path.mkdir()
    holder.kill()
    holder.wait()
    thread.join()
    assert held == [True]


def test_two_machines_may_look_at_once_whether_results_can_be_written(tmp_path: Path) -> None:
    """Their processes may have the same id, as in containers; here, threads have."""
    store, problems = Store(tmp_path / "results"), []

    def look() -> None:
        try:
            for _ in range(200):
                store.check_writable()
        except UserError as error:
            problems.append(str(error))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_refused_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("bench.results.store.fcntl.flock", refusing)
    with pytest.raises(UserError, match=r"cannot be locked.*--results"):
        Store(tmp_path / "results").check_writable()
    assert not any((tmp_path / "results" / "trials").iterdir())
