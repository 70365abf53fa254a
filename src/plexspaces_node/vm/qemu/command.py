"""QEMU's command line: the devices of a machine, and the restrictions of its process.

Nothing is run here: this module turns data into command lines. The process opens no file or
directory by name: sockets and images are inherited as open descriptors. So it can run as a user
that has no access to anything of the node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from plexspaces_node.model import MIB, VmConfig
from plexspaces_node.vm.drive import SLOT_BYTES

PORT = "plexspaces.link"
"""Name of the virtio-serial port that is the link."""

_PORT_NUMBER = 1
_PORT_DEVICE = f"vport0p{_PORT_NUMBER}"
"""The guest kernel's name for it: the port of that number of the first device of its kind."""

CONSOLE_LIMIT_BYTES = 4 * MIB
"""The maximum size of any file that QEMU writes, such as its console log."""

DESCRIPTOR_LIMIT = 256

LINK_DEVICE = "link"
"""Id of the port in QMP events."""

SLOT_NODE = "slot"
"""Name of the block node that takes the artifact's drive."""

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""QEMU's whole environment."""

_ROOT_SET = 1
ARTIFACT_SET = 2
"""Number of the descriptor set in which the artifact's drive is passed."""

_MACHINE = "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,pcie=off"
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_CODE_CACHE_MIB = 64
"""For translated code, in MiB. Measured: a boot and an actor fill 40; QEMU's own choice is 1
GiB."""

# `reboot=t` and `panic=-1`: the machine resets at once, and with -no-reboot that ends it. The last
# parameter saves memory, 8 MiB of tracing files. The rest saves time: 3.1 s become 1.8 s under
# emulation.
_KERNEL = (
    "console=ttyS0 reboot=t panic=-1 quiet cryptomgr.notests=1 lsm= audit=0 "
    "rcupdate.rcu_expedited=1 init_on_alloc=0 8250.nr_uarts=1 "
    "initcall_blacklist=tracer_init_tracefs"
)
# The mitigations protect a CPU that is not there; the rest prevents the kernel from comparing
# timers, which fails at random on a loaded host.
_KERNEL_EMULATED = "mitigations=off noreplace-smp tsc=reliable no_timer_check"


