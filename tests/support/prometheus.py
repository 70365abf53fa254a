"""A Prometheus of a test: Debian's program, with its own port and directory."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from support.patience import patient

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
UNPACKED = _CACHE / "plexspaces" / "prometheus" / "usr" / "bin"
"""Where `scripts/prometheus` puts both programs."""


def tool(name: str, config: pytest.Config) -> str:
    """Return where one of Prometheus' programs is; without it a test is skipped, or must not be."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    if found is None:
        if "prometheus" in config.getoption("--clients").split(","):
            pytest.fail(f"there is no {name}, and --clients names it: make clients")
        pytest.skip(f"there is no {name}: make clients")
    return found


def promtool(config: pytest.Config, *arguments: str | Path, given: str = "") -> None:
    """Run promtool; fails the test with all that it says, if it says that something is wrong."""
    done = subprocess.run(
        [tool("promtool", config), *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A running Prometheus."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __repr__(self) -> str:
        return f"<Prometheus {self._address}>"

    async def get(self, path: str, **parameters: str) -> Any:
        """Return the data that its API answers with; fails the test with the reason for none."""

        def fetch() -> Any:
            query = urlencode({name.replace("__", "[]"): each for name, each in parameters.items()})
            with urlopen(f"http://{self._address}/api/v1/{path}?{query}", timeout=10) as reply:
                return json.load(reply)

        answer = await asyncio.to_thread(fetch)
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now, with `metric` and `value`."""
        found: list[dict[str, Any]] = (await self.get("query", query=expression))["result"]
        return found


@asynccontextmanager
async def prometheus(program: str, directory: Path, config: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus with this configuration, written into `directory`, in the body."""
    file = directory / "prometheus.yml"
    file.write_text(config)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = (
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    )
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program, *options, stdout=output, stderr=output
        )
    try:
        await _ready(address, process, log)
        yield Prometheus(address)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _ready(address: str, process: asyncio.subprocess.Process, log: Path) -> None:
    def is_ready() -> bool:
        try:
            with urlopen(f"http://{address}/-/ready", timeout=10):
                return True
        except (URLError, ConnectionError):
            return False

    async with asyncio.timeout(patient(60)):
        while not await asyncio.to_thread(is_ready):
            assert process.returncode is None, log.read_text()
            await asyncio.sleep(0.05)
