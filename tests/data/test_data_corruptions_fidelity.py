"""Our corruptions against public implementations of the same paper, where those are installed."""

import numpy as np
import pytest
import torch
from corruption_fidelity import DETERMINISTIC, distance, likeness, natural_images

from bench.data.corruptions import EXTRA, STANDARD
from bench.data.corruptions.spatter_layers import _chamfer_distance, _equalized, canny_edges

RANDOM = [kind for kind in STANDARD + EXTRA if kind not in DETERMINISTIC]

# Largest Kolmogorov-Smirnov statistic of the change of a value.  Chance gives 0.002 to 0.02 on these images; frost's
# texture is ours.
LIMITS = {"frost": 0.06, "snow": 0.03, "fog": 0.03, "elastic_transform": 0.03, "spatter": 0.015}


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    for package in ("imagecorruptions", "corrupt_tta"):
        pytest.importorskip(package, reason="pip install imagecorruptions-imaug corrupt-tta", exc_type=ImportError)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize(("side", "count"), [(32, 30), (96, 4)])
@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_what_draws_nothing_agrees_to_a_level(kind: str, side: int, count: int, severity: int) -> None:
    found = distance(kind, severity, natural_images(count, side))
    assert found.largest <= 1
    # ImageMagick rounds a motion blur, the package truncates it.  Elsewhere float64 falls just short of whole numbers.
    assert found.mean < (0.55 if kind == "motion_blur" else 0.2)


@pytest.mark.parametrize("severity", [1, 3, 4, 5])
@pytest.mark.parametrize("kind", RANDOM)
def test_what_is_drawn_agrees_in_distribution(kind: str, severity: int) -> None:
    found, _ = likeness(kind, severity, natural_images(300, 32))
    assert found.change == pytest.approx(1, abs=0.05)
    assert found.ks < LIMITS.get(kind, 0.005)
    assert found.spectrum == pytest.approx((1, 1, 1), abs=0.15)


def test_canny_the_chamfer_distance_and_equalisation_are_opencvs() -> None:
    cv2 = pytest.importorskip("cv2", reason="comes with imagecorruptions-imaug")
    images = natural_images(20, 32)[:, :1]
    edges = canny_edges(torch.from_numpy(images).float())
    distances = _chamfer_distance(edges)
    equalized = _equalized(torch.from_numpy(images).float())
    for i, image in enumerate(images[:, 0]):
        theirs = cv2.Canny(image, 50, 150)
        assert np.array_equal(edges[i, 0].numpy(), theirs > 0)
        theirs = np.minimum(cv2.distanceTransform(255 - theirs, cv2.DIST_L2, 5), 20)
        assert distances[i, 0].numpy() == pytest.approx(theirs, abs=0.01)
        assert np.array_equal(equalized[i, 0].numpy(), cv2.equalizeHist(image))
