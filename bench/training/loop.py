"""The training loop: straight from the first step to the last, one trial, one process, one device."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from bench.evaluation.metrics import nll, top1_error
from bench.mixing.batch import Batch
from bench.models import build
from bench.plan.config import TrainingConfig
from bench.plan.trial import Trial
from bench.results.store import Json, TrialFolder
from bench.training import checkpoint
from bench.training.checkpoint import Progress
from bench.training.data import Images, TrialData, draw_epoch, image_batches, memory_format
from bench.training.diagnostics import Diagnostics, weight_norm
from bench.training.optim import lr_at, make_optimizer
from bench.training.policy import CheckpointPolicy
from bench.training.seeding import stream, stream_seed
from bench.training.static_step import StaticSteps
from bench.training.step import autocast, training_step

EVALUATION_BATCH = 500
"""On a CPU; see evaluation_batch."""
MOST_EVALUATED = 4096
MEMORISATION_EPOCHS = 25
"""At about so many epochs, evenly spaced, the training error on kept and on wrong labels is taken."""
MEMORISATION_EXAMPLES = 2000
"""Of each of the two groups at most so many, evenly spaced: a standard error of at most 1.1 points."""


class Interrupted(Exception):
    """Training was asked to stop; its checkpoint is written."""


@dataclass(frozen=True)
class Trained:
    """A trained network.

    mixing: what final.json says of it, see Diagnostics.summary.
    diverged: {"epoch", "step"} of the first loss that was not finite, both from 1. The epoch's last step when that was
    the loss on validation or test.
    """

    model: nn.Module
    curve: list[Json]
    mixing: Json | None
    diverged: dict[str, int] | None


def train(
    trial: Trial,
    data: TrialData,
    *,
    folder: TrialFolder,
    policy: CheckpointPolicy,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train one trial, from its newest good checkpoint if there is one, and write its journal.

    stop_requested: called at every step, and at every batch that is evaluated.
    Raises Interrupted, with the checkpoint written, at the first step at which it says so. A loss that is not finite
    ends the trial at the end of its epoch: looking at every step would make a GPU wait.
    """
    training, device = trial.training, data.images.device
    configure_torch(training)
    model = placed_model(trial, data)
    optimizer = make_optimizer(model.parameters(), training, weight_decay=trial.weight_decay)
    diagnostics = Diagnostics()
    batch_size = min(training.batch_size, len(data.train))
    steps_per_epoch = steps_in_epoch(len(data.train), batch_size)
    take_step = training_step(trial, model, optimizer, device=device, batch_size=batch_size)
    static = None
    if training.cuda_graph:
        static = StaticSteps(trial, data, model, optimizer, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    memorisation_step = math.ceil(training.epochs / MEMORISATION_EPOCHS)

    def misfit(found: Progress) -> str:
        if not 0 <= found.epoch <= training.epochs or len(found.step_losses) != steps_per_epoch:
            return "it is of another number of epochs or steps"
        if [line["epoch"] for line in found.curve] != [*range(1, found.epoch + 1)]:
            return "its learning curve is not of the epochs that are done"
        return checkpoint.model_misfit(model, found.model) or checkpoint.optimizer_misfit(optimizer, found.optimizer)

    resumed, resumed_from, problems = checkpoint.load(folder, misfit)
    curve: list[Json] = []
    for file, problem in problems.items():
        folder.append("checkpoint_unusable", file=file, reason=problem)
    if resumed is not None:
        model.load_state_dict(resumed.model)
        optimizer.load_state_dict(resumed.optimizer)
        diagnostics = Diagnostics.restored(resumed.diagnostics)
        curve = resumed.curve
        _append_lost_epochs(folder, curve)
        folder.append("resumed", epoch=resumed.epoch, step=resumed.step, file=resumed_from)
    first_epoch = resumed.epoch if resumed else 0
    saved_at, saved_epoch = time.monotonic(), first_epoch

    def save(epoch: int, step: int, mixing_state: dict[str, Any] | None, losses: Tensor, seconds: float) -> None:
        nonlocal saved_at, saved_epoch
        state = (model.state_dict(), optimizer.state_dict(), mixing_state, _torch_state(device))
        folder.sync_journal()
        checkpoint.save(folder, Progress(epoch, step, *state, losses, diagnostics.state(), seconds, curve))
        folder.append("checkpoint", epoch=epoch, step=step)
        saved_at, saved_epoch = time.monotonic(), epoch

    for epoch in range(first_epoch, training.epochs):
        started = time.perf_counter()
        draws = draw_epoch(trial, data, epoch)
        mixing = stream(trial.seed, "mixing", epoch)
        _seed_torch(stream_seed(trial.seed, "dropout", epoch), device)
        losses = torch.zeros(steps_per_epoch, device=device)
        first_step, earlier_seconds = 0, 0.0
        if resumed is not None and resumed.step:
            first_step, earlier_seconds, losses = resumed.step, resumed.train_seconds, resumed.step_losses.to(device)
            assert resumed.mixing_state is not None
            mixing.bit_generator.state = resumed.mixing_state
            _set_torch_state(resumed.torch_state, device)
        else:
            diagnostics.begin_epoch()
        resumed = None

        model.train()
        batches: Iterator[Batch | None]
        if static is None:
            batches = draws.batches(batch_size, first_step=first_step, steps=steps_per_epoch)
        else:
            static.begin(draws, mixing, first_step=first_step, losses=losses)
            losses = static.losses
            batches = repeat(None, steps_per_epoch - first_step)
        for step, batch in enumerate(batches, first_step):
            if batch is None:
                assert static is not None
                static.take(step)
            else:
                lr = lr_at(epoch * steps_per_epoch + step, training, steps_per_epoch=steps_per_epoch)
                found = take_step(batch, lr, mixing)
                losses[step] = found.loss.detach()
                diagnostics.note(found)
            if stop_requested() or time.monotonic() - saved_at > policy.seconds:
                seconds = earlier_seconds + time.perf_counter() - started
                if static is not None:
                    static.note(diagnostics, step + 1)
                drawn = mixing.bit_generator.state if static is None else static.state_after(step)
                save(epoch, step + 1, dict(drawn), losses, seconds)
                if stop_requested():
                    raise Interrupted
        if static is not None:
            static.note(diagnostics, steps_per_epoch)
        broken = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        train_seconds = earlier_seconds + time.perf_counter() - started

        started = time.perf_counter()
        lr = lr_at((epoch + 1) * steps_per_epoch - 1, training, steps_per_epoch=steps_per_epoch)
        line: Json = {"epoch": epoch + 1, "lr": lr, "train_loss": losses.mean().item(), "train_seconds": train_seconds}
        if not broken:
            line["train_error_mixed"] = diagnostics.train_error_mixed()
            val_logits = predict(model, data, data.images, data.val, trial=trial, looked=stop_requested)
            test_logits = predict(model, data, data.test_images, trial=trial, looked=stop_requested)
            line |= _errors("val", val_logits, data.labels[data.val])
            line |= _errors("test", test_logits, data.test_labels)
            if data.noise is not None and (epoch + 1 == training.epochs or epoch % memorisation_step == 0):
                line |= _memorisation(model, data, trial, stop_requested)
            if not all(math.isfinite(value) for value in line.values()):
                broken = [steps_per_epoch - 1]  # the last step broke the weights, or BatchNorm its statistics
            line["weight_norm"] = weight_norm(model).item()
        curve.append(folder.append("epoch", **line, eval_seconds=time.perf_counter() - started))
        if broken:
            return Trained(model, curve, diagnostics.summary(), {"epoch": epoch + 1, "step": broken[0] + 1})
        if policy.epochs is not None and epoch + 1 - saved_epoch >= policy.epochs:
            save(epoch + 1, 0, None, losses, 0.0)
    return Trained(model, curve, diagnostics.summary(), None)


def _append_lost_epochs(folder: TrialFolder, curve: list[Json]) -> None:
    """Write those lines again that the journal has torn, lost, or replaced by those of another attempt."""
    kept = {line["epoch"]: {**line, "uptime_seconds": None} for line in folder.epochs()}
    for line in curve:
        if kept.get(line["epoch"]) != {**line, "uptime_seconds": None}:
            folder.append(**{name: value for name, value in line.items() if name != "uptime_seconds"})


def steps_in_epoch(num_train: int, batch_size: int) -> int:
    """BatchNorm cannot take a batch of one: such a last batch is left out of its epoch.  batch_size: <= num_train."""
    return num_train // batch_size + (num_train % batch_size > 1)


def configure_torch(training: TrainingConfig) -> None:
    """What the recipe asks of torch itself, for training and for whatever is later done with the network."""
    torch.set_num_threads(training.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: cuDNN would round convolutions to TF32 by default
    if training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def placed_model(trial: Trial, data: TrialData) -> nn.Module:
    """`initial_model` on the data's device, in the recipe's memory format."""
    return initial_model(trial, data).to(data.images.device).to(memory_format=memory_format(trial.training))


def initial_model(trial: Trial, data: TrialData) -> nn.Module:
    """The network with the initial weights that every method of this cell and seed starts from, on the CPU."""
    channels, height, width = data.images.shape[1:]
    _seed_torch(stream_seed(trial.seed, "init"), torch.device("cpu"))
    return build(
        trial.model.name,
        input_shape=(channels, height, width),
        num_classes=data.num_classes,
        **trial.model.args | trial.method.network_args(trial.model.name),
    )


@torch.inference_mode()
def predict(
    model: nn.Module,
    data: TrialData,
    images: Images,
    index: Tensor | None = None,
    *,
    trial: Trial,
    looked: Callable[[], object] = lambda: None,
) -> Tensor:
    """Logits (n, K) float32 of uint8 images, or of those at `index`, without augmentation, in evaluation mode.

    looked: called before every batch: a sign that the work goes on.
    """
    model.eval()
    layout = memory_format(trial.training)
    logits = []
    for pixels in image_batches(images, index, size=evaluation_batch(trial.training, images.device)):
        looked()
        x = data.normalised(pixels)
        with autocast(trial, x.device):
            logits.append(model(x.contiguous(memory_format=layout)).float())
    return torch.cat(logits) if logits else torch.empty(0, data.num_classes, device=images.device)


def evaluation_batch(training: TrainingConfig, device: torch.device) -> int:
    """How many images are evaluated at once.

    On a GPU, which small batches leave idle, eight training batches: without a backward pass to come no activation
    outlives its layer, so that these take no more memory than training does. Not measured on a GPU.
    """
    if device.type != "cuda":
        return EVALUATION_BATCH
    return max(EVALUATION_BATCH, min(8 * training.batch_size, MOST_EVALUATED))


def _errors(split: str, logits: Tensor, labels: Tensor) -> Json:
    if not len(labels):
        return {}
    return {f"{split}_error": top1_error(logits, labels), f"{split}_nll": nll(logits, labels)}


def _memorisation(model: nn.Module, data: TrialData, trial: Trial, looked: Callable[[], object]) -> Json:
    """Training errors on images that kept their label and on the others; on the latter, against the true label too."""
    wrong = data.labels[data.train] != data.true_labels[data.train]
    line = {}
    for group, name in ((data.train[~wrong], "clean"), (data.train[wrong], "wrong")):
        index = group[:: math.ceil(len(group) / MEMORISATION_EXAMPLES)] if len(group) else group
        if not len(index):
            continue
        logits = predict(model, data, data.images, index, trial=trial, looked=looked)
        line[f"train_error_{name}_labels"] = top1_error(logits, data.labels[index])
        if name == "wrong":
            line["train_error_wrong_vs_true"] = top1_error(logits, data.true_labels[index])
    return line


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that networks draw from: initial weights, dropout, stochastic depth.

    torch.manual_seed does the same at 1.1 ms a call where no GPU is in use (torch 2.15): it formats a stack trace.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _torch_state(device: torch.device) -> dict[str, Tensor]:
    """torch's generators, which dropout and stochastic depth draw from."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_torch_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:  # not where the trial began on a CPU
        torch.cuda.set_rng_state(state["cuda"], device)
