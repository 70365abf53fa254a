"""The workload of ``plexspaces run``: one message that every example answers in the same way.

The answer to ``primes`` with a limit in decimal digits is the number of primes up to it, counted by
trial division, which costs the same number of divisions in every language. This module has the
right answer, from another algorithm, and finds the examples.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains.build import kind_of
from plexspaces_node.toolchains.project import detect, project_name
from plexspaces_node.toolchains.shipped import shipped

PRIMES_MESSAGE_TYPE = "primes"
DEFAULT_PRIMES_LIMIT = 300_000
"""Some tens of milliseconds in a compiled language, about a second in Python."""
MAX_PRIMES_LIMIT = 50_000_000


@dataclass(frozen=True, slots=True)
class SampleProject:
    """An example that comes with the product."""

    name: str
    path: Path
    language: Language


def primes_payload(limit: int) -> bytes:
    """Return the message that asks for the number of primes up to `limit`."""
    return b"%d" % limit


def primes_reply(limit: int) -> bytes:
    """Return the right answer to `primes_payload`; see `count_primes`."""
    return b"%d" % count_primes(limit)


def count_primes(limit: int) -> int:
    """Return how many primes there are from 2 to `limit` inclusive, by a sieve. Blocks.

    Raises `InvalidArgument` above `MAX_PRIMES_LIMIT`, which limits its memory.
    """
    if limit > MAX_PRIMES_LIMIT:
        raise InvalidArgument(f"the limit {limit} is above {MAX_PRIMES_LIMIT}")
    if limit < 2:
        return 0
    prime = bytearray([1]) * (limit + 1)
    prime[0] = prime[1] = 0
    number = 2
    while number * number <= limit:
        if prime[number]:
            multiples = range(number * number, limit + 1, number)
            prime[multiples.start :: number] = bytes(len(multiples))
        number += 1
    return sum(prime)


def examples() -> list[SampleProject]:
    """Return the examples that answer messages, by name; raises `NotFound` if there are none."""
    projects = []
    for path in sorted(shipped("examples").iterdir()):
        # Beside the projects there may be a README, or files left by a tool.
        with contextlib.suppress(InvalidArgument, NotFound):
            if kind_of(path) is ArtifactKind.HTTP_COMPONENT:
                continue
            projects.append(SampleProject(project_name(path), path, detect(path)))
    return projects
