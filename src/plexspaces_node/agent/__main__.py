"""The agent's command line: `python -m plexspaces_node.agent --vm-id ID --link PATH`."""

from __future__ import annotations

import argparse
import resource
import socket

from plexspaces_node.agent.serve import AgentServer

FILE_BYTES = 16 * 1024 * 1024
"""The most a guest can write to its stdout before the write fails: files in memory count too."""

PATIENCE_S = 10.0
"""A child process outlives a killed node only when it was born in the very moment: it ends itself
then, where the kernel's death signal came too early."""


def main() -> None:
    """Serve the node that listens at `--link` until it says stop."""
    parser = argparse.ArgumentParser(prog="plexspaces-agent")
    parser.add_argument("--vm-id", required=True)
    parser.add_argument("--link", required=True, help="unix socket on which the node listens")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))

    def dial() -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.connect(arguments.link)
        except OSError:
            opened.close()
            raise
        return opened

    AgentServer(arguments.vm_id, dial, patience_s=PATIENCE_S).run()


if __name__ == "__main__":
    main()
