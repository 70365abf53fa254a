"""Clients of a cluster, which note what they did and were told: the load while faults are made."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

from support.actors import keyed
from support.cluster.history import NEVER, Deployed, Read, Served, Write
from support.cluster.node import ClusterNode
from support.cluster.sending import NoAnswerError, NotSentError, Sender, type_of
from support.raw_http import Answer

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import PlexSpacesError

_PAUSE_S = 0.02
_AGAIN_S = 0.1
_DELETES = 0.03
"""How many of all writes end a key."""
_KEEPS = 3
"""So many applications are there before the oldest is removed."""


@dataclass
class History:
    """What clients saw."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    deploys: list[Deployed] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    """What was told, and how often."""


class Load:
    """Writers, readers and deployers, each talking to any node, until they are stopped.

    Attributes:
        history: what they saw.
    """

    def __init__(self, nodes: list[ClusterNode], actors: list[str], *, seed: int) -> None:
        self.history = History()
        self._nodes = nodes
        self._actors = actors
        self._dice = random.Random(seed)
        self._numbers = count(1)
        self._keys: list[tuple[str, str]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ends = False

    def __repr__(self) -> str:
        return f"<Load {dict(self.history.outcomes)}>"

    def begin(self, *, writers: int = 3, readers: int = 3, wasm: Path | None = None) -> None:
        """Begin to send; with an artifact one of the clients deploys and removes."""
        for actor in self._actors:
            for _ in range(writers):
                self._run(self._write(actor))
            self._run(self._meet(actor))
        for _ in range(readers):
            self._run(self._read())
        if wasm is not None:
            self._run(self._deploy(wasm))

    async def end(self) -> None:
        """Let each finish what it does, and stop."""
        self._ends = True
        await asyncio.gather(*self._tasks)

    async def abort(self) -> None:
        """Stop each at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def read_all(self, node: ClusterNode) -> list[Read]:
        """Read every key at a node, once nothing else happens; raises if one cannot be read."""
        sender = Sender(node)
        found = []
        try:
            for actor, key in self._keys:
                found.append(await self._read_key(sender, actor, key))
        finally:
            sender.close()
        return found

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _write(self, actor: str) -> None:
        senders = _Senders(self._nodes, self._dice)
        key, number = "", 0
        try:
            while not self._ends:
                await asyncio.sleep(_PAUSE_S)
                if not key:
                    key, number = f"k{next(self._numbers)}", 0
                deletes = number > 0 and self._dice.random() < _DELETES
                msg_type, payload = ("d", key.encode()) if deletes else ("u", b"")
                if not deletes:
                    payload = keyed(key, str(number + 1).encode())
                begin_s = monotonic()
                try:
                    told = await self._send(senders.any(), actor, msg_type, payload)
                except NotSentError:
                    await asyncio.sleep(_AGAIN_S)
                    continue
                number += 1
                if number == 1:
                    self._keys.append((actor, key))
                end_s = NEVER if told is None else monotonic()
                self.history.writes.append(Write(actor, key, number, begin_s, end_s, deletes))
                if told is None or deletes:
                    key = ""
        finally:
            senders.close()

    async def _read(self) -> None:
        senders = _Senders(self._nodes, self._dice)
        try:
            while not self._ends:
                await asyncio.sleep(_PAUSE_S)
                if not self._keys:
                    continue
                # Of those that are being written, and now and then an old one.
                recent = self._keys[-20:] if self._dice.random() < 0.8 else self._keys
                actor, key = self._dice.choice(recent)
                begin_s = monotonic()
                try:
                    told = await self._send(senders.any(), actor, "g", key.encode())
                except NotSentError:
                    await asyncio.sleep(_AGAIN_S)
                    continue
                if told is not None:
                    number = int(told.body or b"0")
                    self.history.reads.append(Read(actor, key, number, begin_s, monotonic()))
        finally:
            senders.close()

    async def _meet(self, actor: str) -> None:
        """Ask which of its lives an actor is in: each is named by the first who asks for it."""
        senders = _Senders(self._nodes, self._dice)
        try:
            while not self._ends:
                await asyncio.sleep(_PAUSE_S)
                begin_s, name = monotonic(), f"l{next(self._numbers)}"
                try:
                    told = await self._send(senders.any(), actor, "i", name.encode())
                except NotSentError:
                    await asyncio.sleep(_AGAIN_S)
                    continue
                if told is not None:
                    life = told.body.decode()
                    self.history.served.append(Served(actor, life, begin_s, monotonic()))
        finally:
            senders.close()

    async def _read_key(self, sender: Sender, actor: str, key: str) -> Read:
        begin_s = monotonic()
        told = await self._send(sender, actor, "g", key.encode())
        assert told is not None, f"{actor} does not answer for {key}: {self.history.outcomes}"
        return Read(actor, key, int(told.body or b"0"), begin_s, monotonic())

    async def _send(
        self, sender: Sender, actor: str, msg_type: str, payload: bytes
    ) -> Answer | None:
        """Send a message and return its reply, None if it is not known what became of it."""
        try:
            told = await sender.send(actor, msg_type, payload)
        except NotSentError:
            self.history.outcomes["not sent"] += 1
            raise
        except NoAnswerError as error:
            self.history.outcomes[f"no answer: {error}"] += 1
            return None
        if told.status != 200:
            self.history.outcomes[_told(told)] += 1
            await asyncio.sleep(_AGAIN_S)
            return None
        self.history.outcomes["ok"] += 1
        return told

    async def _deploy(self, wasm: Path) -> None:
        there: list[str] = []

        async def deploy(client: NodeClient, name: str) -> None:
            wish = DeployOptions(memory_mib=64)
            await client.deploy(name, wasm, options=wish, timeout_s=30.0)

        async def undeploy(client: NodeClient, name: str) -> None:
            await client.undeploy(name)

        while not self._ends:
            await asyncio.sleep(0.3)
            if len(there) > _KEEPS:
                name = there.pop(0)
                await self._change(name, undeploy, removes=True)
                continue
            name = f"d{next(self._numbers)}"
            if await self._change(name, deploy):
                there.append(name)

    async def _change(
        self,
        name: str,
        change: Callable[[NodeClient, str], Coroutine[Any, Any, None]],
        *,
        removes: bool = False,
    ) -> bool:
        """Deploy or remove at any node; return whether it was acknowledged."""
        node = self._dice.choice(self._nodes)
        what = "undeploy" if removes else "deploy"
        begin_s, end_s = monotonic(), NEVER
        try:
            async with asyncio.timeout(40), node.client() as client:
                await change(client, name)
            end_s = monotonic()
            self.history.outcomes[f"{what} ok"] += 1
        except (PlexSpacesError, TimeoutError) as error:
            self.history.outcomes[f"{what}: {type_of(error)}"] += 1
        self.history.deploys.append(Deployed(name, begin_s, end_s, removes))
        return end_s < NEVER


class _Senders:
    """One client's connections, to any node."""

    def __init__(self, nodes: list[ClusterNode], dice: random.Random) -> None:
        self._senders = [Sender(node) for node in nodes]
        self._dice = dice

    def any(self) -> Sender:
        return self._dice.choice(self._senders)

    def close(self) -> None:
        for sender in self._senders:
            sender.close()


def _told(answer: Answer) -> str:
    code = ""
    with suppress(ValueError, KeyError, TypeError):
        code = answer.json["code"]
    return f"{answer.status} {code}"
