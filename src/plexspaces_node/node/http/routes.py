"""The routes of the control API: each is a method of the gRPC service under a path."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated import (
    audit_pb2,
    cluster_pb2,
    quota_pb2,
    secret_pb2,
    telemetry_pb2,
    token_pb2,
)

SERVICE = pb.DESCRIPTOR.services_by_name["ApplicationService"]
_SECRETS = secret_pb2.DESCRIPTOR.services_by_name["SecretService"]
_AUDIT = audit_pb2.DESCRIPTOR.services_by_name["AuditService"]
_CLUSTER = cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"]
_QUOTAS = quota_pb2.DESCRIPTOR.services_by_name["QuotaService"]
_TELEMETRY = telemetry_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
_TOKENS = token_pb2.DESCRIPTOR.services_by_name["TokenService"]

_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Route:
    """One method of HTTP at one path.

    Attributes:
        path: with its parameters in braces: fields of the request, under their names.
        rpc: the method of the service.
        summary: one line for the documentation.
        query: fields of the request that come in the query.
        has_body: whether a JSON object with the other fields must come; with any POST it may.
        answer: the field of the response that is the answer, "" for all of it.
        status: of success.
        named: the field that `{name}` in the path is.
        service: the service that has the method.
    """

    method: str
    path: str
    rpc: str
    summary: str
    query: tuple[str, ...] = ()
    has_body: bool = False
    answer: str = ""
    status: int = 200
    named: str = "name"
    service: ServiceDescriptor = SERVICE
    pattern: re.Pattern[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        pattern = _PARAMETER.sub(r"(?P<\1>[^/]+)", self.path)
        object.__setattr__(self, "pattern", re.compile(pattern + r"\Z"))

    @property
    def parameters(self) -> dict[str, str]:
        """The fields of the request that are in the path, by the names that they have there."""
        names = _PARAMETER.findall(self.path)
        return {name: self.named if name == "name" else name for name in names}

    @property
    def descriptor(self) -> MethodDescriptor:
        """The method of the service."""
        return self.service.methods_by_name[self.rpc]

    @property
    def verb(self) -> str:
        """The method as the policy names it."""
        return f"{self.service.full_name}/{self.rpc}"


_APPLICATION = "/v1/applications/{name}"

ROUTES = (
    Route("GET", "/v1/node", "InspectNode", "Describe the node."),
    Route(
        "GET",
        "/v1/artifacts/{digest}",
        "FindArtifact",
        "Check whether the node has an artifact.",
        query=("tenant",),
    ),
    Route(
        "PUT",
        "/v1/artifacts/{digest}",
        "UploadArtifact",
        "Upload an artifact; under another name, such as app.wasm, its digest is the answer.",
        query=("tenant",),
        status=201,
    ),
    Route(
        "GET",
        "/v1/applications",
        "List",
        "List applications and empty VMs.",
        query=("tenant",),
    ),
    Route(
        "POST",
        "/v1/applications",
        "Deploy",
        "Deploy an uploaded artifact; returns once it can answer messages.",
        has_body=True,
        answer="application",
        status=201,
    ),
    Route("GET", _APPLICATION, "Inspect", "Describe an application.", answer="application"),
    Route("DELETE", _APPLICATION, "Undeploy", "Remove an application.", status=204),
    Route(
        "POST",
        _APPLICATION + "/stop",
        "Stop",
        "Stop an application and save its state.",
        query=("force",),
        answer="application",
    ),
    Route(
        "POST",
        _APPLICATION + "/start",
        "Start",
        "Start a stopped or failed application.",
        answer="application",
    ),
    Route(
        "POST",
        _APPLICATION + "/invoke",
        "Invoke",
        "Send a message; its payload and the reply's are base64.",
        has_body=True,
    ),
    Route(
        "GET",
        _APPLICATION + "/logs",
        "Logs",
        "Return an application's log, one JSON object a line.",
        query=("follow", "tail", "trace_id"),
    ),
    Route("GET", "/v1/vms", "ListVms", "List every VM."),
    Route("POST", "/v1/vms", "StartVm", "Start an empty VM.", status=201),
    Route("GET", "/v1/vms/{name}", "InspectVm", "Describe a VM."),
    Route(
        "DELETE",
        "/v1/vms/{name}",
        "StopVm",
        "Stop an empty VM and remove it.",
        status=204,
        named="vm_id",
    ),
    Route(
        "GET",
        "/v1/vms/{name}/console",
        "VmConsole",
        "Return what a VM wrote to its console.",
        query=("follow", "tail"),
    ),
    Route(
        "GET",
        "/v1/secrets",
        "ListSecrets",
        "List secrets, without their values.",
        query=("tenant",),
        service=_SECRETS,
    ),
    Route(
        "POST",
        "/v1/secrets/{name}",
        "SetSecret",
        "Set a secret; its value is base64.",
        has_body=True,
        service=_SECRETS,
    ),
    Route(
        "DELETE",
        "/v1/secrets/{name}",
        "DeleteSecret",
        "Delete a secret.",
        query=("tenant", "force"),
        status=204,
        service=_SECRETS,
    ),
    Route(
        "GET",
        "/v1/audit",
        "ReadAudit",
        "Return the audit log, one JSON object a line.",
        query=("tenant", "follow", "tail"),
        service=_AUDIT,
    ),
    Route(
        "GET",
        "/v1/quotas",
        "GetQuota",
        "Return quotas, and how much of each is used.",
        query=("tenant", "application"),
        service=_QUOTAS,
    ),
    Route(
        "POST",
        "/v1/quotas",
        "SetQuota",
        "Set quotas of a tenant or of an application; 0 removes one.",
        has_body=True,
        answer="subject",
        service=_QUOTAS,
    ),
    Route(
        "GET",
        "/v1/activity",
        "WatchActivity",
        "Stream what applications do, one JSON object a line.",
        query=("tenant", "interval_ms"),
        service=_TELEMETRY,
    ),
    Route(
        "GET",
        _APPLICATION + "/activity",
        "GetActivity",
        "Return what an application has done over the last minutes.",
        service=_TELEMETRY,
    ),
    Route(
        "GET",
        _APPLICATION + "/traces",
        "ListTraces",
        "Return the traces of an application that are kept.",
        query=("slowest", "trace_id", "limit"),
        service=_TELEMETRY,
    ),
    Route(
        "GET",
        "/v1/advice",
        "Advise",
        "Return what to change, by what was measured.",
        query=("name", "tenant"),
        service=_TELEMETRY,
    ),
    Route(
        "GET",
        "/v1/nodes",
        "ListNodes",
        "List the nodes of the cluster.",
        service=_CLUSTER,
    ),
    Route(
        "POST",
        "/v1/nodes/{name}/drain",
        "DrainNode",
        "Have a node's applications move to others; streams how many are left.",
        named="node",
        service=_CLUSTER,
    ),
    Route(
        "POST",
        "/v1/nodes/{name}/undrain",
        "UndrainNode",
        "Let a node take applications again.",
        named="node",
        service=_CLUSTER,
    ),
    Route(
        "DELETE",
        "/v1/nodes/{name}",
        "RemoveNode",
        "Forget a node that is down or drained.",
        query=("force",),
        status=204,
        named="node",
        service=_CLUSTER,
    ),
    Route("GET", "/v1/whoami", "WhoAmI", "Tell who calls, and what they may do.", service=_TOKENS),
    Route("GET", "/v1/tokens", "ListTokens", "List tokens.", query=("tenant",), service=_TOKENS),
    Route(
        "POST",
        "/v1/tokens",
        "CreateToken",
        "Create a token; its secret is in this answer alone.",
        has_body=True,
        status=201,
        service=_TOKENS,
    ),
    Route(
        "DELETE",
        "/v1/tokens/{name}",
        "RevokeToken",
        "Revoke a token.",
        query=("tenant",),
        status=204,
        service=_TOKENS,
    ),
    Route(
        "POST",
        "/v1/tokens/{name}/rotate",
        "RotateToken",
        "Give a token a new secret.",
        query=("tenant",),
        service=_TOKENS,
    ),
)
"""Every method of every service; a test holds that none is missing."""
