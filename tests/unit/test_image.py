"""The guest image's record: what is read, what is refused, and where it is looked for."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from plexspaces_node.errors import InvalidArgument, NotFound, WrongState
from plexspaces_node.model import ENGINE
from plexspaces_node.vm.erofs import MAGIC, MAGIC_OFFSET
from plexspaces_node.vm.image import (
    INITRD,
    KERNEL,
    RECORD,
    ROOTFS,
    GuestImage,
    default_directory,
    find_directory,
)

ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(100)
EROFS = bytes(MAGIC_OFFSET) + MAGIC + bytes(2000)


def sealed(directory: Path, **changes: Any) -> GuestImage:
    """Make a directory look like an image of this machine's kind."""
    directory.mkdir(exist_ok=True)
    (directory / KERNEL).write_bytes(ELF)
    (directory / INITRD).write_bytes(b"070701")
    (directory / ROOTFS).write_bytes(EROFS)
    facts: dict[str, Any] = {
        "generation": 1,
        "min_memory_mib": 96,
        "made_of": {"python": "3.11.7"},
        "arch": "x86_64",
    }
    return GuestImage.seal(directory, **(facts | changes))


def rewrite(directory: Path, **changes: object) -> None:
    """Change what the record says."""
    path = directory / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(autouse=True)
def _on_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_open_when_sealed_then_what_was_said_of_it(tmp_path: Path) -> None:
    """A driver finds the three files and what they fit."""
    image = sealed(tmp_path)
    assert GuestImage.open(tmp_path, generation=1) == image
    assert image.kernel == tmp_path / KERNEL
    assert image.initrd == tmp_path / INITRD
    assert image.rootfs == tmp_path / ROOTFS
    assert (image.generation, image.engine, image.arch) == (1, ENGINE, "x86_64")
    assert (image.min_memory_mib, image.made_of) == (96, {"python": "3.11.7"})
    assert image.directory == tmp_path
    assert image.size_bytes == len(ELF) + 6 + len(EROFS)
    image.verify()


def test_digest_when_files_are_equal_then_equal_and_else_not(tmp_path: Path) -> None:
    """The digest is of the contents, wherever they lie."""
    one, two = sealed(tmp_path / "a"), sealed(tmp_path / "b", made_of={})
    assert one.digest == two.digest
    (tmp_path / "b" / INITRD).write_bytes(b"070702")
    other = GuestImage.seal(tmp_path / "b", generation=1, min_memory_mib=96, made_of={})
    assert other.digest != one.digest


def test_open_when_there_is_none_then_the_command_that_makes_one(tmp_path: Path) -> None:
    """The most common error names its cure."""
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotFound, match="no guest image") as caught:
            GuestImage.open(directory)
        assert caught.value.hint == "build it with: plexspaces image build"


