"""The agent's command line: `python -m plexspaces_node.agent --vm-id ID --link PATH`.

`PATH` is the unix socket on which the node listens.
"""

from __future__ import annotations

import resource
import socket
import sys

from plexspaces_node.agent.memory import give_back_large
from plexspaces_node.agent.serve import AgentServer

FILE_BYTES = 16 * 1024 * 1024
"""The most a guest can write to its stdout before the write fails: files in memory count too."""

PATIENCE_S = 10.0
"""A child process outlives a killed node only when it was born in the very moment: it ends itself
then, where the kernel's death signal came too early."""


def main() -> None:
    """Serve the node that listens at `--link` until it says stop."""
    # Not argparse, which is long to import: only the node writes this command.
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    vm_id, path = options["--vm-id"], options["--link"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))

    def dial() -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.connect(path)
        except OSError:
            opened.close()
            raise
        return opened

    give_back_large()
    AgentServer(vm_id, dial, patience_s=PATIENCE_S).run()


if __name__ == "__main__":
    main()
