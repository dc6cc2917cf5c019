"""A headless Chromium driven by the DevTools protocol over a pipe: no driver, no network, no further package."""

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
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "HALRP_NP_BROWSER"
SECONDS = 60.0


def find() -> str | None:
    """The browser that HALRP_NP_BROWSER names, or the first on the path."""
    named = os.environ.get(VARIABLE)
    return shutil.which(named) if named else next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser with one page; what it asks for and complains of is kept in `requests` and `complaints`."""

    def __init__(self, program: str, profile: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.loaded = False
        self.number, self.rest, self.session = 0, b"", ""
        taken, self.write_end = os.pipe()
        self.read_end, given = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command = [program, *options, *quiet, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]

        # The protocol is spoken on descriptors 3 and 4, which only the new process itself can give away.
        far = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 20) for one in (taken, given)]
        launch = "import os, sys; a, b, *c = sys.argv[1:]; os.dup2(int(a), 3); os.dup2(int(b), 4); os.execv(c[0], c)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch, *map(str, far), *command],
            pass_fds=far,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=profile,
        )
        for one in (taken, given, *far):
            os.close(one)

    def __enter__(self) -> Chromium:
        target = next(one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self.read_end)
        os.close(self.write_end)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its answer; events on the way are noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            found = self._next(end)
            if found.get("id") == message["id"]:
                assert "error" not in found, (method, found["error"])
                return dict(found["result"])

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of this width and theme, and wait until it is there."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.ask("Page.navigate", url=path.as_uri())
        end = time.monotonic() + SECONDS
        while not self.loaded:
            self._next(end)

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = True) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=False)["data"])

    def accessible(self, role: str) -> list[str]:
        """The accessible names of everything with this role."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] == role]
        return [str(node.get("name", {}).get("value", "")) for node in seen]

    def _next(self, end: float) -> dict[str, Any]:
        """The next message; events are noted."""
        while b"\0" not in self.rest:
            assert select.select([self.read_end], [], [], max(end - time.monotonic(), 0))[0], (
                "the browser does not answer"
            )
            content = os.read(self.read_end, 1 << 20)
            assert content, "the browser has ended"
            self.rest += content
        text, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        """Keep requests and complaints."""
        self.loaded |= method == "Page.loadEventFired"
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"]))
