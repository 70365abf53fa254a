"""Checks whether KVM can be used on this host: permission and version, asked from the kernel.

Whether a guest boots under it can only be found by booting one.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from plexspaces_node.errors import Unavailable

KVM = Path("/dev/kvm")
API_VERSION = 12
"""The version of KVM's interface since Linux 2.6.22; there will be no other."""

KVM_HINT = "see whether KVM works here: dmesg | grep -i kvm"
"""For a KVM that can be opened, but under which no guest boots."""

_GET_API_VERSION = 0xAE00
_CREATE_VM = 0xAE01


def open_kvm(device: Path = KVM) -> None:
    """Open KVM, create an empty virtual machine and drop it; blocks for about a millisecond.

    Raises `Unavailable` with a hint if there is no device, no permission, or no KVM behind it.
    """
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Unavailable(
            f"there is no {device}: no KVM, or not in this container",
            hint="load it: modprobe kvm_intel or kvm_amd; or pass it to the "
            "container: docker run --device /dev/kvm",
        ) from error
    except PermissionError as error:
        raise Unavailable(
            f"this user may not open {device}",
            hint="join its group, and log in again: sudo usermod -aG kvm $USER",
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{device} cannot be opened: {error.strerror}",
            hint="check that the CPU's virtualization is enabled: dmesg | grep -i kvm",
        ) from error
    try:
        version = fcntl.ioctl(kvm, _GET_API_VERSION)
        if version != API_VERSION:
            raise Unavailable(f"{device} has version {version} of the KVM API, not {API_VERSION}")
        os.close(fcntl.ioctl(kvm, _CREATE_VM, 0))
    except OSError as error:
        raise Unavailable(
            f"{device} cannot create a virtual machine: {error.strerror}",
            hint="see why with: dmesg | grep -i kvm",
        ) from error
    finally:
        os.close(kvm)
