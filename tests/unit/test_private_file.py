"""Files that only their owner may read: how they are written, and when they are not read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.small_disk import run_on_small_disk

from plexspaces_node.errors import AlreadyExists, InvalidArgument
from plexspaces_node.private_file import (
    make_private_directory,
    read_private,
    replace,
    write_new,
)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_when_written_then_only_its_owner_reads_it(tmp_path: Path) -> None:
    """Whatever the umask is; nothing else is left in the directory."""
    path, before = tmp_path / "key", os.umask(0)
    try:
        write_new(path, b"secret")
    finally:
        os.umask(before)
    assert (mode_of(path), read_private(path, what="the key")) == (0o600, b"secret")
    assert os.listdir(tmp_path) == ["key"]


def test_a_new_file_when_it_is_there_then_it_stays(tmp_path: Path) -> None:
    """Never overwritten, not even through a link that leads nowhere."""
    (tmp_path / "key").write_bytes(b"first")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("key", "link"):
        with pytest.raises(AlreadyExists, match="is there already"):
            write_new(tmp_path / name, b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == ["key", "link"]


def test_a_file_when_replaced_then_readers_of_the_old_one_keep_it(tmp_path: Path) -> None:
    """Its mode is the one that was asked for."""
    path = tmp_path / "certificate"
    path.write_bytes(b"old")
    with path.open("rb") as held:
        replace(path, b"new", mode=0o644)
        assert (held.read(), path.read_bytes(), mode_of(path)) == (b"old", b"new", 0o644)
    assert os.listdir(tmp_path) == ["certificate"]


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o640, 0o644, 0o602, 0o777])
def test_a_file_when_others_may_read_or_write_it_then_it_is_not_read(
    tmp_path: Path, mode: int
) -> None:
    """The hint is the command that mends it, with the path quoted."""
    path = tmp_path / "the key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    if os.geteuid() == 0 and mode == 0o640:
        # Services have their keys like this: of root, for their group.
        assert read_private(path, what="the key") == b"secret"
        return
    with pytest.raises(InvalidArgument, match=f"its mode is {mode:04o}") as raised:
        read_private(path, what="the key")
    assert raised.value.hint == f"chmod 600 '{path}'"


def test_a_file_when_there_is_none_or_it_is_a_directory_then_the_error_says_so(
    tmp_path: Path,
) -> None:
    """With the name of what was to be read."""
    with pytest.raises(InvalidArgument, match=r"the key .*cannot be read: No such file"):
        read_private(tmp_path / "key", what="the key")
    with pytest.raises(InvalidArgument, match=r"cannot be read: Is a directory"):
        read_private(tmp_path, what="the key")


def test_a_file_when_it_is_a_pipe_then_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Nobody may ever write to it."""
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(InvalidArgument, match="is not a regular file"):
        read_private(tmp_path / "key", what="the key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_when_another_user_owns_it_then_refused_where_that_matters(tmp_path: Path) -> None:
    """That user knows it; a private key may be of whoever renews the certificate."""
    (tmp_path / "key").write_bytes(b"secret")
    (tmp_path / "key").chmod(0o600)
    os.chown(tmp_path / "key", 4711, -1)
    assert read_private(tmp_path / "key", what="the key") == b"secret"
    with pytest.raises(InvalidArgument, match="is another user's") as raised:
        read_private(tmp_path / "key", what="the key", of_user=True)
    assert raised.value.hint == f"chown 0 {tmp_path / 'key'}"


def test_a_directory_when_made_then_its_owner_alone_enters(tmp_path: Path) -> None:
    """Also those above it; one that is open to others is refused with its mend."""
    make_private_directory(tmp_path / "a" / "b")
    make_private_directory(tmp_path / "a" / "b")
    assert mode_of(tmp_path / "a" / "b") == 0o700
    (tmp_path / "a").chmod(0o755)
    with pytest.raises(InvalidArgument, match="is open to others: its mode is 0755") as raised:
        make_private_directory(tmp_path / "a")
    assert raised.value.hint == f"chmod 700 {tmp_path / 'a'}"
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="cannot be made"):
        make_private_directory(tmp_path / "file")


_FULL = """
import sys
from pathlib import Path
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.private_file import write_new

try:
    write_new(Path(sys.argv[1]) / "key", bytes(1 << 20))
except InvalidArgument as error:
    print(error.hint)
"""


def test_write_when_the_disk_is_full_then_the_hint_is_about_space(tmp_path: Path) -> None:
    """Not about the rights of a directory that may have been removed again."""
    done = run_on_small_disk(_FULL, tmp_path, "200k")
    assert done.stdout == "df -h, and free some space\n", done.stderr
