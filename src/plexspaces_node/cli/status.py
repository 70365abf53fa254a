"""The exit statuses, which are the same for every command.

    status  meaning
    0       done
    1       what was asked could not be done: nothing of that name, a name that is taken, no node,
            an actor's own error, a host that lacks something
    2       what was given is wrong: a command, an option, a value, a file, the configuration; the
            same again ends the same
    128+N   ended by signal N: 130 by Ctrl-C, 143 by SIGTERM; 141, as if by SIGPIPE, when whoever
            read the output has gone

Whether it is 1 or 2 depends on the error's class and never on the command.
"""

from __future__ import annotations

from plexspaces_node.errors import ActorError, InvalidArgument, PlexSpacesError

DONE = 0
FAILED = 1
USED_WRONGLY = 2
_OF_A_SIGNAL = 128
INTERRUPTED = _OF_A_SIGNAL + 2

IN_SHORT = "0 success · 1 failure · 2 invalid usage or input · 130 interrupted · 143 terminated"
"""The table in one line, for the help."""


def status_of(error: PlexSpacesError | ActorError) -> int:
    """Return the status a command ends with for an error."""
    return USED_WRONGLY if isinstance(error, InvalidArgument) else FAILED


def status_of_signal(number: int) -> int:
    """Return the status a command ends with for a signal."""
    return _OF_A_SIGNAL + number
