"""The connection to NATS: made again whenever it is lost, and told of in words of this product.

The only module that loads `nats`, the client, which is an extra of the package: whoever needs a
connection at run time imports this one when there is a cluster, and not before.

The client could connect again by itself. It would then send what it had kept, long after the
sender has given up; and a server that refuses it once would end it for good. So each connection
has a client of its own here, and what is in flight when it is lost fails at once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from plexspaces_node.errors import InvalidArgument, PlexSpacesError, ResourceExhausted, Unavailable
from plexspaces_node.tasks import Leave, cancel

_log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
"""How long an answer is waited for. A disk that syncs slowly still answers within it."""

RETRY_S = 0.25
"""The time between two attempts to connect."""

TELL_EACH_S = 60.0
"""The time between two lines of the log that say why there is no connection."""

_PING_S = 2
_PINGS = 2
"""A server that answers nothing for as many pings is taken for lost."""

_MOST_PENDING_BYTES = 256 * 1024 * 1024
"""What a subscriber has not read yet; beyond it messages are dropped, which a watch notices."""

_NO_RESPONDERS = 503
_HINT = "plexspaces nodes"


@dataclass(frozen=True, slots=True)
class Target:
    """Where NATS is, and how it knows who calls.

    Attributes:
        urls: nats://HOST:PORT or tls://HOST:PORT.
        credentials: a file as `nsc` writes it, instead of user and password.
        ca: the PEM file of the authority of its certificate, None for those of the host.
        speaks_tls: whether a connection without TLS is refused.
    """

    urls: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    credentials: Path | None = None
    ca: Path | None = None
    speaks_tls: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A message: what somebody published, or an answer.

    Attributes:
        status: a number as in HTTP for what the server itself says, 0 for what others do.
        description: what the number means.
    """

    subject: str
    reply: str
    data: bytes = field(repr=False)
    headers: Mapping[str, str]
    status: int = 0
    description: str = ""


class NoResponders(Unavailable):
    """Nobody answers on this subject now: nothing was done, for certain."""


