"""The agent as the first process of a guest: what it reads, opens and mounts."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plexspaces_node.agent import guest
from plexspaces_node.agent.guest import VirtioPort, arguments_of, dialer, find_port
from plexspaces_node.agent.serve import AgentServer, Surroundings
from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.wire import link

SEED = bytes(range(32))
BOOT = "console=ttyS0 quiet plexspaces.vm=vm-1 plexspaces.link=virtio-serial:agent.0 panic=-1\n"


@pytest.fixture
def ends() -> Iterator[tuple[VirtioPort, socket.socket]]:
    """A port as the guest sees it, over a socket: a host that closes hangs it up as well."""
    mine, host = socket.socketpair()
    with VirtioPort(mine.detach()) as port, host:
        host.settimeout(10)
        yield port, host


def test_arguments_when_the_command_line_names_both_then_id_and_link() -> None:
    """What else the kernel is told does not matter."""
    assert arguments_of(BOOT) == ("vm-1", "virtio-serial:agent.0")


def test_arguments_when_the_machine_is_not_told_then_its_id_is_empty() -> None:
    """What may be copied does not know which machine it will be."""
    assert arguments_of("quiet plexspaces.link=vsock:2:5") == ("", "vsock:2:5")


@pytest.mark.parametrize("line", ["", "quiet", "plexspaces.vm=vm-1"])
def test_arguments_when_there_is_no_link_then_it_is_named(line: str) -> None:
    """A guest that nobody could reach does not start."""
    with pytest.raises(InvalidArgument, match=r"needs plexspaces\.link=LINK"):
        arguments_of(line)


@pytest.mark.parametrize("text", ["virtio-serial:", "vsock:2", "vsock:x:5", "tcp:1:2", "vsock"])
def test_dialer_when_the_link_is_not_known_then_it_says_what_is(text: str) -> None:
    """A typing error in a driver ends the boot at once, with the text."""
    with pytest.raises(InvalidArgument, match=text):
        dialer(text)


def test_dialer_when_it_is_vsock_then_that_port_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cid and port are numbers by then."""
    dialed: list[tuple[int, int]] = []
    monkeypatch.setattr(guest, "open_vsock", lambda cid, port: dialed.append((cid, port)))
    dialer("vsock:2:5000")()
    assert dialed == [(2, 5000)]


def test_find_port_when_there_are_several_then_the_one_of_that_name(tmp_path: Path) -> None:
    """Ports are told apart by the names their VMM gave them."""
    for port, name in (("vport0p1", "console"), ("vport0p2", "plexspaces.0")):
        (tmp_path / port).mkdir()
        (tmp_path / port / "name").write_text(name + "\n")
    assert find_port(tmp_path, "plexspaces.0") == "/dev/vport0p2"
    assert find_port(tmp_path, "plexspaces.1") is None
    assert find_port(tmp_path / "none", "plexspaces.0") is None


def test_open_port_when_there_is_none_then_an_os_error_and_a_line_on_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent tries again, and the boot log says what it waits for."""
    said: list[str] = []
    monkeypatch.setattr(guest, "PORTS", tmp_path)
    monkeypatch.setattr(guest, "PORT_WAIT_S", 0.0)
    monkeypatch.setattr(guest, "complain", said.append)
    with pytest.raises(FileNotFoundError):
        guest.open_port("plexspaces.0")
    assert said == ["no virtio port is named plexspaces.0"]


def test_port_when_the_host_writes_then_it_arrives_and_its_end_is_the_end(
    ends: tuple[VirtioPort, socket.socket],
) -> None:
    """What was sent before the host went is read first."""
    port, host = ends
    assert port.connected
    host.sendall(b"hello")
    host.close()
    assert port.recv(100) == b"hello"
    assert port.recv(100) == b""
    assert not port.connected


def test_port_when_the_host_reads_slowly_then_everything_arrives_in_order(
    ends: tuple[VirtioPort, socket.socket],
) -> None:
    """More than the kernel holds is sent in parts, each when there is room."""
    port, host = ends
    data = os.urandom(1 << 20)
    sender = threading.Thread(target=port.sendall, args=(data,))
    sender.start()
    received = b""
    while len(received) < len(data):
        received += host.recv(10_000)
    sender.join(10)
    assert received == data


def test_port_when_no_host_is_there_then_sending_fails_and_does_not_wait(
    ends: tuple[VirtioPort, socket.socket],
) -> None:
    """A frame for a host that has gone must not greet the next one."""
    port, host = ends
    host.close()
    with pytest.raises(OSError, match="pipe"):
        port.sendall(b"late")


def test_port_when_shut_down_then_the_waiting_reader_and_writer_return(
    ends: tuple[VirtioPort, socket.socket],
) -> None:
    """The goodbye on the actor's thread ends the main thread's read."""
    port, _ = ends
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(port.recv(10)))
    reader.start()
    port.shutdown(socket.SHUT_RDWR)
    reader.join(10)
    assert read == [b""]
    with pytest.raises(BrokenPipeError):
        port.sendall(bytes(8 << 20))


def test_mount_artifact_when_it_lies_elsewhere_then_nothing_is_mounted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only paths on the drive need the drive."""
    monkeypatch.setattr(guest, "mount", lambda *_: pytest.fail("mounted"))
    guest.mount_artifact("/srv/artifact.cwasm")


