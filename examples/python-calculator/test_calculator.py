"""Plain pytest, without a node: `pytest`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from app import Calculator, Operands, Result, Step
from plexspaces_actor import ActorFailure, testing


def send(calculator: Calculator, message_type: str, **request: float) -> Any:
    """Send JSON as a client would, and read the JSON that comes back."""
    return json.loads(calculator.receive(message_type, json.dumps(request).encode()))


def test_operations_answer_with_the_result() -> None:
    calculator = Calculator()

    assert calculator.add(Operands(a=2, b=3)) == Result(5)
    assert send(calculator, "sub", a=2, b=3) == {"result": -1}
    assert send(calculator, "mul", a=2, b=3) == {"result": 6}
    assert send(calculator, "div", a=3, b=2) == {"result": 1.5}


def test_without_a_the_last_result_is_taken() -> None:
    calculator = Calculator()
    send(calculator, "add", a=40, b=2)

    assert send(calculator, "div", b=4) == {"result": 10.5}


def test_division_by_zero_is_an_error_record_and_changes_nothing() -> None:
    calculator = Calculator()
    calculator.add(Operands(a=1, b=1))

    with pytest.raises(ActorFailure, match="cannot be divided") as failure:
        send(calculator, "div", b=0)

    assert failure.value.code == "division-by-zero"
    assert calculator.last == 2


def test_a_payload_of_another_shape_is_refused() -> None:
    with pytest.raises(ActorFailure) as failure:
        send(Calculator(), "add", a=1)

    assert failure.value.code == "bad-payload"


def test_last_result_and_history_survive_a_restart() -> None:
    calculator = Calculator()
    calculator.add(Operands(a=1, b=2))
    calculator.mul(Operands(b=5))

    again = testing.restarted(calculator)

    assert again.last == 15
    assert again.past() == (Step("add", 1, 2, 3), Step("mul", 3, 5, 15))


def test_history_keeps_the_latest_twenty() -> None:
    calculator = Calculator()
    for number in range(25):
        calculator.add(Operands(a=0, b=number))

    assert [step.b for step in calculator.past()] == list(range(5, 25))


def test_saved_results_are_in_the_store() -> None:
    with testing.memory() as host:
        calculator = Calculator()
        calculator.add(Operands(a=20.5, b=21.5))
        calculator.save("answer")
        calculator.clear()

        assert host.values == {"saved/answer": b"42.0"}
        assert calculator.load("answer") == Result(42)
        with pytest.raises(ActorFailure, match="'question'"):
            calculator.load("question")


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 0), (2, 1), (10, 4), (1000, 168)])
def test_primes_are_counted(limit: int, count: int) -> None:
    assert Calculator().receive("primes", b"%d" % limit) == b"%d" % count
