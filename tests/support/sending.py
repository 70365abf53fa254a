"""Messages to an agent whose replies are waited for."""

from __future__ import annotations

from functools import partial

from plexspaces_node.link.frames import Body
from plexspaces_node.node.machines.agent_client import AgentClient
from plexspaces_node.node.machines.pending import Answered
from plexspaces_node.node.telemetry.span import Span
from plexspaces_node.tasks import called_back


async def reply_of(
    agent: AgentClient,
    *,
    sender: str = "",
    msg_type: str = "m",
    payload: Body = b"",
    timeout_ns: int = 60_000_000_000,
    span: Span | None = None,
) -> Answered:
    """Send a message, which is measured as `span`, and wait for its reply."""
    return await called_back(
        partial(
            agent.post,
            sender=sender,
            msg_type=msg_type,
            payload=payload,
            timeout_ns=timeout_ns,
            span=span,
        )
    )
