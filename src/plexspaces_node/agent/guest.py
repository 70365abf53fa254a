"""The agent as the first process of a guest.

`guest/init` runs `main`, once it has loaded the modules and mounted the root. This file owns what
the agent does as PID 1: the other file systems, the link as the kernel's
command line names it, the artifact's drive, and the end of the machine. Nothing here knows which
VMM is outside.

    plexspaces.vm=ID                      the machine's id, said in the hello, if it is told
    plexspaces.link=virtio-serial:NAME    the virtio port of that name
    plexspaces.link=vsock:CID:PORT        a connection to that port of the host
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import sys
import time
from collections.abc import Callable
from importlib import import_module
from types import TracebackType

from plexspaces_node.agent import swap
from plexspaces_node.agent.libc import call
from plexspaces_node.agent.memory import give_back_large, of_guest
from plexspaces_node.agent.serve import AgentServer, Dial, Stream, Surroundings
from plexspaces_node.errors import InvalidArgument, PlexSpacesError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Self, TypeVar

    _T = TypeVar("_T")

ARTIFACT_DIRECTORY = "/artifact"
ARTIFACT_DEVICE = "/dev/vdb"
ARTIFACT_WAIT_S = 2.0
"""For the drive that the host has just put in to be seen by the guest's kernel."""

PORTS = "/sys/class/virtio-ports"
PORT_WAIT_S = 5.0
"""For a virtio port to appear once its driver is loaded."""

_VM_KEY, _LINK_KEY = "plexspaces.vm", "plexspaces.link"
_LONGEST_PAUSE_S = 0.05
_CLOCK_FAULT_NS = 5_000_000
"""What the way of the node's answer may cost: no reason to set the clock back."""
_RANDOM = "/dev/urandom"
_ADD_ENTROPY, _RESEED = 0x40085203, 0x5207
"""`RNDADDENTROPY` and `RNDRESEEDCRNG` of linux/random.h."""
_WRITE_BYTES = 32 * 1024
"""What the kernel takes in one write to a virtio port."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_RESTART = 0x01234567
_NO_FILES = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MOUNTS = (
    ("proc", "/proc", _NO_FILES, ""),
    ("sysfs", "/sys", _NO_FILES, ""),
    ("devtmpfs", "/dev", _MS_NOSUID | _MS_NOEXEC, ""),
    ("tmpfs", "/run", _NO_FILES, "size=4m,mode=755"),
)


class VirtioPort:
    """One connection of the host to a virtio port, as a `Stream`.

    The kernel tells no event when the host comes or goes: a port without a host reads as ended
    and polls as hung up. Reading is for one thread, writing for one other.
    """

    def __init__(self, descriptor: int) -> None:
        """Take a descriptor that nobody else uses; it is closed with this object."""
        os.set_blocking(descriptor, False)
        self._port = descriptor
        self._ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reading = self._poll(select.POLLIN)
        self._writing = self._poll(select.POLLOUT)

    @property
    def connected(self) -> bool:
        """Whether a host is at the other end now."""
        found = dict(self._poll(0).poll(0)).get(self._port, 0)
        return not found & (select.POLLHUP | select.POLLERR | select.POLLNVAL)

    def discard(self) -> None:
        """Throw away what a host that has gone left unread."""
        try:
            while os.read(self._port, _WRITE_BYTES):
                pass
        except BlockingIOError:
            pass

    def recv(self, bufsize: int, /) -> bytes:
        while True:
            found = dict(self._reading.poll())
            if self._ended in found:
                return b""
            try:
                return os.read(self._port, bufsize)
            except BlockingIOError:
                continue

    def sendall(self, data: bytes, /) -> None:
        # Never a blocking write: it would wait for the next host, and greet it with half a frame.
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._port, rest[:_WRITE_BYTES]) :]
            except BlockingIOError:
                found = dict(self._writing.poll())
                if self._ended in found or not found.get(self._port, 0) & select.POLLOUT:
                    raise BrokenPipeError(errno.EPIPE, "no host at the port") from None

    def shutdown(self, how: int, /) -> None:
        os.eventfd_write(self._ended, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        os.close(self._port)
        os.close(self._ended)

    def _poll(self, events: int) -> select.poll:
        poll = select.poll()
        poll.register(self._port, events)
        poll.register(self._ended, select.POLLIN)
        return poll


def arguments_of(command_line: str) -> tuple[str, str]:
    """Return the machine's id, "" when it is not told, and the link from the command line.

    Raises `InvalidArgument` when it names no link.
    """
    words = dict(word.partition("=")[::2] for word in command_line.split())
    link = words.get(_LINK_KEY, "")
    if not link:
        raise InvalidArgument(f"the kernel's command line needs {_LINK_KEY}=LINK")
    return words.get(_VM_KEY, ""), link


def dialer(link: str) -> Dial:
    """Return what opens the link that the command line names; raises `InvalidArgument`."""
    match link.split(":"):
        case ["virtio-serial", name] if name:
            return lambda: open_port(name)
        case ["vsock", cid, port] if cid.isdecimal() and port.isdecimal():
            return lambda: open_vsock(int(cid), int(port))
    raise InvalidArgument(
        f"{_LINK_KEY}={link} is neither virtio-serial:NAME nor vsock:CID:PORT",
    )


def open_port(name: str) -> Stream:
    """Open the virtio port of this name and wait, without bound, until a host is connected to it.

    Raises `OSError` when there is no such port.
    """
    path = wait_for(lambda: find_port(PORTS, name), PORT_WAIT_S)
    if path is None:
        complain(f"no virtio port is named {name}")
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    port = VirtioPort(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    pause_s = 0.001
    while not port.connected:
        port.discard()
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return port


def find_port(ports: Path | str, name: str) -> str | None:
    """Return the device of the virtio port of this name, as sysfs at `ports` tells, or None."""
    try:
        for entry in sorted(os.listdir(ports)):
            if _content(f"{ports}/{entry}/name").strip() == name:
                return f"/dev/{entry}"
    except OSError:
        # The bus is not there yet, or a port went away between two looks.
        pass
    return None


def _content(path: str) -> str:
    with open(path) as opened:
        return opened.read()


def open_vsock(cid: int, port: int) -> Stream:
    """Connect to a port of the host, cid 2; raises `OSError`."""
    # Not imported with this file: a guest whose link is a port has no use for it.
    socket: Any = import_module("socket")
    opened = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        opened.connect((cid, port))
    except OSError:
        opened.close()
        raise
    return opened  # type: ignore[no-any-return]


def mount_artifact(path: str) -> None:
    """Mount the artifact's drive when `path` lies on it; raises `Unavailable` when that fails.

    The host puts the drive's content in before it says `Load`, so the kernel may still be about
    to notice.
    """
    if not path.startswith(f"{ARTIFACT_DIRECTORY}/"):
        return
    refused: list[OSError] = []

    def mounted() -> bool | None:
        try:
            # Executable: the artifact is machine code, and is mapped.
            flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
            mount(ARTIFACT_DEVICE, ARTIFACT_DIRECTORY, "ext4", flags, "noload")
        except OSError as error:
            refused.append(error)
            return None
        return True

    if os.path.exists(path) or wait_for(mounted, ARTIFACT_WAIT_S):
        return
    raise Unavailable(
        f"the artifact's drive {ARTIFACT_DEVICE} cannot be mounted: {refused[-1].strerror}"
    )


def wait_for(look: Callable[[], _T | None], timeout_s: float) -> _T | None:
    """Call `look` until it returns something that is not None, or the time is over."""
    deadline, pause_s = time.monotonic() + timeout_s, 0.001
    while (found := look()) is None and time.monotonic() < deadline:
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return found


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system; raises `OSError`."""
    texts = [text.encode() for text in (source, target, kind)]
    call("mount", *texts, ctypes.c_ulong(flags), data.encode(), about=target)


