"""`plexspaces advise`: what is asked of the node, and what is printed."""

from __future__ import annotations

import json

from support.command import Command
from support.fake_node import FakeNode

from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.errors import NotFound

BATCH = pb.Advice(
    rule="batch",
    application="small",
    advice="Send about 15 payloads in one 'echo' message instead of one in each.",
    facts=[
        pb.Fact(name="messages", value=300, unit="count"),
        pb.Fact(name="while there are messages", value=152.345, unit="per_s"),
        pb.Fact(name="mean payload", value=2048, unit="bytes"),
        pb.Fact(name="passing each", value=160_377, unit="ns"),
        pb.Fact(name="share", value=0.4, unit="ratio"),
        pb.Fact(name="coordination to compute", value=12.5, unit="ratio"),
        pb.Fact(name="of a later version", value=1.5, unit="furlongs"),
    ],
    saved_s_per_s=0.0234,
    reckoning="300 messages took 48 ms to pass in 2 s.",
)


def test_advise_when_there_is_some_then_numbers_gain_and_command(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """The whole of it, wrapped at the width of a terminal, but not what is copied."""
    together = pb.Advice(
        rule="together",
        application="shop/front",
        other="shop/back",
        advice="Make them one.",
        saved_s_per_s=-2.5,
    )
    memory = pb.Advice(
        rule="memory",
        application="calc",
        advice="Give it less.",
        saved_bytes=176 << 20,
        command="plexspaces deploy PROJECT --name calc --replace --memory 80 " + "# why " * 20,
    )
    everywhere = pb.Advice(rule="level", advice="Change the node.")
    fake_node.telemetry.advice = pb.AdviseResponse(
        advice=[BATCH, together, memory, everywhere], insufficient=["new has had 3 messages"]
    )
    ran = plexspaces("advise")
    assert fake_node.telemetry.requests == [pb.AdviseRequest()]
    assert ran.status == 0
    assert ran.text == (
        "1. batch: small, saves 23.4 ms of each second\n"
        "   Send about 15 payloads in one 'echo' message instead of one in each.\n"
        "   Measured: messages 300; while there are messages 152 per s; mean payload 2.0\n"
        "   KiB; passing each 160 µs; share 40%; coordination to compute 12.5×; of a\n"
        "   later version 1.5.\n"
        "   Reckoned: 300 messages took 48 ms to pass in 2 s.\n"
        "\n"
        "2. together: shop/front and shop/back, costs 2.5 s of each second\n"
        "   Make them one.\n"
        "\n"
        "3. memory: calc, saves 176.0 MiB\n"
        "   Give it less.\n"
        "   $ plexspaces deploy PROJECT --name calc --replace --memory 80 " + "# why " * 20 + "\n"
        "\n"
        "4. level: all applications\n"
        "   Change the node.\n"
        "\n"
        "Too little data:\n"
        "  - new has had 3 messages\n"
    )


def test_advise_when_there_is_none_then_status_0(plexspaces: Command, fake_node: FakeNode) -> None:
    """That is no failure."""
    fake_node.telemetry.advice = pb.AdviseResponse()
    ran = plexspaces("advise")
    assert (ran.status, ran.text) == (0, "Nothing to advise.\n")


def test_advise_when_an_application_is_named_then_it_alone_is_asked_for(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """And its tenant."""
    assert plexspaces("advise", "calc", "--tenant", "shop").status == 0
    assert fake_node.telemetry.requests == [pb.AdviseRequest(name="calc", tenant="shop")]
    fake_node.fail["Advise"] = NotFound("there is none")
    assert plexspaces("advise", "nobody").status != 0


def test_advise_when_json_is_asked_for_then_everything_is_in_it(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """With the numbers as they were told."""
    fake_node.telemetry.advice = pb.AdviseResponse(advice=[BATCH], insufficient=["little"])
    told = json.loads(plexspaces("advise", "--json").text)
    assert told["insufficient"] == ["little"]
    [advice] = told["advice"]
    assert advice["rule"] == "batch"
    assert advice["saved_s_per_s"] == 0.0234
    assert advice["facts"][3] == {"name": "passing each", "value": 160_377.0, "unit": "ns"}


def test_advise_when_texts_control_a_terminal_then_they_do_not(
    plexspaces: Command, fake_node: FakeNode
) -> None:
    """Types of messages are what clients say."""
    evil = "\x1b[2J\r\n$ rm"
    fake_node.telemetry.advice = pb.AdviseResponse(
        advice=[
            pb.Advice(
                rule=evil,
                application=evil,
                other=evil,
                advice=evil,
                facts=[pb.Fact(name=evil, value=1, unit=evil)],
                reckoning=evil,
                command=evil,
            )
        ],
        insufficient=[evil],
    )
    text = plexspaces("advise").text
    assert "\x1b" not in text
    assert "\r" not in text
    assert not any(line.startswith("$ rm") for line in text.splitlines())
