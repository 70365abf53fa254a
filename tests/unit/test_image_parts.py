"""What a guest image is made of: the kernel's payload, the initial RAM disk, the root's bytes."""

from __future__ import annotations

import ctypes.util
import gzip
import lzma
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from plexspaces_node.build.image import agent_digest
from plexspaces_node.build.image.filesystem import make_filesystem
from plexspaces_node.build.image.initrd import MODULES, make_initrd
from plexspaces_node.build.image.kernel import extract_vmlinux
from plexspaces_node.build.image.packages import Tools
from plexspaces_node.build.image.root import linked
from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported

ELF = b"\x7fELF" + bytes(range(256)) * 64
needs_ext4 = pytest.mark.skipif(
    not (shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin")), reason="needs e2fsprogs"
)


def lz4(data: bytes) -> bytes:
    """Compress as Linux does, without finding anything to compress."""
    rest = len(data) - 15
    block = b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + data
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


def vmlinuz(payload: bytes, *, version: int = 0x20F) -> bytes:
    """Wrap a payload as a bzImage: boot sector, two setup sectors, some code, the payload."""
    header = bytearray(3 * 512)
    header[0x1F1] = 2
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, version)
    struct.pack_into("<II", header, 0x248, 64, len(payload))
    return bytes(header) + bytes(64) + payload + b"the end"


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data) + bytes(4),
    "xz": lambda data: lzma.compress(data) + struct.pack("<I", len(data)),
    "lz4": lambda data: lz4(data) + struct.pack("<I", len(data)),
}


@pytest.mark.parametrize("name", list(COMPRESSIONS))
def test_extract_when_compressed_as_distributions_do_then_the_elf_file(name: str) -> None:
    """The kernel that is booted is the one inside, byte for byte."""
    if name == "lz4" and not ctypes.util.find_library("lz4"):
        pytest.skip("needs liblz4")
    assert extract_vmlinux(vmlinuz(COMPRESSIONS[name](ELF))) == ELF


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (b"", "no bzImage"),
        (ELF, "no bzImage"),
        (vmlinuz(b"12345678", version=0x207), "too old"),
        (vmlinuz(COMPRESSIONS["gzip"](ELF))[:-200], "cut short"),
        (vmlinuz(COMPRESSIONS["gzip"](b"no kernel")), "no ELF file"),
        (vmlinuz(b"\x1f\x8b" + bytes(100)), "does not decompress"),
        (vmlinuz(COMPRESSIONS["xz"](ELF)[:20] + bytes(50)), "does not decompress"),
        (vmlinuz(b"\xfd7zXZ\x00" + b"\xff" * 8), "not believable"),
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


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A kernel package's modules; one is built in, one is compressed."""
    tree = tmp_path / "lib/modules/6.1/kernel/drivers"
    tree.mkdir(parents=True)
    for name in (name for group in MODULES.values() for name in group):
        (tree / f"{name}.ko").write_bytes(name.encode())
    (tree / "virtio.ko").unlink()
    (tree.parent.parent / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    (tree / "vsock.ko").unlink()
    (tree / "vsock.ko.xz").write_bytes(lzma.compress(b"vsock"))
    return tmp_path


def test_initrd_when_made_then_init_busybox_and_modules_in_the_order_of_their_needs(
    modules: Path,
) -> None:
    """The names sort as they must be loaded, which is all that init knows."""
    found = entries(make_initrd(b"#!init", b"busybox", modules))
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!init")
    assert found["bin/busybox"] == (stat.S_IFREG | 0o755, b"busybox")
    assert stat.S_ISCHR(found["dev/console"][0])
    assert [name for name in found if name.startswith("modules/base/")] == [
        "modules/base/0-virtio_ring.ko",
        "modules/base/1-virtio_mmio.ko",
        "modules/base/2-virtio_blk.ko",
    ]
    assert found["modules/vsock/0-vsock.ko"][1] == b"vsock"
    assert found["modules/virtio-serial/0-virtio_console.ko"][1] == b"virtio_console"


def test_initrd_when_made_twice_then_the_same_bytes(modules: Path) -> None:
    """No inode, time or order of the disk gets in."""
    assert make_initrd(b"i", b"b", modules) == make_initrd(b"i", b"b", modules)


def test_initrd_when_a_module_is_missing_then_it_is_named(modules: Path) -> None:
    """A kernel without a driver would boot to nothing."""
    next(modules.rglob("virtio_blk.ko")).unlink()
    with pytest.raises(InvalidArgument, match="no module virtio_blk"):
        make_initrd(b"i", b"b", modules)


def test_linked_when_ldd_lists_then_names_and_paths_without_the_kernels_own() -> None:
    """The loader itself is listed without an arrow."""
    listing = """\tlinux-vdso.so.1 (0x00007ffd)
\tlibpython3.11.so.1.0 => /opt/py/lib/libpython3.11.so.1.0 (0x00007f43)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f43)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f43)
"""
    assert linked(Path("/bin/x"), listing) == {
        "libpython3.11.so.1.0": Path("/opt/py/lib/libpython3.11.so.1.0"),
        "libc.so.6": Path("/lib/x86_64-linux-gnu/libc.so.6"),
        "ld-linux-x86-64.so.2": Path("/lib64/ld-linux-x86-64.so.2"),
    }
    assert linked(Path("/bin/x"), "\tstatically linked\n") == {}


def test_linked_when_a_library_is_not_found_then_both_are_named() -> None:
    """An interpreter that does not run here will not run in a guest."""
    with pytest.raises(Unsupported, match=r"/bin/x needs libssl\.so\.3"):
        linked(Path("/bin/x"), "\tlibssl.so.3 => not found\n")


def test_agent_digest_when_asked_twice_then_equal() -> None:
    """It says whether an image holds the agent of this program."""
    assert agent_digest() == agent_digest()
    assert len(agent_digest()) == 12


@needs_ext4
async def test_filesystem_when_made_from_equal_trees_then_the_same_bytes(tmp_path: Path) -> None:
    """Neither the order of making, nor times, nor the place of the tree get in."""
    tools = Tools((), timeout_s=30)
    names = [f"d{i}/f{i}" for i in range(20)]
    images = []
    for place, order in (("a", names), ("b", names[::-1])):
        tree = tmp_path / place / "tree"
        for name in order:
            (tree / name).parent.mkdir(parents=True)
            (tree / name).write_bytes(name.encode() * 1000)
            (tree / name).chmod(0o755 if name.endswith("1") else 0o644)
        images.append(tmp_path / f"{place}.ext4")
        await make_filesystem(tools, tree, images[-1], label="test")
    assert images[0].read_bytes() == images[1].read_bytes()
    read = await tools.run("debugfs", "-R", "cat d7/f7", str(images[0]), cwd=tmp_path)
    assert read.endswith("d7/f7" * 1000)
    await tools.run("e2fsck", "-fn", str(images[0]), cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.ext4", "b", "b.ext4"]


@needs_ext4
async def test_filesystem_when_a_name_could_be_a_command_then_refused(tmp_path: Path) -> None:
    """Names become the words of a script, so only plain ones are taken."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a b").touch()
    with pytest.raises(Unavailable, match="'a b'"):
        await make_filesystem(Tools((), timeout_s=30), tree, tmp_path / "image.ext4", label="test")
