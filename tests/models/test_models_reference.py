"""The reference networks: parameter counts derived by hand, wiring, shapes and initialisation."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from bench.models import MODELS, build
from bench.models.preact_resnet import PreActBlock, PreActResNet18
from bench.models.wide_resnet import WideBlock, WideResNet

GREY28, COLOUR32 = (1, 28, 28), (3, 32, 32)

# Every reference network, at a size that tests in milliseconds.
SMALL_ARGS = {
    "mlp": {},
    "lenet": {},
    "preact_resnet18": {"width": 8},
    "wrn_28_10": {"depth": 10, "widen_factor": 1},
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def count_on_meta(name: str, input_shape: tuple[int, int, int], num_classes: int, **args: object) -> int:
    with torch.device("meta"):
        return count(build(name, input_shape=input_shape, num_classes=num_classes, **args))


def conv(k: int, c_in: int, c_out: int) -> int:
    return k * k * c_in * c_out


def bn(channels: int) -> int:
    return 2 * channels


def linear(fan_in: int, fan_out: int) -> int:
    return (fan_in + 1) * fan_out


def batch_norm_relu(x: Tensor) -> Tensor:
    """What a fresh BatchNorm followed by ReLU does in training mode, written out."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = x.var((0, 2, 3), unbiased=False, keepdim=True)
    return ((x - mean) / torch.sqrt(variance + 1e-5)).clamp(min=0)


# Parameter counts


def test_mlp_is_the_tutorials_784_128_64_10() -> None:
    by_hand = linear(784, 128) + linear(128, 64) + linear(64, 10)
    assert by_hand == 109_386
    assert count_on_meta("mlp", GREY28, 10) == by_hand


def test_mlp_takes_its_input_size_from_the_data_and_its_depth_from_hidden() -> None:
    assert count_on_meta("mlp", (1, 8, 8), 10) == linear(64, 128) + linear(128, 64) + linear(64, 10)
    assert count_on_meta("mlp", (3, 4, 5), 7, hidden=[9]) == linear(60, 9) + linear(9, 7)
    assert count_on_meta("mlp", (3, 4, 5), 7, hidden=[]) == linear(60, 7)


def test_lenet_has_the_counts_of_lenet5() -> None:
    head = linear(16 * 5 * 5, 120) + linear(120, 84) + linear(84, 10)
    second = conv(5, 6, 16) + 16
    assert count_on_meta("lenet", GREY28, 10) == conv(5, 1, 6) + 6 + second + head == 61_706
    assert count_on_meta("lenet", COLOUR32, 10) == conv(5, 3, 6) + 6 + second + head == 62_006


def test_preact_resnet18_count_layer_by_layer() -> None:
    stem = conv(3, 3, 64) + bn(64)
    stage1 = 2 * (bn(64) + conv(3, 64, 64) + bn(64) + conv(3, 64, 64))

    def stage(c_in: int, c: int) -> int:
        first = bn(c_in) + conv(3, c_in, c) + bn(c) + conv(3, c, c) + conv(1, c_in, c)
        return first + bn(c) + conv(3, c, c) + bn(c) + conv(3, c, c)

    by_hand = stem + stage1 + stage(64, 128) + stage(128, 256) + stage(256, 512) + linear(512, 10)
    assert by_hand == 11_171_274  # 11.17 M
    assert count_on_meta("preact_resnet18", COLOUR32, 10) == by_hand


@pytest.mark.parametrize(
    ("depth", "k", "millions"),
    # Zagoruyko and Komodakis 2016, tables 4 and 5
    [(28, 10, 36.5), (40, 4, 8.9), (16, 8, 11.0), (22, 8, 17.2), (40, 1, 0.6)],
)
def test_wide_resnet_count_follows_the_papers_table(depth: int, k: int, millions: float) -> None:
    """A unit of width c holds 18 c^2 + 4 c; each stage's first differs by its input; n units a stage."""
    n = (depth - 4) // 6
    widths = (16, 16 * k, 32 * k, 64 * k)
    by_formula = conv(3, 3, 16) + bn(64 * k) + linear(64 * k, 10)
    for c_in, c in pairwise(widths):
        by_formula += n * (18 * c * c + 4 * c)
        by_formula += (9 * c_in * c + 2 * c_in) - (9 * c * c + 2 * c)
        by_formula += conv(1, c_in, c) if c_in != c else 0
    assert round(by_formula / 1e6, 1) == millions
    assert count_on_meta("wrn_28_10", COLOUR32, 10, depth=depth, widen_factor=k) == by_formula


def test_wrn_28_10_exact() -> None:
    assert count_on_meta("wrn_28_10", COLOUR32, 10) == 36_479_194
    assert count_on_meta("wrn_28_10", COLOUR32, 100) == 36_479_194 + 90 * 641


# Shapes


@pytest.mark.parametrize(
    ("name", "input_shape"),
    [
        *((name, shape) for name in MODELS for shape in [GREY28, (3, 28, 28), COLOUR32, (3, 40, 32)]),
        *((name, shape) for name in MODELS if name != "lenet" for shape in [(1, 8, 8), (3, 8, 8)]),
    ],
)
def test_images_become_logits(name: str, input_shape: tuple[int, int, int]) -> None:
    model = build(name, input_shape=input_shape, num_classes=7, **SMALL_ARGS[name])
    assert model(torch.rand(2, *input_shape)).shape == (2, 7)


