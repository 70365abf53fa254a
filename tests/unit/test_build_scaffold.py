"""A new project: where it may lie, what it may be called, what is left of a failure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plexspaces_node.errors import AlreadyExists, InvalidArgument, PlexSpacesError, Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains import detect, new_project
from plexspaces_node.toolchains.build import kind_of
from plexspaces_node.toolchains.project import project_name, read_sources
from plexspaces_node.toolchains.scaffold import DEPLOYED, PLACEHOLDER, SDK_COPY, SDKS, TEMPLATES
from plexspaces_node.toolchains.shipped import shipped

AVAILABLE = [language for language in Language if (shipped(TEMPLATES) / language).is_dir()]
SERVERS = [one for one in AVAILABLE if (shipped(TEMPLATES) / f"{one}-http").is_dir()]


@pytest.mark.parametrize("language", AVAILABLE)
def test_new_project_of_a_language_is_one_of_that_language(
    tmp_path: Path, language: Language
) -> None:
    """The name is everywhere it belongs, and the files say which language it is."""
    made = new_project(language, "my-app", tmp_path / "somewhere")

    assert made == tmp_path / "somewhere"
    assert detect(made) is language
    files = [path for path in made.rglob("*") if path.is_file()]
    assert not any(PLACEHOLDER in str(path) for path in files)
    assert not any(PLACEHOLDER.encode() in path.read_bytes() for path in files)
    assert not any(DEPLOYED.encode() in path.read_bytes() for path in files)
    assert "my-app" in (made / "README.md").read_text()
    assert any("test" in path.name for path in files)
    assert (made / ".gitignore").is_file()


@pytest.mark.parametrize("language", SERVERS)
def test_new_project_of_an_http_component_is_one(tmp_path: Path, language: Language) -> None:
    """Its files say what it becomes, and its README names it as it is deployed."""
    made = new_project(language, "my-app", tmp_path / "Other Place", http=True)

    assert detect(made) is language
    assert kind_of(made) is ArtifactKind.HTTP_COMPONENT
    readme = (made / "README.md").read_text()
    assert readme.startswith("# my-app\n")
    assert set(re.findall(r"/apps/([^/]+)/", readme)) == {"other-place"}
    assert not any(PLACEHOLDER in source.path.read_text() for source in read_sources(made))
    assert (made / SDK_COPY).is_dir() is (language is not Language.RUST)


@pytest.mark.parametrize("language", SERVERS)
def test_example_of_an_http_component_is_what_a_new_project_is(
    tmp_path: Path, language: Language
) -> None:
    """Its sources are those of the template, so that both are kept at once."""
    name = f"{'ts' if language is Language.TYPESCRIPT else language}-hello-http"
    made = new_project(language, name, tmp_path / name, http=True)

    example = shipped("examples") / name
    sources = {one.relative: one.path for one in read_sources(example)}
    for own in (".gitignore", "README.md", "tsconfig.json", "Cargo.lock"):
        sources.pop(own, None)
    assert {"server.py", "src/server.ts", "src/lib.rs"} & set(sources)
    assert kind_of(example) is ArtifactKind.HTTP_COMPONENT
    for relative, path in sources.items():
        assert path.read_text() == (made / relative).read_text(), relative


@pytest.mark.parametrize("language", sorted({*AVAILABLE} - {*SERVERS}))
def test_new_project_of_an_http_component_where_the_language_makes_none_says_who_does(
    tmp_path: Path, language: Language
) -> None:
    """Nothing is written."""
    with pytest.raises(Unsupported, match=f"{language} cannot make HTTP components") as error:
        new_project(language, "my-app", tmp_path / "new", http=True)

    assert "new rust NAME --http" in (error.value.hint or "")
    assert not (tmp_path / "new").exists()


def test_project_of_an_actor_may_have_a_file_named_like_a_server(tmp_path: Path) -> None:
    """What an actor's project has besides its entry does not change what it is."""
    for language, server in (
        (Language.PYTHON, "server.py"),
        (Language.TYPESCRIPT, "src/server.ts"),
    ):
        made = new_project(language, "my-app", tmp_path / language)
        (made / server).write_text("")
        assert (detect(made), kind_of(made)) == (language, ArtifactKind.ACTOR)


