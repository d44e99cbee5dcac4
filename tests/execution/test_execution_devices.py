"""Devices, with a real executable in the place of nvidia-smi: this project is tested on machines without a GPU."""

import stat

import pytest

from bench.execution import devices
from bench.execution.devices import DeviceError, slots, visible_gpus

TWO_GPUS = """\
#!/bin/sh
echo "0, GPU-aaaa1111, NVIDIA H200"
echo "1, GPU-bbbb2222, NVIDIA H200"
"""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text(TWO_GPUS)
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def uuids(found):
    return [slot.visible for slot in found]


def test_one_slot_per_gpu(two_gpus):
    assert uuids(slots("auto")) == ["GPU-aaaa1111", "GPU-bbbb2222"]
    assert uuids(slots("auto", jobs=1)) == ["GPU-aaaa1111"]
    assert uuids(slots("1")) == uuids(slots("cuda:1")) == ["GPU-bbbb2222"]
    assert {slot.device for slot in slots("auto")} == {"cuda:0"}


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", ["GPU-bbbb2222"]),
        ("1,0", ["GPU-bbbb2222", "GPU-aaaa1111"]),
        ("GPU-aaaa", ["GPU-aaaa1111"]),
        ("0,7,1", ["GPU-aaaa1111"]),
        ("", []),
        ("-1", []),
    ],
)
def test_cuda_visible_devices_is_the_pool(two_gpus, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.uuid for gpu in visible_gpus()] == expected


def test_a_gpu_that_is_hidden_cannot_be_asked_for(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(DeviceError, match="no GPU '0' is visible; there is 1 \\(NVIDIA H200\\)"):
        slots("0")


def test_cores_are_counted_without_affinity_too(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert devices.num_cores() == 3


def test_cpu_slots_share_the_cores(no_gpu, monkeypatch):
    monkeypatch.setattr(devices, "num_cores", lambda: 8)
    assert len(slots("auto")) == 8
    assert len(slots("cpu", threads=3)) == 2
    assert len(slots("cpu", threads=16)) == 1
    assert len(slots("cpu", jobs=5)) == 5
    assert uuids(slots("auto")) == [""] * 8
    with pytest.raises(DeviceError, match="there is none, and cpu"):
        slots("0")
