"""A real browser, driven over its DevTools pipe: opens a page, evaluates expressions in it, clicks, drops files.

The pipe (`--remote-debugging-pipe`) is a pair of file descriptors with one JSON text each, ended by a zero byte; it
needs no package and no port.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--proxy-server=http://127.0.0.1:9",  # no network
]  # fmt: skip

LEGIBILITY = Path(__file__).parent / "legibility.js"


def find_browser() -> str:
    """The command of a browser; skips the test, loudly, without one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"NO BROWSER ({', '.join(BROWSERS)}): the report was opened in none; apt-get install chromium")
    return found


class Tab:
    """An open page, of a file or of a server on 127.0.0.1; a context manager."""

    def __init__(self, browser: str, page: Path | str, profile: Path) -> None:
        if os.name == "nt":
            pytest.skip("THE BROWSER'S PIPE IS NOT SUPPORTED on Windows: the report was not operated in a browser")
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        command = [browser, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        shell = f"exec {shlex.join(command)} 3<&{theirs_read} 4>&{theirs_write}"
        self._process = subprocess.Popen(
            ["bash", "-c", shell], pass_fds=(theirs_read, theirs_write), stderr=subprocess.DEVNULL
        )
        os.close(theirs_read)
        os.close(theirs_write)
        self._read, self._write = ours_read, ours_write
        self._buffer, self._number, self._session = b"", 0, ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        url = page if isinstance(page, str) else page.as_uri()
        self._call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.protocol === '{url.partition(':')[0]}:'")

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def open(self, page: Path) -> None:
        """Loads another page from the disk."""
        self._call("Page.navigate", url=page.as_uri())
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(page.as_uri())}")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def hard_to_read(self) -> list[list[Any]]:
        """(kind, figure, text) of the visible texts with less contrast than 4.5, or smaller than 11 pixels."""
        found: list[list[Any]] = self.evaluate(LEGIBILITY.read_text(encoding="utf-8"))
        return found

    def wait(self, expression: str) -> None:
        """Returns once the expression is true."""
        end = time.monotonic() + 30
        while not self.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A click of the mouse on the middle of the first element that the selector finds."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, selector: str, *files: Path) -> None:
        """Drops files on the middle of the first element that the selector finds."""
        x, y = self._middle(selector)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector: str, *files: Path) -> None:
        """Chooses files in the file input that the selector finds."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def screenshot(self) -> bytes:
        """A PNG of what the window shows."""
        return base64.b64decode(self._call("Page.captureScreenshot")["data"])

    def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Sets the size of the window in pixels, and which colours the reader prefers."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def type(self, text: str) -> None:
        """Types a text into the element that has the focus."""
        self._call("Input.insertText", text=text)

    def press_escape(self) -> None:
        self.press("Escape", 27)

    def press(self, key: str, code: int) -> None:
        """Presses a key without a letter, such as "ArrowRight", whose virtual code on Windows is `code`."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def _middle(self, selector: str) -> tuple[float, float]:
        """The middle of the first element that the selector finds, which is scrolled into view."""
        x, y = self.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'});"
            "const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        return x, y

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._write, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            pytest.skip("THE BROWSER DID NOT START, so that the report was operated in none")
        while True:
            while b"\0" not in self._buffer:
                part = os.read(self._read, 1 << 16)
                if not part:
                    pytest.skip("THE BROWSER DID NOT START, so that the report was operated in none")
                self._buffer += part
            text, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
