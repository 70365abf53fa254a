"""__NAME__: an application for a PlexSpaces node. README.md says what can be sent to it."""

from __future__ import annotations

from dataclasses import dataclass

from plexspaces_actor import Actor, ActorFailure, handler, log


@dataclass
class Person:
    """What `greet` takes."""

    name: str


@dataclass
class Greeting:
    """What `greet` answers."""

    text: str
    count: int


class Greeter(Actor):
    # Public attributes with a type are the state: they survive a restart.
    count: int = 0

    @handler("greet")
    def greet(self, person: Person) -> Greeting:
        if not person.name:
            # The caller gets this as an error record; the actor and its state live on.
            raise ActorFailure("no-name", "the name is empty")
        self.count += 1
        log.info("greeting %s, number %d", person.name, self.count)
        return Greeting(f"Hello, {person.name}!", self.count)

    @handler("count")
    def greeted(self) -> int:
        return self.count
