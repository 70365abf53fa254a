"""Quotas as the contract has them, and back."""

from __future__ import annotations

from collections.abc import Mapping

from plexspaces_node.api.generated import quota_pb2 as pb
from plexspaces_node.quota import Key, QuotaUse, Subject, SubjectUse, checked, key_of


def use_to_proto(use: SubjectUse) -> pb.SubjectQuotas:
    """Convert what is used of the quotas of a subject."""
    return pb.SubjectQuotas(
        tenant=use.subject.tenant,
        application=use.subject.application,
        quotas=[
            pb.Quota(
                key=one.key,
                limit=one.limit,
                used=one.used,
                enforced=one.enforced,
                note=one.note,
            )
            for one in use.quotas
        ],
    )


def use_from_proto(message: pb.SubjectQuotas) -> SubjectUse:
    """Convert what is used; keys that only a newer node knows are left out."""
    known = frozenset(Key)
    return SubjectUse(
        Subject(message.tenant, message.application),
        tuple(
            QuotaUse(Key(one.key), one.limit, one.used, one.enforced, one.note)
            for one in message.quotas
            if one.key in known
        ),
    )


def values_from_proto(values: Mapping[str, int]) -> dict[Key, int]:
    """Convert what is to be set; raises `InvalidArgument` for an unknown key or a bad value."""
    found = {key_of(word): value for word, value in values.items()}
    return {key: checked(key, value) for key, value in found.items()}
