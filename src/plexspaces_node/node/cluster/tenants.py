"""The quotas of a tenant, as far as they count what runs on all nodes together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plexspaces_node.node.applications.capacity import Held
from plexspaces_node.node.cluster.records import Application, Wanted
from plexspaces_node.quota import Key, Subject, application_of, check_total, tenant_of


def check_quotas(
    applications: Mapping[str, Application],
    wanted: Application,
    limit: Callable[[Subject, Key], int],
) -> None:
    """Raise `ResourceExhausted` if an application does not fit into a quota, on all its nodes.

    `applications` are those of the cluster, `limit` returns a quota, 0 for none.
    """
    before, after = _held(applications), _held({**applications, wanted.name: wanted})
    for subject in (application_of(wanted.name), tenant_of(wanted.name)):
        had, wants = before.of(subject), after.of(subject)
        for key in wants:
            check_total(subject, key, limit(subject, key), had=had[key], wanted=wants[key])


def _held(applications: Mapping[str, Application]) -> Held:
    return Held(
        {name: _times(one) * one.memory_mib for name, one in applications.items()},
        {},
        {name: _times(one) * one.vcpus for name, one in applications.items()},
    )


def _times(application: Application) -> int:
    return application.replicas if application.wanted is Wanted.RUNNING else 0
