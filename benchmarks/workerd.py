"""workerd, Cloudflare's server of isolates, as an echo: what a user might choose instead.

Installed by npm into the user's cache at a pinned version; nothing of it is in the product.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = "1.20261117.1"

_WORKER = """\
export default {
  async fetch(request) { return new Response(await request.arrayBuffer()); }
};
"""

_CONFIG = """\
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "echo", worker = .echo)],
  sockets = [(name = "http", http = (), service = "echo")],
);
const echo :Workerd.Worker = (
  modules = [(name = "echo.js", esModule = embed "echo.js")],
  compatibilityDate = "2026-01-01",
);
"""


def program() -> Path | None:
    """Return the program, which is installed first if need be; None where that is not possible.

    Blocks for as long as npm takes to download 45 MB.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "plexspaces" / "benchmarks" / f"workerd-{VERSION}"
    # The project's own, or the system's.
    npm = shutil.which(
        "npm", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    )
    if _installed(place) is None and npm is not None:
        place.mkdir(parents=True, exist_ok=True)
        argv = [npm, "install", "--prefix", str(place), "--no-audit", "--no-fund", "--silent"]
        subprocess.run([*argv, f"workerd@{VERSION}"], check=False, stdout=subprocess.DEVNULL)
    return _installed(place)


def _installed(place: Path) -> Path | None:
    # The program itself: `workerd` of the package of that name is a script around it.
    return next(place.glob("node_modules/@cloudflare/workerd-*/bin/workerd"), None)


@contextmanager
def echoing(workerd: Path, scratch: Path) -> Iterator[str]:
    """Serve an echo; yields its address."""
    (scratch / "echo.js").write_text(_WORKER)
    config = scratch / "echo.capnp"
    config.write_text(_CONFIG)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        fd = listener.fileno()
        process = subprocess.Popen(
            [workerd, "serve", config, f"--socket-fd=http={fd}"], pass_fds=(fd,)
        )
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait()