class Session:
    """One connection, until it is lost.

    Attributes:
        lost: is set when it is; then every method raises `Unavailable`.
    """

    def __init__(self, client: Client) -> None:
        """Use `Connection`."""
        self.lost = asyncio.Event()
        self._client = client
        self._inbox = client.new_inbox()
        self._numbers = count()
        self._waiting: dict[str, _Answers] = {}
        self._on_lost: set[Callable[[], None]] = set()

    @property
    def max_payload(self) -> int:
        """How many bytes a message may have, headers included."""
        return int(self._client.max_payload)

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        return str(self._client.new_inbox())

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> Message:
        """Publish a message and return the first answer.

        Raises `NoResponders` if nobody is there; `Unavailable` if no answer comes in time or the
        connection is lost, and it may have been received then; `ResourceExhausted` for a message
        that is too large.
        """
        answered = (await self._ask(subject, payload, headers, timeout_s, is_last=_any))[0]
        if answered.status == _NO_RESPONDERS and not answered.data:
            raise NoResponders("NATS has nobody who answers this now", hint=_HINT)
        return answered

    async def request_all(self, subject: str, payload: bytes) -> list[Message]:
        """Publish a message and return its answers, the last of which has a status.

        Raises as `request` does, and waits as long for each answer.
        """
        answers = await self._ask(subject, payload, None, TIMEOUT_S, is_last=_has_status)
        if answers[-1].status == _NO_RESPONDERS:
            raise NoResponders("NATS has nobody who answers this now", hint=_HINT)
        return answers

    async def _ask(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        timeout_s: float,
        *,
        is_last: Callable[[Message], bool],
    ) -> list[Message]:
        token, loop = str(next(self._numbers)), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s) as limit:
                answers = _Answers(
                    is_last, lambda: limit.reschedule(loop.time() + timeout_s), loop.create_future()
                )
                self._waiting[token] = answers
                await self.publish(subject, payload, headers, reply=f"{self._inbox}.{token}")
                return await answers.done
        except TimeoutError:
            raise Unavailable(f"NATS has not answered within {timeout_s:g} s", hint=_HINT) from None
        finally:
            self._waiting.pop(token, None)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        reply: str = "",
    ) -> None:
        """Send a message, without knowing whether it arrives. Raises as `request` does."""
        if self.lost.is_set():
            raise _not_connected()
        if (size := _size(payload, headers or {})) > self.max_payload:
            # The server would end the connection for it.
            raise ResourceExhausted(
                f"{size} bytes are more than a message of NATS can have, which is "
                f"{self.max_payload}"
            )
        try:
            await self._client.publish(
                subject, payload, reply=reply, headers=dict(headers) if headers else None
            )
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"NATS has not taken a message: {error}") from error

    async def subscribe(self, subject: str, take: Callable[[Message], None]) -> Leave:
        """Call `take` with each message from now on, until the connection is lost.

        The returned function ends it.
        """

        async def received(message: Msg) -> None:
            take(_message(message))

        if self.lost.is_set():
            raise _not_connected()
        try:
            subscription = await self._client.subscribe(
                subject, cb=received, pending_bytes_limit=_MOST_PENDING_BYTES
            )
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"NATS has not taken a subscription: {error}") from error

        def leave() -> None:
            task = asyncio.get_running_loop().create_task(_unsubscribed(subscription))
            _LEAVING.add(task)
            task.add_done_callback(_LEAVING.discard)

        return leave

    def when_lost(self, call: Callable[[], None]) -> Leave:
        """Call something once the connection is lost, or soon if it is."""
        if self.lost.is_set():
            return asyncio.get_running_loop().call_soon(call).cancel
        self._on_lost.add(call)
        return lambda: self._on_lost.discard(call)

    async def answer_me(self) -> None:
        """Receive the answers of `request`; called once, first."""
        await self.subscribe(f"{self._inbox}.*", self._answered)

    def end(self) -> None:
        """Fail everything that waits. Idempotent."""
        self.lost.set()
        calls, self._on_lost = self._on_lost, set()
        for call in calls:
            call()
        for answers in self._waiting.values():
            if not answers.done.done():
                answers.done.set_exception(
                    Unavailable("the connection to NATS was lost", hint=_HINT)
                )

    def _answered(self, message: Message) -> None:
        answers = self._waiting.get(message.subject.rpartition(".")[2])
        if answers is not None and not answers.done.done():
            answers.take(message)


class _Answers:
    """The answers of one request, as they come."""

    def __init__(
        self,
        is_last: Callable[[Message], bool],
        came: Callable[[], None],
        done: asyncio.Future[list[Message]],
    ) -> None:
        self.done = done
        self._is_last = is_last
        self._came = came
        self._all: list[Message] = []

    def take(self, message: Message) -> None:
        """Take the next one."""
        self._all.append(message)
        if self._is_last(message):
            self.done.set_result(self._all)
        else:
            self._came()


