"""The conformance actor in Python: tests/actors/README.md says what it answers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from plexspaces_actor import Actor, ActorFailure, ask, handler, keyvalue, log, tell

BLOCK_BYTES = 1024 * 1024


@dataclass
class Entry:
    """What `put` takes."""

    key: str
    value: str


@dataclass
class Message:
    """What `ask` and `tell` take."""

    to: str
    type: str
    data: str = ""
    timeout_ms: float = 5000


class Conformance(Actor):
    """Answers every message of the suite."""

    total: int = 0

    @handler("echo")
    def echo(self, payload: bytes) -> bytes:
        return payload

    @handler("upper")
    def upper(self, text: str) -> str:
        return text.upper()

    @handler("count")
    def count(self) -> int:
        self.total += 1
        return self.total

    @handler("state")
    def state(self) -> int:
        return self.total

    @handler("sender")
    def who_sent(self) -> str:
        return self.sender

    @handler("put")
    def put(self, entry: Entry) -> None:
        keyvalue.put(entry.key, entry.value)

    @handler("get")
    def get(self, key: str) -> bytes | None:
        return keyvalue.get(key)

    @handler("delete")
    def delete(self, key: str) -> None:
        keyvalue.delete(key)

    @handler("ask")
    def ask(self, message: Message) -> bytes:
        return ask(message.to, message.type, message.data, timeout=message.timeout_ms / 1000)

    @handler("tell")
    def tell(self, message: Message) -> str:
        tell(message.to, message.type, message.data)
        return "told"

    @handler("fail")
    def fail(self, text: str) -> None:
        raise ActorFailure("asked", text, retryable=True)

    @handler("throw")
    def throw(self, text: str) -> None:
        raise RuntimeError(f"boom: {text}")

    @handler("log")
    def log(self, text: str) -> None:
        log.info("%s", text)

    @handler("env")
    def env(self, name: str) -> str:
        return os.environ.get(name, "")

    @handler("now")
    def now(self) -> int:
        return time.time_ns() // 1_000_000

    @handler("random")
    def random(self) -> str:
        return os.urandom(16).hex()

    @handler("loop")
    def loop(self) -> None:
        while True:
            pass

    @handler("hoard")
    def hoard(self) -> None:
        hoard: list[bytearray] = []
        while True:
            hoard.append(bytearray(BLOCK_BYTES))

    @handler("primes")
    def primes(self, limit: int) -> int:
        return sum(1 for number in range(2, limit + 1) if is_prime(number))


def is_prime(number: int) -> bool:
    """Trial division, as in every example."""
    if number % 2 == 0:
        return number == 2
    divisor = 3
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 2
    return True
