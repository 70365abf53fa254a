"""What an artifact is, as the compiler found it: its kind, its language, what it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from plexspaces_node.artifact_inspection import Inspection
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import ArtifactKind, Language

_LANGUAGES = (
    ("python", Language.PYTHON),
    ("javascript", Language.TYPESCRIPT),
    ("typescript", Language.TYPESCRIPT),
    ("go", Language.GO),
    ("rust", Language.RUST),
)
"""Strongest first: interpreters are written in C and Rust, and adapters in Rust are everywhere."""

_PREINITIALISED = frozenset({"component-init-transform", "wizer"})
"""Tools that freeze a running interpreter: with them, Rust is the interpreter's language."""


@dataclass(frozen=True, slots=True)
class ArtifactReport:
    """What the compiler found an artifact to be.

    Attributes:
        language: what it was written in as far as the binary tells, else unknown.
        imports: names it imports: interfaces of a component, modules of a core module.
        exports: names it exports.
        memory_bytes: the linear memory that it has from its start.
    """

    kind: ArtifactKind
    language: Language
    imports: tuple[str, ...] = field(repr=False)
    exports: tuple[str, ...] = field(repr=False)
    memory_bytes: int = 0


def report_of(inspection: Inspection) -> ArtifactReport:
    """Return the report that follows from the compiler's answer."""
    return ArtifactReport(
        kind=inspection.kind,
        language=_language(inspection),
        imports=tuple(inspection.imports),
        exports=tuple(inspection.exports),
        memory_bytes=inspection.memory_bytes,
    )


def check_language(report: ArtifactReport, said: Language | None) -> Language:
    """Return the language of an artifact, given what its binary tells and what the user said.

    Raises `InvalidArgument` naming both when they contradict each other. A user who said nothing
    gets what the binary tells, which may be unknown.
    """
    if said is None or said is Language.UNKNOWN:
        return report.language
    if report.language not in (Language.UNKNOWN, said):
        raise InvalidArgument(
            f"the artifact was written in {report.language}, not in {said}",
            hint=f"deploy it with --language {report.language}, or omit --language",
        )
    return said


def _language(inspection: Inspection) -> Language:
    told = {name.lower() for name in inspection.languages}
    for name, language in _LANGUAGES:
        if name in told:
            frozen = _PREINITIALISED.intersection(inspection.processed_by)
            return Language.UNKNOWN if language is Language.RUST and frozen else language
    return Language.UNKNOWN
