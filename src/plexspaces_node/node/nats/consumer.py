"""A consumer of JetStream: the messages of a stream one after the other, and whether one is lost.

It has no state that would have to survive: when it is lost, its user makes another from where it
was.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.node.nats import jetstream
from plexspaces_node.node.nats.jetstream import ApiError

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Message, Session

HEARTBEAT_S = 1.0
SILENCE_S = 3.0
"""After so long without a sign of life it is taken for lost, as when its server has died."""

_GONE_S = 30
"""The server removes it if nobody has listened for so long."""
_CREATE_S = 5.0
_CONTROL = 100
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message of the stream.

    Attributes:
        value: None for the mark of a deletion.
        sequence: its number in the stream.
        pending: how many more there were when it was sent.
    """

    subject: str
    value: bytes | None
    sequence: int
    pending: int


class ConsumerLost(Unavailable):
    """The consumer is gone, or a message of it is: begin again from the last one."""


class Consumer:
    """What a stream delivers; use `opened`.

    Attributes:
        pending: how many messages were there when it was made.
    """

    def __init__(self, session: Session, pending: int) -> None:
        self.pending = pending
        self._session = session
        self._arrived: asyncio.Queue[Message | None] = asyncio.Queue()
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, session: Session, stream: str, subjects: Sequence[str], *, start: int | None
    ) -> AsyncIterator[Consumer]:
        """Make one for subjects, from a number on, or from the last message of each with None.

        Raises `ApiError`, and `Unavailable` while NATS cannot answer.
        """
        consumer, inbox = cls(session, 0), session.new_inbox()
        name = secrets.token_hex(12)
        leave_session = session.when_lost(lambda: consumer._arrived.put_nowait(None))
        leave_inbox = await session.subscribe(inbox, consumer._arrived.put_nowait)
        try:
            request = {"stream_name": stream, "config": _config(name, inbox, subjects, start)}
            answer = jetstream.decode(
                await session.request(
                    f"$JS.API.CONSUMER.CREATE.{stream}.{name}",
                    jetstream.encode({**request, "action": "create"}),
                    timeout_s=_CREATE_S,
                )
            )
            consumer.pending = int(answer.get("num_pending") or 0)
            yield consumer
        finally:
            leave_session()
            leave_inbox()
            if not session.lost.is_set():
                # Not waited for: the server removes it also by itself.
                with suppress(PlexSpacesError, ApiError):
                    await session.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")

    async def next(self) -> Delivered | None:
        """Return the next message, or None for a sign of life while there is none.

        Raises `ConsumerLost`.
        """
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    message = await self._arrived.get()
            except TimeoutError:
                raise ConsumerLost("the consumer is silent") from None
            if message is None:
                raise ConsumerLost("the connection to NATS was lost")
            if message.status != _CONTROL:
                return self._delivered(message)
            if await self._is_idle(message):
                return None

    async def _is_idle(self, message: Message) -> bool:
        stalled = message.headers.get("Nats-Consumer-Stalled", "")
        if reply := message.reply or stalled:
            # Flow control: everything before it has been taken.
            await self._session.publish(reply)
        if message.reply:
            return False
        if message.headers.get("Nats-Last-Consumer", "") != str(self._number):
            raise ConsumerLost("a message has not arrived")
        return not stalled

    def _delivered(self, message: Message) -> Delivered:
        parts = message.reply.split(".")
        # $JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.DELIVERED.SEQUENCE.NUMBER.TIME.PENDING[.TOKEN]
        begin = 4 if len(parts) == 9 else 6
        try:
            sequence, number, _, pending = map(int, parts[begin + 1 : begin + 5])
        except ValueError:
            raise ConsumerLost("a message has no number") from None
        if number != self._number + 1:
            raise ConsumerLost("a message has not arrived")
        self._number = number
        is_mark = message.headers.get("KV-Operation") in ("DEL", "PURGE")
        is_mark = is_mark or "Nats-Marker-Reason" in message.headers
        return Delivered(message.subject, None if is_mark else message.data, sequence, pending)


def _config(name: str, inbox: str, subjects: Sequence[str], start: int | None) -> dict[str, Any]:
    begin: dict[str, Any] = {"deliver_policy": "last_per_subject"}
    if start is not None:
        begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
    return {
        "name": name,
        "deliver_subject": inbox,
        **begin,
        "ack_policy": "none",
        "max_deliver": 1,
        "replay_policy": "instant",
        "filter_subjects": list(subjects),
        "flow_control": True,
        "idle_heartbeat": int(HEARTBEAT_S * _NS),
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _GONE_S * _NS,
    }
