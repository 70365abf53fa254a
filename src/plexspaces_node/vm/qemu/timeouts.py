"""The timeouts of the QEMU driver."""

from __future__ import annotations

from dataclasses import dataclass

from plexspaces_node.vm.qemu.qmp import ANSWER_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds; many times what each takes on an idle host."""

    answer_s: float = ANSWER_TIMEOUT_S
    first_boot_s: float = 15.0
    """From the first instruction until the agent opens its port: emulation takes a fifth of it."""
    boot_s: float = 60.0
    """The same for the second try: a boot may hang at random if many run on few CPUs."""
    copy_s: float = 10.0
    """For saving or loading a state: 5 ms and 50 ms on an idle host."""
    kvm_probe_s: float = 30.0
    """For the first boot under KVM: a nested KVM that does not work may hang instead of failing."""
    probe_s: float = 45.0
    """For it and an emulated one together. Unless copying hangs, `doctor`, which waits a minute,
    gets the result."""
