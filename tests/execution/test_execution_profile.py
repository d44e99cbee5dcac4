"""Where a trial's time goes: the shares, the trace, and that neither the loop nor the results keep a mark of it."""

import gzip
import json
import os
import re
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.errors import UserError
from bench.execution import profile
from bench.execution.task import DataPaths
from bench.plan.trial import Trial
from bench.results.store import Store
from bench.training import checkpoint, data, loop, spans

SLEEP = 0.01
"""Twenty times a step of this network."""

ROW = re.compile(r"^  (\w+) +([\d.]+) +([\d.]+) %$", re.MULTILINE)


def trial_folder(root, **changes):
    trial = Trial.model_validate(
        {
            "dataset": {"name": "digits"},
            "label_noise": {},
            "model": {"name": "mlp", "hidden": [16]},
            "training": {"epochs": 3, "batch_size": 64, "lr": 0.1},
            "method": {"name": "mixup"},
            "seed": 0,
            **changes,
        }
    )
    folder = Store(root).trial(trial.trial_id)
    folder.create(trial.record())
    return folder


def profiled(folder, out, **options):
    """The shares in percent, and all that was said."""
    said = []
    options = {"device": "cpu", "seconds": 0.2, **options}
    paths = DataPaths(out / "data", out / "cache")
    profile.profile_trial(folder, paths, out=out, say=said.append, **options)
    text = "\n".join(said)
    return {part: float(percent) for part, _, percent in ROW.findall(text)}, text


def everything(root):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def test_the_command_shows_shares_and_writes_a_trace_and_touches_no_result(bench, tiny_suite, tmp_path):
    tiny_suite.write_text(tiny_suite.read_text().replace("{name: mlp, hidden: [16]}", "mlp"))  # known: nothing to probe
    run = bench("run", tiny_suite, "--no-mlflow", "--no-report", "--max-trials", 1)
    assert "1 of 8 trials done" in run.stdout, run.stderr
    store = Store(tmp_path / "results")
    trial_id, before = next(i for i in store.trial_ids() if store.trial(i).final()), everything(store.root)
    result = bench("trial", trial_id[:8], "--profile")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = ROW.findall(result.stdout)
    assert [part for part, _, _ in rows] == [*spans.PARTS, "all"]
    seconds, percents = [float(row[1]) for row in rows], [float(row[2]) for row in rows]
    assert sum(percents[:-1]) == pytest.approx(100, abs=1e-9)
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1], rel=0.01)
    assert "aten::addmm" in result.stdout
    plain, timed = map(float, re.search(r"an epoch takes ([\d.]+) ms, ([\d.]+) ms with", result.stdout).groups())
    assert 1000 * seconds[-1] == pytest.approx(timed, rel=0.3)  # a mean and a median
    assert 0.5 < timed / plain < 2
    assert everything(store.root) == before

    path = result.stdout.splitlines()[-1].split()[1]
    with gzip.open(path) as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("cat") == "user_annotation"]
    assert set(spans.PARTS) - {spans.OTHER} <= {event["name"] for event in events}


class Slow(nn.Module):
    """As the network it holds, but for sleeps in one of its two modes."""

    def __init__(self, network, *, training):
        super().__init__()
        self.network, self._asleep_in_training = network, training

    def forward(self, x):
        if self.training == self._asleep_in_training:
            time.sleep(SLEEP if self.training else 4 * SLEEP)  # an epoch has a quarter of the steps in evaluation
        return self.network(x)


def slow(monkeypatch, owner, name):
    function = getattr(owner, name)

    def slowed(*args, **kwargs):
        time.sleep(SLEEP)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, slowed)


