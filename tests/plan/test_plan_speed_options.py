"""Which methods and recipes the options for speed refuse, before anything trains."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.plan.document import SuiteError
from bench.plan.plan import make_plan
from bench.plan.suite import Suite

TEXT = """\
name: speed
question: Which option?
base:
  dataset: digits
  model: {name: mlp}
  training: {epochs: 8, OPTION}
methods:
  - erm
  - METHOD
"""

Load = Callable[..., Suite]


@pytest.mark.parametrize(
    ("option", "method", "message"),
    [
        (
            "compile: true",
            "{name: manifold_mixup, layers: 1}",
            r":9: methods\[1\].layers: .*inside the network, at layer",
        ),
        ("compile: true", "manifold_mixup", r":9: methods\[1\]: .*leave out training.compile"),
        (
            "cuda_graph: true",
            "cutmix",
            r":9: methods\[1\]: training.cuda_graph does not take cutmix alpha=1: it takes erm",
        ),
        ("cuda_graph: true", "{name: mixup, partner: same_class}", "does not take mixup"),
        ("cuda_graph: true", "{name: erm, cutout: 2}", "does not take erm cutout=2"),
    ],
)
def test_what_does_not_fit_is_refused(load: Load, option: str, method: str, message: str) -> None:
    suite = load(TEXT.replace("OPTION", option).replace("METHOD", method))
    with pytest.raises(SuiteError, match=message):
        make_plan(suite)


def test_both_at_once_are_refused(load: Load) -> None:
    with pytest.raises(SuiteError, match="compile and cuda_graph have not been tried together"):
        load(TEXT.replace("OPTION", "compile: true, cuda_graph: true").replace("METHOD", "mixup"))


def test_off_is_what_goes_without_saying(load: Load) -> None:
    off = load(TEXT.replace("OPTION", "compile: false, cuda_graph: false").replace("METHOD", "mixup"))
    unsaid = load(TEXT.replace(", OPTION", "").replace("METHOD", "mixup"))
    on = load(TEXT.replace("OPTION", "compile: true").replace("METHOD", "mixup"))
    ids = [[planned.trial_id for planned in make_plan(suite).trials] for suite in (off, unsaid, on)]
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])
