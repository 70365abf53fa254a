"""The log lines that an agent sends."""

from __future__ import annotations

from plexspaces_node.info import LogLine
from plexspaces_node.link import frames as link
from plexspaces_node.model import TRACE_ID_PATTERN

LOG_LINES = 2048
"""The maximum number of lines in a frame: an agent sends half of that."""

STREAMS = {
    link.Log.STREAM_LOG: "log",
    link.Log.STREAM_STDOUT: "stdout",
    link.Log.STREAM_STDERR: "stderr",
    link.Log.STREAM_AGENT: "agent",
}
"""The streams that an agent may use for a log line; the node's own is not among them."""

LEVELS = {
    link.Log.LEVEL_TRACE: "trace",
    link.Log.LEVEL_DEBUG: "debug",
    link.Log.LEVEL_INFO: "info",
    link.Log.LEVEL_WARN: "warn",
    link.Log.LEVEL_ERROR: "error",
}


def lines_of(frame: link.Log, *, since_ns: int, now_ns: int) -> list[LogLine]:
    """Return the lines; raises `LinkBroken` for lines that no agent sends.

    Their times are what the agent says, but not before `since_ns`, when its VM was started, and not
    after `now_ns`: a guest's clock can be wrong, and an agent can lie. A line without a trace is of
    an agent that does not know it, or of a message that has none.
    """
    if len(frame.lines) > LOG_LINES:
        raise link.LinkBroken(f"{len(frame.lines)} lines in a frame, at most {LOG_LINES}")
    lines = []
    for line in frame.lines:
        stream, level = STREAMS.get(line.stream), LEVELS.get(line.level)
        if stream is None or level is None:
            raise link.LinkBroken("a line of the log that no agent sends")
        if line.trace_id and not TRACE_ID_PATTERN.fullmatch(line.trace_id):
            raise link.LinkBroken("a line of the log with a trace that no agent sends")
        said_ns = line.time_unix_ns or now_ns
        time_ns = max(since_ns, min(said_ns, now_ns))
        lines.append(LogLine(time_ns, stream, level, line.message, line.trace_id))
    return lines
