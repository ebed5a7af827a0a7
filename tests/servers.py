"""A Ray cluster and a SLURM of this machine's own, for tests: real programs, on loopback, gone afterwards.

Invariant: nothing is faked, and what is missing is a skip that says so (tests/presence.py). What does not live here:
the executors under test.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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


@contextmanager
def slurm() -> Iterator[Path]:
    """Run munged, slurmctld and slurmd, point this process at them, and return the folder of their logs."""
    extra("submitit")
    if os.geteuid() != 0:
        pytest.skip("SLURM is not tested: its daemons need root here")
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PATH", search)
        munged, controller, node = (program(name) for name in ("munged", "slurmctld", "slurmd"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        conf = _configure(folder)
        patch.setenv("SLURM_CONF", str(conf))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{name}-file={folder / name}" for name in ("pid", "log", "seed")]
        _daemon(stack, folder, munged, "-F", "-f", f"--socket={folder}/munge.socket", f"--key-file={key}", *files)
        until((folder / "munge.socket").exists, folder)
        _daemon(stack, folder, controller, "-D", "-c", "-f", str(conf))
        _daemon(stack, folder, node, "-D", "-f", str(conf))
        until(_is_idle, folder)
        yield folder


def _configure(folder: Path) -> Path:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    ports = {"controller_port": free_port(), "node_port": free_port()}
    conf.write_text(SLURM_CONF.format(folder=folder, host=host, **ports))
    return conf


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _daemon(stack: ExitStack, folder: Path, *words: str) -> None:
    log = (folder / f"{Path(words[0]).name}.out").open("w")
    process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_idle() -> bool:
    done = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False)
    return done.stdout.split() == ["idle"] * 2 or done.stdout.split() == ["idle"]


def until(condition: Callable[[], bool], folder: Path, seconds: float = 30.0) -> None:
    """Wait for a daemon; fail with what the daemons wrote."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in folder.glob("*.out"))
            pytest.fail(f"SLURM did not start\n{logs}")
        time.sleep(0.1)
