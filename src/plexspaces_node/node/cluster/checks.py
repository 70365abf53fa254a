"""Whether a record of the registry is sound: it is of whom its key says, and bounded.

Whoever writes into the registry has the cluster's token; a bug, a later version or a broken disk
may still put anything there. What a node acts on beyond this, it checks again where it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import check_digest, check_full_name, check_name
from plexspaces_node.node.cluster.records import Application, Leader, Node, Placed, Status

MOST_REPLICAS = 1000
"""On how many nodes an application can run."""

MOST_LABELS = 64
"""How many labels a node has, or an application asks for."""

_MOST_WORD = 255
"""Characters of what is a word: an address, a label, a version, a state."""

_MOST_TEXT = 16 * 1024
"""Characters of what is told of a failure."""

_MOST_NUMBER = 1 << 53


def check(record: object, subject: str) -> None:
    """Raise `InvalidArgument` unless a record is sound, and whose its key says (`view.parse_key`).

    Returns also for a record of which nothing is to be checked.
    """
    match record:
        case Node():
            _check_node(record, subject)
        case Leader():
            check_name(record.node, what="node")
        case Application():
            _check_application(record, subject)
        case Placed():
            _check_placed(record)
        case Status():
            _check_words(record.id, record.state, record.code, record.vm_id)
            _check_texts(record.error, record.hint)


def _check_node(node: Node, subject: str) -> None:
    if node.id != subject:
        raise InvalidArgument("a node's record is another's")
    _check_words(node.http, node.grpc, node.version, node.level, node.route, node.server)
    _check_labels(node.labels)
    _check_numbers(node.memory_mib, node.applications)


def _check_application(application: Application, subject: str) -> None:
    check_full_name(application.name)
    if application.name != subject:
        raise InvalidArgument("an application's record is another's")
    check_digest(application.digest)
    _check_words(application.id, application.version, application.language, application.kind)
    _check_words(application.level, application.source, application.deploying)
    _check_labels(application.on)
    _check_numbers(application.memory_mib, application.vcpus, application.generation)
    if not 1 <= application.replicas <= MOST_REPLICAS:
        raise InvalidArgument("an application has a wrong number of replicas")


def _check_placed(placed: Placed) -> None:
    nodes = (*placed.nodes, *placed.standby, *placed.leaving)
    if len(nodes) > 3 * MOST_REPLICAS:
        raise InvalidArgument("an application is on too many nodes")
    for node in nodes:
        check_name(node, what="node")
    for some in (placed.nodes, placed.standby, placed.leaving):
        if len(set(some)) != len(some):
            raise InvalidArgument("an application is twice on a node")
    _check_words(placed.id)
    _check_texts(placed.why)


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MOST_LABELS:
        raise InvalidArgument("there are too many labels")
    _check_words(*labels, *labels.values())


def _check_words(*words: str) -> None:
    _check_length(words, _MOST_WORD)
    if not all(word.isprintable() for word in words):
        raise InvalidArgument("a word has characters that cannot be printed")


def _check_texts(*texts: str) -> None:
    _check_length(texts, _MOST_TEXT)


def _check_length(texts: Sequence[str], most: int) -> None:
    if any(len(text) > most for text in texts):
        raise InvalidArgument("a text is too long")


def _check_numbers(*numbers: int) -> None:
    if not all(0 <= number <= _MOST_NUMBER for number in numbers):
        raise InvalidArgument("a number is out of range")
