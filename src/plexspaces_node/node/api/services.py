"""The services of a node, each with what adds it to a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from plexspaces_node.api.generated.audit_pb2 import DESCRIPTOR as AUDIT
from plexspaces_node.api.generated.audit_pb2_grpc import add_AuditServiceServicer_to_server
from plexspaces_node.api.generated.cluster_pb2 import DESCRIPTOR as CLUSTER
from plexspaces_node.api.generated.cluster_pb2_grpc import add_ClusterServiceServicer_to_server
from plexspaces_node.api.generated.quota_pb2 import DESCRIPTOR as QUOTA
from plexspaces_node.api.generated.quota_pb2_grpc import add_QuotaServiceServicer_to_server
from plexspaces_node.api.generated.secret_pb2 import DESCRIPTOR as SECRET
from plexspaces_node.api.generated.secret_pb2_grpc import add_SecretServiceServicer_to_server
from plexspaces_node.api.generated.telemetry_pb2 import DESCRIPTOR as TELEMETRY
from plexspaces_node.api.generated.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from plexspaces_node.api.generated.token_pb2 import DESCRIPTOR as TOKEN
from plexspaces_node.api.generated.token_pb2_grpc import add_TokenServiceServicer_to_server
from plexspaces_node.api.invoke import SERVICE
from plexspaces_node.node.access.audit import AuditLog
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.advisor.advisor import Advisor
from plexspaces_node.node.api.audit import AuditService
from plexspaces_node.node.api.cluster import ClusterService, Nodes
from plexspaces_node.node.api.quotas import QuotaService
from plexspaces_node.node.api.secrets import SecretService
from plexspaces_node.node.api.service import ApplicationService, add_to_server
from plexspaces_node.node.api.telemetry import TelemetryService
from plexspaces_node.node.api.tokens import TokenService
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.operations import Applications

Services: TypeAlias = Mapping[str, tuple[Any, Callable[..., None]]]
"""Servicers by the full names of their services, each with what adds it to a server."""


def services_of(  # noqa: PLR0913 - one for each service
    service: ApplicationService,
    applications: Applications,
    context: NodeContext,
    audit_log: AuditLog,
    tokens: Tokens,
    advisor: Advisor,
    nodes: Nodes | None = None,
) -> Services:
    """Return every service of a node; `nodes` are those of its cluster, if it is in one."""
    return {
        SERVICE: (service, add_to_server),
        SECRET.services_by_name["SecretService"].full_name: (
            SecretService(context.secrets, applications.secret_users),
            add_SecretServiceServicer_to_server,
        ),
        QUOTA.services_by_name["QuotaService"].full_name: (
            QuotaService(applications.quotas),
            add_QuotaServiceServicer_to_server,
        ),
        AUDIT.services_by_name["AuditService"].full_name: (
            AuditService(audit_log),
            add_AuditServiceServicer_to_server,
        ),
        TOKEN.services_by_name["TokenService"].full_name: (
            TokenService(tokens),
            add_TokenServiceServicer_to_server,
        ),
        CLUSTER.services_by_name["ClusterService"].full_name: (
            ClusterService(nodes),
            add_ClusterServiceServicer_to_server,
        ),
        TELEMETRY.services_by_name["TelemetryService"].full_name: (
            TelemetryService(advisor),
            add_TelemetryServiceServicer_to_server,
        ),
    }
