"""A pocket calculator: typed JSON in and out, state that survives, a durable store.

See README.md for what can be sent to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from plexspaces_actor import Actor, ActorFailure, handler, keyvalue, log

HISTORY_LENGTH = 20


@dataclass
class Operands:
    """What to calculate with; without `a`, the last result is taken."""

    b: float
    a: float | None = None


@dataclass
class Result:
    result: float


@dataclass
class Step:
    """One line of the history."""

    operation: str
    a: float
    b: float
    result: float


class Calculator(Actor):
    # Annotated, public attributes are the actor's state: they survive a restart.
    last: float = 0.0
    history: tuple[Step, ...] = ()

    @handler("add")
    def add(self, operands: Operands) -> Result:
        a, b = self._both(operands)
        return self._done("add", a, b, a + b)

    @handler("sub")
    def sub(self, operands: Operands) -> Result:
        a, b = self._both(operands)
        return self._done("sub", a, b, a - b)

    @handler("mul")
    def mul(self, operands: Operands) -> Result:
        a, b = self._both(operands)
        return self._done("mul", a, b, a * b)

    @handler("div")
    def div(self, operands: Operands) -> Result:
        a, b = self._both(operands)
        if b == 0:
            # The caller gets this as an error record; the actor and its state live on.
            raise ActorFailure("division-by-zero", f"{a:g} cannot be divided by 0")
        return self._done("div", a, b, a / b)

    @handler("history")
    def past(self) -> tuple[Step, ...]:
        return self.history

    @handler("clear")
    def clear(self) -> None:
        self.last, self.history = 0.0, ()

    @handler("save")
    def save(self, name: str) -> None:
        """Keep the last result under a name; unlike state, it also survives `clear`."""
        keyvalue.put(f"saved/{name}", self.last)
        log.info("saved %g as %r", self.last, name)

    @handler("load")
    def load(self, name: str) -> Result:
        value = keyvalue.get(f"saved/{name}", float)
        if value is None:
            raise ActorFailure("not-found", f"nothing was saved as {name!r}")
        self.last = value
        return Result(value)

    @handler("primes")
    def primes(self, limit: int) -> int:
        """Real work: how many primes there are up to `limit`."""
        return sum(1 for number in range(2, limit + 1) if is_prime(number))

    def _both(self, operands: Operands) -> tuple[float, float]:
        return (self.last if operands.a is None else operands.a), operands.b

    def _done(self, operation: str, a: float, b: float, result: float) -> Result:
        self.last = result
        self.history = (*self.history, Step(operation, a, b, result))[-HISTORY_LENGTH:]
        log.info("%s %g %g = %g", operation, a, b, result)
        return Result(result)


def is_prime(number: int) -> bool:
    """Trial division by 2 and the odd numbers, as in every example of `plexspaces run`."""
    if number % 2 == 0:
        return number == 2
    divisor = 3
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 2
    return True
