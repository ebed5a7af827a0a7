"""Sweeps on a real Ray cluster of several nodes: equal numbers, lost nodes and heads, interruption, what is refused."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.engine import executor, launch, places, ray_executor
from harness.engine.places import RayCluster
from harness.engine.ray_driver import Node
from harness.errors import SpecError, UnreachableError
from harness.records.store import Store, read_lines
from tests.engine.canary import CANARY, SECRETS, files_with, variables_and_wait
from tests.engine.inline import inline
from tests.engine.stub import behave, run_stub
from tests.engine.stub_launch import RUNTIME
from tests.engine.test_cli import SMALL, scores, tiny
from tests.engine.test_cli import run as run_cli
from tests.engine.test_launch import alive, numbers, runs, until
from tests.engine.test_launch import run as run_here
from tests.engine.trials import planned
from tests.presence import extra
from tests.servers import RayNodes, free_port, ray_cluster

__all__ = ["tiny"]
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_cluster() as found:
        yield found


def processes(root: Path) -> list[int]:
    """Return the processes of the attempts so far."""
    return [int(str(row["pid"])) for row in read_lines(root / "runs.jsonl")]


def run(root: Path, nodes: RayNodes, count: int, workers: int) -> launch.Summary:
    """Launch stub trials on the cluster."""
    how = launch.Options(workers, run=run_stub, prepare=False, executor=RayCluster(nodes.address))
    return launch.launch(Store(root), planned(count), RUNTIME, how)


def test_ray_node_lost_in_the_middle_loses_no_trial_and_moves_no_number(tmp_path: Path, nodes: RayNodes) -> None:
    assert run_here(tmp_path / "here", count=3).exit_code == 0
    root = tmp_path / "cluster"
    behave(root, "all", waits=str(tmp_path / "lost"))
    node = nodes.add(num_cpus=1)

    def lose() -> None:
        until(lambda: len(runs(root)) == 3)
        nodes.remove(node)
        until(lambda: not all(alive(pid) for pid in processes(root)))
        (tmp_path / "lost").touch()

    losing = threading.Thread(target=lose)
    losing.start()
    summary = run(root, nodes, count=3, workers=3)
    losing.join()
    assert (summary.exit_code, len(summary.outcomes), summary.failed) == (0, 3, [])
    assert numbers(root) == numbers(tmp_path / "here")
    assert sorted(runs(root).values()) == [1, 1, 2]


@pytest.mark.parametrize("process", ["gcs_server", "raylet"])
def test_ray_lost_head_is_one_sentence_and_the_sweep_goes_on_here(
    tmp_path: Path, process: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_executor, "SILENT_SECONDS", 10.0)
    behave(tmp_path, 1, waits=str(tmp_path / "never"))
    with ray_cluster(num_nodes=1) as nodes:

        def lose() -> None:
            until(lambda: len(runs(tmp_path)) == 2)
            nodes.kill(process)

        losing = threading.Thread(target=lose)
        losing.start()
        capfd.readouterr()
        with pytest.raises(UnreachableError, match=rf"ADDRESS is '{nodes.address}', but must be a Ray cluster") as told:
            run(tmp_path, nodes, count=2, workers=1)
        assert capfd.readouterr() == ("", "")
        losing.join()
    assert told.value.exit_code == 75
    assert "the same command without EXECUTOR and ADDRESS" in str(told.value)
    behave(tmp_path, 1)
    assert run_here(tmp_path, count=2).exit_code == 0
    assert sorted(runs(tmp_path).values()) == [1, 2]


def test_ray_interrupted_launch_cancels_what_runs_and_is_continued(tmp_path: Path, nodes: RayNodes) -> None:
    behave(tmp_path, 0, sleep=60.0)

    def interrupt() -> None:
        until(lambda: planned(1)[0].trial_id in runs(tmp_path))
        os.kill(os.getpid(), signal.SIGTERM)  # Ray's own handler would end this process

    threading.Thread(target=interrupt).start()
    summary = run(tmp_path, nodes, count=2, workers=1)
    assert (summary.why, summary.exit_code) == ("interrupted", 130)
    until(lambda: not any(alive(pid) for pid in processes(tmp_path)), seconds=10.0)
    behave(tmp_path, 0)
    assert run(tmp_path, nodes, count=2, workers=1).exit_code == 0


@pytest.mark.usefixtures("tiny")
def test_ray_sweep_from_base_to_report_equals_a_local_one(
    tmp_path: Path, nodes: RayNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["sweep", "lima_size", "--set", SMALL]
    cluster = ["--executor", "ray", "--address", nodes.address, "--workers", "1"]
    printed = run_cli(*asked, "--out", str(tmp_path / "ray"), *cluster)
    assert "3 of 3 trials final or failed, 3 ran now" in printed
    monkeypatch.setattr(executor, "local", inline)
    run_cli(*asked, "--out", str(tmp_path / "here"))
    assert scores(tmp_path / "ray") == scores(tmp_path / "here")
    assert len(scores(tmp_path / "ray")) == 3


def test_ray_writes_no_secret_of_the_launcher_to_disk(
    tmp_path: Path, nodes: RayNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HARNESS_HARMLESS", "harmless-and-sent")
    made = ray_executor.RayExecutor(1, nodes.address, lambda found: ray_executor.need(found, RUNTIME))
    try:
        seen = made.submit(variables_and_wait, (*SECRETS, "HARNESS_HARMLESS"), tmp_path / "go")
        until((tmp_path / "go.awaited").exists)
        assert not files_with(CANARY, nodes.folder, tmp_path)
        assert files_with("harmless-and-sent", nodes.folder)  # the search finds what is there
        (tmp_path / "go").touch()
        assert seen.result(timeout=60) == [*[None] * len(SECRETS), "harmless-and-sent"]
    finally:
        made.stop()
    assert not files_with(CANARY, nodes.folder, tmp_path)


def test_ray_tells_its_machines_and_the_memory_of_their_gpus(nodes: RayNodes) -> None:
    node = nodes.add(num_cpus=8, num_gpus=2)  # what Ray is told of, not what is there
    try:
        driver = ray_executor.Driver(nodes.address, _memories)
        driver.stop()
    finally:
        nodes.remove(node)
    assert ray_executor.num_slots(ray_executor.nodes(nodes.address), RUNTIME) == 2  # though Ray may list it still
    told = [(found.resources["CPU"], found.resources.get("GPU", 0.0), found.gpu_memories_gb) for found in driver.nodes]
    assert sorted(told) == [(1.0, 0.0, ()), (1.0, 0.0, ()), (8.0, 2.0, (24.0, 80.0))]


def _memories() -> dict[str, float]:
    return {"0": 24.0, "GPU-a": 80.0}


SMALL_NODES = [Node({"CPU": 1.0}), Node({"CPU": 1.0})]
GPU_NODES = [*SMALL_NODES, Node({"CPU": 8.0, "GPU": 2.0}, (80.0, 24.0))]


def test_ray_room_is_counted_node_by_node() -> None:
    assert ray_executor.num_slots(SMALL_NODES, RUNTIME) == 2
    with pytest.raises(SpecError, match=r"2 CPUs \(runtime.num_threads, num_processes\)"):  # two nodes of one each
        ray_executor.num_slots(SMALL_NODES, RUNTIME.replace({"num_threads": 2}))
    with pytest.raises(SpecError, match="1 GPUs"):
        ray_executor.num_slots(SMALL_NODES, RUNTIME.replace({"device": "cuda"}))


def test_ray_share_of_a_gpu_follows_declared_memory() -> None:
    assert ray_executor.need(GPU_NODES, RUNTIME).num_gpus == 1.0
    assert ray_executor.need(GPU_NODES, RUNTIME.replace({"device": "cpu"})).num_gpus == 0.0
    declared = RUNTIME.replace({"gpu_memory_gb": 8.0})
    assert ray_executor.need(GPU_NODES, declared).num_gpus == 1 / 3
    assert ray_executor.num_slots(GPU_NODES, declared) == 6
    with pytest.raises(SpecError, match=r"runtime.gpu_memory_gb is 30, but must be at most 24.0"):
        ray_executor.need(GPU_NODES, RUNTIME.replace({"gpu_memory_gb": 30.0}))


@pytest.mark.parametrize(
    "address", ["", "auto", "ray://127.0.0.1:10001", "127.0.0.1", "host:", "host:port", "a b:1", "-x:1"]
)
def test_ray_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    printed = run_cli("sweep", "lima_size", "--out", str(tmp_path), "--executor", "ray", f"--address={address}", code=2)
    assert printed.startswith(f"ADDRESS is {address!r}, but must be host:port")
    assert len(printed.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("executor_name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_place_whose_extra_is_not_installed_is_refused(
    tmp_path: Path, executor_name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, package, None)
    address = ["--address", "a:1"] if executor_name == "ray" else []
    words = ["sweep", "lima_size", "--out", str(tmp_path / "out"), "--executor", executor_name, *address]
    printed = run_cli(*words, code=2)
    assert printed.startswith(f"EXECUTOR is '{executor_name}', but must be 'local' where ")
    assert printed.endswith("is not installed; run: make schedulers\n")
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_ray_cluster_that_does_not_answer_is_one_sentence_and_exit_75(tmp_path: Path) -> None:
    extra("ray")
    words = ["sweep", "lima_size", "--out", str(tmp_path), "--executor", "ray"]
    for workers in ([], ["--workers", "2"]):
        printed = run_cli(*words, *workers, "--address", f"127.0.0.1:{free_port()}", code=75)
        assert len(printed.splitlines()) == 1
        assert "the same command without EXECUTOR and ADDRESS" in printed
    assert not list(tmp_path.iterdir())


def test_ray_something_else_at_the_address_is_told_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra("ray")
    monkeypatch.setattr(ray_executor, "JOIN_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        words = ["sweep", "lima_size", "--out", str(tmp_path), "--executor", "ray", "--address", address]
        assert "nothing there answers as one" in run_cli(*words, code=75)
        assert time.monotonic() - started < 20.0


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--executor", "rey"], "EXECUTOR is 'rey', but must be one of local, ray, slurm. Did you mean 'ray'?"),
        (["--address", "a:1"], "ADDRESS is 'a:1', but must be left out with EXECUTOR=local; it is for ray."),
        (["--executor", "slurm", "--address", "a:1"], "ADDRESS is 'a:1', but must be left out with EXECUTOR=slurm"),
        (["--executor", "ray", "--partition", "x"], "PARTITION is 'x', but must be left out with EXECUTOR=ray"),
    ],
)
def test_place_that_makes_no_sense_is_refused(words: list[str], refusal: str, tmp_path: Path) -> None:
    for verb in (["sweep", "lima_size"], ["plan", "lima_size"], ["recovery", "lima_size"], ["claims-run"]):
        printed = run_cli(*verb, "--out", str(tmp_path), *words, code=2)
        assert printed.startswith(refusal)
    assert not list(tmp_path.iterdir())


def test_place_words_lead_to_the_same_place(tmp_path: Path) -> None:
    asked = (places.HERE, RayCluster("a:1"), places.SlurmQueue(tmp_path, "x"), places.SlurmQueue(tmp_path, None))
    for place in asked:
        words = place.words()
        given = dict(zip(words[::2], words[1::2], strict=True))
        found = places.choose(given.get("--executor"), given.get("--address"), given.get("--partition"), tmp_path)
        assert found == place
