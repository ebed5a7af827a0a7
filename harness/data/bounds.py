"""Templates that must never be rendered here: without an end, without a bound, or with hands in Python's internals.

A template is a program that came with somebody's weights. Before its first rendering it is parsed, and rendered by a
child process that the system kills over its limit of processor time or memory, so that no thread and no worker of ours
hangs; what waits for a word of a row is stopped over that row. Invariant: one verdict for each source in a process, in
bounded time. What does not live here: whether what it writes can be trained on (chat.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes

from harness.data import rendering_probe
from harness.errors import DataError

SECONDS = 5
"""Of processor time for all probing conversations; a template of a published model takes thousandths."""
WALL_SECONDS = 60
"""Until a child that waits for a processor is given up."""
BYTES = 2**30
"""Of address space."""
MAX_CHARACTERS = 2**20
"""That a template may write for a conversation of some hundred."""
ROW_SECONDS = 60
"""Of the process's time on processors for all renderings of a row, which `masks.MAX_RENDERED` keeps to some ten where
they are sound."""
LOOK_SECONDS = 1.0
"""Of processor time between two looks at the row that is being rendered."""
MAX_FACTOR = 2**24
"""The largest number that a template may multiply by."""


def require_bounded(name: str, source: str, variables: dict[str, str]) -> None:
    """Check that a template renders small conversations in bounded time and memory and stays inside its sandbox.

    Args:
        name: of the template, for the message.
        source: Jinja.
        variables: what templates are given besides messages, such as `bos_token`.

    Raises:
        DataError: it does not.
    """
    tree = _tree(source)
    reached = _internal_name(tree)
    if reached is not None:
        raise DataError(
            f"data.template is {name!r}, but must not reach for Python's internals; it asks for {reached!r}, which no "
            "conversation has; name another template"
        )
    factor = _large_factor(tree)
    if factor is not None:
        raise DataError(
            f"data.template is {name!r}, but must multiply by {MAX_FACTOR} at most; it multiplies by {factor}, which "
            "writes more than a memory holds; name another template"
        )
    fault = _fault(source, json.dumps(variables, sort_keys=True))
    if fault is not None:
        raise DataError(
            f"data.template is {name!r}, but must render a short conversation within {SECONDS} s and "
            f"{BYTES // 2**20} MiB; it {fault}; name another template"
        )


def _tree(source: str) -> nodes.Template:
    """Return a parsed template, an empty one where it is none: rendering says so."""
    try:
        return rendering_probe.environment().parse(source)
    except (jinja2.TemplateError, RecursionError):
        return nodes.Template([])


def _internal_name(tree: nodes.Template) -> str | None:
    """Return the first attribute, key or filter argument of a template that names an internal of Python's."""
    for node in tree.find_all((nodes.Getattr, nodes.Const)):
        said = node.attr if isinstance(node, nodes.Getattr) else node.value
        if isinstance(said, str) and said.startswith("__") and said.endswith("__") and said.strip("_").isidentifier():
            return said
    return None


def _large_factor(tree: nodes.Template) -> int | None:
    """Return the first number too large in a product or a power, whether or not a probe would get there."""
    for product in tree.find_all((nodes.Mul, nodes.Pow)):
        for node in product.find_all(nodes.Const):
            if isinstance(node.value, int) and abs(node.value) > MAX_FACTOR:
                return node.value
    return None


class _Watched(NamedTuple):
    """A row that is being rendered."""

    template: str
    what: str
    deadline: float
    """On the process's own clock of processor time."""

    def refusal(self, fault: str) -> DataError:
        return DataError(
            f"data.template is {self.template!r}, but must render every row within {ROW_SECONDS} s and the memory "
            f"there is; over {self.what} it {fault}; name another template or take that out"
        )


class _Stack(threading.local):
    """What a thread is rendering, one inside another."""

    def __init__(self) -> None:
        self.rows: list[_Watched] = []


_WATCHED = _Stack()


@contextmanager
def watching() -> Iterator[None]:
    """Look every second of processor time whether what is `watched` within takes too long; does nothing inside itself.

    Only the main thread can be stopped, and only where nobody else uses its profiling signal.
    """

    def look(number: int, frame: Any) -> None:
        late = next((row for row in _WATCHED.rows if time.process_time() > row.deadline), None)
        if late is not None:
            raise late.refusal("ran out of time")

    can_stop = threading.current_thread() is threading.main_thread()
    can_stop = can_stop and signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
    if can_stop:
        signal.signal(signal.SIGPROF, look)
        signal.setitimer(signal.ITIMER_PROF, LOOK_SECONDS, LOOK_SECONDS)
    try:
        yield
    finally:
        if can_stop:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, signal.SIG_IGN)  # one that is on its way finds nobody, and ends no process
            signal.signal(signal.SIGPROF, signal.SIG_DFL)


class watched:
    """Stop renderings that take too long, which the probes cannot foresee: a loop may wait for a word of a row.

    It refuses the template and does not drop the row, so that rows do not depend on how fast a machine is. Time is
    watched inside `watching` alone, which many rows may share; memory everywhere. Inside itself the outer one speaks.

    Raises:
        DataError: they take more than `ROW_SECONDS`, or more memory than there is.
    """

    def __init__(self, template: str, what: str) -> None:
        """Say what is rendered, with which template, for the message."""
        self.row = _Watched(template, what, time.process_time() + ROW_SECONDS)

    def __enter__(self) -> None:
        """Begin."""
        _WATCHED.rows.append(self.row)

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: Any) -> None:
        """End."""
        outermost = _WATCHED.rows[0]
        _WATCHED.rows.pop()
        if kind is not None and issubclass(kind, MemoryError):
            raise outermost.refusal("ran out of memory") from None


@lru_cache(maxsize=256)
def _fault(source: str, variables: str) -> str | None:
    request = {"source": source, "variables": json.loads(variables), "calls": _calls()}
    text = json.dumps(request | {"seconds": SECONDS, "bytes": BYTES})
    command = [sys.executable, "-I", str(Path(rendering_probe.__file__))]
    try:
        child = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=WALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"was still at it after {WALL_SECONDS} s"
    if child.returncode:
        return _death(child.returncode, child.stderr)
    largest = max((size for size in json.loads(child.stdout)["sizes"] if size is not None), default=0)
    return f"writes {largest} characters" if largest > MAX_CHARACTERS else None


def _death(code: int, stderr: str) -> str | None:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "ran out of time"
    if "MemoryError" in stderr:
        return "ran out of memory"
    # One that cannot be compiled is refused with its own words when it is rendered.
    return f"broke the process, signal {-code}" if code < 0 else None


def _calls() -> list[dict[str, Any]]:
    def say(role: str) -> dict[str, Any]:
        return {"role": role, "content": f"Probing {role} 7301"}

    exchange = [say("user"), say("assistant")]
    call = {"id": "probe7301", "type": "function", "function": {"name": "probe", "arguments": {"x": 1}}}
    result = say("tool") | {"tool_call_id": call["id"], "name": "probe"}
    calling = [say("user"), {"role": "assistant", "content": "", "tool_calls": [call]}, result, say("assistant")]
    function = {"name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}}
    conversations = [exchange[:1], exchange, [say("system"), *exchange], exchange * 8, calling]
    tools = [{"type": "function", "function": function}]
    return [
        {"messages": messages, "add_generation_prompt": asking, "tools": declared, "documents": None}
        for messages in conversations
        for asking, declared in ((False, None), (True, None), (False, tools))
    ]
