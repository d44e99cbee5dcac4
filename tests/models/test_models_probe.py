"""The probe: sizes counted by hand, errors as data, and the way through stdin and stdout."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.models import build
from bench.models.probe import probe


def test_mlp_by_hand() -> None:
    assert probe("mlp", {}, input_shape=(1, 28, 28), num_classes=10) == {
        "params": 109_386,
        "tensors": 6,
        "forward_flops": 2 * (784 * 128 + 128 * 64 + 64 * 10),
        "layers": ["2", "4"],
    }


def test_lenet_by_hand() -> None:
    convolutions = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25
    linears = 400 * 120 + 120 * 84 + 84 * 10
    assert probe("lenet", {}, input_shape=(1, 28, 28), num_classes=10) == {
        "params": 61_706,
        "tensors": 10,
        "forward_flops": 2 * (convolutions + linears),
        "layers": ["2", "5", "8", "11"],
    }


def test_args_count() -> None:
    small = probe("mlp", {"hidden": [8]}, input_shape=(1, 8, 8), num_classes=10)
    assert small == {"params": 65 * 8 + 9 * 10, "tensors": 4, "forward_flops": 2 * (64 * 8 + 8 * 10), "layers": ["2"]}


@pytest.mark.parametrize(
    ("name", "args"), [("timm/test_resnet", {"small_stem": True}), ("timm/test_vit", {"img_size": 32})]
)
def test_the_meta_device_counts_what_the_cpu_does(name: str, args: dict[str, object]) -> None:
    model = build(name, input_shape=(3, 32, 32), num_classes=10, **args).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    found = probe(name, args, input_shape=(3, 32, 32), num_classes=10)
    assert found["forward_flops"] == counter.get_total_flops()


def test_a_typing_error_names_the_nearest_argument() -> None:
    found = probe("timm/test_resnet", {"drop_rat": 0.1}, input_shape=(3, 32, 32), num_classes=10)
    assert found["error"] == "timm/test_resnet takes no argument 'drop_rat'"
    assert found["nearest"][0] == "drop_rate"


@pytest.mark.parametrize(
    ("name", "args", "input_shape", "says"),
    [
        ("lenet", {}, (1, 8, 8), "lenet on 1x8x8 images: lenet needs images of at least 28x28"),
        ("timm/vit_tiny_patch16_224", {}, (3, 32, 32), "on 3x32x32 images: Input height (32) doesn't match"),
        ("timm/test_vit", {"img_size": "a"}, (3, 32, 32), "timm/test_vit on 3x32x32 images: "),
        ("timm/test_resnet", {"num_classes": 4}, (3, 32, 32), "'num_classes'"),
        ("timm/test_resnet", {"features_only": True}, (3, 32, 32), "its output is not logits (B, 10)"),
    ],
)
def test_what_cannot_run_is_an_answer(
    name: str, args: dict[str, object], input_shape: tuple[int, int, int], says: str
) -> None:
    found = probe(name, args, input_shape=input_shape, num_classes=10)
    assert says in found["error"]
    assert found["nearest"] == []


def test_a_list_goes_in_and_a_list_comes_out() -> None:
    questions = [
        {"name": "mlp", "args": {}, "input_shape": [1, 28, 28], "num_classes": 10},
        {"name": "mpl", "args": {}, "input_shape": [1, 28, 28], "num_classes": 10},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench.models.probe"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=True,
    )
    known, unknown = json.loads(done.stdout)
    assert known["params"] == 109_386
    assert "mlp" in unknown["nearest"]
