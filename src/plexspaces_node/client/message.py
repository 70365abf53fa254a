"""A message to an application before it is sent: what no node accepts, and how long to wait."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import MAX_MESSAGE_LIMIT_BYTES, check_full_name

MAX_INVOKE_TIMEOUT_S = 86_400.0

DEADLINE_SLACK_S = 2.0
"""How much longer a client waits: the node's own answer says which part took too long."""

_TRACEPARENT_FORM = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Message(NamedTuple):
    """A message to an application.

    Attributes:
        timeout_s: None for the node's default.
        traceparent: its place in a trace, as W3C writes it, or "".
    """

    name: str
    type: str
    payload: bytes
    timeout_s: float | None
    traceparent: str = ""

    @property
    def timeout_ms(self) -> int:
        """The timeout in whole milliseconds, 0 for the node's default."""
        return 0 if self.timeout_s is None else math.ceil(self.timeout_s * 1000)

    @property
    def deadline_s(self) -> float | None:
        """How long to wait for the node, or None."""
        return None if self.timeout_s is None else self.timeout_s + DEADLINE_SLACK_S

    def check(self) -> None:
        """Raise `InvalidArgument` for a message that no node accepts."""
        check_full_name(self.name)
        if self.timeout_s is not None and not 0 < self.timeout_s <= MAX_INVOKE_TIMEOUT_S:
            raise InvalidArgument(
                f"a timeout of {self.timeout_s:g} s is not valid",
                hint=f"choose a value above 0 and at most {MAX_INVOKE_TIMEOUT_S:g} s",
            )
        if self.traceparent and not _TRACEPARENT_FORM.fullmatch(self.traceparent):
            raise InvalidArgument(
                f"not a traceparent: {self.traceparent[:80]!r}",
                hint="it is 00-TRACE-SPAN-01, of 32 and 16 hexadecimal digits in lower case",
            )
        size_bytes = len(self.payload)
        if size_bytes > MAX_MESSAGE_LIMIT_BYTES:
            raise InvalidArgument(
                f"a message of {size_bytes} bytes exceeds the limit of {MAX_MESSAGE_LIMIT_BYTES}",
                hint="send it in parts",
            )
