"""A real browser without a window: Chromium, driven through its DevTools protocol over two pipes.

`python -m tests.pipelines.browser PAGE PICTURE.png WIDTH HEIGHT [light|dark] [SCRIPT]` takes a screenshot, of
what a script made of the page if there is one.
"""
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 60.0  # s for an answer: another build may have the machine


def program() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab. `errors`: what the console was told at the level of an error, and what no script caught."""

    def __init__(self):
        self._home = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        asked, self._to = os.pipe()
        self._from, answered = os.pipe()
        # Chromium reads its commands from descriptor 3 and answers on 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{asked} 4>&{answered}', program(), "--headless=new", "--no-sandbox",
             "--remote-debugging-pipe", f"--user-data-dir={self._home.name}", "--no-first-run", "--disable-gpu",
             "--disable-dev-shm-usage", "--hide-scrollbars", "--autoplay-policy=no-user-gesture-required",
             "--disable-background-networking", "--disable-component-update", "about:blank"],
            pass_fds=(asked, answered), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self._home.name})
        os.close(asked)
        os.close(answered)
        self._rest, self._number, self._session = b"", 0, None
        self.errors: list[str] = []
        self._loaded = False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.requests: list[str] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._home.cleanup()

    def ask(self, method: str, **parameters) -> dict:
        """The protocol's answer; RuntimeError where it is an error."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._number:
                if "error" in heard:
                    raise RuntimeError(f"{method}: {heard['error']}")
                return heard["result"]

    def _hear(self) -> dict:
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            if not (more := os.read(self._from, 2**20)):
                raise RuntimeError("the browser is gone")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        heard = json.loads(text)
        told = heard.get("params", {})
        match heard.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning"):
                self.errors.append(json.dumps(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.errors.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"][:200])
        return heard

    def open(self, url: str, width: int = 1440, height: int = 900, theme: str = "light") -> None:
        """Go there, at this size and with this preference, and wait until it is loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 600)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.errors, self.requests, self._loaded = [], [], False
        self.ask("Page.navigate", url=url)
        while not self._loaded:
            self._hear()

    def run(self, script: str):
        """The value of a script, awaited where it is a promise."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True,
                          userGesture=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20.0):
        """The script's value, as soon as it is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > until:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.05)
        return value

    def press(self, key: str, **more) -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, **(more if kind == "keyDown" else {}))

    def picture(self) -> bytes:
        """PNG of what is on display."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"])


def main(page: str, target: str, width: str, height: str, theme: str = "light", script: str = "") -> None:
    with Browser() as browser:
        browser.open(Path(page).resolve().as_uri(), int(width), int(height), theme)
        browser.run("document.documentElement.style.scrollBehavior = 'auto'")
        browser.run(script)
        time.sleep(1)  # pictures are decoded when they come near
        Path(target).write_bytes(browser.picture())
        print(browser.errors, browser.run("[document.documentElement.scrollWidth, innerWidth, "
                                          "document.documentElement.scrollHeight]"))


if __name__ == "__main__":
    main(*sys.argv[1:])
