"""The compiler's report on an artifact: its kind, its language, its needs."""

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
    """The compiler's report on an artifact.

    Attributes:
        language: the language that the binary indicates, else unknown.
        imports: names it imports: interfaces of a component, modules of a core module.
        exports: names it exports.
        memory_bytes: the linear memory that it has from the start.
    """

    kind: ArtifactKind
    language: Language
    imports: tuple[str, ...] = field(repr=False)
    exports: tuple[str, ...] = field(repr=False)
    memory_bytes: int = 0


def report_of(inspection: Inspection) -> ArtifactReport:
    """Return the report for the compiler's answer."""
    return ArtifactReport(
        kind=inspection.kind,
        language=_language(inspection),
        imports=tuple(inspection.imports),
        exports=tuple(inspection.exports),
        memory_bytes=inspection.memory_bytes,
    )


def check_language(report: ArtifactReport, said: Language | None) -> Language:
    """Return the language of an artifact, from its binary and the user's statement.

    Raises `InvalidArgument` with both if they contradict each other. Without a statement it is what
    the binary indicates, which may be unknown.
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
