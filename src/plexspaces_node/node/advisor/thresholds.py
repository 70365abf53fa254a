"""From where on a rule advises, and why from there. docs/advisor.md has the same table."""

from __future__ import annotations

WINDOW_S = 300
"""Rules look at the last 5 to 10 minutes: what was changed since is gone from them by then."""

MESSAGES = 100
"""Of so many the mean is within a tenth of the spread of single ones; below it is chance."""

ACTIVE_S = 1.0
"""With messages for less than this there is no rate: it would be that of a single burst."""

LEAST_SAVED_S_PER_S = 0.001
"""A millisecond of each second. Nobody changes a program for less."""

BATCH_PER_S = 20.0
"""While there are messages. At a lower rate payloads would wait too long for each other."""
BATCH_WAIT_S = 0.1
"""So long a payload may wait for the others of its batch: people notice more."""
BATCH_PAYLOAD_BYTES = 4096
"""The mean of small ones. Larger payloads take their time for their bytes, not for each message."""
BATCH_BYTES = 64 * 1024
"""A whole batch, so that passing it still takes about as long as passing one message."""
BATCH_MOST = 100
"""From there on a hundredth is left of what passing took; more adds nothing."""
BATCH_WORK = 10
"""A batch makes work ten times the passing, which is the ratio that `run` accepts."""

TOGETHER_SHARE = 0.2
"""Of the time in which the asker handles messages that passing its asks took. Two programs become
one: that takes days, and should give back more than a tenth."""

COORDINATION_RATIO = 10
"""Coordination is ten times compute or more. `run` warns where compute is less than ten times the
coordination; this is the reverse, a hundred times worse."""
COORDINATION_LINK = 0.5
"""The share of coordination that is passing messages. Where it is waiting, others are to blame."""

MEMORY_S = 600
"""A VM must have run with messages so long: caches are warm, and timers have fired."""
MEMORY_LOOKS = 10
"""In so many half minutes there were messages: in an hour of idleness nothing is seen."""
MEMORY_MARGIN = 1.5
"""Times the most that was seen: what comes twice a day has not been seen in ten minutes."""
MEMORY_STEP_MIB = 16
MEMORY_UNUSED = 0.25
"""The share of its memory that must be left over, beyond the margin, for less to be advised.
That is 16 MiB of the smallest VM."""
MEMORY_FULL = 0.9
"""The share in use from which on more is advised: an allocation of a tenth would fail."""

LEVEL_SHARE = 0.1
"""A weaker level must save so much of the time of messages: it takes a wall away. A stronger one
may cost as much."""
LEVEL_COMPUTE = 0.1
"""Compute at two levels counts as equal within so much, which is how single runs differ."""
LEVEL_DAYS = 90
"""Older figures of levels are not used: kernels and machines change."""
