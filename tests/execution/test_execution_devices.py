"""Devices, with a real executable in the place of nvidia-smi: this project is tested on machines without a GPU."""

import fake_nvidia_smi
import pytest

from bench.execution import devices
from bench.execution.devices import DeviceError, chosen_gpus, cpu_slots, visible_gpus

FIRST, SECOND = "GPU-aaaa1111", "GPU-bbbb2222"


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Makes nvidia-smi tell of the given GPUs."""

    def install(*gpus):
        fake_nvidia_smi.install(tmp_path, *gpus)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


@pytest.fixture
def two_gpus(on_path):
    on_path({"uuid": FIRST, "name": "NVIDIA H200"}, {"uuid": SECOND, "name": "NVIDIA H200"})


@pytest.fixture
def partitioned(on_path):
    """A whole GPU, and one that is partitioned in three."""
    instances = [("3g.40gb", "MIG-1111"), ("1g.10gb", "MIG-2222"), ("1g.10gb+me", "MIG-3333")]
    on_path({"uuid": FIRST}, {"uuid": SECOND, "mig.mode.current": "Enabled", "instances": instances})


@pytest.fixture
def no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def uuids(gpus):
    return [gpu.uuid for gpu in gpus]


def test_all_gpus_or_those_asked_for(two_gpus):
    assert uuids(chosen_gpus("auto")) == [FIRST, SECOND]
    assert uuids(chosen_gpus("1")) == uuids(chosen_gpus("cuda:1")) == [SECOND]
    assert chosen_gpus("cpu") == []


def test_memory_is_in_bytes_and_what_others_use_is_not_free(on_path):
    on_path({"memory.free": 41007})
    (gpu,) = visible_gpus()
    assert (gpu.memory_bytes, gpu.free_bytes) == (81559 * 1024 * 1024, 41007 * 1024 * 1024)


def test_a_gpu_that_does_not_tell_its_memory_is_still_a_gpu(on_path):
    """As one that shares the machine's memory does, and any that this user may not ask."""
    on_path({"memory.total": "[N/A]", "memory.free": "[Insufficient Permissions]", "mig.mode.current": "[N/A]"})
    (gpu,) = visible_gpus()
    assert (gpu.memory_bytes, gpu.free_bytes) == (None, None)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", [SECOND]),
        ("1,0", [SECOND, FIRST]),
        ("GPU-aaaa", [FIRST]),
        ("0,7,1", [FIRST]),
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
        chosen_gpus("0")


def test_the_instances_of_a_partitioned_gpu_stand_in_its_place(partitioned):
    whole, *instances = visible_gpus()
    assert whole.uuid == FIRST
    assert [gpu.uuid for gpu in instances] == ["MIG-1111", "MIG-2222", "MIG-3333"]
    assert [gpu.label for gpu in instances] == ["GPU 1:0", "GPU 1:1", "GPU 1:2"]
    assert [gpu.memory_bytes for gpu in instances] == [40 * 10**9, 10 * 10**9, 10 * 10**9]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("1:1", ["MIG-2222"]), ("1", ["MIG-1111", "MIG-2222", "MIG-3333"]), ("1:2,0", ["MIG-3333", FIRST])],
)
def test_an_instance_or_all_of_a_gpu_can_be_asked_for(partitioned, asked, expected):
    assert [gpu.uuid for gpu in chosen_gpus(asked)] == expected
    with pytest.raises(
        DeviceError, match=r"no GPU '1:3' is visible; there is 0 .*, 1:0 \(NVIDIA H100 80GB HBM3 MIG 3g.40gb\)"
    ):
        chosen_gpus("1:3")


@pytest.mark.parametrize(
    ("visible", "expected"), [("MIG-2222", ["MIG-2222"]), ("1", ["MIG-1111"]), ("MIG-3,0", ["MIG-3333", FIRST])]
)
def test_cuda_visible_devices_names_instances(partitioned, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.uuid for gpu in visible_gpus()] == expected


def test_cores_are_counted_without_affinity_too(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert devices.num_cores() == 3


def test_cpu_slots_share_the_cores(monkeypatch):
    monkeypatch.setattr(devices, "num_cores", lambda: 8)
    assert len(cpu_slots()) == 8
    assert len(cpu_slots(threads=3)) == 2
    assert len(cpu_slots(threads=16)) == 1
    assert len(cpu_slots(jobs=5)) == 5
    assert {(slot.device, slot.visible) for slot in cpu_slots()} == {("cpu", "")}


def test_no_gpu_is_the_cpu_unless_one_is_asked_for(no_gpu):
    assert chosen_gpus("auto") == []
    with pytest.raises(DeviceError, match="there is none, and cpu"):
        chosen_gpus("0")
