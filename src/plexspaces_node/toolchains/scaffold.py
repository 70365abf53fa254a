"""Creates a project from the template of its language.

A template is a directory below ``templates/``: one per language, and one more for an HTTP component
where the language can make one. In its files and their names, `PLACEHOLDER` stands
for the project's name, and `DEPLOYED` for its default application name, which its directory
decides. A language whose SDK no package manager provides gets a copy of it. The languages know what
the files mean.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from plexspaces_node.errors import AlreadyExists, InvalidArgument, NotFound, Unsupported, quoted
from plexspaces_node.model import Language, check_name
from plexspaces_node.toolchains.places import writing
from plexspaces_node.toolchains.project import project_name, read_sources
from plexspaces_node.toolchains.shipped import shipped

PLACEHOLDER = "__NAME__"
DEPLOYED = "__APPLICATION__"
TEMPLATES = "toolchains/templates"
SDKS = "sdk"
SDK_COPY = "plexspaces"
"""Where the copy of the SDK is in the project."""

SDK_PLACES: Mapping[Language, str] = {
    Language.GO: "plexspaces",
    Language.RUST: "plexspaces",
    Language.TYPESCRIPT: "plexspaces",
}
"""Where a new project gets a copy of its language's SDK, for tools that need one."""

_LETTER_FIRST = frozenset({Language.RUST})
"""Languages whose project names cannot begin with a digit."""

_TAKEN: Mapping[Language, frozenset[str]] = {Language.RUST: frozenset({"plexspaces"})}
"""Names with which no project builds: cargo allows no two packages of one name and version."""


_WITHOUT_SDK = frozenset({Language.RUST})
"""Languages whose HTTP components use a library of their own."""


def new_project(language: Language, name: str, directory: Path, *, http: bool = False) -> Path:
    """Create a project in `directory` and return its absolute path. Blocks.

    With `http` it is that of an HTTP component, otherwise of an actor.

    All files appear at once; a failure leaves nothing. An existing empty directory is filled.
    Raises `InvalidArgument` for an invalid application name and for a place that cannot be written,
    `AlreadyExists` if something is there, `Unsupported` for a language without a template.
    """
    _check_name(language, name)
    template = _template(language, http=http)
    with_sdk = not (http and language in _WITHOUT_SDK)
    target = directory.resolve()
    with writing(target, hint="choose another directory with --dir"):
        _check_free(target)
        with tempfile.TemporaryDirectory(prefix=".plexspaces-", dir=target.parent) as scratch:
            staged = Path(scratch, "project")
            _fill(staged, template, {PLACEHOLDER: name, DEPLOYED: project_name(target)})
            if with_sdk:
                _add_sdk(staged, language)
            if with_sdk and language in SDK_PLACES:
                _copy_sdk(shipped(f"sdk/{language}"), staged / SDK_PLACES[language])
            _put(staged, target)
    return target


def _check_name(language: Language, name: str) -> None:
    check_name(name, what="project name")
    fault = ""
    if language in _LETTER_FIRST and not name[0].isalpha():
        fault = "it starts with a digit"
    elif name in _TAKEN.get(language, ()):
        fault = "its SDK has that name"
    if fault:
        raise InvalidArgument(
            f"project name {name!r} is not valid in {language}: {fault}",
            hint=f"plexspaces new {language} app-{name}",
        )


def _template(language: Language, *, http: bool) -> Path:
    try:
        return shipped(f"{TEMPLATES}/{language}{'-http' if http else ''}")
    except NotFound as exc:
        if http:
            raise Unsupported(
                f"the compiler of {language} cannot make HTTP components yet",
                hint="plexspaces new rust NAME --http; typescript and python can too",
            ) from exc
        raise Unsupported(
            f"there is no template for {language} yet",
            hint="start from a project in another language: plexspaces new --help",
        ) from exc


def _check_free(target: Path) -> None:
    if not target.parent.is_dir():
        raise InvalidArgument(
            f"the directory {target.parent} does not exist",
            hint=f"mkdir -p {quoted(target.parent)}",
        )
    if target.is_dir():
        if any(target.iterdir()):
            raise AlreadyExists(
                f"the directory {target} is not empty",
                hint="choose another name, or another directory with --dir",
            )
    elif target.exists():
        raise AlreadyExists(f"{target} is a file", hint="choose another directory with --dir")


def _fill(project: Path, template: Path, names: Mapping[str, str]) -> None:
    project.mkdir()
    for source in read_sources(template):
        relative, content = source.relative, source.path.read_bytes()
        for placeholder, name in names.items():
            relative = relative.replace(placeholder, name)
            content = content.replace(placeholder.encode(), name.encode())
        path = project / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _copy_sdk(sdk: Path, place: Path) -> None:
    # Not the files that a tool left there, in a checkout of this repository.
    for source in read_sources(sdk):
        path = place / source.relative
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path, path)


def _add_sdk(project: Path, language: Language) -> None:
    sdk = shipped(SDKS) / language
    # Python has none here: its SDK is installed with this package.
    if sdk.is_dir():
        for source in read_sources(sdk):
            path = project / SDK_COPY / source.relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.path.read_bytes())


def _put(staged: Path, target: Path) -> None:
    if not target.exists():
        staged.rename(target)
        return
    # The directory itself stays: it may be somebody's working directory.
    with ExitStack() as undo:
        for entry in sorted(staged.iterdir()):
            undo.callback(entry.rename(target / entry.name).rename, entry)
        undo.pop_all()