def set_clock(time_ns: int) -> None:
    """Set the clock to the node's time.

    At boot it has whole seconds only, where the VMM offers no better source than a PC's clock.
    """
    if abs(time_ns - time.time_ns()) > _CLOCK_FAULT_NS:
        time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)


def reseed(seed: bytes) -> None:
    """Have the kernel's randomness go on from fresh bytes; raises `OSError`.

    Machines that are copies of one would otherwise draw the same keys and identifiers.
    """
    bits_and_bytes = struct.pack("=ii", 8 * len(seed), len(seed))
    descriptor = os.open(_RANDOM, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for request, data in ((_ADD_ENTROPY, bits_and_bytes + seed), (_RESEED, None)):
            call("ioctl", descriptor, ctypes.c_ulong(request), data, about=_RANDOM)
    finally:
        os.close(descriptor)


def wake(time_ns: int, seed: bytes) -> None:
    """Become a machine of one's own: set the clock and draw from fresh randomness.

    Ends the machine where that cannot be had.
    """
    try:
        # First, for the time was true when it was sent.
        if time_ns:
            set_clock(time_ns)
        reseed(seed)
    except OSError as error:
        sys.exit(f"plexspaces: a copy cannot be told from others: {error}")


def complain(line: str) -> None:
    """Write a line to the console."""
    os.write(2, f"plexspaces: {line}\n".encode())


def restart() -> None:
    """End the machine. Every VMM ends when its guest restarts, not all when it powers off."""
    ctypes.CDLL(None, use_errno=True).reboot(_RESTART)


def main() -> None:
    """Make the guest what the agent needs, serve the node, and end the machine."""
    for kind, target, flags, data in _MOUNTS:
        if not os.path.ismount(target):
            mount(kind, target, kind, flags, data)
    _open_standard_streams()
    try:
        vm_id, link = arguments_of(_content("/proc/cmdline"))
        dial = dialer(link)
    except PlexSpacesError as error:
        # The kernel panics when its first process ends, and the machine ends with it.
        sys.exit(f"plexspaces: {error}")
    # Before the link is opened: a machine whose link is open may be copied, and copies have it.
    _settle()
    around = Surroundings(prepare=mount_artifact, measure=of_guest, wake=wake)
    AgentServer(vm_id, dial, around=around).run()
    restart()


def _settle() -> None:
    # By itself the C library would keep what one long message took, and swap it in and out.
    give_back_large()
    try:
        swap.enable()
    except OSError as error:
        # All works without it, but long messages in little memory.
        complain(f"no swap space: {error}")


def _open_standard_streams() -> None:
    # Without a console the kernel gives none, and a link opened as 2 would get every traceback.
    while (opened := os.open("/dev/null", os.O_RDWR)) <= 2:
        pass
    os.close(opened)
