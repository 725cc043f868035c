"""A headless Chromium that is spoken to through a pipe: pages opened, looked at and printed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Where an executable stands if it is not on the path.
VARIABLE = "CHROME_PATH"


def find_chromium() -> str | None:
    """Return the executable of a Chromium, if there is one."""
    if os.name == "nt":  # whose processes inherit no pipes by number
        return None
    return os.environ.get(VARIABLE) or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._n = commands, answers, 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a command."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._n:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._answers, 1 << 20)
            assert part, "Chromium has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of a size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        # Tens of seconds on a machine that is busy; a page that never loads fails in the end.
        for _ in range(600):
            if self.run("document.readyState") == "complete":
                break
            time.sleep(0.1)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def errors(self) -> list[Any]:
        """Return what the page has complained of since it was opened, and what it has asked the network for."""
        kinds = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
        asked = [
            event["params"]["request"]["url"][:100]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
            and not event["params"]["request"]["url"].startswith(("file:", "data:", "blob:"))
        ]
        return [event["params"] for event in self.events if event.get("method") in kinds] + asked

    def screenshot(self, file: Path, *, full: bool = True) -> None:
        """Write a picture of the page."""
        shot = self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=full, **(self._whole() if full else {})
        )
        file.write_bytes(base64.b64decode(shot["data"]))

    def _whole(self) -> dict[str, Any]:
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def print(self, file: Path) -> None:
        """Write the page as PDF."""
        file.write_bytes(base64.b64decode(self.send("Page.printToPDF", preferCSSPageSize=True)["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Start a Chromium, with its profile in a folder; yield a tab."""
    executable = find_chromium()
    assert executable is not None
    command_out, command_in = os.pipe()
    answer_out, answer_in = os.pipe()

    def place_pipes() -> None:
        # Chromium reads commands from 3 and writes answers to 4.
        first, second = os.dup(command_out), os.dup(answer_in)
        os.dup2(first, 3)
        os.dup2(second, 4)

    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
    ]
    process = subprocess.Popen(
        [executable, *flags, f"--user-data-dir={folder}", "about:blank"],
        preexec_fn=place_pipes,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(command_out)
    os.close(answer_in)
    try:
        yield Page(command_in, answer_out)
    finally:
        process.terminate()
        process.wait(30)
        os.close(command_in)
        os.close(answer_out)