def test_lenet_refuses_small_images() -> None:
    with pytest.raises(ValueError, match=r"lenet needs images of at least 28x28 pixels, these have 8x8"):
        build("lenet", input_shape=(1, 8, 8), num_classes=10)


@pytest.mark.parametrize("depth", [4, 27, -2])
def test_wide_resnet_refuses_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 4"):
        build("wrn_28_10", input_shape=COLOUR32, num_classes=10, depth=depth)


def test_mlp_refuses_an_empty_layer() -> None:
    with pytest.raises(ValueError, match=r"hidden = \[32, 0\]"):
        build("mlp", input_shape=GREY28, num_classes=10, hidden=[32, 0])


@pytest.mark.parametrize("name", ["preact_resnet18", "wrn_28_10"])
def test_stages_halve_the_resolution_after_the_first(name: str) -> None:
    model = build(name, input_shape=COLOUR32, num_classes=10, **SMALL_ARGS[name])
    assert isinstance(model, PreActResNet18 | WideResNet)
    x, sides = model.stem(torch.rand(2, 3, 32, 32)), []
    for stage in model.stages:
        x = stage(x)
        sides.append(x.shape[-1])
    assert sides == [32, 16, 8, 4][: len(sides)]
    assert len(sides) == (4 if name == "preact_resnet18" else 3)


# Wiring


def test_preact_block_without_residual_is_its_activated_input() -> None:
    """The paper's code, unlike the textbook, takes the identity shortcut after the ReLU."""
    x = torch.randn(4, 6, 5, 5)
    block = PreActBlock(6, 6, stride=1, dropout=0.0)
    nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(block(x), batch_norm_relu(x))


def test_preact_block_without_residual_projects_its_activated_input() -> None:
    x = torch.randn(4, 6, 6, 6)
    block = PreActBlock(6, 9, stride=2, dropout=0.0)
    nn.init.zeros_(block.conv2.weight)
    assert isinstance(block.shortcut, nn.Conv2d)
    projection = block.shortcut.weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", projection, batch_norm_relu(x)[:, :, ::2, ::2])
    torch.testing.assert_close(block(x), expected)


def test_wide_block_without_residual_is_the_identity() -> None:
    x = torch.randn(4, 6, 5, 5)
    block = WideBlock(6, 6, stride=1, dropout=0.0)
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)


def test_wide_block_without_residual_projects_its_activated_input() -> None:
    x = torch.randn(4, 6, 6, 6)
    block = WideBlock(6, 9, stride=2, dropout=0.0)
    nn.init.zeros_(block.conv2.weight)
    assert block.projection is not None
    projection = block.projection.weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", projection, batch_norm_relu(x)[:, :, ::2, ::2])
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("block", [PreActBlock(4, 4, stride=1, dropout=0.0), WideBlock(4, 4, stride=1, dropout=0.0)])
def test_residual_branch_is_bn_relu_conv_twice(block: PreActBlock | WideBlock) -> None:
    """With both convolutions set to copy their input, the branch is BatchNorm-ReLU applied twice."""
    nn.init.dirac_(block.conv1.weight)
    nn.init.dirac_(block.conv2.weight)
    x = torch.randn(4, 4, 5, 5)
    shortcut = x if isinstance(block, WideBlock) else batch_norm_relu(x)
    torch.testing.assert_close(block(x), batch_norm_relu(batch_norm_relu(x)) + shortcut)


def test_only_the_wide_resnet_activates_before_pooling() -> None:
    """Its features are positive, so with a copying classifier no logit is negative; PreAct's may be."""
    images = torch.randn(16, 3, 16, 16)
    wide = WideResNet(3, 64, depth=10, widen_factor=1, dropout=0.0)
    preact = PreActResNet18(3, 64, width=8, dropout=0.0)
    for model in (wide, preact):
        nn.init.eye_(model.classifier.weight)
        nn.init.zeros_(model.classifier.bias)
    assert wide(images).min() >= 0
    assert preact(images).min() < 0


def test_wide_resnet_drops_out_in_training_only() -> None:
    model = WideResNet(3, 10, depth=10, widen_factor=2, dropout=0.5)
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(name, input_shape=COLOUR32, num_classes=5, **SMALL_ARGS[name])
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    without = [key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


# Initialisation


@pytest.mark.parametrize("name", MODELS)
def test_weights_follow_torchs_seed(name: str) -> None:
    def weights(seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(name, input_shape=COLOUR32, num_classes=5, **SMALL_ARGS[name])
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_wide_resnet_draws_convolutions_by_fan_out() -> None:
    model = WideResNet(3, 10, depth=10, widen_factor=8, dropout=0.0)
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    assert len(convolutions) == 10  # a stem, 3 x 2 in the blocks, 3 projections
    for layer in convolutions[1:]:
        k, out_channels = layer.kernel_size[0], layer.out_channels
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (k * k * out_channels)), rel=0.05)
    assert not model.classifier.bias.any()


def test_preact_resnet_keeps_pytorchs_default() -> None:
    """U(-b, b) with b = 1 / sqrt(fan_in), so its standard deviation is b / sqrt(3)."""
    model = PreActResNet18(3, 10, width=16, dropout=0.0)
    for layer in model.stages.modules():
        if isinstance(layer, nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert bound * 0.95 < layer.weight.abs().max().item() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
