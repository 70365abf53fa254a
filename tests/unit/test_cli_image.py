"""The commands `image build`, `image list` and `image verify`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import Command

from plexspaces_node.cli import image as commands
from plexspaces_node.errors import Unsupported
from plexspaces_node.guest_image import agent_digest
from plexspaces_node.link import frames as link
from plexspaces_node.vm.erofs import MAGIC, MAGIC_OFFSET
from plexspaces_node.vm.image import INITRD, KERNEL, ROOTFS, GuestImage

ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(100)
EROFS = bytes(MAGIC_OFFSET) + MAGIC + bytes(2000)


@pytest.fixture(autouse=True)
def _on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def put(directory: Path, *, agent: str | None = None, generation: int = link.GENERATION) -> str:
    """Put an image into a directory and return its digest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / KERNEL).write_bytes(ELF)
    (directory / INITRD).write_bytes(b"070701")
    (directory / ROOTFS).write_bytes(EROFS)
    made_of = {"agent": agent or agent_digest(), "linux-image-6.1": "6.1.9-1"}
    sealed = GuestImage.seal(
        directory, generation=generation, min_memory_mib=96, made_of=made_of, arch="x86_64"
    )
    return sealed.digest


@pytest.fixture
def default(tmp_path: Path) -> Path:
    """Where the image lies when nothing is said."""
    return tmp_path / ".local/share/plexspaces/image"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where images were built; building is putting one there."""
    places: list[Path] = []

    async def build(target: Path, *, progress: Callable[[str], None]) -> GuestImage:
        places.append(target)
        progress("fetching the kernel")
        put(target)
        return GuestImage.open(target)

    monkeypatch.setattr(commands, "build_image", build)
    return places


def test_build_when_nothing_is_said_then_the_users_data_directory(
    command: Command, built: list[Path], default: Path
) -> None:
    """Progress beside the data, the place and what is in it as data."""
    ran = command("image", "build")
    assert (ran.status, built) == (0, [default])
    assert ran.stderr == "fetching the kernel\n"
    assert str(default) in ran.text
    assert "linux-image-6.1: 6.1.9-1" in ran.text


def test_build_when_for_programs_then_its_record(
    command: Command, built: list[Path], tmp_path: Path
) -> None:
    """A script learns digest and versions."""
    ran = command("image", "build", "--dir", tmp_path / "here", "--json")
    assert built == [tmp_path / "here"]
    assert ran.json["directory"] == str(tmp_path / "here")
    assert ran.json["made_of"]["linux-image-6.1"] == "6.1.9-1"
    assert ran.json["agent_is_current"] is True


def test_build_when_a_tool_is_missing_then_status_1_and_the_hint(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the builder says reaches the user."""

    async def build(target: Path, *, progress: Callable[[str], None]) -> GuestImage:
        raise Unsupported("dpkg-deb is not installed", hint="apt-get install dpkg")

    monkeypatch.setattr(commands, "build_image", build)
    ran = command("image", "build")
    assert ran.status == 1
    assert "hint: apt-get install dpkg" in ran.stderr


def test_list_when_there_is_none_then_where_it_would_be_and_how_to_make_it(
    command: Command, default: Path
) -> None:
    """Nothing to list is no failure."""
    ran = command("image", "list")
    assert ran.status == 0
    assert f"no guest image in {default}" in ran.text
    assert "plexspaces image build" in ran.stderr
    (row,) = command("image", "list", "--json").json
    assert (row["bootable"], row["in_use"], row["image"]) == (False, True, None)


def test_list_when_the_configuration_names_another_then_both_and_which_is_booted(
    command: Command, tmp_path: Path, default: Path
) -> None:
    """What release.toml names wins over the default."""
    put(default)
    digest = put(tmp_path / "fc")
    (tmp_path / "release.toml").write_text(
        f'[guest]\nkernel_path = "{tmp_path}/fc/vmlinux"\n'
        f'rootfs_path = "{tmp_path}/fc/rootfs.erofs"\n'
    )
    rows = command("image", "list", "--json").json
    assert [(row["directory"], row["in_use"]) for row in rows] == [
        (str(tmp_path / "fc"), True),
        (str(default), False),
    ]
    text = command("image", "list").text
    assert text.startswith(f"{digest[:12]}  {tmp_path / 'fc'}\n")
    assert text.count("nodes boot this image") == 1


def test_list_when_the_agent_is_older_then_it_says_so(command: Command, default: Path) -> None:
    """It boots, but not what was changed since."""
    put(default, agent="0" * 12)
    ran = command("image", "list")
    assert "complete, sizes checked" in ran.text
    assert "its agent differs from this installation's" in ran.stderr


def test_list_when_of_another_generation_then_it_cannot_be_booted(
    command: Command, default: Path
) -> None:
    """The reason is the state."""
    put(default, generation=link.GENERATION + 1)
    assert f"speaks generation {link.GENERATION + 1}" in command("image", "list").text


def test_verify_when_whole_then_status_0_and_else_the_file(command: Command, default: Path) -> None:
    """Every byte is read."""
    digest = put(default)
    ran = command("image", "verify")
    assert (ran.status, ran.stderr) == (0, "")
    assert digest in ran.text
    (default / INITRD).write_bytes(b"070702")
    ran = command("image", "verify")
    assert ran.status == 2
    assert f"{default / INITRD} has SHA-256" in ran.stderr


def test_verify_when_there_is_none_then_status_1(command: Command, tmp_path: Path) -> None:
    """A script can ask whether there is one."""
    ran = command("image", "verify", "--dir", tmp_path / "none")
    assert ran.status == 1
    assert "no guest image" in ran.stderr
