"""The step on tensors that keep their place takes the numbers that the loop's own step takes."""

import itertools

import numpy as np
import pytest
import torch

from bench.mixing import METHODS
from bench.training.data import draw_epoch
from bench.training.loop import Interrupted, initial_model
from bench.training.optim import make_optimizer
from bench.training.static_step import StaticSteps

METHOD_KINDS = [
    {"name": "erm", "label_smoothing": 0.1},
    {"name": "mixup", "alpha": 1},
    {"name": "mixup", "alpha": 1, "lam_per": "sample"},
    {"name": "mixup", "lam": 0.7},
    {"name": "mixup", "alpha": 1, "probability": 0.5, "off_epoch": 1},
]


def stop_after(steps: int):
    asked = itertools.count(1)
    return lambda: next(asked) > steps


@pytest.mark.parametrize("recipe", [{"momentum": 0.9}, {"optimizer": "adamw", "lr": 1e-3}], ids=["sgd", "adamw"])
@pytest.mark.parametrize("method", METHOD_KINDS, ids=lambda m: " ".join(map(str, m.values())))
def test_epochs_of_static_steps_are_the_loops(make_trial, run, method, recipe):
    """Two epochs of 14 whole batches and one of 4: weights, losses, errors and what is said of the mixing."""
    options = {"method": method, "epochs": 2, "crop_padding": 1, "flip": True, **recipe}
    plain, static = run(make_trial(**options)), run(make_trial(cuda_graph=True, **options))
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(static.model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(static.curve, plain.curve, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours["train_error_mixed"] == pytest.approx(theirs["train_error_mixed"], abs=1e-9)
        assert (ours["lr"], ours["test_error"]) == (theirs["lr"], theirs["test_error"])
    assert static.mixing == plain.mixing


@pytest.mark.parametrize("model", [None, {"name": "preact_resnet18", "width": 2}], ids=["mlp", "resnet"])
@pytest.mark.parametrize("neutral", [{"alpha": 0}, {"probability": 0}], ids=lambda m: next(iter(m)))
def test_mixup_that_mixes_nothing_is_erm_bit_for_bit(make_trial, run, model, neutral):
    companions = {"label_smoothing": 0.1}
    methods = ({"name": "erm"} | companions, {"name": "mixup"} | neutral | companions)
    options = {"epochs": 1, "batch_size": 60, "cuda_graph": True, "model": model}  # of 64, no order of sums would show
    erm, mixup = (run(make_trial(method=each, **options)) for each in methods)
    for name, weight in erm.model.state_dict().items():
        assert torch.equal(mixup.model.state_dict()[name], weight), name


def test_adam_is_capturable_where_it_trains_whatever_a_checkpoint_says(make_trial, prepared):
    """A trial may go on elsewhere than it began, and torch refuses to capture the Adam that a CPU wrote."""
    trial = make_trial(cuda_graph=True, optimizer="adamw")
    data = prepared(trial)
    model = initial_model(trial, data)
    optimizer = make_optimizer(model.parameters(), trial.training, weight_decay=0)
    elsewhere = optimizer.state_dict()
    elsewhere["param_groups"][0]["capturable"] = True
    optimizer.load_state_dict(elsewhere)
    static = StaticSteps(trial, data, model, optimizer, batch_size=64, steps_per_epoch=15)
    static.begin(draw_epoch(trial, data, 0), np.random.default_rng(0), first_step=0, losses=torch.zeros(15))
    assert [group["capturable"] for group in optimizer.param_groups] == [False]


@pytest.mark.parametrize(
    "model", [None, {"name": "preact_resnet18", "width": 2, "dropout": 0.2}], ids=["mlp", "resnet"]
)
def test_interrupted_in_the_middle_it_goes_on_bit_for_bit(make_trial, run, model):
    trial = make_trial(method={"name": "mixup", "probability": 0.7}, epochs=2, flip=True, cuda_graph=True, model=model)
    whole = run(trial)
    for steps in (5, 12, 40):
        try:
            resumed = run(trial, "parts", stop_requested=stop_after(steps))
            break
        except Interrupted:
            continue
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert resumed.mixing == whole.mixing
    assert [line["train_error_mixed"] for line in resumed.curve] == [line["train_error_mixed"] for line in whole.curve]


@pytest.mark.parametrize("options", METHOD_KINDS, ids=lambda m: " ".join(map(str, m.values())))
def test_what_is_drawn_ahead_leaves_the_stream_where_a_step_does(make_trial, prepared, options):
    trial = make_trial(method=options, epochs=2)
    data, method = prepared(trial), METHODS[options["name"]].model_validate(options)
    draws, model = draw_epoch(trial, data, 0), initial_model(trial, data)
    ahead, there = np.random.default_rng(3), np.random.default_rng(3)
    for start in range(0, 900, 64):
        batch = draws.batch(slice(start, start + 64))
        method.training_loss(model, batch, rng=there)
        method.draw_ahead(ahead, len(batch.labels), epoch=0, epochs=2)
        assert ahead.bit_generator.state == there.bit_generator.state


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_steps_are_the_loops(make_trial, arrays, tmp_path):
    """On a GPU, with capture and replay: never run so far, for want of one."""
    from bench.results.store import TrialFolder
    from bench.training.data import prepare
    from bench.training.loop import train
    from bench.training.policy import CheckpointPolicy

    found = []
    for name, graph in (("plain", None), ("graph", True)):
        trial = make_trial(method={"name": "mixup", "alpha": 1}, flip=True, deterministic=True, cuda_graph=graph)
        folder = TrialFolder(tmp_path / name)
        folder.create(trial.record())
        data = prepare(trial, arrays, device=torch.device("cuda"))
        found.append(train(trial, data, folder=folder, policy=CheckpointPolicy(seconds=float("inf"))))
    plain, graph = found
    assert graph.mixing == plain.mixing
    for name, weight in plain.model.state_dict().items():
        torch.testing.assert_close(graph.model.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
