"""The bundle: what is on disk of a machine, whole or half-made."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Unavailable,
    WrongState,
)
from plexspaces_node.model import VmConfig, check_name
from plexspaces_node.vm.bundle import Bundle, VmHandle, bundles, new_vm_id

CONFIG = VmConfig(vcpus=2, memory_mib=128)
HANDLE = VmHandle("process", 1, "vm-1", {"pid": 42, "boot_id": "x"})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A whole bundle."""
    return Bundle.create(tmp_path, "vm-1", CONFIG, application="shop")


def test_new_vm_id_when_made_twice_differs_and_is_a_name() -> None:
    """Ids are short, fit for paths and arguments, and do not repeat."""
    one, other = new_vm_id(), new_vm_id()
    assert one != other
    assert re.fullmatch(r"vm-[0-9a-f]{8}", one)
    check_name(one)


class TestCreate:
    def test_create_when_the_root_is_missing_makes_private_directories(
        self, tmp_path: Path
    ) -> None:
        """Root and bundle are for their owner only, and so is the configuration."""
        bundle = Bundle.create(tmp_path / "vms", "vm-1", CONFIG)
        for path in (bundle.path, bundle.path.parent):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (config,) = bundle.path.iterdir()
        assert config.name == "config.json"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600

    def test_create_when_opened_again_gives_the_same_facts(
        self, bundle: Bundle, tmp_path: Path
    ) -> None:
        """Configuration and owner come back from disk."""
        found = Bundle.open(tmp_path / "vm-1")
        assert found == bundle
        assert hash(found) == hash(bundle)
        assert (found.vm_id, found.config, found.application) == ("vm-1", CONFIG, "shop")
        assert str(found.path) in repr(found)

    def test_create_of_an_id_in_use_is_refused_and_changes_nothing(
        self, bundle: Bundle, tmp_path: Path
    ) -> None:
        """The second of two with one name loses; the first keeps all it has."""
        bundle.write_handle(HANDLE)
        with pytest.raises(AlreadyExists, match="vm-1"):
            Bundle.create(tmp_path, "vm-1", VmConfig())
        assert bundle.config == CONFIG
        assert bundle.read_handle() == HANDLE

    @pytest.mark.parametrize("vm_id", ["", "..", "a/b", "VM", "-x", "x" * 64, "a\0b"])
    def test_create_of_what_is_no_name_is_refused(self, tmp_path: Path, vm_id: str) -> None:
        """An id cannot lead out of the root or into an argument."""
        with pytest.raises(InvalidArgument):
            Bundle.create(tmp_path, vm_id, CONFIG)
        assert list(tmp_path.iterdir()) == []

    def test_create_when_the_socket_path_would_be_too_long_says_by_how_much(
        self, tmp_path: Path
    ) -> None:
        """A path of 107 bytes is taken; one of 108 is refused before anything is made."""
        room = 107 - len(os.fsencode(tmp_path)) - len("//vm-1/link.sock")
        fitting = tmp_path / ("d" * room)
        assert len(os.fsencode(Bundle.create(fitting, "vm-1", CONFIG).link_socket)) == 107
        too_long = tmp_path / ("e" * (room + 1))
        with pytest.raises(InvalidArgument, match="has 108 bytes, 1 more") as refused:
            Bundle.create(too_long, "vm-1", CONFIG)
        assert "--data-dir" in (refused.value.hint or "")
        assert not too_long.exists()

    def test_create_when_the_disk_refuses_leaves_nothing(self, tmp_path: Path) -> None:
        """A root that is a file is told with the path and the system's words."""
        root = tmp_path / "vms"
        root.write_text("")
        with pytest.raises(Unavailable, match="vms"):
            Bundle.create(root, "vm-1", CONFIG)
        assert root.read_text() == ""

    def test_create_through_a_symbolic_link_names_the_real_place(self, tmp_path: Path) -> None:
        """Two spellings of one data directory are one bundle."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert Bundle.create(tmp_path / "link", "vm-1", CONFIG) == Bundle.open(
            tmp_path / "real" / "vm-1"
        )


class TestHalfMade:
    @pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b'{"vcpus": 1}', b"\xff"])
    def test_config_of_a_half_made_bundle_is_not_found(
        self, bundle: Bundle, content: bytes | None
    ) -> None:
        """A crash while it was made shows as such, and not as some default."""
        path = bundle.path / "config.json"
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(NotFound):
            _ = Bundle.open(bundle.path).config

    def test_open_of_nothing_is_not_found(self, tmp_path: Path) -> None:
        """There is no bundle where there is no directory."""
        with pytest.raises(NotFound):
            Bundle.open(tmp_path / "vm-1")

    def test_bundles_when_some_are_half_made_yields_every_directory(
        self, bundle: Bundle, tmp_path: Path
    ) -> None:
        """What has to be cleared is found; what is no bundle is left alone."""
        (tmp_path / "vm-0").mkdir()
        (tmp_path / "lost+found").mkdir()
        (tmp_path / "file").write_text("")
        (tmp_path / "vm-9").symlink_to(bundle.path)
        assert [found.vm_id for found in bundles(tmp_path)] == ["vm-0", "vm-1"]

    def test_bundles_without_a_root_yields_none(self, tmp_path: Path) -> None:
        """A node that never ran has no machines."""
        assert list(bundles(tmp_path / "missing")) == []


class TestHandle:
    def test_handle_when_written_again_is_the_new_one(self, bundle: Bundle) -> None:
        """A handle is replaced as a whole and leaves no temporary file."""
        bundle.write_handle(VmHandle("process", 1, "vm-1", {"pid": 1}))
        bundle.write_handle(HANDLE)
        assert bundle.read_handle() == HANDLE
        assert sorted(path.name for path in bundle.path.iterdir()) == ["config.json", "handle.json"]

    def test_handle_when_the_writer_died_midway_is_the_old_one(self, bundle: Bundle) -> None:
        """A torn temporary file is never taken for the handle."""
        bundle.write_handle(HANDLE)
        (bundle.path / "handle.json.new").write_text('{"driver": "pro')
        assert bundle.read_handle() == HANDLE

    @pytest.mark.parametrize(
        "record",
        [
            None,
            "",
            '{"driver": "pro',
            "[]",
            "[" * 100_000,
            '{"driver": "x", "version": 1, "vm_id": "vm-1"}',
            '{"driver": 5, "version": 1, "vm_id": "vm-1", "state": {}}',
            '{"driver": "x", "version": true, "vm_id": "vm-1", "state": {}}',
            '{"driver": "x", "version": 1, "vm_id": "vm-2", "state": {}}',
            '{"driver": "x", "version": 1, "vm_id": "vm-1", "state": []}',
            '{"driver": "x", "version": 1, "vm_id": "vm-1", "state": {"pid": [1]}}',
            '{"driver": "x", "version": 1, "vm_id": "vm-1", "state": {}, "more": 1}',
        ],
    )
    def test_handle_that_is_none_reads_as_none(self, bundle: Bundle, record: str | None) -> None:
        """Whatever lies there, reading it does not fail, and nothing unsound comes out."""
        if record is not None:
            (bundle.path / "handle.json").write_text(record)
        assert bundle.read_handle() is None

    def test_handle_on_disk_is_plain_json(self, bundle: Bundle) -> None:
        """A person or another tool can read where a machine is."""
        bundle.write_handle(HANDLE)
        assert json.loads((bundle.path / "handle.json").read_text()) == {
            "driver": "process",
            "version": 1,
            "vm_id": "vm-1",
            "state": {"pid": 42, "boot_id": "x"},
        }


class TestAttach:
    def test_attach_shares_the_file_without_copying(self, bundle: Bundle, tmp_path: Path) -> None:
        """On one file system an artifact of many megabytes costs nothing."""
        file = tmp_path / "artifact"
        file.write_bytes(b"native")
        assert bundle.attach(file) == bundle.artifact
        assert bundle.artifact.samefile(file)

    def test_attach_when_linking_is_impossible_copies(self, bundle: Bundle, tmp_path: Path) -> None:
        """A link that cannot be made becomes a copy, with no temporary file left."""
        source = tmp_path / "artifact"
        source.symlink_to("/proc/self/cmdline")  # a file system of its own
        bundle.attach(source)
        assert bundle.artifact.read_bytes()
        assert not bundle.artifact.is_symlink()
        assert [path for path in bundle.path.iterdir() if path.suffix == ".new"] == []

    def test_attach_when_one_is_attached_is_refused(self, bundle: Bundle, tmp_path: Path) -> None:
        """The first file stays."""
        (tmp_path / "one").write_bytes(b"1")
        (tmp_path / "two").write_bytes(b"2")
        bundle.attach(tmp_path / "one")
        with pytest.raises(WrongState):
            bundle.attach(tmp_path / "two")
        assert bundle.artifact.read_bytes() == b"1"

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_attach_of_what_is_no_file_is_not_found(
        self, bundle: Bundle, tmp_path: Path, name: str
    ) -> None:
        """Neither nothing nor a directory is attached."""
        with pytest.raises(NotFound):
            bundle.attach(tmp_path / name)
        assert not bundle.artifact.exists()


class TestWhatIsNoPlainFile:
    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(__file__)])
    def test_read_of_what_is_no_plain_file_is_as_if_nothing_were_there(
        self, bundle: Bundle, make: Callable[[Path], None]
    ) -> None:
        """Nobody waits for the other end of a pipe that lies in a bundle, or follows a link."""
        (bundle.path / "config.json").unlink()
        for name in ("config.json", "handle.json", "console.log"):
            make(bundle.path / name)
        assert bundle.read_handle() is None
        assert bundle.console_tail() == ""
        with pytest.raises(NotFound):
            _ = Bundle.open(bundle.path).config


class TestConsoleTail:
    def test_tail_without_a_log_is_empty(self, bundle: Bundle) -> None:
        """A machine that said nothing has no last words."""
        assert bundle.console_tail() == ""

    def test_tail_of_a_long_log_is_its_last_lines(self, bundle: Bundle) -> None:
        """However long the log, the end is read, blank lines left out, bad bytes replaced."""
        bundle.console_log.write_bytes(b"early\n" * 100_000 + b"one \n\n\xfftwo\n  \n")
        assert bundle.console_tail(2) == "one\n�two"
        assert bundle.console_tail(1) == "�two"


class TestRemove:
    def test_remove_when_repeated_is_silent(self, bundle: Bundle) -> None:
        """All goes, sockets and attached files too, and going again is no error."""
        (bundle.path / "deep").mkdir()
        (bundle.path / "deep" / "file").write_text("")
        bundle.write_handle(HANDLE)
        bundle.remove()
        assert not bundle.path.exists()
        bundle.remove()

    def test_remove_when_the_disk_refuses_says_so(self, bundle: Bundle) -> None:
        """What cannot be removed is told by its path, not passed over."""
        path = bundle.path
        bundle.remove()
        path.write_text("a file in the bundle's place")
        with pytest.raises(Unavailable, match="cannot remove"):
            bundle.remove()
