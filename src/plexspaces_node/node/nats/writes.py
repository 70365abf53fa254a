"""Writes to a bucket's stream: under a condition, several as one, and the barrier of a reader."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakValueDictionary

from plexspaces_node.errors import Internal
from plexspaces_node.node.nats import jetstream, streams
from plexspaces_node.node.nats.bucket import Conflict, Fence
from plexspaces_node.node.nats.jetstream import ApiError

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection, Message

TIMEOUT_S = 2.0
"""How long a write or a read is tried."""

BATCH_TIMEOUT_S = 4.0
BATCH_BYTES = 2 * 1024 * 1024
BATCH_MESSAGES = 500
"""What is written as one; NATS takes 1,000 messages."""

_PAUSES_S = (0.002, 0.05)
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_OF = "Nats-Expected-Last-Subject-Sequence-Subject"
_NOT_NOW = frozenset({10176, 10210})
"""A batch that arrived in part, as when the leader changes, or one of too many at once."""
_NO_BATCHES = 10174


class Moved(Conflict):
    """What a condition names was written since."""

    @property
    def revision(self) -> int:
        """Return the number of its last write, 0 if the server has not said it."""
        number = self.message.rpartition(" ")[2]
        return int(number) if number.isdecimal() else 0


class Writes:
    """Writes to the stream of one bucket, and waits until they are acknowledged.

    Of writes with a condition about the same key one is under way at a time: the server would
    refuse all but one of them, without looking at the condition. Those of other nodes cross all the
    same, and are tried again.
    """

    def __init__(self, connection: Connection, bucket: str) -> None:
        self.barrier_subject = streams.barrier_subject(bucket, connection.name)
        self._connection = connection
        self._bucket = bucket
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def write(
        self,
        key: str,
        value: bytes,
        condition: Fence | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Write a key and return the revision; raises `Moved` if the condition is not true."""
        subject = streams.key_subject(self._bucket, key)
        if condition is None:
            return await self._published(subject, value, headers or {})
        conditions = self._conditions(condition)
        async with self._turn(condition.key):
            return await self._published(subject, value, {**(headers or {}), **conditions})

    async def write_all(self, entries: Sequence[tuple[str, bytes]], fence: Fence) -> int:
        """Write keys in this order, some at a time as one, and return the last revision."""
        last = 0
        for batch in batches(entries):
            done = 0
            if len(batch) > 1:
                async with self._turn(fence.key):
                    done = await self._write_batch(batch, fence)
            if done == 0:
                for key, value in batch:
                    done = await self.write(key, value, fence)
            last = done
        return last

    async def barrier(self) -> int:
        """Write something, and return its number: whoever has it has all that was written before.

        That the write was acknowledged shows also that there is a quorum.
        """
        return await self._published(self.barrier_subject, b"", {})

    def _conditions(self, fence: Fence) -> dict[str, str]:
        return {_EXPECTED: str(fence.revision), _OF: streams.key_subject(self._bucket, fence.key)}

    def _turn(self, key: str) -> asyncio.Lock:
        """Return what one write at a time holds whose condition is about this key.

        Of several under way the server would refuse all but one, without looking at the condition.
        """
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = asyncio.Lock()
        return turn

    async def _write_batch(self, batch: Sequence[tuple[str, bytes]], fence: Fence) -> int:
        """Write several keys at once; return 0 if the stream takes no batches."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BATCH_TIMEOUT_S
        for pause_s in pauses():
            headers = {"Nats-Batch-Id": secrets.token_hex(16), **self._conditions(fence)}
            session = self._connection.current()
            for number, (key, value) in enumerate(batch[:-1], 1):
                numbered = {**headers, "Nats-Batch-Sequence": str(number)}
                await session.publish(streams.key_subject(self._bucket, key), value, numbered)
            key, value = batch[-1]
            last = {**headers, "Nats-Batch-Sequence": str(len(batch)), "Nats-Batch-Commit": "1"}
            try:
                return self._sequence(
                    await session.request(
                        streams.key_subject(self._bucket, key),
                        value,
                        last,
                        timeout_s=BATCH_TIMEOUT_S,
                    )
                )
            except ApiError as error:
                if error.number == _NO_BATCHES:
                    return 0
                if error.number not in _NOT_NOW or loop.time() + pause_s >= until:
                    self._refuse(error)
            await asyncio.sleep(pause_s)
        raise AssertionError("there is always another pause")

    async def _published(self, subject: str, value: bytes, headers: Mapping[str, str]) -> int:
        loop = asyncio.get_running_loop()
        until = loop.time() + TIMEOUT_S
        for pause_s in pauses():
            left_s = until - loop.time()
            answer = await self._connection.request(subject, value, headers, timeout_s=left_s)
            try:
                return self._sequence(answer)
            except ApiError as error:
                # It was not written: the server has not even looked at the condition.
                if error.number != jetstream.WRITES_CROSS or loop.time() + pause_s >= until:
                    self._refuse(error)
            await asyncio.sleep(pause_s)
        raise AssertionError("there is always another pause")

    def _sequence(self, answer: Message) -> int:
        found = jetstream.decode(answer)
        if not isinstance(sequence := found.get("seq"), int):
            raise Internal(f"NATS has acknowledged a write without a number: {found}")
        return sequence

    def _refuse(self, error: ApiError) -> NoReturn:
        if error.number == jetstream.WRONG_LAST_SEQUENCE:
            raise Moved(error.description) from error
        jetstream.refuse(error, f"a write to the bucket {self._bucket}")


def pauses() -> Iterator[float]:
    """Yield how long to wait before another attempt, each time longer."""
    pause_s, longest_s = _PAUSES_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, longest_s)


def batches(entries: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """Yield what is written as one each time: not too many, and not too large together."""
    if not entries:
        return
    starts, size = [0], 0
    for index, (_, value) in enumerate(entries):
        if index > starts[-1] and (
            size + len(value) > BATCH_BYTES or index - starts[-1] == BATCH_MESSAGES
        ):
            starts.append(index)
            size = 0
        size += len(value)
    for begin, end in pairwise([*starts, len(entries)]):
        yield entries[begin:end]
