"""An application as it is reported to users."""

from __future__ import annotations

from plexspaces_node.info import ApplicationInfo, Counters
from plexspaces_node.model import split_name
from plexspaces_node.node.applications.roster import in_flight_of
from plexspaces_node.node.applications.supervisor import Supervisor


async def describe(supervisor: Supervisor) -> ApplicationInfo:
    """Describe the current state of an application; measures its VM."""
    record, activity, machine = supervisor.record, supervisor.activity, supervisor.machine
    activity.settle()
    spent = activity.spent
    return ApplicationInfo(
        id=record.id,
        name=record.name,
        version=record.version,
        state=supervisor.state,
        language=record.language,
        kind=record.kind,
        digest=record.digest,
        vm_config=record.vm_config,
        vm=await machine.info() if machine else None,
        timings=supervisor.timings,
        created_unix_ns=record.created_ns,
        restarts=supervisor.restarts,
        last_error=supervisor.last_error,
        counters=Counters(
            messages=spent.messages,
            failures=spent.failures,
            compute_ns=spent.compute_ns,
            coordinate_ns=spent.coordinate_ns,
            in_flight=in_flight_of(supervisor),
        ),
        args=record.args,
        concurrency=record.at_once,
        allow_hosts=record.allow_hosts,
        tenant=split_name(record.name)[0],
        public=record.public,
    )
