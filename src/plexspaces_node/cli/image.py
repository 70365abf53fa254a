"""The commands `image build`, `image list` and `image verify`: what every microVM boots."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Annotated, Any

import typer

from plexspaces_node.cli.options import ConfigFile, Json
from plexspaces_node.cli.output import milliseconds, note, print_fields, print_json, say, size
from plexspaces_node.cli.progress import if_interrupted, working
from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.errors import NotFound, PlexSpacesError
from plexspaces_node.guest_image import agent_digest, build_image
from plexspaces_node.link import frames as link
from plexspaces_node.vm.image import GuestImage, default_directory, find_directory

AGENT = "agent"
_SHOWN_DIGITS = 12
_OLD_AGENT = (
    "its agent differs from this installation's; rebuild it with: plexspaces image build --dir {}"
)

app = typer.Typer()
image_app = typer.Typer()
app.add_typer(image_app, name="image")

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Image directory.",
        show_default="$XDG_DATA_HOME/plexspaces/image",
    ),
]


@image_app.callback(epilog="Example:  plexspaces image build")
def _image() -> None:
    """Build and verify the guest image: what every microVM boots."""


@image_app.command(epilog="Example:  plexspaces image build --dir /var/lib/firecracker")
def build(directory: Directory = None, as_json: Json = False) -> None:
    """Build the image from the distribution's packages, without Docker or root.

    Replaces an existing image; running VMs are not affected.
    """
    begin = perf_counter_ns()
    with if_interrupted("the build is incomplete"), working("building the image") as step:
        image = asyncio.run(build_image(directory or _default(), progress=step))
    if as_json:
        print_json(_record(image))
        return
    say(
        f"✓ Built image {image.digest[:_SHOWN_DIGITS]} in {image.directory} "
        f"({size(image.size_bytes)}) in {milliseconds(perf_counter_ns() - begin)}"
    )
    print_fields(image.made_of.items())


@image_app.command("list", epilog="Example:  plexspaces image list --json")
def list_images(config: ConfigFile = None, as_json: Json = False) -> None:
    """List the images on this host and show which one a node would boot."""
    found = [one for one in _candidates(config) if one.image or one.in_use]
    if as_json:
        print_json([_row(one) for one in found])
        return
    for one in found:
        _print(one)


@image_app.command(epilog="Example:  plexspaces image verify")
def verify(directory: Directory = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Check every byte of the image against what was built.

    Exits with status 1 or 2 if this version cannot boot the image.
    """
    place = directory or next(one.directory for one in _candidates(config) if one.in_use)
    image = GuestImage.open(place, generation=link.GENERATION)
    image.verify()
    if as_json:
        print_json(_record(image))
    else:
        say(f"✓ Image {image.digest} in {image.directory} is intact")
    if _is_current(image) is False:
        note(_OLD_AGENT.format(image.directory))


@dataclass(frozen=True, slots=True)
class _Found:
    """An image on this host, or what is wrong with it."""

    directory: Path
    in_use: bool
    image: GuestImage | None
    problem: PlexSpacesError | None


def _candidates(config: str | None) -> list[_Found]:
    paths = ConfigBootstrap.load(config).guest
    default = _default()
    used = find_directory(paths.kernel_path, paths.rootfs_path, default)
    places = dict.fromkeys((used, default, paths.kernel_path.parent))
    return [_read_image(place, in_use=place == used) for place in places]


def _read_image(directory: Path, *, in_use: bool) -> _Found:
    image: GuestImage | None = None
    try:
        image = GuestImage.read(directory)
        image = GuestImage.open(directory, generation=link.GENERATION)
    except PlexSpacesError as error:
        return _Found(directory, in_use, image, error)
    return _Found(directory, in_use, image, None)


def _print(found: _Found) -> None:
    image = found.image
    if image is None:
        problem = found.problem
        assert problem is not None
        say(problem.message)
        if isinstance(problem, NotFound) and problem.hint:
            note(f"hint: {problem.hint}")
        return
    say(f"{image.digest[:_SHOWN_DIGITS]}  {found.directory}")
    state = found.problem.message if found.problem else "complete, sizes checked"
    fields = [
        ("State", state + ("; nodes boot this image" if found.in_use else "")),
        ("Size", size(image.size_bytes)),
        ("Memory", f"at least {image.min_memory_mib} MiB"),
        ("Engine", image.engine),
        ("Built from", ", ".join(f"{name} {version}" for name, version in image.made_of.items())),
    ]
    print_fields(fields)
    if found.problem is None and _is_current(image) is False:
        note(_OLD_AGENT.format(image.directory))


def _is_current(image: GuestImage) -> bool | None:
    """Return whether its agent is this installation's; None if there is none to compare with."""
    try:
        return image.made_of.get(AGENT) == agent_digest()
    except NotFound:
        return None


def _row(found: _Found) -> dict[str, Any]:
    problem = found.problem
    return {
        "directory": found.directory,
        "in_use": found.in_use,
        "bootable": problem is None,
        "problem": problem.message if problem else None,
        "hint": problem.hint if problem else None,
        "image": _record(found.image) if found.image else None,
    }


def _record(image: GuestImage) -> dict[str, Any]:
    return {
        "directory": image.directory,
        "digest": image.digest,
        "generation": image.generation,
        "engine": image.engine,
        "arch": image.arch,
        "size_bytes": image.size_bytes,
        "min_memory_mib": image.min_memory_mib,
        "agent_is_current": _is_current(image),
        "made_of": dict(image.made_of),
    }


def _default() -> Path:
    return default_directory(os.environ)
