"""A real browser that a test drives: headless Chromium over its DevTools protocol, with the standard library alone.

Messages are JSON, each ended by a zero byte, on a pair of pipes (``--remote-debugging-pipe``): no port, no handshake.
Nothing sleeps: every wait is for an answer, an event or a condition in the page, with a limit.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 30.0
START_LIMIT_S = 60.0  # on a busy machine the first answer takes a while

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root, as in most containers, the sandbox refuses to start; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--remote-debugging-pipe",
)

# Chromium reads from descriptor 3 and writes to 4; an own process puts them there before it becomes Chromium.
LAUNCH = (
    "import os, sys; inward, outward = map(int, sys.argv[1:3]); "
    "os.dup2(inward, 3); os.dup2(outward, 4); os.execv(sys.argv[3], sys.argv[3:])"
)

KEYS = {  # key → (code, Windows virtual key code)
    "ArrowLeft": ("ArrowLeft", 37),
    "ArrowRight": ("ArrowRight", 39),
    "Enter": ("Enter", 13),
}

Message = dict[str, Any]


class Page:
    """One tab: loaded, asked, typed into."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> Message:
        """Any command of the protocol, in this tab."""
        return self._browser.call(method, parameters, session=self._session)

    def open(self, url: str) -> None:
        """Load a page and wait for its load event."""
        self._load("Page.navigate", url=url)

    def reload(self) -> None:
        """As if the reader had pressed the reload key."""
        self._load("Page.reload")

    def follow(self, act: Callable[[], object]) -> None:
        """Do what leads to another page, such as a click, and wait for the load event of that page."""
        before = len(self._own_events("Page.loadEventFired"))
        act()
        self._browser.wait(lambda: len(self._own_events("Page.loadEventFired")) > before, "the next page is loaded")

    def value(self, expression: str, limit_s: float = LIMIT_S) -> Any:
        """The value of a JavaScript expression, as JSON."""
        parameters = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self._browser.call("Runtime.evaluate", parameters, session=self._session, limit_s=limit_s)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, limit_s: float = LIMIT_S) -> Any:
        """The first true value of an expression; it is looked at with each frame that the page draws."""
        promise = (
            "new Promise((done, fail) => { const end = performance.now() + %d; const look = () => { const it = (%s);"
            " if (it) done(it); else if (performance.now() > end) fail(new Error('not within its time: ' + %s));"
            " else requestAnimationFrame(look); }; look(); })"
        )
        # Longer than the page itself looks, so that the page can say what did not come.
        return self.value(promise % (1000 * limit_s, expression, json.dumps(expression)), limit_s + LIMIT_S)

    def press(self, key: str, *, is_held: bool = False) -> None:
        """A real key event, down and up; one that repeats itself where the key is held."""
        code, number = KEYS.get(key, (f"Digit{key}", ord(key[0])))
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        shared: dict[str, object] = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, text=text, autoRepeat=is_held, **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def type_text(self, text: str) -> None:
        """Type the text into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        """The window's inner size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self) -> bytes:
        """The window as a PNG file."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requests(self) -> list[str]:
        """The address of everything that the tab has asked for, in the order of asking."""
        return [event["request"]["url"] for event in self._own_events("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """Uncaught errors, and what the browser itself found wrong with the page."""
        thrown = [str(event["exceptionDetails"]) for event in self._own_events("Runtime.exceptionThrown")]
        return thrown + [str(event["entry"]) for event in self._own_events("Log.entryAdded")]

    def _load(self, method: str, **parameters: object) -> None:
        self.follow(lambda: self.call(method, **parameters))

    def _own_events(self, method: str) -> list[Message]:
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]


class Browser:
    """The protocol on its two pipes."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._unread = b""
        self._last_id = 0
        self._answers: dict[int, Message] = {}
        self.events: list[Message] = []

    def call(
        self, method: str, parameters: Mapping[str, object], *, session: str | None = None, limit_s: float = LIMIT_S
    ) -> Message:
        """Send one command and wait for its answer."""
        self._last_id += 1
        number = self._last_id
        message: Message = {"id": number, "method": method, "params": dict(parameters)}
        if session is not None:
            message["sessionId"] = session
        unsent = memoryview(json.dumps(message).encode() + b"\0")
        while unsent:
            unsent = unsent[os.write(self._to, unsent) :]
        self.wait(lambda: number in self._answers, f"{method} is answered", limit_s)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: Message = answer["result"]
        return result

    def new_page(self) -> Page:
        """An empty tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        return Page(self, self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"])

    @contextmanager
    def download(self, folder: Path) -> Iterator[list[Path]]:
        """Around whatever starts one download: its file, whole, stands in the list afterwards."""
        before = len(self.events)
        behaviour = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": True}
        self.call("Browser.setDownloadBehavior", behaviour)
        found: list[Path] = []
        yield found

        def events(method: str) -> list[Message]:
            return [event["params"] for event in self.events[before:] if event["method"] == method]

        self.wait(
            lambda: any(event["state"] == "completed" for event in events("Browser.downloadProgress")),
            "the download is whole",
        )
        found.append(folder / events("Browser.downloadWillBegin")[-1]["suggestedFilename"])

    def wait(self, condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        """Take messages in until the condition holds."""
        end = time.monotonic() + limit_s
        while not condition():
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"not within {limit_s} s: {what}")
            received = os.read(self._from, 1 << 20)
            if not received:
                raise AssertionError(f"Chromium has ended before {what}")
            *messages, self._unread = (self._unread + received).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]] = message
                else:
                    self.events.append(message)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile below the folder; gone afterwards."""
    assert PROGRAM is not None, "the test is not marked needs_chromium"
    folder.mkdir(parents=True, exist_ok=True)
    child_in, to_browser = os.pipe()
    from_browser, child_out = os.pipe()
    # Numbers that cannot be 3 or 4, which the child is about to overwrite.
    inward, outward = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (child_in, child_out))
    flags = (*FLAGS, f"--user-data-dir={folder / 'profile'}")
    with (folder / "chromium.log").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(inward), str(outward), PROGRAM, *flags, "about:blank"],
            pass_fds=(inward, outward),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    for end in (child_in, child_out, inward, outward):
        os.close(end)
    try:
        browser = Browser(to_browser, from_browser)
        browser.call("Browser.getVersion", {}, limit_s=START_LIMIT_S)
        yield browser
        browser.call("Browser.close", {})
        process.wait(20)
    finally:
        process.kill()  # nothing where it has ended
        process.wait(10)
        os.close(to_browser)
        os.close(from_browser)
