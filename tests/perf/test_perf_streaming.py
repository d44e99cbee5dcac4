"""Both sides decode the same folder; what is measured here is only that they do."""

from pathlib import Path

import psutil
import pytest

from bench.perf import streaming
from bench.perf.streaming import make_folder, measure


def test_both_sides_decode_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, before = streaming._peaks, len(psutil.Process().children())

    def ours_alone(one_pass, *, epochs: int) -> list[int]:
        assert len(psutil.Process().children()) - before == 1, "the memory of timm's processes is not ours"
        return peaks(one_pass, epochs=epochs)

    monkeypatch.setattr(streaming, "_peaks", ours_alone)
    make_folder(tmp_path / "images", num_images=16)
    assert len(list((tmp_path / "images").rglob("*.jpg"))) == 16 + 8
    found = measure(tmp_path / "images", tmp_path, processes=1, batch_size=8, rounds=2, epochs=2)
    assert found.num_images == 16
    for pairs in (found.alone, found.training):
        assert len(pairs) == 2
        assert all(1 < rate < 100_000 for pair in pairs for rate in pair)
    assert len(found.memory_bytes) == 2
    assert all(1e8 < peak < 1e10 for peak in found.memory_bytes)
