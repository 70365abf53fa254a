"""Write a PlexSpaces application in Python.

An application is a project with an ``app.py`` that contains one subclass of `Actor`::

    from plexspaces_actor import Actor, handler, log

    class Counter(Actor):
        count: int = 0                      # state: survives a restart

        @handler("add")
        def add(self, amount: int) -> int:  # payload and reply: JSON
            self.count += amount
            log.info("count is %d", self.count)
            return self.count

``plexspaces build`` makes a WebAssembly component from it, ``plexspaces deploy`` runs it.

Payloads follow the annotation of a handler's parameter, replies the value it returns:

==================  =====================================================================
``bytes``           as they are
``str``             UTF-8 text
``None``            an empty payload
anything else       JSON: ``bool int float list dict tuple``, dataclasses, ``X | None``
==================  =====================================================================

If a handler raises, the caller gets an error record and the actor continues: `ActorFailure` gives
the record its own code; any other exception gives the code ``exception``, with the traceback in the
log. A payload that does not match the annotation is answered with ``bad-payload``, a message
without a handler with ``unknown-message``.

Two things differ from Python elsewhere. Import at the top of a file: modules are loaded while the
application is built. And the top of a file runs only once, during the build.

Outside a component, for example in pytest, the same names use in-memory stand-ins: `keyvalue` is a
dictionary, `tell` is recorded, `ask` calls what the test provides, `log` is a logger of the
standard library. See `plexspaces_actor.testing`.
"""

from __future__ import annotations

import logging

from . import keyvalue
from ._actor import Actor, handler
from ._errors import ActorFailure, DefinitionError, KeyValueError
from ._messaging import ask, tell

log = logging.getLogger("plexspaces")
"""The application's log: a logger of the standard library whose lines reach the node."""

__all__ = [
    "Actor",
    "ActorFailure",
    "DefinitionError",
    "KeyValueError",
    "ask",
    "handler",
    "keyvalue",
    "log",
    "tell",
]
