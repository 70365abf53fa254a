"""File systems for guests, read back from their bytes: what is in one is what was put in."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from support.erofs import read_erofs

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import MIB
from plexspaces_node.vm.erofs import BLOCK_BYTES, MAGIC, MAGIC_OFFSET, write_erofs


def files_of(directory: Path, **sizes: int) -> dict[str, Path]:
    """Make files of these lengths, each with bytes of its own."""
    directory.mkdir(exist_ok=True)
    made = {}
    for place, (name, size) in enumerate(sizes.items()):
        made[name] = directory / name
        made[name].write_bytes((bytes(range(place, 251)) * (size // (251 - place) + 1))[:size])
    return made


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 40 * MIB])
def test_file_alone_is_read_back_and_the_image_is_whole_blocks(tmp_path: Path, size: int) -> None:
    """Its blocks, and one each for the heads and the names."""
    files = files_of(tmp_path / "from", code=size)
    image = tmp_path / "image"
    write_erofs(image, files)
    found = read_erofs(image)
    assert found["/code"].content == files["code"].read_bytes()
    assert sorted(found) == ["/", "/code"]
    assert image.stat().st_size == BLOCK_BYTES * (2 + -(-size // BLOCK_BYTES))
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.read_bytes()[MAGIC_OFFSET:][: len(MAGIC)] == MAGIC


def test_files_and_directories_are_found_by_their_names_and_are_roots(tmp_path: Path) -> None:
    """Whatever the order in which they are given, and an empty file between two others."""
    files = files_of(tmp_path / "from", zoo=5000, empty=0, agent=BLOCK_BYTES, one=1)
    write_erofs(tmp_path / "image", files, ("proc", "dev"), mode=0o555)
    found = read_erofs(tmp_path / "image")
    assert sorted(found) == ["/", "/agent", "/dev", "/empty", "/one", "/proc", "/zoo"]
    for name, file in files.items():
        node = found[f"/{name}"]
        assert (node.content, node.mode) == (file.read_bytes(), stat.S_IFREG | 0o555)
        assert (node.links, node.owner) == (1, (0, 0))
    for name, links in (("/", 4), ("/dev", 2), ("/proc", 2)):
        assert (found[name].mode, found[name].links) == (stat.S_IFDIR | 0o755, links)


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """Neither the order, nor times, nor the place of the files get in."""
    images = []
    for place, names in (("a", ("x", "y")), ("b", ("y", "x"))):
        files = {name: tmp_path / place / name for name in names}
        (tmp_path / place).mkdir()
        for name, file in files.items():
            file.write_text(name)
        write_erofs(tmp_path / f"{place}.erofs", files, ("dev",))
        images.append((tmp_path / f"{place}.erofs").read_bytes())
    assert images[0] == images[1]


@pytest.mark.parametrize(
    "sizes", [{f"file-{n}": 1 for n in range(46)}, {f"{n:0200}": 1 for n in range(20)}]
)
def test_more_files_than_fit_are_refused_and_nothing_is_left(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    """There is one block for the nodes, and one for the names."""
    with pytest.raises(InvalidArgument, match=f"{len(sizes)} files do not fit"):
        write_erofs(tmp_path / "image", files_of(tmp_path / "from", **sizes))
    assert not (tmp_path / "image").exists()


def test_as_many_files_as_fit_are_read_back(tmp_path: Path) -> None:
    """The last node ends with its block."""
    files = files_of(tmp_path / "from", **{f"file-{n}": n for n in range(45)})
    write_erofs(tmp_path / "image", files)
    found = read_erofs(tmp_path / "image")
    assert {f"/{name}" for name in files} == found.keys() - {"/"}
    assert all(found[f"/{name}"].content == file.read_bytes() for name, file in files.items())


def test_file_that_is_not_there_leaves_no_image(tmp_path: Path) -> None:
    """Nor does one that cannot be read."""
    with pytest.raises(FileNotFoundError):
        write_erofs(tmp_path / "image", {"code": tmp_path / "code"})
    assert not (tmp_path / "image").exists()
