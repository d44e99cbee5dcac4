"""CutMix, ResizeMix, FMix, timm's switch and Cutout: what of whom is where, and what the labels say of it."""

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data import Mixup as TimmMixup
from timm.data.mixup import rand_bbox
from torch.nn.functional import interpolate, one_hot
from torchvision.transforms import v2
from toy_batches import CLASSES, Looking, batch

from bench.mixing.cutmix import Box, CutMix, draw_box, paste
from bench.mixing.cutout import cut_out, draw_centres
from bench.mixing.fmix import FMix, draw_mask
from bench.mixing.mixup_or_cutmix import MixupOrCutMix
from bench.mixing.resizemix import ResizeMix, draw_patch, paste_small


def run(method, given, seed: int):
    model = Looking()
    return method.training_loss(model, given, rng=np.random.default_rng(seed)), model.seen[0]


@pytest.mark.parametrize("method", [CutMix(), FMix(), CutMix(alpha=0.3), FMix(decay=0)], ids=lambda m: m.label)
@pytest.mark.parametrize("side", [5, 8])
def test_labels_claim_the_share_that_the_pixels_have(method, side):
    """The first channel of each toy image is one number, so that every pixel says whose it is."""
    given = batch(9, side=side)
    own = given.x[:, 0, 0, 0]
    for seed in range(40):
        found, shown = run(method, given, seed)
        is_own = shown[:, 0] == own[:, None, None]
        shares = is_own.double().mean((1, 2)).numpy()
        moved = shares < 1  # an example that the permutation leaves in place shows itself everywhere
        np.testing.assert_allclose(shares[moved], found.lam, rtol=1e-12)
        assert found.targets[0][1] == found.lam
        assert found.targets[1][1] == 1 - found.lam


def test_resizemix_labels_claim_the_share_that_the_pixels_have():
    given = batch(9, side=8)
    own = given.x[:, 0, 0, 0]
    for seed in range(40):
        found, shown = run(ResizeMix(), given, seed)
        shares = ((shown[:, 0] - own[:, None, None]).abs() < 1e-5).double().mean((1, 2)).numpy()
        np.testing.assert_allclose(shares[shares < 1], found.lam, rtol=1e-12)


class Twin:
    """Stands in for a generator: gives the numbers that it was given."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def integers(self, high: int) -> int:
        assert 0 <= self.numbers[0] < high
        return self.numbers.pop(0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 10), (5, 5)])
def test_the_box_is_torchvisions_for_its_lam_and_centre(height, width):
    """As the authors' code, which rounds odd sides down to even ones; timm keeps them."""
    images = [torch.rand(2, 3, height, width)]
    for seed in range(60):
        torch.manual_seed(seed)
        theirs = v2.CutMix(alpha=1.0, num_classes=2).make_params(images)
        torch.manual_seed(seed)
        lam = float(torch.distributions.Beta(torch.tensor([1.0]), torch.tensor([1.0])).sample(()))  # its order of draws
        column, row = (int(torch.randint(side, size=(1,))) for side in (width, height))
        box = draw_box(Twin(row, column), lam, height=height, width=width)
        assert (box.left, box.top, box.right, box.bottom) == tuple(map(int, theirs["box"]))
        assert 1 - box.area / (height * width) == pytest.approx(theirs["lam_adjusted"])


def test_cutmix_as_torchvision_does_it():
    given = batch(8, side=12)
    torch.manual_seed(5)
    theirs_x, theirs_y = v2.CutMix(alpha=1.0, num_classes=CLASSES)(given.x, given.y)
    partner = given.x.roll(1, 0)
    changed = (theirs_x != given.x).flatten(0, 1).any(0)
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    box = Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    assert torch.equal(paste(given.x, partner, box), theirs_x)
    lam = 1 - box.area / 144
    expected = lam * one_hot(given.y, CLASSES) + (1 - lam) * one_hot(given.y.roll(1, 0), CLASSES)
    torch.testing.assert_close(expected.float(), theirs_y)


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_as_timm_does_it(seed):
    given = batch(8, side=12)
    np.random.seed(seed)  # noqa: NPY002  (timm draws from the global stream)
    theirs = TimmMixup(mixup_alpha=0, cutmix_alpha=1.0, num_classes=CLASSES, label_smoothing=0)
    theirs_x, theirs_y = theirs(given.x.clone(), given.y)
    np.random.seed(seed)  # noqa: NPY002
    assert np.random.rand() < 1.0  # noqa: NPY002  (its order of draws)
    lam = np.random.beta(1, 1)  # noqa: NPY002
    top, bottom, left, right = map(int, rand_bbox(given.x.shape, lam))
    box = Box(top, bottom, left, right)
    assert torch.equal(paste(given.x, given.x.flip(0), box), theirs_x)
    share = 1 - box.area / 144
    expected = share * one_hot(given.y, CLASSES) + (1 - share) * one_hot(given.y.flip(0), CLASSES)
    torch.testing.assert_close(expected.float(), theirs_y)


