"""What of a host's CPU, memory and kernel stands between two VMs, or does not.

The makers of Firecracker ask this of a host in production
(docs/prod-host-setup.md of its repository). Facts are read from files of the kernel below a root
directory, which tests replace.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.doctor.finding import Finding, clean, one_line

_CPU = "CPU"
_MEMORY = "Memory"
_KVM = "KVM"
_KERNEL = "Kernel"

_VULNERABILITIES = "sys/devices/system/cpu/vulnerabilities"
_NO_HUGE_CODE = "sys/module/kvm/parameters/nx_huge_pages"
_TESTED_KERNELS = ((5, 10), (6, 1), (6, 18))
"""The kernels that Firecracker's developers test on hosts."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host by the files that its kernel shows."""

    root: Path = Path("/")

    def read(self, path: str) -> str | None:
        """Return the text of a file without spaces at the ends; None if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def status(self, path: str) -> os.stat_result | None:
        """Return what a path is; None if nothing is there."""
        try:
            return (self.root / path).stat()
        except OSError:
            return None


def check_host(host: Host) -> list[Finding]:
    """Check CPU, memory, KVM and kernel. Blocks for a few small files; changes nothing."""
    return [
        *_cpu(host),
        *_memory(host),
        *_kvm(host),
        _kernel_release(host),
        _core_files(host),
        _bpf(host),
        _landlock(host),
        _cgroups(host),
    ]


def _cpu(host: Host) -> Iterator[Finding]:
    smt = host.read("sys/devices/system/cpu/smt/control")
    active = host.read("sys/devices/system/cpu/smt/active")
    if active == "1":
        yield Finding(
            _CPU,
            "SMT",
            None,
            "on: two VMs can share a core, and its caches tell one about the other",
            "off until the next start: echo off > /sys/devices/system/cpu/smt/control; for good: "
            "the kernel parameter nosmt",
        )
    elif active == "0":
        yield Finding(_CPU, "SMT", True, f"off ({smt or 'no control'})")
    else:
        yield Finding(_CPU, "SMT", None, "this kernel does not say", "lscpu | grep Thread")
    yield from _mitigations(host)


def _mitigations(host: Host) -> Iterator[Finding]:
    directory = host.root / _VULNERABILITIES
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        yield Finding(_CPU, "side channels", None, "this kernel does not say", "uname -r")
        return
    told = {name: host.read(f"{_VULNERABILITIES}/{name}") or "" for name in names}
    for name, text in told.items():
        if text.startswith("Vulnerable") or text.startswith("KVM: Vulnerable"):
            yield Finding(_CPU, name, False, clean(text), _update(host))
        elif text.startswith("Unknown") or "SMT vulnerable" in text:
            hint = "nosmt, see SMT above" if "SMT" in text else "ask who runs the host of this VM"
            yield Finding(_CPU, name, None, clean(text), hint)
    fine = sum(
        text.startswith(("Not affected", "Mitigation", "KVM: Mit")) for text in told.values()
    )
    yield Finding(_CPU, "side channels", True, f"{fine} of {len(told)} known ones are mitigated")
    words = (host.read("proc/cmdline") or "").split()
    if "mitigations=off" in words:
        yield Finding(
            _CPU,
            "mitigations",
            False,
            "switched off by the kernel parameter mitigations=off",
            "remove it in /etc/default/grub, then: update-grub && reboot",
        )


def _update(host: Host) -> str:
    amd = "AuthenticAMD" in (host.read("proc/cpuinfo") or "")
    microcode = "amd64-microcode" if amd else "intel-microcode"
    return f"apt-get install --only-upgrade linux-image-amd64 {microcode} && reboot"


def _memory(host: Host) -> Iterator[Finding]:
    ksm = host.read("sys/kernel/mm/ksm/run")
    if ksm is None or ksm == "0":
        yield Finding(_MEMORY, "KSM", True, "off" if ksm else "not in this kernel")
    else:
        yield Finding(
            _MEMORY,
            "KSM",
            False,
            "merges equal pages: a VM can find out what another one's memory contains",
            "echo 2 > /sys/kernel/mm/ksm/run, and: systemctl disable --now ksm ksmtuned",
        )
    swaps = (host.read("proc/swaps") or "").splitlines()[1:]
    if swaps:
        yield Finding(
            _MEMORY,
            "swap",
            None,
            f"{len(swaps)}: {one_line(swaps[0].split()[0])}. Memory of VMs, with secrets, may stay "
            "on its disk",
            "swapoff -a, and remove it from /etc/fstab; or encrypt it",
        )
    else:
        yield Finding(_MEMORY, "swap", True, "off")


def _kvm(host: Host) -> Iterator[Finding]:
    status = host.status("dev/kvm")
    if status is None:
        yield Finding(_KVM, "/dev/kvm", None, "not there: no VM has the CPU's protection", "lsmod")
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield Finding(
            _KVM,
            "/dev/kvm",
            False,
            f"everybody can run VMs, and reach holes of KVM (mode {mode:04o})",
            "chmod 660 /dev/kvm && chgrp kvm /dev/kvm; for good: a rule in /etc/udev/rules.d with "
            'KERNEL=="kvm", GROUP="kvm", MODE="0660"',
        )
    else:
        yield Finding(_KVM, "/dev/kvm", True, f"for its owner and group only (mode {mode:04o})")
    split, multihit = host.read(_NO_HUGE_CODE), host.read(f"{_VULNERABILITIES}/itlb_multihit") or ""
    if split is not None:
        needed = bool(multihit) and not multihit.startswith("Not affected")
        on = split in ("Y", "1")
        yield Finding(
            _KVM,
            "nx_huge_pages",
            on or not needed,
            "on" if on else f"off; itlb_multihit: {multihit or 'unknown'}",
            None if on or not needed else "the kernel parameter kvm.nx_huge_pages=force",
        )


def _kernel_release(host: Host) -> Finding:
    told = host.read("proc/sys/kernel/osrelease") or ""
    numbers = tuple(int(part) for part in told.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers in _TESTED_KERNELS:
        return Finding(
            _KERNEL, "release", True, f"{one_line(told)}, which Firecracker is tested on"
        )
    words = ", ".join(f"{major}.{minor}" for major, minor in _TESTED_KERNELS)
    detail = f"{one_line(told) or 'unknown'}; Firecracker is tested on {words}"
    return Finding(_KERNEL, "release", None, detail, "see that your distribution still mends it")


def _core_files(host: Host) -> Finding:
    pattern = host.read("proc/sys/kernel/core_pattern") or ""
    if not pattern.startswith("|"):
        return Finding(_KERNEL, "core files", True, f"{one_line(pattern) or 'none'}, within limits")
    return Finding(
        _KERNEL,
        "core files",
        None,
        f"{one_line(pattern[1:])} gets the memory of a node that crashes, whatever its limit is",
        "Storage=none in /etc/systemd/coredump.conf; or: sysctl kernel.core_pattern=core",
    )


def _bpf(host: Host) -> Finding:
    told = host.read("proc/sys/kernel/unprivileged_bpf_disabled")
    if told == "0":
        detail = "every user may load programs into the kernel, which helps attacks on the CPU"
        hint = "sysctl -w kernel.unprivileged_bpf_disabled=1"
        return Finding(_KERNEL, "BPF", None, detail, hint)
    return Finding(_KERNEL, "BPF", True, "for root only" if told else "not in this kernel")


def _landlock(host: Host) -> Finding:
    told = host.read("sys/kernel/security/lsm")
    if told is None:
        detail, hint = "this kernel does not say", "mount -t securityfs none /sys/kernel/security"
        return Finding(_KERNEL, "Landlock", None, detail, hint)
    if "landlock" in told.split(","):
        return Finding(_KERNEL, "Landlock", True, "on")
    detail = "off: at the level process an agent that is broken out of can read the node's files"
    return Finding(_KERNEL, "Landlock", None, detail, f"the kernel parameter lsm={told},landlock")


def _cgroups(host: Host) -> Finding:
    controllers = host.read("sys/fs/cgroup/cgroup.controllers")
    if controllers is None:
        detail = "no cgroup v2: CPU shares and the memory of jailed VMs are not enforced"
        hint = "the kernel parameter systemd.unified_cgroup_hierarchy=1"
        return Finding(_KERNEL, "cgroup", None, detail, hint)
    missing = [name for name in ("cpu", "memory", "pids") if name not in controllers.split()]
    if missing:
        detail = f"cgroup v2 without {', '.join(missing)}"
        hint = "in a container: docker run --cgroupns=host; see docs/docker.md"
        return Finding(_KERNEL, "cgroup", None, detail, hint)
    return Finding(_KERNEL, "cgroup", True, "v2 with cpu, memory and pids")