@pytest.mark.parametrize("language", AVAILABLE)
def test_new_project_elsewhere_is_invoked_by_the_name_it_is_deployed_under(
    tmp_path: Path, language: Language
) -> None:
    """The README's commands name what `plexspaces deploy .` does, which is the directory."""
    made = new_project(language, "my-app", tmp_path / "Other Place")

    readme = (made / "README.md").read_text()
    assert readme.startswith("# my-app\n")
    assert project_name(made) == "other-place"
    assert set(re.findall(r"plexspaces (?:invoke|logs) (\S+)", readme)) == {"other-place"}


@pytest.mark.parametrize("language", [one for one in AVAILABLE if one is not Language.PYTHON])
def test_new_project_brings_a_copy_of_the_sdk(tmp_path: Path, language: Language) -> None:
    """What no package manager brings lies in the project, whole."""
    made = new_project(language, "my-app", tmp_path / "somewhere")

    sdk = read_sources(shipped(SDKS) / language)
    copied = read_sources(made / SDK_COPY)
    assert [source.relative for source in copied] == [source.relative for source in sdk]
    assert all(a.path.read_bytes() == b.path.read_bytes() for a, b in zip(sdk, copied, strict=True))


def test_new_project_in_an_empty_directory_fills_it(tmp_path: Path) -> None:
    """The directory stays the same one: it may be a shell's working directory."""
    before = tmp_path.stat().st_ino

    made = new_project(Language.PYTHON, "my-app", tmp_path)

    assert made.stat().st_ino == before
    assert (made / "app.py").is_file()
    assert not list(tmp_path.glob(".plexspaces-*"))


def test_new_project_through_a_link_fills_what_it_points_to(tmp_path: Path) -> None:
    """A link is followed and stays a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert new_project(Language.PYTHON, "my-app", tmp_path / "link") == tmp_path / "real"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "app.py").is_file()


@pytest.mark.parametrize(
    ("language", "name", "place", "kind", "said", "hint"),
    [
        (Language.PYTHON, "My App", "new", InvalidArgument, "'My App'", "a-z, 0-9"),
        (Language.PYTHON, "../app", "new", InvalidArgument, "'../app'", "a-z, 0-9"),
        (Language.RUST, "1st", "new", InvalidArgument, "starts with a digit", "rust app-1st"),
        (
            Language.RUST,
            "plexspaces",
            "new",
            InvalidArgument,
            "SDK has that",
            "rust app-plexspaces",
        ),
        (Language.PYTHON, "app", "full", AlreadyExists, "full is not empty", "--dir"),
        (Language.PYTHON, "app", "full/note", AlreadyExists, "note is a file", "--dir"),
        (Language.PYTHON, "app", "none/new", InvalidArgument, "none does not exist", "mkdir -p"),
        (Language.UNKNOWN, "app", "new", Unsupported, "no template for unknown", "new --help"),
    ],
)
def test_new_project_that_cannot_be_leaves_everything_as_it_was(
    tmp_path: Path,
    language: Language,
    name: str,
    place: str,
    kind: type[PlexSpacesError],
    said: str,
    hint: str,
) -> None:
    """Nothing that is there is written over, and no half of a project is left."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")

    with pytest.raises(kind, match=said) as error:
        new_project(language, name, tmp_path / place)

    assert hint in (error.value.hint or "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "note"]
    assert (tmp_path / "full" / "note").read_text() == "mine"


def test_new_project_where_nothing_can_be_written_says_so() -> None:
    """Not even root can make a directory there."""
    with pytest.raises(InvalidArgument, match="cannot be written") as error:
        new_project(Language.PYTHON, "app", Path("/proc/self/app"))

    assert "--dir" in (error.value.hint or "")
