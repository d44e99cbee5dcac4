"""Networks by name: the registry, timm's networks and their small-image stem, and the errors."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bench.models import MODELS, ModelError, build, model_args

COLOUR32 = (3, 32, 32)


def test_importing_the_package_loads_neither_torch_nor_timm() -> None:
    code = (
        "import sys, bench.models; bench.models.model_args('wrn_28_10');"
        "print(sorted({'torch', 'timm', 'torchvision', 'numpy', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_model_args_are_names_with_defaults() -> None:
    assert {name: model_args(name) for name in MODELS} == {
        "mlp": {"hidden": (128, 64), "dropout": 0.0},
        "lenet": {"dropout": 0.0},
        "preact_resnet18": {"width": 64, "dropout": 0.0},
        "wrn_28_10": {"depth": 28, "widen_factor": 10, "dropout": 0.0},
    }


# timm


@pytest.mark.parametrize("input_shape", [(1, 8, 8), (1, 28, 28), COLOUR32])
@pytest.mark.parametrize("small_stem", [False, True])
def test_timm_network_trains_on_small_images(input_shape: tuple[int, int, int], small_stem: bool) -> None:
    model = build("timm/test_resnet", input_shape=input_shape, num_classes=7, small_stem=small_stem)
    logits = model(torch.rand(2, *input_shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()


def test_timm_args_reach_the_network() -> None:
    model = build("timm/test_resnet", input_shape=COLOUR32, num_classes=10, drop_rate=0.25)
    assert model.drop_rate == 0.25
    model = build("timm/test_vit", input_shape=COLOUR32, num_classes=10, img_size=32, patch_size=4)
    assert model(torch.rand(2, *COLOUR32)).shape == (2, 10)


def test_timm_resnet18_counts_as_torchvisions() -> None:
    with torch.device("meta"):
        ours = build("timm/resnet18", input_shape=COLOUR32, num_classes=10)
        small = build("timm/resnet18", input_shape=COLOUR32, num_classes=10, small_stem=True)
        theirs = torchvision.models.resnet18(num_classes=10)
    count = {id(net): sum(weight.numel() for weight in net.parameters()) for net in (ours, small, theirs)}
    assert count[id(ours)] == count[id(theirs)]
    assert count[id(small)] == count[id(theirs)] - 64 * 3 * (7 * 7 - 3 * 3)


@pytest.mark.parametrize(
    "architecture",  # plain, deep, deep-tiered, anti-aliased and convolved stems
    ["resnet18", "resnext50_32x4d", "test_resnet", "resnet26t", "resnetblur18", "resnetrs50", "skresnet18"],
)
@pytest.mark.parametrize(("small_stem", "side"), [(False, 8), (True, 32)])
def test_small_stem_keeps_the_resolution(architecture: str, small_stem: bool, side: int) -> None:
    shapes = []
    with torch.device("meta"):
        model = build(f"timm/{architecture}", input_shape=COLOUR32, num_classes=10, small_stem=small_stem).eval()

        def record(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            shapes.append(inputs[0].shape)

        model.get_submodule("layer1").register_forward_pre_hook(record)
        model(torch.empty(1, *COLOUR32))
    assert [tuple(shape[-2:]) for shape in shapes] == [(side, side)]


def test_small_stem_draws_its_convolution_as_timm_does() -> None:
    """He et al. 2015, fan out: standard deviation sqrt(2 / (3 * 3 * 64))."""
    model = build("timm/resnet18", input_shape=(16, 32, 32), num_classes=10, small_stem=True)
    weight = model.get_submodule("conv1").get_parameter("weight")
    assert weight.shape == (64, 16, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


# Errors


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("wrn_28_1", "wrn_28_10"),
        ("resnet18", "timm/resnet18"),
        ("timm/resnet81", "timm/resnet18"),
        ("timm/resnet18.a1_in1k", "timm/resnet18"),  # the tag names weights, and we load none
        ("tim/resnet18", "timm/resnet18"),
    ],
)
def test_unknown_network_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ModelError, match=f"no network is called '{name}'; nearest: ") as caught:
        build(name, input_shape=COLOUR32, num_classes=10)
    assert nearest in caught.value.nearest
    assert isinstance(caught.value, ValueError)


def test_unknown_network_without_a_neighbour() -> None:
    with pytest.raises(ModelError, match=r"no network is called 'qqqqqq'$"):
        build("qqqqqq", input_shape=COLOUR32, num_classes=10)


@pytest.mark.parametrize(
    ("name", "arg", "nearest"),
    [
        ("mlp", "hiden", "hidden"),
        ("wrn_28_10", "widening_factor", "widen_factor"),
        ("timm/test_resnet", "drop_rat", "drop_rate"),
        ("timm/test_resnet", "smal_stem", "small_stem"),
        ("timm/hrnet_w18_small", "drop_rat", "drop_rate"),  # words its TypeError in its own way
    ],
)
def test_unknown_argument_names_the_nearest(name: str, arg: str, nearest: str) -> None:
    with pytest.raises(ModelError, match=f"{name} takes no argument '{arg}'; nearest: {nearest}"):
        build(name, input_shape=COLOUR32, num_classes=10, **{arg: 0.1})


def test_pretrained_weights_cannot_be_asked_for() -> None:
    with pytest.raises(ModelError, match="'pretrained'"):
        build("timm/test_resnet", input_shape=COLOUR32, num_classes=10, pretrained=True)


def test_timms_own_type_errors_pass_through() -> None:
    with pytest.raises(TypeError):
        build("timm/test_resnet", input_shape=COLOUR32, num_classes=10, stem_type=3)


def test_small_stem_is_refused_where_there_is_none() -> None:
    with pytest.raises(ModelError, match=r"timm/test_vit has no small_stem.*VisionTransformer"):
        build("timm/test_vit", input_shape=COLOUR32, num_classes=10, img_size=32, small_stem=True)
    with pytest.raises(ModelError, match="mlp takes no argument 'small_stem'"):
        build("mlp", input_shape=COLOUR32, num_classes=10, small_stem=True)


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ModelError("no such", ["near", "far"])))
    assert str(error) == "no such; nearest: near, far"
    assert (error.problem, error.nearest) == ("no such", ("near", "far"))
