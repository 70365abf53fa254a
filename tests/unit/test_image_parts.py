"""What a guest image is made of: the kernel, its modules in the initial RAM disk.

The packages' trees are made up, as Debian 12, Debian 13 and Ubuntu lay theirs out.
"""

from __future__ import annotations

import ctypes.util
import stat
from pathlib import Path

import pytest
from support.kernel_packages import COMPRESSIONS, ELF, module, vmlinuz, zstd

from plexspaces_node.errors import InvalidArgument, Unsupported
from plexspaces_node.guest_image.build import GuestPrograms, agent_digest
from plexspaces_node.guest_image.compression import decompress
from plexspaces_node.guest_image.initrd import MODULES, make_initrd
from plexspaces_node.guest_image.kernel import extract_vmlinux, read_kernel
from plexspaces_node.guest_image.modules import Modules, plain


@pytest.mark.parametrize("name", list(COMPRESSIONS))
def test_extract_when_compressed_as_distributions_do_then_the_elf_file(name: str) -> None:
    """The kernel that is booted is the one inside, byte for byte."""
    if name == "lz4" and not ctypes.util.find_library("lz4"):
        pytest.skip("needs liblz4")
    assert extract_vmlinux(vmlinuz(COMPRESSIONS[name](ELF))) == ELF


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (b"", "not a bzImage"),
        (ELF, "not a bzImage"),
        (vmlinuz(b"12345678", version=0x207), "too old"),
        (vmlinuz(COMPRESSIONS["gzip"](ELF))[:-200], "truncated"),
        (vmlinuz(COMPRESSIONS["gzip"](b"no kernel")), "not an ELF file"),
        (vmlinuz(b"\x1f\x8b" + bytes(100)), "does not decompress"),
        (vmlinuz(COMPRESSIONS["xz"](ELF)[:20] + bytes(50)), "does not decompress"),
        (vmlinuz(b"\xfd7zXZ\x00" + b"\xff" * 8), "not plausible"),
    ],
)
def test_extract_when_it_is_no_kernel_then_what_is_wrong(image: bytes, what: str) -> None:
    """A damaged package ends in one line."""
    with pytest.raises(InvalidArgument, match=what):
        extract_vmlinux(image)


def test_extract_when_the_compression_is_new_then_unsupported() -> None:
    """A distribution may change its mind; its first bytes help whoever adds it."""
    with pytest.raises(Unsupported, match="42440102"):
        extract_vmlinux(vmlinuz(b"\x42\x44\x01\x02" + bytes(20)))


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a cpio archive back: mode and content by name."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        assert fields[5] == 0, "no time in it"
        found[name] = (mode, archive[start : start + size])
        at = (start + size + 3) & ~3


def test_initrd_when_made_then_init_and_modules_in_the_order_of_their_needs(packages: Path) -> None:
    """A list for each kind of guest is all that the first program reads."""
    found = entries(make_initrd(b"init", packages))
    assert found["init"] == (stat.S_IFREG | 0o755, b"init")
    assert stat.S_ISCHR(found["dev/console"][0])
    expected = {
        "base": ("virtio_ring", "virtio_mmio", "virtio_blk", "libcrc32c", "erofs"),
        "virtio-serial": ("virtio_console",),
        "vsock": ("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
    }
    assert expected.keys() == MODULES.keys()
    for group, names in expected.items():
        listed = "".join(f"/modules/{name}.ko\0" for name in names)
        assert found[f"modules/{group}"][1] == listed.encode()
        for name in names:
            content = (stat.S_IFREG | 0o644, plain(module(name)))
            assert found[f"modules/{name}.ko"] == content


def test_initrd_when_made_twice_then_the_same_bytes(packages: Path) -> None:
    """No inode, time or order of the disk gets in."""
    assert make_initrd(b"i", packages) == make_initrd(b"i", packages)


def test_modules_when_one_is_missing_then_it_is_named_with_where_it_may_lie(packages: Path) -> None:
    """A kernel without a driver would boot to nothing."""
    next(packages.rglob("virtio_blk.ko*")).unlink()
    with pytest.raises(InvalidArgument, match=r"no module virtio_blk.*usr/lib/modules"):
        make_initrd(b"i", packages)


@pytest.mark.parametrize("damage", [bytes(100), b"\xfd7zXZ\0" + bytes(90), b"\x28\xb5\x2f\xfd--"])
def test_modules_when_one_is_damaged_then_its_file_is_named(packages: Path, damage: bytes) -> None:
    """Whoever reads it can look at the package, whatever the distribution."""
    file = next(packages.rglob("vsock.ko*"))
    file.write_bytes(damage)
    with pytest.raises((InvalidArgument, Unsupported)) as caught:
        Modules(packages).with_needs(("vsock",))
    assert str(file.relative_to(packages)) in caught.value.message


def test_kernel_when_unpacked_then_the_elf_file_inside(packages: Path) -> None:
    """All of them have it in the same place."""
    assert read_kernel(packages) == ELF


def test_kernel_when_it_is_not_the_only_one_or_damaged_then_where_it_was_looked_for(
    packages: Path,
) -> None:
    """The error names the file, or the places where there is none."""
    kernel = packages / "boot" / "vmlinuz-6"
    kernel.write_bytes(b"no kernel")
    with pytest.raises(InvalidArgument, match=r"^boot/vmlinuz-6 .*bzImage"):
        read_kernel(packages)
    kernel.unlink()
    with pytest.raises(InvalidArgument, match=r"0 kernels, not one, at boot/vmlinuz-\*"):
        read_kernel(packages)


class TestPlain:
    def test_plain_when_signed_and_with_types_then_neither(self) -> None:
        """The section of types is none any more, and the rest is where it was."""
        stripped = plain(module("one", signed=True))
        assert len(stripped) == len(module("one"))
        header = len(stripped) - 2 * 64
        assert stripped[header : header + 64] == bytes(64)
        assert stripped[:header] == module("one")[:header]

    def test_plain_when_there_is_nothing_of_it_then_the_same(self) -> None:
        """Done twice is done once."""
        once = plain(module("one"))
        assert plain(once) == once

    @pytest.mark.parametrize(
        "damaged", [b"", b"\x7fELF\x02\x01", module("one")[:70], b"\x7fELF\x01\x01" + bytes(99)]
    )
    def test_plain_when_it_is_no_module_then_invalid_argument(self, damaged: bytes) -> None:
        """Never an error of Python's."""
        with pytest.raises(InvalidArgument):
            plain(damaged)


def test_decompress_when_zstd_does_not_tell_its_length_or_lies_then_invalid_argument() -> None:
    """The length is the frame's own word."""
    if not ctypes.util.find_library("zstd"):
        pytest.skip("needs libzstd")
    assert decompress(zstd(ELF)) == ELF
    for broken in (zstd(ELF)[:-5], zstd(ELF)[:9], b"\x28\xb5\x2f\xfd"):
        with pytest.raises(InvalidArgument, match="does not decompress"):
            decompress(broken)


def test_agent_digest_when_a_program_of_the_guest_changes_then_another(tmp_path: Path) -> None:
    """It says whether an image holds the agent of this installation."""
    programs = GuestPrograms(tmp_path / "agent", tmp_path / "init")
    digests = []
    for path in programs:
        path.write_bytes(path.name.encode())
    for path in programs:
        digests.append(agent_digest(programs))
        path.write_bytes(b"changed")
    digests.append(agent_digest(programs))
    assert len({*digests}) == 3
    assert digests[-1] == agent_digest(programs)
    assert len(digests[0]) == 12