class Connection:
    """A connection that is made again whenever it is lost, until it is closed.

    Belongs to the event loop in which it was opened. Use `opened`.
    """

    def __init__(self, target: Callable[[], Target], name: str) -> None:
        self.name = name
        self._target = target
        self._session: Session | None = None
        self._changed = asyncio.Event()
        self._told: list[Callable[[bool], None]] = []
        self._fault = ""
        self._fault_s = -TELL_EACH_S

    def __repr__(self) -> str:
        return f"<Connection {self.name} {'up' if self.is_connected else 'down'}>"

    @classmethod
    @asynccontextmanager
    async def opened(cls, target: Callable[[], Target], *, name: str) -> AsyncIterator[Connection]:
        """Connect in the background, and again whenever it is lost; close it at the end.

        `target` is asked before each attempt. `name` is what administrators of the server see.
        """
        connection = cls(target, name)
        task = asyncio.create_task(connection._keep(), name=f"nats {name}")
        task.add_done_callback(_failed)
        try:
            yield connection
        finally:
            await cancel(task)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now; what is behind it may not answer all the same."""
        return self._session is not None

    def when_changed(self, call: Callable[[bool], None]) -> Leave:
        """Call something, on the event loop, with True when it is there and False when lost."""
        self._told.append(call)

        def leave() -> None:
            with suppress(ValueError):
                self._told.remove(call)

        return leave

    async def session(self) -> Session:
        """Return the connection of now; waits for one."""
        while self._session is None:
            await self._changed.wait()
        return self._session

    def current(self) -> Session:
        """Return the connection of now; raises `Unavailable` if there is none."""
        if self._session is None:
            raise _not_connected(self._fault)
        return self._session

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> Message:
        """Publish a message and return the first answer; raises as `Session.request` does."""
        return await self.current().request(subject, payload, headers, timeout_s=timeout_s)

    async def _keep(self) -> None:
        while True:
            client = Client()
            try:
                session = await self._connected(client)
                try:
                    self._set(session)
                    await session.lost.wait()
                finally:
                    session.end()
                    self._set(None)
            except (nats.errors.Error, OSError, TimeoutError, PlexSpacesError) as error:
                self._say(str(error) or type(error).__name__)
            finally:
                # With what it has refused: a socket, tasks.
                with suppress(nats.errors.Error, OSError):
                    await client.close()
            await asyncio.sleep(RETRY_S)

    async def _connected(self, client: Client) -> Session:
        target, ended = self._target(), asyncio.Event()
        faults: list[Exception] = []

        async def failed(error: Exception) -> None:
            faults.append(error)
            del faults[:-1]

        async def closed() -> None:
            ended.set()
            if session is not None:
                session.end()

        async def nothing() -> None:
            pass

        session: Session | None = None
        try:
            await client.connect(
                list(target.urls),
                name=self.name,
                user=target.user or None,
                password=target.password or None,
                user_credentials=target.credentials,
                tls=_tls(target),
                # Every callback is set: the client prints what it has none for.
                error_cb=failed,
                closed_cb=closed,
                disconnected_cb=nothing,
                reconnected_cb=nothing,
                discovered_server_cb=nothing,
                lame_duck_mode_cb=nothing,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=_PING_S,
                max_outstanding_pings=_PINGS,
            )
        except nats.errors.NoServersError:
            # Says less than what each of them said.
            raise Unavailable(_shown(faults)) from None
        session = Session(client)
        await session.answer_me()
        if ended.is_set():
            raise Unavailable(_shown(faults))
        return session

    def _set(self, session: Session | None) -> None:
        self._session = session
        if session is not None:
            self._fault, self._fault_s = "", -TELL_EACH_S
            self._changed.set()
        else:
            self._changed.clear()
        for call in list(self._told):
            call(session is not None)

    def _say(self, fault: str) -> None:
        now = asyncio.get_running_loop().time()
        if fault != self._fault or now >= self._fault_s + TELL_EACH_S:
            self._fault, self._fault_s = fault, now
            _log.debug("no connection to NATS: %s", fault)


_LEAVING: set[asyncio.Task[None]] = set()
"""Tasks that unsubscribe, kept so that they are not collected before they end."""


def _failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("no connection to NATS is made any more", exc_info=error)


async def _unsubscribed(subscription: Subscription) -> None:
    with suppress(nats.errors.Error, OSError):
        await subscription.unsubscribe()


def _size(payload: bytes, headers: Mapping[str, str]) -> int:
    names = sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    return len(payload) + (len("NATS/1.0\r\n\r\n") + names if headers else 0)


def _any(_: Message) -> bool:
    return True


def _has_status(message: Message) -> bool:
    return message.status != 0


def _message(message: Msg) -> Message:
    headers = message.headers or {}
    status = headers.get("Status", "")
    return Message(
        message.subject,
        message.reply,
        message.data,
        headers,
        int(status) if status.isdecimal() else 0,
        headers.get("Description", ""),
    )


def _tls(target: Target) -> ssl.SSLContext | None:
    if target.ca is None and not target.speaks_tls:
        return None
    try:
        return ssl.create_default_context(cafile=target.ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(
            f"the authority of NATS's certificate cannot be read from {str(target.ca)!r}: {error}",
            hint="plexspaces config show",
        ) from error


def _shown(faults: list[Exception]) -> str:
    return str(faults[-1]) if faults else "it has closed the connection"


def _not_connected(why: str = "") -> Unavailable:
    return Unavailable("there is no connection to NATS" + (f": {why}" if why else ""), hint=_HINT)
