"""The one tree of errors a caller can meet.

Every message is one sentence: what is wrong, what is allowed, how to fix it. The exit code of the command line is a
property of the class, so that no other module decides it twice. What does not live here: formatting for a terminal.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from harness.redact import redact

EXIT_DONE = 0
EXIT_SOME_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130
NO_MEMORY = (
    "can't allocate memory", "DefaultCPUAllocator: not enough memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
"""What a RuntimeError says where memory ran out on the host, or on a GPU outside of torch's own allocator."""
LONGEST_QUOTE = 80
"""Characters of a value that a message quotes."""


class HarnessError(Exception):
    """Any error this project raises on purpose. `cause_class` is what a FAILED row carries."""

    exit_code = EXIT_SOME_FAILED
    cause_class = "bug"


class BadInputError(HarnessError):
    """The user asked for something that cannot be done; nothing was computed."""

    exit_code = EXIT_BAD_INPUT
    cause_class = "data"


class SpecError(BadInputError):
    """A spec, sweep or override is invalid. `problems` holds every violation found, one sentence each."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(BadInputError):
    """Rows, templates or masks that cannot be trained on as asked."""


class ModelError(BadInputError):
    """A base that is missing, half-written, not pinned or not loadable."""


class DeviceError(ModelError):
    """A device, or a dtype on it, that this machine lacks: another one may have it, so the trial is tried again."""

    cause_class = "killed"


class TooLittleMemoryError(HarnessError):
    """A trial that does not fit in this machine's memory, however small its forward passes are made."""

    cause_class = "oom"


class StoreError(HarnessError):
    """A record on disk is damaged or cannot be written."""

    cause_class = "disk"


class DiskError(StoreError):
    """The disk is full or read-only; the same command works once that is mended."""

    exit_code = EXIT_TRY_AGAIN


class BusyError(HarnessError):
    """Another process holds what is needed; try again."""

    exit_code = EXIT_TRY_AGAIN
    cause_class = "killed"


class UnreachableError(HarnessError):
    """A server that the user named does not answer; the same command works once it does."""

    exit_code = EXIT_TRY_AGAIN
    cause_class = "killed"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on the host; found without importing torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def shown(value: object) -> str:
    """Return a value as a message quotes it: its repr without secrets, a long one cut."""
    text = redact(repr(value))
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 3] + "..."


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean ...?' for the closest allowed name, or '' where none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """Return the one sentence for a name that is not in a closed list."""
    names = sorted(allowed)
    return f"{what} is {shown(name)}, but must be one of {', '.join(names) or 'none'}.{nearest(name, names)}"
