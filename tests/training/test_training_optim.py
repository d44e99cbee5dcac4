"""Learning rates and optimisers against torch's own schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from bench.plan.config import TrainingConfig
from bench.training.optim import lr_at, make_optimizer


def reference(make_scheduler, *, steps: int, every: int = 1, lr: float = 0.4) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return rates


def ours(training: TrainingConfig, steps_per_epoch: int) -> list[float]:
    return [lr_at(s, training, steps_per_epoch=steps_per_epoch) for s in range(training.epochs * steps_per_epoch)]


def test_constant():
    assert set(ours(TrainingConfig(epochs=3, lr=0.4, schedule="constant"), 5)) == {0.4}


def test_step():
    training = TrainingConfig(epochs=7, lr=0.4, schedule="step", step_epochs=2, gamma=0.5)
    expected = reference(lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5), steps=35, every=5)
    assert ours(training, 5) == pytest.approx(expected)


def test_multistep_is_the_papers():
    training = TrainingConfig(epochs=200, lr=0.1, schedule="multistep", milestones=[100, 150])
    expected = reference(lambda o: lr_scheduler.MultiStepLR(o, [100, 150]), steps=200, lr=0.1)
    assert ours(training, 1) == pytest.approx(expected)
    assert [ours(training, 1)[epoch] for epoch in (99, 100, 149, 150)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_cosine():
    training = TrainingConfig(epochs=4, lr=0.4, schedule="cosine")
    expected = reference(lambda o: lr_scheduler.CosineAnnealingLR(o, 20), steps=20)
    assert ours(training, 5) == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [1, 4, 9])
def test_one_cycle(epochs):
    training = TrainingConfig(epochs=epochs, lr=0.4, schedule="one_cycle")
    total = epochs * 5
    expected = reference(
        lambda o: lr_scheduler.OneCycleLR(o, 0.4, total_steps=total, cycle_momentum=False), steps=total - 1
    )
    assert ours(training, 5)[: total - 1] == pytest.approx(expected)
    assert ours(training, 5)[-1] == pytest.approx(0.4 / 25 / 1e4)


def test_warm_up_rises_to_the_schedule():
    rates = ours(TrainingConfig(epochs=5, lr=1.0, schedule="cosine", warmup_epochs=2), 4)
    assert rates[:8] == pytest.approx([(i + 1) / 8 for i in range(8)])
    expected = reference(lambda o: lr_scheduler.CosineAnnealingLR(o, 12), steps=12, lr=1.0)
    assert rates[8:] == pytest.approx(expected)


def test_optimizers_take_the_recipe():
    parameter = torch.nn.Parameter(torch.zeros(1))
    training = TrainingConfig(epochs=1, lr=0.3, momentum=0.8, nesterov=True)
    sgd = make_optimizer([parameter], training, weight_decay=0.01)
    assert isinstance(sgd, torch.optim.SGD)
    assert {k: sgd.defaults[k] for k in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.3,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.01,
    }
    for name, expected in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        made = make_optimizer([parameter], TrainingConfig(epochs=1, optimizer=name), weight_decay=0.01)
        assert type(made) is expected
        assert made.defaults["weight_decay"] == 0.01
