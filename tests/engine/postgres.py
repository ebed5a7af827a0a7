"""A PostgreSQL server of the tests' own: on loopback, in a folder of its own, with a password, ended with the module.

Debian keeps its programs out of the PATH, below /usr/lib/postgresql. A server does not run as root: then it is that of
the account `postgres` or `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.presence import package, program

PASSWORD = "canary-5up3r-s3cret"
USER = "harness"


@dataclass
class Server:
    """A server that was started, and how to stop and start it again."""

    programs: Path
    folder: Path
    port: int
    account: str | None

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def call(self, name: str, *words: str) -> None:
        """Run one of the server's programs."""
        command = [str(self.programs / name), *words]
        subprocess.run(command, cwd=self.folder, user=self.account, check=True, stdout=subprocess.DEVNULL, timeout=120)

    def start(self) -> None:
        """Start it and wait until it answers."""
        how = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self.call("pg_ctl", "-D", str(self.folder / "data"), "-o", how, "-l", log, "-w", "start")

    def stop(self) -> None:
        """End it at once, as a fallen machine would."""
        self.call("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@contextmanager
def server() -> Iterator[Server]:
    """Start a server and end it; skipped with what is missing where there is none."""
    package("psycopg", "make setup and pip install -e '.[postgres]' install it")
    known = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    found = Path(known[-1] if known else program("pg_ctl"))
    account = next((name for name in ("postgres", "nobody") if _exists(name)), None) if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path has little room
    made = Server(found.parent, folder, _free_port(), account)
    try:
        (folder / "password").write_text(PASSWORD)
        if account is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, account)
        options = ("--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync")
        made.call("initdb", "-D", str(folder / "data"), "-U", USER, *options)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


def _exists(account: str) -> bool:
    try:
        return pwd.getpwnam(account).pw_uid != 0
    except KeyError:
        return False


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