@pytest.mark.parametrize("name", [KERNEL, INITRD, ROOTFS])
@pytest.mark.parametrize("how", ["missing", "short", "directory"])
def test_open_when_a_file_is_not_whole_then_it_is_named(
    tmp_path: Path, name: str, how: str
) -> None:
    """A file that is gone or cut short is found before anything is booted."""
    sealed(tmp_path)
    file = tmp_path / name
    data = file.read_bytes()
    file.unlink()
    if how == "short":
        file.write_bytes(data[:-1])
    elif how == "directory":
        file.mkdir()
    with pytest.raises(InvalidArgument, match=str(file)) as caught:
        GuestImage.open(tmp_path)
    assert caught.value.hint is not None
    assert "plexspaces image build" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (KERNEL, b"MZ" + bytes(len(ELF) - 2), "not an uncompressed ELF kernel"),
        (KERNEL, ELF[:18] + b"\xb7\x00" + ELF[20:], "a kernel for aarch64, not x86_64"),
        (KERNEL, ELF[:18] + b"\x08\x00" + ELF[20:], "machine number 8"),
        (ROOTFS, bytes(len(EROFS)), "not an EROFS file system"),
    ],
)
def test_open_when_a_file_is_something_else_then_it_says_what(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    """A file of the right length can still be the wrong one."""
    sealed(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=what):
        GuestImage.open(tmp_path)


def test_open_when_made_for_another_machine_engine_or_generation_then_wrong_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound image that does not fit says what does not, and both values."""
    sealed(tmp_path)
    with pytest.raises(WrongState, match="speaks generation 1 of the link, this node speaks 2"):
        GuestImage.open(tmp_path, generation=2)
    rewrite(tmp_path, engine="wasmtime 1.0")
    with pytest.raises(WrongState, match=rf"runs wasmtime 1.0, this node compiles for {ENGINE}"):
        GuestImage.open(tmp_path)
    rewrite(tmp_path, engine=ENGINE)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(WrongState, match="is for x86_64, not riscv64"):
        GuestImage.open(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": 1}',
        '{"format": 2}',
        '{"format": 2, "digest": 5, "generation": 1, "engine": "", "arch": "", "made_of": {}}',
        "\x00\xff",
    ],
)
def test_read_when_the_record_is_not_one_then_the_file_is_named(tmp_path: Path, text: str) -> None:
    """A damaged record is an answer, not a stack trace."""
    (tmp_path / RECORD).write_text(text, encoding="latin-1")
    with pytest.raises(InvalidArgument, match=RECORD):
        GuestImage.read(tmp_path)


def test_verify_when_a_byte_changed_then_the_file_is_named(tmp_path: Path) -> None:
    """The quick look cannot see it, reading everything does."""
    sealed(tmp_path)
    (tmp_path / INITRD).write_bytes(b"070709")
    image = GuestImage.open(tmp_path)
    with pytest.raises(InvalidArgument, match=f"{INITRD} has SHA-256"):
        image.verify()


def test_verify_when_the_record_was_edited_then_it_is_named(tmp_path: Path) -> None:
    """The digest that listings show is the digest of the files."""
    sealed(tmp_path)
    rewrite(tmp_path, digest="0" * 64)
    with pytest.raises(InvalidArgument, match="is inconsistent"):
        GuestImage.open(tmp_path).verify()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/u"}, "/data/plexspaces/image"),
        ({"XDG_DATA_HOME": "data", "HOME": "/home/u"}, "/home/u/.local/share/plexspaces/image"),
        ({"HOME": "/home/u"}, "/home/u/.local/share/plexspaces/image"),
    ],
)
def test_default_directory_when_asked_then_the_users_data(
    variables: dict[str, str], expected: str
) -> None:
    """A relative XDG_DATA_HOME is ignored, as its specification says."""
    assert default_directory(variables) == Path(expected)


def test_default_directory_when_there_is_no_home_then_the_flag_is_named() -> None:
    """A service user without a home is told what to do."""
    with pytest.raises(InvalidArgument) as caught:
        default_directory({})
    assert caught.value.hint is not None
    assert "--dir" in caught.value.hint


def test_find_directory_when_the_configured_files_are_there_then_theirs_else_the_default(
    tmp_path: Path,
) -> None:
    """What release.toml names wins where it exists."""
    kernel, rootfs, default = tmp_path / KERNEL, tmp_path / ROOTFS, Path("/default")
    assert find_directory(kernel, rootfs, default) == default
    kernel.touch()
    assert find_directory(kernel, rootfs, default) == default
    rootfs.touch()
    assert find_directory(kernel, rootfs, default) == tmp_path


def test_find_directory_when_the_root_has_its_former_name_then_the_image_beside_it(
    tmp_path: Path,
) -> None:
    """A configuration written for an earlier version goes on to work, once the image is anew."""
    kernel, former = tmp_path / KERNEL, tmp_path / "rootfs.ext4"
    kernel.touch()
    former.touch()
    assert find_directory(kernel, former, Path("/default")) == Path("/default")
    (tmp_path / ROOTFS).touch()
    assert find_directory(kernel, former, Path("/default")) == tmp_path


def test_open_when_made_by_an_earlier_version_then_to_make_it_anew(tmp_path: Path) -> None:
    """Its root has another format, which this version's guest does not mount."""
    sealed(tmp_path)
    rewrite(tmp_path, format=1)
    with pytest.raises(InvalidArgument, match="has format 1, not 2") as caught:
        GuestImage.open(tmp_path)
    assert caught.value.hint == "rebuild the image with: plexspaces image build"


def test_find_directory_when_they_are_not_one_image_then_refused(tmp_path: Path) -> None:
    """A kernel boots with its own modules only."""
    kernel, rootfs = tmp_path / "my-kernel", tmp_path / ROOTFS
    kernel.touch()
    rootfs.touch()
    with pytest.raises(InvalidArgument, match="do not form one image"):
        find_directory(kernel, rootfs, Path("/default"))