class Accelerator(StrEnum):
    """How the guest's instructions are run."""

    KVM = "kvm"
    """By the CPU, with the kernel's virtualisation."""
    TCG = "tcg"
    """By QEMU, translated: needs nothing and is many times slower."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """The QEMU of this host and how it runs guests.

    Attributes:
        program: absolute path.
        tsc_khz: rate of the host's time stamp counter, for `TCG`; None if it is unknown.
    """

    program: str
    accelerator: Accelerator
    tsc_khz: int | None = None


class Files(NamedTuple):
    """The open files that a machine starts with, by number.

    One that boots has a kernel and a RAM disk; a copy has neither. `memory` is what a copy starts
    with, or what a booting machine leaves to be copied.
    """

    root: int
    kernel: int | None = None
    initrd: int | None = None
    memory: int | None = None


class Descriptors(NamedTuple):
    """The open files that QEMU inherits: `Files`, and two listening sockets."""

    root: int
    kernel: int | None
    initrd: int | None
    memory: int | None
    link: int
    control: int

    @property
    def boots(self) -> bool:
        """Whether the machine is not a copy."""
        return self.kernel is not None

    @property
    def all(self) -> tuple[int, ...]:
        """Those that exist."""
        return tuple(number for number in self if number is not None)


@dataclass(frozen=True, slots=True)
class Walls:
    """The programs that restrict a QEMU process, as absolute paths, and how they are used here.

    Attributes:
        unshare: its command with the namespaces to leave; empty if they are not allowed.
        drop_capabilities: the node runs as root.
        own_user: every VM runs as its own user; needs root.
        uid: user to run as, or None to stay.
        gid: group to run as, with `uid`.
    """

    prlimit: str
    setpriv: str
    env: str
    unshare: tuple[str, ...] = ()
    drop_capabilities: bool = False
    own_user: bool = False
    uid: int | None = None
    gid: int | None = None


def held_command(walls: Walls, command: list[str]) -> list[str]:
    """Return the command line that runs `command` within `walls`; pure.

    Every program of the chain executes the next one, so the started process becomes `command`.
    """
    argv = list(walls.unshare)
    argv += [
        walls.prlimit,
        f"--nofile={DESCRIPTOR_LIMIT}",
        "--core=0",
        f"--fsize={CONSOLE_LIMIT_BYTES}",
        "--",
        walls.setpriv,
    ]
    if walls.uid is not None:
        argv += ["--reuid", str(walls.uid), "--regid", str(walls.gid), "--clear-groups"]
    if walls.drop_capabilities:
        argv += ["--bounding-set", "-all", "--inh-caps", "-all"]
    # If the console log is full, writes must fail, and the machine must go on.
    argv += ["--no-new-privs", "--", walls.env, "--ignore-signal=XFSZ", "--"]
    return [*argv, *command]


def qemu_command(
    emulator: Emulator, config: VmConfig, marks: tuple[str, ...], *, descriptors: Descriptors
) -> list[str]:
    """Return QEMU's own command line; pure. The machine waits for `cont` on its QMP socket.

    A copy waits for its state first. `marks` become separate arguments. The console is QEMU's
    output.
    """
    emulated = emulator.accelerator is Accelerator.TCG
    argv = [emulator.program]
    for mark in marks:
        # The name of a QEMU is free text. If it is given again it is replaced, and both can be
        # found.
        argv += ["-name", mark]
    argv += _memory(config, descriptors)
    argv += ["-accel", f"tcg,tb-size={_CODE_CACHE_MIB}" if emulated else "kvm"]
    # Under emulation `rep movs` goes byte by byte: the guest must not consider it fast.
    argv += ["-cpu", "max,-erms,-fsrm" if emulated else "host"]
    argv += ["-smp", str(config.vcpus)]
    if descriptors.boots:
        argv += ["-kernel", f"/proc/self/fd/{descriptors.kernel}"]
        argv += ["-initrd", f"/proc/self/fd/{descriptors.initrd}"]
        template = descriptors.memory is not None
        argv += ["-append", kernel_arguments(emulator, template=template)]
    else:
        argv += ["-incoming", "defer"]
    argv += ["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-S"]
    argv += ["-global", "virtio-mmio.force-legacy=false"]
    argv += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=control,fd={descriptors.control},server=on,wait=off"]
    argv += ["-mon", "chardev=control,mode=control"]
    argv += ["-device", "virtio-serial-device,max_ports=2"]
    argv += ["-chardev", f"socket,id=link,fd={descriptors.link},server=on,wait=off"]
    argv += [
        "-device",
        f"virtserialport,chardev=link,nr={_PORT_NUMBER},name={PORT},id={LINK_DEVICE}",
    ]
    argv += _drives(descriptors.root)
    return [*argv, "-sandbox", _SANDBOX]


def kernel_arguments(emulator: Emulator, *, template: bool) -> str:
    """Return the guest kernel's command line; pure.

    It does not identify the machine, because what boots may be copied to become another one. A
    template is told that it will be copied, and does once what its copies then need not do.
    """
    words = [_KERNEL]
    if emulator.accelerator is Accelerator.TCG:
        words.append(_KERNEL_EMULATED)
        if emulator.tsc_khz is not None:
            words.append(f"tsc_early_khz={emulator.tsc_khz}")
    if template:
        words.append("plexspaces.template")
    return " ".join([*words, f"plexspaces.link=virtio-serial:{_PORT_DEVICE}"])


def artifact_node() -> Mapping[str, object]:
    """Return the block node of a drive that was passed as `ARTIFACT_SET`."""
    return _file_node(ARTIFACT_SET) | {"node-name": "artifact"}


def filled_slot() -> Mapping[str, object]:
    """Return the slot's device once it holds the node of `artifact_node`."""
    return _slot_node("artifact")


def _memory(config: VmConfig, descriptors: Descriptors) -> list[str]:
    size = ["-m", str(config.memory_mib)]
    if descriptors.memory is None:
        return ["-M", _MACHINE, *size]
    # What a copy writes is private; what the original writes will be copied.
    share = "on" if descriptors.boots else "off"
    file = f"mem-path=/proc/self/fd/{descriptors.memory},share={share}"
    backend = f"memory-backend-file,id=memory,size={config.memory_mib}M,{file}"
    return ["-object", backend, "-M", f"{_MACHINE},memory-backend=memory", *size]


def _drives(root: int) -> list[str]:
    # In this order they are vda and vdb. The slot is as long as any artifact can be, and reads as
    # zeros until one is put in; the guest must not have mounted it before.
    node = {"driver": "raw", "node-name": "root", "read-only": True, "file": _file_node(_ROOT_SET)}
    empty = {"driver": "null-co", "node-name": "empty", "size": SLOT_BYTES, "read-zeroes": True}
    return [
        *("-add-fd", f"fd={root},set={_ROOT_SET}"),
        *("-blockdev", json.dumps(node), "-device", "virtio-blk-device,drive=root"),
        *("-blockdev", json.dumps(empty | {"read-only": True})),
        *("-blockdev", json.dumps(_slot_node("empty"))),
        *("-device", f"virtio-blk-device,drive={SLOT_NODE}"),
    ]


def _file_node(number: int) -> dict[str, object]:
    return {"driver": "file", "filename": f"/dev/fdset/{number}", "read-only": True}


def _slot_node(file: str) -> dict[str, object]:
    return {"driver": "raw", "node-name": SLOT_NODE, "read-only": True, "file": file}
