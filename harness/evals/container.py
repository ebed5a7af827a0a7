"""Running a program that a model wrote: in a container without a network, or not at all. Free of torch.

Invariant: nothing runs here unless the user said so (`HARNESS_RUN_CODE=1`) and bubblewrap is there to hold it; a
program passes only by reaching its end: leaving early is a failure. A program that reads its own process to cheat can;
a model's answer to a question does not. What does not live here: which program (kinds/program.py).

A container sees the Python that runs the harness and the system's libraries, read-only, and an empty folder of its own;
no network, no other process, no environment, no file of the user's. Limits are a program's own: processor time, memory
of one process, size of a file, and for all users but root the number of processes; what it prints is thrown away.
Processes it starts end with it, `SECONDS` of wall clock later at the latest.

Source: the warning beside HumanEval's executor (github.com/openai/human-eval), which asks for a sandbox and has none.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from harness.errors import DataError

SWITCH = "HARNESS_RUN_CODE"
"""Environment variable that allows running code; only `1` does."""
TOOL = "bwrap"
CPU_SECONDS = 3
SECONDS = 60
"""Of wall clock: what sleeps is ended here, so that a slow machine fails no program that computes."""
MEMORY_BYTES = 1 << 30
FILE_BYTES = 16 << 20
NUM_PROCESSES = 64
_READ_ONLY = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache")
_RUNNER = """
import os, resource, sys, types
for name, most in {limits!r}.items():
    kind, (_, hard) = getattr(resource, name), resource.getrlimit(getattr(resource, name))
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
module = sys.modules["answer"] = types.ModuleType("answer")
exec(compile({program}, "answer", "exec"), module.__dict__)
os.write({descriptor}, {word!r}.encode())
os._exit(0)
"""
"""Runs a program as a module, whose `if __name__ == "__main__"` is never true, under its limits."""


def why_not() -> str | None:
    """Return why no program can run here, as a clause; None where one can."""
    if os.environ.get(SWITCH) != "1":
        return f"running what a model wrote is off; set {SWITCH}=1 to run it in a container"
    if shutil.which(TOOL) is None:
        return f"there is no {TOOL} to hold what a model wrote; install bubblewrap"
    return _why_not_contained()


@cache
def _why_not_contained() -> str | None:
    """Try the container once a process: a kernel or another container around this one may forbid it."""
    done = subprocess.run([*_command(), "-c", "pass"], capture_output=True, text=True, check=False, env={})
    if done.returncode == 0:
        return None
    return f"{TOOL} cannot make a container here ({(done.stderr.strip() or 'no message').splitlines()[-1]:.120})"


def passes(program: str) -> bool:
    """Return whether a program reaches its end within the limits, in a container of its own.

    Args:
        program: Python source; an exception, an exit of any kind or a limit before its last line is a failure.

    Raises:
        DataError: programs cannot run here (see `why_not`): an answer that was not tried has no score.
    """
    if (problem := why_not()) is not None:
        raise DataError(f"evals.tasks holds programs to run, but {problem}")
    word = secrets.token_hex(16)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as said, tempfile.TemporaryFile() as source:
        runner = _RUNNER.format(limits=_limits(), program=ascii(program), descriptor=write, word=word)
        source.write(runner.encode())
        source.seek(0)
        try:
            _run(source.fileno(), write)
        finally:
            os.close(write)
        return _has_said(said.fileno(), word)


def _run(source: int, write: int) -> None:
    """Run a program to its end or the limit; how it ended is told by the pipe alone."""
    try:
        subprocess.run(
            [*_command(), "-"],
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(write,),
            timeout=SECONDS,
            check=False,
            env={},
        )
    except subprocess.TimeoutExpired:
        return


def _has_said(descriptor: int, word: str) -> bool:
    """Return whether the pipe holds the word alone; a child that outlived its program keeps no one waiting."""
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, len(word) + 1) == word.encode()
    except BlockingIOError:
        return False


def _limits() -> dict[str, int]:
    return {
        "RLIMIT_CPU": CPU_SECONDS,
        "RLIMIT_AS": MEMORY_BYTES,
        "RLIMIT_FSIZE": FILE_BYTES,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": NUM_PROCESSES,
    }


def _command() -> list[str]:
    python = Path(sys.base_prefix).resolve()
    shown = [*_READ_ONLY] if python.is_relative_to("/usr") else [*_READ_ONLY, str(python)]
    binds = [word for path in shown for word in ("--ro-bind-try", path, path)]
    return [
        *(
            shutil.which(TOOL) or TOOL,
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
            "--cap-drop",
            "ALL",
        ),
        *binds,
        *("--proc", "/proc", "--dev", "/dev", "--size", str(FILE_BYTES * 4), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *("--remount-ro", "/", "--remount-ro", "/dev"),
        *(str(python / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"), "-I", "-S", "-B"),
    ]
