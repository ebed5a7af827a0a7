"""Where kills for memory are counted, on written files in the kernel's own form."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.engine import footprint, kills

V1 = "5:cpu,cpuacct:/box\n4:memory:/box\n0::/"
V2 = "0::/box"


@pytest.mark.parametrize(
    ("groups", "own", "counter", "before"),
    [
        (V1, "memory/box", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n"),
        (
            V1,
            "memory",
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\n",
        ),  # a container sees its own group as the top
        (V2, "box", "memory.events", "low 0\nhigh 0\nmax 7\noom 3\n"),
        (V2, "", "memory.events", "low 0\nhigh 0\nmax 7\noom 3\n"),
    ],
)
def test_kills_in_a_group_are_counted_there_and_not_on_the_machine(
    groups: str, own: str, counter: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, groups, monkeypatch)
    folder = tmp_path / "cgroup" / own
    folder.mkdir(parents=True, exist_ok=True)
    (folder / counter).write_text(f"{before}oom_kill 2\n")
    assert kills.memory_kills() == 2


@pytest.mark.parametrize("groups", [V1, V2, "0::/", "1:cpu:/", None])
def test_kills_without_a_counter_of_the_group_are_those_of_the_machine(
    groups: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, groups, monkeypatch)
    assert kills.memory_kills() == 84
    (tmp_path / "vmstat").write_text("nr_free_pages 5\n")  # before Linux 4.13
    assert kills.memory_kills() is None


@pytest.mark.parametrize(("groups", "top", "name"), [(V1, "memory", "memory.limit_in_bytes"), (V2, "", "memory.max")])
def test_memory_here_is_what_the_own_group_or_one_around_it_allows(
    groups: str, top: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, groups.replace("/box", "/box/inner"), monkeypatch)
    whole = footprint.machine_bytes()
    assert whole is not None
    box = tmp_path / "cgroup" / top / "box"
    (box / "inner").mkdir(parents=True)
    (box / "inner" / name).write_text("max\n")
    assert footprint.machine_bytes() == whole
    (box / name).write_text(f"{2**26}\n")
    assert footprint.machine_bytes() == 2**26


def write(root: Path, groups: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if groups is not None:
        (root / "groups").write_text(groups)
    (root / "vmstat").write_text("nr_free_pages 5\noom_kill 84\n")
    monkeypatch.setattr(kills, "GROUPS", root / "cgroup")
    monkeypatch.setattr(kills, "OWN_GROUPS", root / "groups")
    monkeypatch.setattr(kills, "MACHINE", root / "vmstat")
