"""Plain pytest, without a node and without WebAssembly: `pytest`."""

from __future__ import annotations

import json

import pytest
from app import Greeter, Greeting, Person
from plexspaces_actor import ActorFailure, testing


def test_greet_answers_by_name_and_counts() -> None:
    greeter = Greeter()

    assert greeter.greet(Person("Ada")) == Greeting("Hello, Ada!", 1)
    # As the node calls it: the type of the message, and JSON in and out.
    reply = greeter.receive("greet", b'{"name": "Grace"}')
    assert json.loads(reply) == {"text": "Hello, Grace!", "count": 2}


def test_greet_without_a_name_is_an_error_record() -> None:
    with pytest.raises(ActorFailure) as failure:
        Greeter().receive("greet", b'{"name": ""}')

    assert failure.value.code == "no-name"


def test_count_survives_a_restart() -> None:
    greeter = Greeter()
    greeter.greet(Person("Ada"))

    assert testing.restarted(greeter).greeted() == 1