def test_a_box_at_the_border_is_cut_and_so_is_its_weight():
    drawn = [draw_box(np.random.default_rng(seed), 0.25, height=8, width=8) for seed in range(200)]
    areas = {box.area for box in drawn}
    assert max(areas) == 36  # sides int(8 * sqrt(0.75)) = 6
    assert min(areas) < 18


def test_a_patch_lies_inside_and_is_of_its_size():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tau = rng.uniform(0, 1)
        box = draw_patch(rng, tau, height=9, width=16)
        assert (box.bottom - box.top, box.right - box.left) == (round(tau * 9), round(tau * 16))
        assert 0 <= box.top <= box.bottom <= 9
        assert 0 <= box.left <= box.right <= 16


def test_resizemix_pastes_the_whole_partner():
    given = batch(6, side=8)
    partner = given.x.roll(1, 0)
    box = Box(2, 6, 1, 5)
    mixed = paste_small(given.x, partner, box)
    expected = interpolate(partner, (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(mixed[:, :, 2:6, 1:5], expected)
    mixed[:, :, 2:6, 1:5] = given.x[:, :, 2:6, 1:5]
    assert torch.equal(mixed, given.x)
    assert torch.equal(paste_small(given.x, partner, Box(0, 8, 0, 8)), partner)


def test_resizemix_draws_tau_uniformly():
    given = batch(2, side=80)
    sizes = [np.sqrt(1 - run(ResizeMix(), given, seed)[0].lam) for seed in range(300)]
    assert min(sizes) >= 0.1
    assert max(sizes) <= 0.8
    assert stats.kstest(sizes, stats.uniform(0.1, 0.7).cdf).pvalue > 0.001


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12), (1, 5)])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.77, 1.0])
def test_a_mask_covers_its_share(height, width, lam):
    shares = [draw_mask(np.random.default_rng(s), lam, height=height, width=width, decay=3.0).sum() for s in range(60)]
    size = height * width
    assert set(shares) <= {int(np.floor(lam * size)), int(np.ceil(lam * size))}
    if not (lam * size).is_integer():
        assert len(set(shares)) == 2


def test_a_larger_decay_gives_smoother_shapes():
    """Fewer neighbouring pixels that differ; without decay as many as in white noise, one half."""

    def edges(decay: float) -> float:
        masks = [draw_mask(np.random.default_rng(s), 0.5, height=32, width=32, decay=decay) for s in range(20)]
        return float(np.mean([np.diff(mask.astype(int), axis=axis) != 0 for mask in masks for axis in (0,)]))

    assert abs(edges(0) - 0.5) < 0.03
    assert edges(3) < edges(1.5) < edges(0)
    assert edges(3) < 0.12


def test_masks_know_no_direction():
    """Each pixel is as often covered as any other."""
    masks = np.mean(
        [draw_mask(np.random.default_rng(s), 0.5, height=6, width=6, decay=3.0) for s in range(800)], axis=0
    )
    assert np.abs(masks - 0.5).max() < 5 * 0.5 / np.sqrt(800)


def test_mixup_or_cutmix_switches():
    """CutMix leaves pixels whole; mixup leaves none so."""
    given = batch(8, side=10)
    cut = []
    for seed in range(300):
        found, shown = run(MixupOrCutMix(switch=0.3, alpha=1, cutmix_alpha=1), given, seed)
        originals = set(given.x[:, 0, 0, 0].tolist())
        cut.append(set(shown[:, 0].flatten().tolist()) <= originals and found.lam < 1)
    assert stats.binomtest(sum(cut), 300, 0.3).pvalue > 0.001


def test_cutout_by_hand():
    x = torch.ones(2, 3, 6, 8)
    holed = cut_out(x, np.array([[3, 3], [0, 7]]), side=4)
    expected = torch.ones(2, 3, 6, 8)
    expected[0, :, 1:5, 1:5] = 0
    expected[1, :, 0:2, 5:8] = 0
    assert torch.equal(holed, expected)
    assert x.all(), "changed in place"


def test_cutout_centres_are_uniform_over_the_pixels():
    centres = draw_centres(np.random.default_rng(0), (20000, 3, 4, 5))
    counts = np.histogram2d(*centres.T, bins=[4, 5])[0].ravel()
    assert counts.sum() == 20000
    assert stats.chisquare(counts).pvalue > 0.001
