"""One message as it was measured, and what it caused."""

from __future__ import annotations

from enum import IntEnum
from random import getrandbits
from typing import NamedTuple, TypeAlias

from plexspaces_node.trace_context import TraceContext, write

MOST_SPANS = 32
"""How many spans of a tree are kept; the rest is counted."""

NAME_CHARS = 128
"""How much is kept of a message's type, and of an error: see `cut`."""


def cut(text: str, most: int = NAME_CHARS) -> str:
    """Return the beginning of a text, in no more memory than so many characters of ASCII take.

    One character beyond those has all of a text take two or four bytes each.
    """
    text = text[:most]
    if text.isascii():
        return text
    widest = max(text)
    width = 1 if widest <= "\xff" else 2 if widest <= "\uffff" else 4
    return text[: most // width]


class Kind(IntEnum):
    """What a span is, numbered as in the contract."""

    MESSAGE = 1
    ASK = 2
    TELL = 3
    FETCH = 4
    STORE = 5
    START = 6


class Tree:
    """What the spans have in common that one message caused on this node."""

    __slots__ = ("dropped", "is_asked", "is_sampled", "spans", "trace_id")

    def __init__(self, trace_id: int, *, is_sampled: bool, is_asked: bool = False) -> None:
        """`is_asked` is whether a client asked for it to be traced."""
        self.trace_id = trace_id
        self.is_sampled = is_sampled
        self.is_asked = is_asked
        self.spans = 1
        self.dropped = 0


class Step:
    """A call of the node that an application made while it handled a message.

    Attributes:
        name: for a fetch the method and the host, for the store the operation.
        begin_ns: by the clock of `perf_counter_ns`, as everywhere here.
    """

    __slots__ = ("begin_ns", "error", "kind", "name", "span_id", "total_ns")

    def __init__(self, kind: Kind, name: str, begin_ns: int) -> None:
        self.kind = kind
        self.name = cut(name)
        self.begin_ns = begin_ns
        self.total_ns = 0
        self.span_id = getrandbits(64) or 1
        self.error = ("", "")

    def __repr__(self) -> str:
        return f"<Step {self.kind.name} {self.name!r} {self.total_ns} ns>"

    def end(self, end_ns: int, error: tuple[str, str] = ("", "")) -> None:
        """Note that it has ended, with the code and the message of its error."""
        self.total_ns = max(1, end_ns - self.begin_ns)
        self.error = (cut(error[0]), cut(error[1]))


Child: TypeAlias = "Span | Step"


class Span:
    """A message to an application, from when the node has it until its reply is there.

    It has no ids until they are needed, for most messages cause nothing and are not kept. Without
    them it has no more than `__init__` sets: a busy node makes ten thousand of these a second.

    Attributes:
        application: whose message it is, by its full name.
        name: the message's type; for an HTTP request its method and path.
        waited_ns: until it was sent to its application's VM; part of `queue_ns`.
        is_cold: whether the application could not take it at once, and it waited for that.
        total_ns: 0 while it has not ended.
        tree: None until it has ids.
        parent_id: 0 without a parent.
        status: of a response of HTTP, once it has ids; else 0.
        children: what it caused, in the order of their beginnings; None for nothing.
        error: the code and the message of its failure.
    """

    __slots__ = (
        "application",
        "begin_ns",
        "children",
        "compute_ns",
        "error",
        "is_cold",
        "kind",
        "name",
        "parent_id",
        "payload_bytes",
        "queue_ns",
        "reply_bytes",
        "span_id",
        "status",
        "total_ns",
        "tree",
        "version",
        "vm_id",
        "wait_ns",
        "waited_ns",
    )

    def __init__(
        self, application: str, kind: Kind, name: str, payload_bytes: int, begin_ns: int
    ) -> None:
        self.application = application
        self.kind = kind
        self.name = name
        self.payload_bytes = payload_bytes
        self.begin_ns = begin_ns
        self.total_ns = self.waited_ns = 0
        self.is_cold = False
        self.vm_id = ""
        self.tree: Tree | None = None
        self.children: list[Child] | None = None
        self.error: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"<Span {self.application} {self.name!r} {self.total_ns} ns>"

    @property
    def is_sampled(self) -> bool:
        """Whether it is traced on purpose."""
        return self.tree is not None and self.tree.is_sampled

    @property
    def link_ns(self) -> int:
        """The time that was none of the others."""
        return self.total_ns - self.compute_ns - self.wait_ns - self.queue_ns

    def identify(self, *, is_sampled: bool = False) -> Tree:
        """Give it ids, if it has none, as the first of a trace; return its tree."""
        if self.tree is None:
            return self._belong(Tree(getrandbits(128) or 1, is_sampled=is_sampled), 0)
        return self.tree

    def join(self, context: TraceContext) -> None:
        """Belong to a trace that began elsewhere."""
        is_sampled = context.is_sampled
        tree = Tree(context.trace_id, is_sampled=is_sampled, is_asked=is_sampled)
        self._belong(tree, context.span_id)

    def cause(self, child: Child) -> bool:
        """Note what it caused; return whether it is kept.

        More than a tree may have belongs to the trace all the same.
        """
        tree = self.identify()
        if isinstance(child, Span):
            child._belong(tree, self.span_id)
        if tree.spans >= MOST_SPANS:
            tree.dropped += 1
            return False
        tree.spans += 1
        if self.children is None:
            self.children = []
        self.children.append(child)
        return True

    def _belong(self, tree: Tree, parent_id: int) -> Tree:
        self.tree = tree
        self.span_id = getrandbits(64) or 1
        self.parent_id = parent_id
        self.compute_ns = self.wait_ns = self.queue_ns = self.reply_bytes = self.status = 0
        self.version = ""
        return tree

    @property
    def traceparent(self) -> str:
        """What tells others, which it causes, of this trace; "" if it is not traced."""
        if self.tree is None:
            return ""
        return write(self.tree.trace_id, self.span_id, is_sampled=self.tree.is_sampled)


class Ended(NamedTuple):
    """A message of a trace that has ended, or a step of one that may go on.

    Attributes:
        span: the message, or the one for which the step was made.
        is_request: whether it is an HTTP request to a component.
    """

    span: Span
    step: Step | None = None
    is_request: bool = False


def start_of(span: Span) -> Step:
    """Return the wait of a message for its application as a step of it."""
    step = Step(Kind.START, "start", span.begin_ns)
    # It has no id of its own until somebody asks for it, and then always the same.
    step.span_id = span.span_id ^ 1 or 1
    step.total_ns = span.waited_ns
    return step
