"""A headless Chromium, driven through its pipe: no library, no port, no network.

Messages of the DevTools protocol are JSON with a NUL behind each, from and to descriptors 4 and 3 of the browser.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any

DEADLINE = 30.0  # seconds for one answer
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
_START = "import os, sys; [os.dup2(int(sys.argv[k]), k + 2) for k in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"


class Browser:
    """A browser with one page."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        above = [fcntl(end, F_DUPFD, 10) for end in (theirs, answers)]
        command = [sys.executable, "-c", _START, *map(str, above), CHROMIUM, *_OPTIONS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=above, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs, answers, *above):
            os.close(end)
        self._rest, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        (target,) = (t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        wanted = {"targetId": target["targetId"], "flatten": True}
        self._session = self._ask("Target.attachToTarget", wanted)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(DEADLINE)
        os.close(self._in)
        os.close(self._out)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the page and return its result."""
        return self._ask(method, parameters, self._session)

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Show a file, and wait until it is loaded; events of pages before it are forgotten."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **screen)
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._take()

    def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as a user's click may cause it; a promise is waited for."""
        done = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def click(self, selector: str) -> None:
        """Press and release the mouse on the first element that is selected."""
        at = self.run(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])((element => (element.scrollIntoView(),"
            f" element.getBoundingClientRect()))(document.querySelector({selector!r})))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def allow(self, *permissions: str) -> None:
        """Grant permissions to every page."""
        self._ask("Browser.grantPermissions", {"permissions": permissions})

    def said(self, *methods: str) -> list[dict[str, Any]]:
        """Parameters of the events of these methods since the page was opened."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def picture(self, to: Path) -> None:
        """Save the whole page as a PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        to.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _ask(self, method: str, parameters: Mapping[str, Any] | None = None, session: str = "") -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": dict(parameters or {})}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._take()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _take(self) -> dict[str, Any]:
        """The next message; an event is kept."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], DEADLINE)
            if not ready:
                raise TimeoutError(f"the browser has not answered within {DEADLINE:.0f} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise EOFError("the browser has ended")
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message
