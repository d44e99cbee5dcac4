"""Sizes of networks: what is remembered, what is asked of torch, and what a wrong network's error says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.plan.document import SuiteError
from bench.plan.networks import Network, check_networks, known_networks
from bench.plan.suite import Suite

TEXT = """\
name: networks
question: Which networks are there?
base:
  dataset: digits
  training: {epochs: 3}
methods: [erm]
matrix:
  model:
    - name: mlp
    - {name: timm/test_vit, img_size: 8, patch_size: 2}
    - name: timm/resnet10t
      drop_rat: 0.1
"""


def test_a_wrong_argument_is_an_error_at_its_line(load: Callable[..., Suite], tmp_path: Path) -> None:
    """The one test here that starts torch."""
    with pytest.raises(SuiteError) as error:
        check_networks(load(TEXT), cache_root=tmp_path)
    assert str(error.value).startswith(
        f"{tmp_path}/suite.yaml:12: matrix.model[2].drop_rat: timm/resnet10t takes no argument 'drop_rat'; "
        "did you mean 'drop_rate'"
    )
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.json"))


class Probe:
    """Stands in for the process that has torch: keeps what it was asked, answers as it is told."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def __call__(self, command: list[str], *, input: str, **_: object) -> subprocess.CompletedProcess[str]:
        self.asked += json.loads(input)
        return subprocess.CompletedProcess(command, 0, json.dumps(self.answers), "")


GOOD = TEXT.replace("drop_rat:", "drop_rate:")


def test_what_is_known_is_not_asked_again(
    load: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load(GOOD)
    probe = Probe(
        {"params": 5, "tensors": 2, "forward_flops": 6, "layers": ["stem"]},
        {"params": 7, "tensors": 2, "forward_flops": 8, "layers": []},
    )
    monkeypatch.setattr(subprocess, "run", probe)
    assert known_networks(suite, cache_root=tmp_path / "cache").of(suite.cells[1]) is None
    networks = check_networks(suite, cache_root=tmp_path / "cache")
    image = {"input_shape": [1, 8, 8], "num_classes": 10}
    assert probe.asked == [  # not mlp, which a suite that ships has
        {"name": "timm/test_vit", "args": {"img_size": 8, "patch_size": 2}, **image},
        {"name": "timm/resnet10t", "args": {"drop_rate": 0.1}, **image},
    ]
    assert [networks.of(cell) for cell in suite.cells[1:]] == [Network(5, 2, 6, ["stem"]), Network(7, 2, 8, [])]
    monkeypatch.delattr(subprocess, "run")
    for again in (check_networks, known_networks):
        assert again(suite, cache_root=tmp_path / "cache") == networks


def test_a_wrong_name_is_an_error_at_its_line(
    load: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"params": 5, "tensors": 2, "forward_flops": 6, "layers": ["stem"]}
    monkeypatch.setattr(subprocess, "run", Probe(size, {"error": "no such\nnetwork", "nearest": ["a", "b"]}))
    with pytest.raises(SuiteError) as error:
        check_networks(load(GOOD), cache_root=tmp_path)
    assert (
        str(error.value) == f"{tmp_path}/suite.yaml:11: matrix.model[2].name: no such network; did you mean 'a' or 'b'?"
    )


def test_a_probe_that_fails_says_why(
    load: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ModuleNotFoundError: No module named 'torch'\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SuiteError, match=r"could not be checked: .*-m bench\.models\.probe failed:\n.*'torch'$"):
        check_networks(load(GOOD), cache_root=tmp_path)


def test_a_torn_cache_is_asked_for_again(
    load: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe(
        {"params": 5, "tensors": 2, "forward_flops": 6, "layers": ["stem"]},
        {"params": 7, "tensors": 2, "forward_flops": 8, "layers": []},
    )
    monkeypatch.setattr(subprocess, "run", probe)
    check_networks(load(GOOD), cache_root=tmp_path)
    (cache,) = tmp_path.glob("networks-*.json")
    cache.write_text(cache.read_text()[:20])
    check_networks(load(GOOD), cache_root=tmp_path)
    assert len(probe.asked) == 4


@pytest.mark.parametrize(
    "answer",
    [
        5,
        None,
        {"params": "many"},
        {"params": 1, "tensors": 1, "forward_flops": 1, "layers": "0"},
        {"params": -1, "tensors": 1, "forward_flops": 1, "layers": []},
        {"params": 1, "tensors": 1, "forward_flops": 1, "layers": [3]},
        {"params": 1, "tensors": 1, "forward_flops": True, "layers": []},
        {"params": 1, "tensors": 1, "forward_flops": 1, "layers": [], "more": 1},
    ],
)
def test_what_no_probe_says_is_asked_for_anew(
    load: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    right = {"params": 7, "tensors": 2, "forward_flops": 14, "layers": ["0"]}
    suite = load(GOOD)
    monkeypatch.setattr(subprocess, "run", Probe(right, right))
    before = check_networks(suite, cache_root=tmp_path)
    (path,) = tmp_path.glob("*.json")
    kept = path.read_bytes()
    path.write_text(json.dumps(dict.fromkeys(json.loads(kept), answer)))
    assert len(known_networks(suite, cache_root=tmp_path).by_name) == 1, "only mlp's, which is shipped"
    assert check_networks(suite, cache_root=tmp_path) == before
    assert path.read_bytes() == kept


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\x00", b"[" * 100_000])
def test_a_torn_file_of_networks_is_written_anew(
    load: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    right = {"params": 7, "tensors": 2, "forward_flops": 14, "layers": ["0"]}
    suite = load(GOOD)
    monkeypatch.setattr(subprocess, "run", Probe(right, right))
    before = check_networks(suite, cache_root=tmp_path)
    (path,) = tmp_path.glob("*.json")
    kept = path.read_bytes()
    path.write_bytes(content)
    assert check_networks(suite, cache_root=tmp_path) == before
    assert path.read_bytes() == kept
