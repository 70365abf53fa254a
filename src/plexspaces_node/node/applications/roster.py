"""The applications and empty VMs that a node has now, by name and by ID."""

from __future__ import annotations

from typing import Protocol

from plexspaces_node.errors import WrongState, no_application
from plexspaces_node.model import ApplicationState, VmConfig, split_name
from plexspaces_node.node.applications.capacity import Held
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.machines.machine import Machine
from plexspaces_node.quota import Subject

_WITHOUT_MACHINE = (ApplicationState.STOPPED, ApplicationState.FAILED)


class Viewer(Protocol):
    """Somebody who sees some of the applications with their VMs, or all and the empty VMs."""

    def covers(self, full: str) -> bool:
        """Return whether they may see an application."""

    def is_of_all(self) -> bool:
        """Return whether they may see everything."""


class Roster:
    """The node's applications and empty VMs. Changed only on the event loop.

    Attributes:
        applications: the supervisor of each application, by name.
        empty_vms: the VMs that wait for an application, by ID.
    """

    def __init__(self) -> None:
        self.applications: dict[str, Supervisor] = {}
        self.empty_vms: dict[str, Machine] = {}

    def __repr__(self) -> str:
        return f"<Roster {len(self.applications)} applications, {len(self.empty_vms)} empty VMs>"

    def supervisors(self) -> tuple[Supervisor, ...]:
        """Return every application's supervisor; callable from any thread."""
        return tuple(self.applications.values())

    def visible(self, viewer: Viewer | None, tenant: str = "") -> tuple[Supervisor, ...]:
        """Return the applications that somebody may see, None for all, or those of a tenant.

        Callable from any thread.
        """
        return tuple(
            one
            for one in self.supervisors()
            if (viewer is None or viewer.covers(one.name))
            and (not tenant or split_name(one.name)[0] == tenant)
        )

    def machines(self) -> tuple[Machine, ...]:
        """Return every ready VM: those of applications, then the empty ones."""
        used = [one.machine for one in self.supervisors() if one.machine is not None]
        return (*used, *self.empty_vms.values())

    def named(self, name: str) -> Supervisor:
        """Return an application; raises `NotFound`."""
        supervisor = self.applications.get(name)
        if supervisor is None:
            raise no_application(name)
        return supervisor

    def readable(self, name: str) -> Supervisor:
        """Return an application; raises `NotFound`, and `WrongState` for an unreadable record."""
        supervisor = self.named(name)
        if supervisor.record.fault:
            raise WrongState(
                f"application {name!r}: {supervisor.record.fault}",
                hint="use the version of PlexSpaces that wrote it, or remove it: "
                f"plexspaces undeploy --name {name}",
            )
        return supervisor

    def vm_size(self, name: str, default: VmConfig) -> VmConfig:
        """Return the size of an application's VM, or `default` if there is no application."""
        known = self.applications.get(name)
        return default if known is None else known.record.vm_config

    def held(self) -> Held:
        """Return the memory in use: by each application, and by each empty VM."""
        return Held(
            {
                one.name: 0 if one.state in _WITHOUT_MACHINE else one.record.vm_config.memory_mib
                for one in self.supervisors()
            },
            {vm_id: machine.config.memory_mib for vm_id, machine in self.empty_vms.items()},
            {
                one.name: 0 if one.state in _WITHOUT_MACHINE else one.record.vm_config.vcpus
                for one in self.supervisors()
            },
        )

    def of(self, subject: Subject) -> list[Supervisor]:
        """Return the application that a subject is, or the tenant's applications."""
        if subject.application:
            found = self.applications.get(subject.full)
            return [found] if found is not None else []
        return [one for one in self.supervisors() if split_name(one.name)[0] == subject.tenant]

    def in_flight(self, subject: Subject) -> int:
        """Return how many messages of an application, or of a tenant's, are in flight."""
        return sum(in_flight_of(one) for one in self.of(subject))


def in_flight_of(supervisor: Supervisor) -> int:
    """Return how many messages of an application wait or are not answered yet."""
    machine = supervisor.machine
    return supervisor.intake.waiting + (machine.agent.in_flight if machine else 0)