@pytest.mark.parametrize("whole", [True, False], ids=["epochs", "steps"])
@pytest.mark.parametrize("part", ["data", "mixing", "forward", "backward", "optimizer", "diagnostics", "evaluation"])
def test_what_is_slow_shows_under_its_own_name(tmp_path, monkeypatch, part, whole):
    monkeypatch.setattr(profile, "LONG_EPOCH_SECONDS", 1e9 if whole else 0.0)
    folder = trial_folder(tmp_path)
    match part:
        case "data":
            slow(monkeypatch, data.Epoch, "_augmented")
        case "mixing":
            slow(monkeypatch, type(loaded(folder).method), "draw_lam")
        case "backward":
            slow(monkeypatch, torch.autograd, "backward")
        case "optimizer":
            slow(monkeypatch, torch.optim.SGD, "step")
        case "diagnostics":
            slow(monkeypatch, loop.Diagnostics, "note")
        case _:
            build = loop.build
            monkeypatch.setattr(loop, "build", lambda *a, **k: Slow(build(*a, **k), training=part == "forward"))
    shares, text = profiled(folder, tmp_path)
    assert ("an epoch takes" in text) == whole
    # an epoch has 15 steps, and four batches that are evaluated
    slowed = shares.pop(part)
    shares.pop("all")
    assert slowed > 2 * max(shares.values()), text  # without the sleep no part has half of the time


def loaded(folder):
    return Trial.model_validate(folder.record()["trial"])


def test_mixing_inside_the_network_is_mixing(tmp_path, monkeypatch):
    folder = trial_folder(tmp_path, method={"name": "manifold_mixup", "layers": [1]})
    slow(monkeypatch, spans.manifold, "mix_inputs")
    shares, text = profiled(folder, tmp_path)
    assert shares["mixing"] > 60, text


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["epochs", "steps"])
def test_a_compiled_network_is_timed_as_a_whole(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(profile, "LONG_EPOCH_SECONDS", 1e9 if whole else 0.0)
    torch._dynamo.reset()  # which names a cache of its own
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    folder = trial_folder(tmp_path, training={"epochs": 3, "batch_size": 64, "lr": 0.1, "compile": True})
    shares, text = profiled(folder, tmp_path)
    assert shares["forward"] > 5, text
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "compiled")


def test_a_checkpoint_has_its_share_of_a_minute(tmp_path, monkeypatch):
    folder = trial_folder(tmp_path)
    for _ in range(60):
        slow(monkeypatch, checkpoint, "write_atomically")
    shares, text = profiled(folder, tmp_path)
    seconds = float(re.search(r"a checkpoint takes ([\d.]+) ms", text)[1]) / 1000
    assert seconds > 60 * SLEEP
    assert shares["checkpoint"] == pytest.approx(100 * seconds / 60, rel=0.1)


def test_steps_of_a_long_epoch_stand_for_all_of_it(tmp_path, monkeypatch):
    """100 steps that sleep, and 4 batches that do not."""
    folder = trial_folder(tmp_path, training={"epochs": 1, "batch_size": 9, "lr": 0.1})
    build = loop.build
    monkeypatch.setattr(loop, "build", lambda *a, **k: Slow(build(*a, **k), training=True))
    _, text = profiled(folder, tmp_path, seconds=0.5)
    assert re.search(r"\((\d+) of an epoch's 1\d\d steps and (\d+) of its \d+ evaluated images\)", text), text
    rows = {part: float(seconds) for part, seconds, _ in ROW.findall(text)}
    steps = int(re.search(r"epoch's (\d+) steps", text)[1])
    assert rows["forward"] == pytest.approx(SLEEP * steps, rel=0.3)


def test_an_epoch_of_one_step_is_measured_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "LONG_EPOCH_SECONDS", 0.0)
    folder = trial_folder(tmp_path, training={"epochs": 1, "batch_size": 10_000, "lr": 0.1})
    shares, text = profiled(folder, tmp_path)
    assert "epochs of 1 steps" in text
    assert shares["all"] == 100


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_around_the_loop(tmp_path, monkeypatch, fails):
    folder = trial_folder(tmp_path)
    if fails:
        note = loop.Diagnostics.note
        calls = []

        def broken(self, step):
            calls.append(1)
            if len(calls) > 100:
                raise RuntimeError("broken")
            note(self, step)

        monkeypatch.setattr(loop.Diagnostics, "note", broken)

    def patched():
        owners = [(owner, name) for _, function in spans._FUNCTIONS for owner, name in spans.bindings(function)]
        owners += [(owner, name) for _, owner, name in spans._METHODS]
        owners += [(type(loaded(folder).method), name) for _, name in spans._OF_THE_METHOD]
        owners += [(spans.manifold, "forward_through"), (loop, "draw_epoch")]
        return {(owner, name): (name in vars(owner), getattr(owner, name)) for owner, name in owners}

    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)  # the first one wraps its step
    before = patched()
    assert (loop, "predict") in before
    assert (torch.optim.SGD, "step") in before
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            profiled(folder, tmp_path)
    else:
        profiled(folder, tmp_path)
    assert patched() == before


