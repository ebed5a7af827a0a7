"""GPU slots by declared memory. The GPUs are made up here, by a stand-in for nvidia-smi; nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.engine import devices, executor
from harness.engine.devices import Gpu
from harness.errors import SpecError
from tests.engine.stub_launch import RUNTIME

TWO = "0, GPU-aaaa-1, 81559\n1, GPU-bbbb-2, 24576\n"


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this a machine of two GPUs, of 80 and of 24 GB, and return the stand-in for nvidia-smi."""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:02:00.0").mkdir()
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{TWO}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "gpus")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [("0", 79.6), ("1", 24.0)]),
        ("1", [("1", 24.0)]),
        ("GPU-bbbb", [("GPU-bbbb", 24.0)]),
        ("GPU-aaaa-1,1", [("GPU-aaaa-1", 79.6), ("1", 24.0)]),
        ("GPU-", [("GPU-", None)]),  # names two
        ("MIG-1234", [("MIG-1234", None)]),
        ("", []),
    ],
)
@pytest.mark.usefixtures("made_up")
def test_devices_inventory_is_what_this_process_may_use(
    visible: str | None, expected: list[tuple[str, float | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = [(gpu.name, gpu.memory_gb and round(gpu.memory_gb, 1)) for gpu in devices.inventory()]
    assert found == expected


@pytest.mark.parametrize("text", ["exit 9", "printf '0, GPU-a, [N/A]\\n1, GPU-b, [N/A]\\n'"])
def test_devices_memory_that_is_not_told_gives_each_trial_a_whole_gpu(made_up: Path, text: str) -> None:
    made_up.write_text(f"#!/bin/sh\n{text}\n")
    assert [gpu.memory_gb for gpu in devices.inventory()] == [None, None]
    assert executor.default_workers(RUNTIME.replace({"gpu_memory_gb": 8.0})) == 2
    made_up.unlink()
    assert executor.default_workers(RUNTIME.replace({"gpu_memory_gb": 8.0})) == 2


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        (None, ["0", "1"]),
        (24.0, ["0", "1", "0", "0"]),  # floor(80 / 24) is 3
        (12.0, ["0", "1", "0", "1", "0", "0", "0", "0"]),
        (30.0, ["0", "0"]),  # the second is too small for one
        (79.5, ["0"]),
    ],
)
def test_devices_slots_are_memory_over_what_is_declared(declared: float | None, names: list[str]) -> None:
    assert list(devices.slots([Gpu("0", 80.0), Gpu("1", 24.0)], declared)) == names


def test_devices_slots_of_a_share_that_fits_exactly_are_all_there() -> None:
    assert len(devices.slots([Gpu("0", 24.0)], 2.4)) == 10  # 24 / 2.4 is below 10 in floating point
    assert len(devices.slots([Gpu("0", 23.9)], 2.4)) == 9
    assert devices.slots([], 2.4) == ()


def test_devices_trial_that_no_gpu_holds_is_refused() -> None:
    with pytest.raises(SpecError, match=r"runtime.gpu_memory_gb is 81, but must be at most 80.0, what the largest GPU"):
        devices.slots([Gpu("0", 80.0), Gpu("1", 24.0)], 81.0)


@pytest.mark.usefixtures("made_up")
def test_executor_workers_get_the_gpu_of_their_slot() -> None:
    local = executor.local(9, RUNTIME.replace({"gpu_memory_gb": 20.0}))
    try:
        assert local.num_slots == 4  # three on the first GPU and one on the second, however many were asked for
        given = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in local._slots]
        assert sorted(given) == ["0", "0", "0", "1"]
        seen = local.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(timeout=30)
        assert seen == given[0]
    finally:
        local.stop()


@pytest.mark.usefixtures("made_up")
def test_executor_without_a_declaration_is_as_before() -> None:
    assert executor.default_workers(RUNTIME) == 2  # one trial per GPU
    for workers, expected in ((1, ["0"]), (3, ["0", "1", "0"])):
        local = executor.local(workers, RUNTIME)
        local.stop()
        assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in local._slots] == expected
    on_cpu = executor.local(2, RUNTIME.replace({"device": "cpu", "gpu_memory_gb": 8.0}))
    on_cpu.stop()
    assert (on_cpu.num_slots, [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in on_cpu._slots]) == (
        2,
        [None] * 2,
    )
