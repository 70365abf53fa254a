"""Messages to one node of a cluster, and what a client knows when there is no answer."""

from __future__ import annotations

import asyncio

from support.cluster.node import ClusterNode
from support.raw_http import Answer, Caller

ANSWER_S = 8.0
"""After this a client does not wait any longer."""


class NotSentError(Exception):
    """Nobody was there to be sent to, so nothing has happened."""


class NoAnswerError(Exception):
    """It was sent; nothing is known."""


class Sender:
    """Sends messages to one node by its unix socket; connects when it has to."""

    def __init__(self, node: ClusterNode) -> None:
        self._node = node
        self._caller: Caller | None = None

    async def send(
        self, application: str, type: str, payload: bytes = b"", *, timeout_s: float = ANSWER_S
    ) -> Answer:
        """Send a message; raises `NotSentError` or `NoAnswerError`."""
        if self._caller is None:
            try:
                opening = asyncio.open_unix_connection(self._node.http_socket)
                self._caller = Caller(*await asyncio.wait_for(opening, 1.0))
            except (OSError, TimeoutError) as error:
                raise NotSentError(str(error) or "no connection") from error
        path = f"/apps/{application.replace('/', '%2F')}/{type}"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._caller.send("POST", path, payload, prefer=f"wait={timeout_s}")
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.close()
            raise NoAnswerError(type_of(error)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.writer.close()


def type_of(error: BaseException) -> str:
    """Return what kind of error it is, in a word."""
    return type(error).__name__
