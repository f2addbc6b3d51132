"""A browser for tests, driven over the WebDriver protocol: Debian's `chromium` and `chromium-driver`, nothing else.

With BATCH_ESTIMATOR_APT=1, and as root, the two packages are installed where they are missing.

Source of the calls: W3C WebDriver, and `goog:` capabilities as chromedriver documents them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60.0
PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")
INSTALL_SECONDS = 300.0


class Browser:
    """One window without a screen."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self._address = address
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {json.load(error)['value']['message'][:500]}") from None

    def _of(self, method: str, path: str, body: Any = None) -> Any:
        return self._call(method, f"/session/{self._session}{path}", body)

    def open(self, file: Path) -> None:
        """Open a file from disk."""
        self._of("POST", "/url", {"url": file.as_uri()})

    def run(self, script: str, *args: Any) -> Any:
        """Run a function body of JavaScript in the page; gives what it returns."""
        return self._of("POST", "/execute/sync", {"script": script, "args": list(args)})

    def wait(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true."""
        deadline = time.monotonic() + START_SECONDS
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true: {condition}; console: {self.console()}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click as a person does: what covers the element takes the click."""
        (element,) = self._of("POST", "/element", {"using": "css selector", "value": selector}).values()
        self._of("POST", f"/element/{element}/click", {})

    def click_at(self, selector: str, x: float, y: float) -> None:
        """Click a place of an element, in parts of its width and height."""
        left, top, width, height = self.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.x, box.y, box.width, box.height];",
            selector,
        )
        move = {"type": "pointerMove", "x": round(left + width * x), "y": round(top + height * y), "duration": 0}
        press = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move, *press]}
        self._of("POST", "/actions", {"actions": [pointer]})

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        (element,) = self._of("POST", "/element", {"using": "css selector", "value": selector}).values()
        self._of("POST", f"/element/{element}/value", {"text": text})

    def console(self) -> list[str]:
        """What the console has said since it was last asked: errors, and what a policy refused."""
        return [entry["message"] for entry in self._of("POST", "/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(self._of("GET", "/screenshot"))

    def close(self) -> None:
        """End the session, and with it the browser."""
        self._of("DELETE", "")


def programs() -> tuple[str | None, str | None]:
    """The browser and its driver, as far as they are here."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")


def install() -> str:
    """Install the packages; gives what apt-get says of it."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    said = ""
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", *command], capture_output=True, text=True, env=environment, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            return str(error)
        said = done.stderr.strip()[-200:]
    return said


def found_or_installed() -> tuple[str, str]:
    """The browser and its driver, installed where that is wanted; the test is skipped where there are none."""
    why = "BATCH_ESTIMATOR_APT=1 installs them"
    if None in programs() and os.environ.get("BATCH_ESTIMATOR_APT") == "1":
        why = "installing them needs root and apt-get"
        if os.geteuid() == 0 and shutil.which("apt-get"):
            why = f"apt-get could not install them: {install()}"
    binary, driver = programs()
    if binary is None or driver is None:
        pytest.skip(f"no chromium and chromedriver here ({', '.join(PACKAGES)}): {why}")
    return binary, driver


@contextmanager
def chromium(folder: Path, size: str = "1280,1600", *more: str) -> Iterator[Browser]:
    """A Chromium without a screen; the test is skipped where there is none."""
    binary, driver = found_or_installed()
    log = folder / "chromedriver.log"
    with log.open("wb") as out:
        process = subprocess.Popen([driver, "--port=0"], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_SECONDS
        while (found := re.search(r"started successfully on port (\d+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        # A sandbox needs rights that a container seldom gives; the page is our own.
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--force-prefers-reduced-motion", f"--user-data-dir={folder / 'profile'}", f"--window-size={size}"]
        options = {"binary": binary, "args": [*flags, *more]}
        browser = Browser(f"http://127.0.0.1:{found.group(1)}", options)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait()
