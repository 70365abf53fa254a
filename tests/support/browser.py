"""A headless Chromium, driven over a pipe by its own protocol (Chrome DevTools)."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from support.patience import patient

_ANSWER_BYTES = 16 * 1024 * 1024

# It reads from descriptor 3 and writes to descriptor 4.
_WITH_PIPES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class BrowserError(Exception):
    """What the browser refused, or what a script threw."""


class Page:
    """A page in a tab of its own."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        loaded = self._browser.event("Page.loadEventFired", self._session)
        await self._browser.call("Page.navigate", self._session, url=url)
        async with asyncio.timeout(patient(60)):
            await loaded

    async def run(self, script: str) -> Any:
        """Return what the body of an async function returns; raises `BrowserError` if it throws."""
        said = await self._browser.call(
            "Runtime.evaluate",
            self._session,
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in said:
            raise BrowserError(said["exceptionDetails"]["exception"].get("description", "thrown"))
        return said["result"].get("value")


class Browser:
    """A running browser; see `browsing`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.WriteTransport) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._events: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def page(self, url: str) -> Page:
        """Open an address in a new tab."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(self, attached["sessionId"])
        await self.call("Page.enable", attached["sessionId"])
        await page.open(url)
        return page

    async def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        """Call a method of the protocol; raises `BrowserError`."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(patient(60)):
            said = await answer
        if "error" in said:
            raise BrowserError(said["error"]["message"])
        return said["result"]

    def event(self, name: str, session: str) -> asyncio.Future[None]:
        """Return what is done with the next event of this name."""
        future = self._events[name, session] = asyncio.get_running_loop().create_future()
        return future

    async def read(self) -> None:
        """Take what the browser says, until it ends; whoever waits for it then fails."""
        try:
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" in message:
                    self._answers.pop(message["id"]).set_result(message)
                    continue
                key = message["method"], message.get("sessionId", "")
                if (waiting := self._events.pop(key, None)) is not None:
                    waiting.set_result(None)
        except asyncio.IncompleteReadError:
            for each in (*self._answers.values(), *self._events.values()):
                each.set_exception(BrowserError("the browser has ended"))


@asynccontextmanager
async def browsing(program: str, profile: Path) -> AsyncIterator[Browser]:
    """Run a browser in the body, with a profile of its own."""
    loop = asyncio.get_running_loop()
    commands, mouth = _pipe()
    ear, answers = _pipe()
    flags = (
        *("--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
        *("--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(("--no-sandbox",) if os.geteuid() == 0 else ()),
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WITH_PIPES, str(commands), str(answers)),
        *(program, *flags, "about:blank"),
        pass_fds=(commands, answers),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
        start_new_session=True,
    )
    os.close(commands)
    os.close(answers)
    reader = asyncio.StreamReader(_ANSWER_BYTES)
    hearing, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ear, "rb")
    )
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(mouth, "wb"))
    browser = Browser(reader, writer)
    reading = asyncio.create_task(browser.read())
    try:
        yield browser
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.abort()
        hearing.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are neither 3 nor 4."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]