def test_another_thread_is_not_timed():
    from threading import Thread

    measured = spans.Spans()
    wait = measured.around(spans.DATA, time.sleep)
    with measured.running():
        other = Thread(target=wait, args=[0.05])
        other.start()
        other.join()
        wait(0.01)
    assert measured.calls[spans.DATA] == 1
    assert measured.seconds[spans.DATA] < 0.04
    assert measured.seconds[spans.OTHER] >= 0.04


@pytest.mark.parametrize("values", [[1, 1, 1], [0.0, 2.0], [1e-9, 5, 3, 2.2], [1 / 7] * 7])
def test_percents_sum_to_a_hundred(values):
    found = profile.percents(values)
    assert sum(round(10 * percent) for percent in found) == 1000
    for percent, value in zip(found, values, strict=True):
        assert percent == pytest.approx(100 * value / sum(values), abs=0.1)


def test_the_gpu_is_charged_to_the_innermost_range():
    """By hand: 3 µs in mixing, 5 in the forward pass inside it, 7 given out by autograd's thread, 2 between."""

    def event(name, start, end, *durations, device="CPU"):
        return SimpleNamespace(
            name=name,
            device_type=SimpleNamespace(name=device),
            time_range=SimpleNamespace(start=start, end=end),
            kernels=[SimpleNamespace(duration=duration) for duration in durations],
        )

    found = profile.device_seconds(
        [
            event("mixing", 0, 100),
            event("aten::lerp", 10, 12, 1, 2),
            event("forward", 20, 90),
            event("aten::addmm", 30, 40, 5),
            event("forward", 20, 90, 1000, device="CUDA"),
            event("backward", 100, 200),
            event("aten::mm", 150, 160, 7),
            event("aten::add", 300, 301, 2),
        ]
    )
    assert {part: round(1e6 * seconds) for part, seconds in found.items() if seconds} == {
        "mixing": 3,
        "forward": 5,
        "backward": 7,
        "other": 2,
    }


def test_a_trial_that_cannot_be_trained_here_is_an_error(tmp_path, bench):
    folder = trial_folder(tmp_path / "results")
    record = folder.record()
    (folder.path / "trial.json").write_text("{")
    with pytest.raises(UserError, match=r"trial\.json is missing, torn"):
        profiled(folder, tmp_path)
    (folder.path / "trial.json").unlink()
    gone = {"name": "image_folder", "root": str(tmp_path / "gone"), "image_size": 8}
    folder.create(record | {"trial": record["trial"] | {"dataset": gone}})
    with pytest.raises(UserError, match="gone"):
        profiled(folder, tmp_path)
    unknown = bench("trial", "0123", "--profile")
    assert (unknown.returncode, unknown.stderr[:15]) == (2, "error: no trial")
    both = bench("trial", folder.trial_id, "--profile", "--rerun")
    assert both.returncode == 2
    assert "give one of them" in both.stderr
    captured = {"epochs": 1, "batch_size": 64, "lr": 0.1, "cuda_graph": True}
    with pytest.raises(UserError, match="cuda_graph replays each step as a whole"):
        profiled(trial_folder(tmp_path, training=captured), tmp_path, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="finds no GPU"):
            profiled(trial_folder(tmp_path), tmp_path, device="cuda")
    assert not (tmp_path / "reports").exists()


@pytest.mark.gpu
def test_on_a_gpu_its_busy_time_and_its_idle_time_are_an_epoch(tmp_path):
    shares, text = profiled(trial_folder(tmp_path), tmp_path, device="cuda")
    assert "idle" in shares
    assert sum(shares.values()) - shares["all"] == pytest.approx(100, abs=1e-9)
    assert min(shares["forward"], shares["backward"], shares["optimizer"], shares["evaluation"]) > 0, text
