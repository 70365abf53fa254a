"""The floor under a link: echoes what comes at a unix socket, in a process of its own."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Serve one connection until it ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(1)
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)


if __name__ == "__main__":
    main()
