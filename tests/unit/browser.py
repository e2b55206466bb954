"""Headless Chromium for the tests of pages, spoken to by its DevTools protocol over a local socket."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The installed browser, or None.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE = 30.0  # seconds


class Page:
    """One page of the browser; ``urls`` collects all that it asks the network or the disk for."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.urls: list[str] = []
        self.said: list[str] = []
        self._loaded = False
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        number = self._number
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = self._read()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]  # type: ignore[no-any-return]

    def open(self, file: Path) -> None:
        """Show a file, and wait until it is there."""
        self.urls, self.said, self._loaded = [], [], False
        self.call("Page.navigate", url=file.as_uri())
        while not self._loaded:
            self._read()

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page; this works where the page's own scripts are off."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self, file: Path) -> None:
        """Write what is seen."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=False)["data"]
        file.write_bytes(base64.b64decode(data))

    def _read(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=_PATIENCE))
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.urls.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            self.said.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(parameters["exceptionDetails"]))
        self._loaded |= method == "Page.loadEventFired"
        return message


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start the browser with a profile of its own, and stop it."""
    from websockets.sync.client import connect

    profile = folder / "profile"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [*command, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = _port(profile / "DevToolsActivePort", process)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=_PATIENCE) as answer:
            pages = json.loads(answer.read())
        url = next(item["webSocketDebuggerUrl"] for item in pages if item["type"] == "page")
        with connect(url, max_size=None, proxy=None) as socket:
            page = Page(socket)
            yield page
            page._socket.send(json.dumps({"id": 0, "method": "Browser.close"}))
        process.wait(timeout=_PATIENCE)
    finally:
        process.kill()
        process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().splitlines() if file.is_file() else []
        if len(lines) > 1:
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError(f"{BROWSER} didn't start, status {process.poll()}")