def test_mount_artifact_when_the_drive_is_seen_late_then_it_is_mounted_read_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host has just put it in; and machine code must be executable."""
    tried: list[tuple[object, ...]] = []

    def mount(*arguments: object) -> None:
        tried.append(arguments)
        if len(tried) < 3:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(guest, "mount", mount)
    guest.mount_artifact("/artifact/artifact.cwasm")
    read_only, no_exec = 1, 8
    assert tried[2][:3] == ("/dev/vdb", "/artifact", "ext4")
    assert isinstance(flags := tried[2][3], int)
    assert flags & (read_only | no_exec) == read_only


def test_mount_artifact_when_it_cannot_be_then_unavailable_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bounded: an empty drive is an answer, not a silence."""

    def mount(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(guest, "mount", mount)
    monkeypatch.setattr(guest, "ARTIFACT_WAIT_S", 0.0)
    with pytest.raises(Unavailable, match="/dev/vdb cannot be mounted: Invalid argument"):
        guest.mount_artifact("/artifact/artifact.cwasm")


def test_load_when_the_artifact_cannot_be_prepared_then_the_node_is_told_why() -> None:
    """The agent says it and lives on: the node decides what becomes of the machine."""
    mine, node = socket.socketpair()
    prepared: list[str] = []

    def prepare(path: str) -> None:
        prepared.append(path)
        raise Unavailable("no such drive")

    server = AgentServer("vm-1", lambda: mine, around=Surroundings(prepare=prepare))
    running = threading.Thread(target=server.run)
    with node:
        node.settimeout(10)
        running.start()
        load = link.Load(1, "app", "/artifact/a", "actor", {}, 1 << 20, b"", 10**9, 1, 10**9)
        node.sendall(link.encode(load) + link.encode(link.Stop(2, 10**9)))
        buffer, frames = link.FrameBuffer(1 << 20), list[link.FromAgent]()
        while data := node.recv(1 << 16):
            frames += [link.decode_from_agent(body) for body in buffer.feed(data)]
    running.join(10)
    assert prepared == ["/artifact/a"]
    _, failed, stopped = frames
    assert isinstance(failed, link.Failed)
    assert failed.failure.message == "no such drive"
    assert stopped == link.Stopped(2)


@pytest.mark.parametrize(("fault_ns", "set_to"), [(0, []), (-2_000_000_000, [10**18])])
def test_guest_when_welcomed_draws_fresh_randomness_and_sets_a_clock_that_is_off(
    monkeypatch: pytest.MonkeyPatch, fault_ns: int, set_to: list[int]
) -> None:
    """The welcome carries both, for it may be a copy; a clock that is right is left alone."""
    clock, seeds = list[int](), list[bytes]()
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 + fault_ns)
    monkeypatch.setattr(time, "clock_settime_ns", lambda _, time_ns: clock.append(time_ns))
    monkeypatch.setattr(guest, "reseed", seeds.append)
    welcomed()
    assert (clock, seeds) == (set_to, [SEED])


def test_guest_sets_its_clock_before_anything_that_takes_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time was true when it was sent."""
    done: list[str] = []
    monkeypatch.setattr(guest, "set_clock", lambda _: done.append("clock"))
    monkeypatch.setattr(guest, "reseed", lambda _: done.append("randomness"))
    guest.wake(time.time_ns(), SEED)
    assert done == ["clock", "randomness"]


def test_guest_that_is_told_no_time_leaves_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero says that the node does not say; it is no year 1970."""
    seeds: list[bytes] = []
    monkeypatch.setattr(guest, "set_clock", lambda _: pytest.fail("set"))
    monkeypatch.setattr(guest, "reseed", seeds.append)
    guest.wake(0, SEED)
    assert seeds == [SEED]


def test_guest_that_cannot_draw_fresh_randomness_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather no machine than one with the keys of another."""

    def refuse(seed: bytes) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", "/dev/urandom")

    monkeypatch.setattr(guest, "reseed", refuse)
    with pytest.raises(SystemExit, match="a copy cannot be told from others"):
        guest.wake(time.time_ns(), SEED)


def test_reseed_hands_the_kernel_the_bytes_as_entropy_and_has_it_use_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The two calls and their layout, as linux/random.h has them."""
    calls: list[tuple[int, bytes | None]] = []

    class Libc:
        def ioctl(self, descriptor: int, request: ctypes.c_ulong, data: bytes | None) -> int:
            assert os.readlink(f"/proc/self/fd/{descriptor}") == "/dev/urandom"
            calls.append((request.value, data))
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    guest.reseed(b"0123")
    assert calls == [(0x40085203, b"\x20\0\0\0\x04\0\0\x000123"), (0x5207, None)]


def welcomed() -> None:
    """Have an agent be welcomed as the agent of a guest is, and stop it."""
    mine, node = socket.socketpair()
    server = AgentServer("", lambda: mine, around=Surroundings(wake=guest.wake))
    running = threading.Thread(target=server.run)
    with node:
        node.settimeout(10)
        running.start()
        welcome = link.Welcome(link.GENERATION, "node-1", 1 << 20, time_ns=10**18, seed=SEED)
        node.sendall(link.encode(welcome) + link.encode(link.Stop(1, 10**9)))
        while node.recv(1 << 16):
            pass
    running.join(10)
