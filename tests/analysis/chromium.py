"""A headless Chromium, driven over a pipe in its own DevTools protocol: no driver, no port, no package.

Invariant: a browser that was started is ended, whatever the test does. What does not live here: what a page must do
(test_browser.py), a machine without a browser (tests/presence.py).
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.presence import program

TIMEOUT_SECONDS = 90.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
    "about:blank",
)


class Browser:
    """A running browser and what it has reported so far."""

    def __init__(self, process: int, commands: int, replies: int) -> None:
        self.process = process
        self._commands, self._replies = commands, replies
        self._buffer = b""
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            reply = self._next(deadline)
            if reply.get("id") == number:
                assert "error" not in reply, reply
                return reply["result"]
            self.events.append(reply)

    def wait_for(self, method: str, session: str) -> None:
        """Wait until a session has reported an event."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not any(event.get("method") == method and event.get("sessionId") == session for event in self.events):
            self.events.append(self._next(deadline))

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser has not answered within {TIMEOUT_SECONDS:.0f} s"
            read = os.read(self._replies, 1 << 20)
            assert read, "the browser has ended"
            self._buffer += read
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


class Page:
    """One tab that has loaded one page."""

    def __init__(self, browser: Browser, url: str, width: int = 1280) -> None:
        self.browser, self.url = browser, url
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session: str = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 640
        )
        self._ask("Page.navigate", url=url)
        browser.wait_for("Page.loadEventFired", self.session)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **params)

    def value(self, script: str) -> Any:
        """Return the value of an expression in the page; its security policy does not bind the debugger."""
        reply = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def click(self, expression: str) -> None:
        """Click with the mouse on the middle of an element."""
        self.value(f"({expression}).scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}})")
        script = f"(() => {{ const r = ({expression}).getBoundingClientRect(); "
        x, y = self.value(script + "return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        self._ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
        self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Write text into the element that has the focus."""
        self._ask("Input.insertText", text=text)

    def pdf(self) -> bytes:
        """Print the page."""
        return base64.b64decode(self._ask("Page.printToPDF", printBackground=True)["data"])

    def requests(self) -> list[str]:
        """Return what was asked for beside the page itself and what it holds."""
        asked = [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in asked if url != self.url and not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Return what the console, the security policy and failing scripts have said, and dialogs."""
        self.value("new Promise((done) => setTimeout(done, 100))")
        names = (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        return [json.dumps(event["params"]) for name in names for event in self._events(name)]

    def _events(self, method: str) -> Iterator[dict[str, Any]]:
        events = self.browser.events
        return (event for event in events if event.get("method") == method and event.get("sessionId") == self.session)


@contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """Run a browser with an empty profile."""
    path = program("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    (child_in, commands), (replies, child_out) = os.pipe(), os.pipe()
    # High numbers, so that neither end is overwritten when they become 3 and 4.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (child_in, child_out)]
    quiet = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(ends, (3, 4), strict=True)]
    command = [path, f"--user-data-dir={profile}", *FLAGS]
    process = os.posix_spawn(path, command, dict(os.environ), file_actions=actions, setpgroup=0)
    for end in (child_in, child_out, quiet, *ends):
        os.close(end)
    browser = Browser(process, commands, replies)
    try:
        yield browser
        browser.ask("Browser.close")
    finally:
        os.close(commands)
        _end(process)
        os.close(replies)


def _end(process: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
