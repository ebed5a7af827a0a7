"""A Ray cluster and a SLURM of this machine's own, for tests: real programs, on loopback, gone afterwards.

Invariant: nothing is faked, and what is missing is a skip that says so (tests/presence.py). What does not live here:
the executors under test.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.presence import extra, program

STORE_BYTES = 80 * 2**20
SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
MessageTimeout=4
KillWait=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=5
PartitionName=high Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=off
"""


@dataclass
class RayNodes:
    """A cluster of several nodes in one process tree."""

    cluster: Any
    address: str
    folder: Path
    """Where it writes."""

    def add(self, **resources: Any) -> Any:
        """Add a node and return it."""
        return self.cluster.add_node(object_store_memory=STORE_BYTES, **resources)

    def remove(self, node: Any) -> None:
        """Take a node away, as a crash would."""
        self.cluster.remove_node(node, allow_graceful=False)

    def kill(self, name: str) -> None:
        """Kill one process of the head: gcs_server or raylet."""
        self.cluster.head_node.all_processes[name][0].process.kill()


@contextmanager
def ray_cluster(num_nodes: int = 2) -> Iterator[RayNodes]:
    """Run a cluster of nodes with one CPU each; it has no dashboard, and its files go with it."""
    extra("ray")
    # A short path: sockets lie in it.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        yield from _ray_cluster(num_nodes, Path(folder))


def _ray_cluster(num_nodes: int, folder: Path) -> Iterator[RayNodes]:
    from ray.cluster_utils import Cluster

    head = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES} | head)
    try:
        nodes = RayNodes(cluster, cluster.address, folder)
        for _ in range(num_nodes - 1):
            nodes.add(num_cpus=1)
        yield nodes
    finally:
        cluster.shutdown()
        kill_all("RAY_TMPDIR", str(folder))


@dataclass
class Slurm:
    """munged, slurmctld and slurmd."""

    folder: Path
    """Where they write."""
    programs: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> None:
        """Start one of them; a controller that ran before knows its jobs again."""
        with (self.folder / f"{name}.out").open("a") as log:
            words = (self.programs[name], *words)
            self.processes[name] = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def start_controller(self) -> None:
        """Start slurmctld, and wait until it answers."""
        self.start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        until(_answers, self.folder)

    def end(self, name: str) -> None:
        """End one of them."""
        process = self.processes[name]
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Run munged, slurmctld and slurmd, and point this process at them."""
    extra("submitit")
    if os.geteuid() != 0:
        pytest.skip("SLURM is not tested: its daemons need root here")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="slurm-") as name:
        patch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")
        found = Slurm(Path(name), {name: program(name) for name in ("munged", "slurmctld", "slurmd")})
        patch.setenv("SLURM_CONF", str(_configure(found.folder)))
        try:
            _start(found)
            yield found
        finally:  # with what the daemons started, which would wait for them
            kill_all("SLURM_CONF", os.environ["SLURM_CONF"])
            for process in found.processes.values():
                process.wait()


def _start(found: Slurm) -> None:
    folder, key = found.folder, found.folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = [f"--{name}-file={folder / name}" for name in ("pid", "log", "seed")]
    found.start("munged", "-F", "-f", f"--socket={folder}/munge.socket", f"--key-file={key}", *files)
    until((folder / "munge.socket").exists, folder)
    found.start_controller()
    found.start("slurmd", "-D", "-f", str(folder / "slurm.conf"))
    until(_is_idle, folder)


def _configure(folder: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    ports = {"controller_port": free_port(), "node_port": free_port()}
    conf.write_text(SLURM_CONF.format(folder=folder, host=host, **ports))
    return conf


def kill_all(variable: str, value: str) -> None:
    """Kill the processes that were started with a variable of this value, and theirs."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # gone, or not ours
            if f"{variable}={value}".encode() in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _answers() -> bool:
    return subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode == 0


def _is_idle() -> bool:
    done = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False)
    return set(done.stdout.split()) == {"idle"}


def until(condition: Callable[[], bool], folder: Path, seconds: float = 30.0) -> None:
    """Wait for a daemon; fail with what the daemons wrote."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in folder.glob("*.out"))
            pytest.fail(f"SLURM did not start\n{logs}")
        time.sleep(0.1)
