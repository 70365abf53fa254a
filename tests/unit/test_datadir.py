"""The data directory: its layout, its lock and whose it is."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import stat
import sys
from pathlib import Path

import pytest

from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.node.datadir import DataDirectory


@pytest.fixture
def path(short_dir: Path) -> Path:
    return short_dir / "state" / "node"


def test_open_when_nothing_is_there_then_every_directory_is_private(path: Path) -> None:
    """Opening makes the whole layout, closed to everybody else, and its parents."""
    with DataDirectory.open(path, "node-a") as directory:
        made = (
            *(directory.artifacts, directory.cache, directory.vms),
            *(directory.logs, directory.audit),
        )
        assert {child.name for child in made} == {"artifacts", "cache", "vms", "logs", "audit"}
        for child in (directory.path, *made):
            assert stat.S_IMODE(child.stat().st_mode) == 0o700
        assert directory.registry.parent == path
        directory.keep()
    assert stat.S_IMODE(directory.lock.stat().st_mode) == 0o600


def test_open_when_opened_before_then_what_is_inside_stays(path: Path) -> None:
    """A second start of the same node finds what the first one left."""
    with DataDirectory.open(path, "node-a") as directory:
        (directory.artifacts / "x.wasm").write_bytes(b"x")
        directory.keep()
    with DataDirectory.open(path, "node-a") as directory:
        assert (directory.artifacts / "x.wasm").read_bytes() == b"x"


def test_open_when_relative_then_the_paths_are_absolute(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths handed to machines do not depend on a working directory."""
    monkeypatch.chdir(short_dir)
    with DataDirectory.open(Path("data"), "node-a") as directory:
        assert directory.vms == short_dir / "data" / "vms"


def test_open_when_another_node_holds_it_then_names_the_holder(path: Path) -> None:
    """A second node is refused with the first one's id and pid, and disturbs nothing."""
    with DataDirectory.open(path, "node-a") as directory:
        with (
            pytest.raises(WrongState, match=rf"node 'node-a' \(pid {os.getpid()}\)") as caught,
            DataDirectory.open(path, "node-b"),
        ):
            pass
        assert "--data-dir" in (caught.value.hint or "")
        assert directory.node_id_file.read_text() == "node-a\n"
    with DataDirectory.open(path, "node-a"):
        pass


def test_open_when_the_holder_has_not_said_who_it_is_then_still_refused(path: Path) -> None:
    """A node that has just taken the lock counts, although it has not written its id yet."""
    with DataDirectory.open(path, "node-a") as directory:
        os.truncate(directory.lock, 0)
        with pytest.raises(WrongState, match="another node"), DataDirectory.open(path, "node-a"):
            pass


async def test_open_when_the_holder_was_killed_then_its_lock_is_no_obstacle(path: Path) -> None:
    """A node that was killed without warning does not keep its directory."""
    script = f"""
import time
from pathlib import Path
from plexspaces_node.node.datadir import DataDirectory
with DataDirectory.open(Path({str(path)!r}), "node-a"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(WrongState, match=f"pid {holder.pid}"),
        DataDirectory.open(path, "node-a"),
    ):
        pass
    holder.kill()
    await holder.communicate()
    assert holder.returncode == -signal.SIGKILL
    with DataDirectory.open(path, "node-a") as directory:
        assert str(holder.pid) not in directory.lock.read_text()


def test_open_when_the_id_differs_then_names_both(path: Path) -> None:
    """A directory belongs to one node id; another one is refused and the lock given back."""
    with DataDirectory.open(path, "node-a") as directory:
        directory.keep()
    with (
        pytest.raises(
            InvalidArgument, match="belongs to node 'node-a', this node is 'node-b'"
        ) as c,
        DataDirectory.open(path, "node-b"),
    ):
        pass
    assert "--node-id node-a" in (c.value.hint or "")
    with DataDirectory.open(path, "node-a"):
        pass


def test_open_when_the_id_was_never_written_whole_then_it_is_claimed_anew(path: Path) -> None:
    """A crash before the id was written does not leave a directory of nobody."""
    path.mkdir(parents=True, mode=0o700)
    (path / "node-id").write_text("")
    (path / "node-id.new").write_text("nod")
    with DataDirectory.open(path, "node-a") as directory:
        assert directory.node_id_file.read_text() == "node-a\n"
    assert not (path / "node-id.new").exists()


@pytest.mark.parametrize("node_id", ["", "Node A", "../etc", "x" * 64])
def test_open_when_the_node_id_is_not_a_name_then_refused_and_nothing_made(
    path: Path, node_id: str
) -> None:
    """A bad node id is refused before anything is made."""
    with pytest.raises(InvalidArgument, match="node id"), DataDirectory.open(path, node_id):
        pass
    assert not path.parent.exists()


def test_open_when_a_file_is_in_the_way_then_invalid_with_a_hint(tmp_path: Path) -> None:
    """A path that is a file, or leads through one, is the user's to correct."""
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, file / "below"):
        with (
            pytest.raises(InvalidArgument, match=str(path)) as caught,
            DataDirectory.open(path, "node-a"),
        ):
            pass
        assert "--data-dir" in (caught.value.hint or "")


def test_open_when_nothing_can_be_written_then_invalid_with_the_reason() -> None:
    """A file system that refuses to make a directory is named with its reason."""
    with (
        pytest.raises(InvalidArgument, match=r"cannot be used: .*/proc/plexspaces-node") as caught,
        DataDirectory.open(Path("/proc/plexspaces-node"), "node-a"),
    ):
        pass
    assert "--data-dir" in (caught.value.hint or "")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_open_when_others_may_write_then_refused_with_the_command_that_helps(
    path: Path, mode: int
) -> None:
    """What is compiled here runs as this user, so nobody else may put files here."""
    path.mkdir(parents=True)
    path.chmod(mode)
    with (
        pytest.raises(InvalidArgument, match=f"{mode:04o}") as caught,
        DataDirectory.open(path, "node-a"),
    ):
        pass
    assert f"chmod 700 {path}" in (caught.value.hint or "")
    assert list(path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
@pytest.mark.parametrize(("user", "name"), [(pwd.getpwall()[1].pw_uid, None), (4711, "'#4711'")])
def test_open_when_root_opens_that_of_a_service_then_its_user_is_named(
    path: Path, user: int, name: str | None
) -> None:
    """What root would make there, such as a token's key, the service could not read."""
    path.mkdir(parents=True, mode=0o700)
    os.chown(path, user, -1)
    with (
        pytest.raises(InvalidArgument, match=f"belongs to user {user}, and this is") as raised,
        DataDirectory.open(path, "node-a"),
    ):
        pass
    assert f"sudo -u {name or pwd.getpwuid(user).pw_name} plexspaces" in str(raised.value.hint)
    assert list(path.iterdir()) == []


def test_open_when_the_body_fails_then_the_directory_is_given_back(path: Path) -> None:
    """An error of the node is passed on as it is, and the lock does not survive it."""
    with pytest.raises(OSError, match="the node's own"), DataDirectory.open(path, "node-a"):
        raise OSError("the node's own")
    with DataDirectory.open(path, "node-a"):
        pass


@pytest.mark.parametrize("there", ["", "state", "state/node"])
def test_open_when_not_kept_then_all_it_made_is_gone(
    path: Path, short_dir: Path, there: str
) -> None:
    """A node that does not start leaves what it found: no directory, or an empty one."""
    (short_dir / there).mkdir(parents=True, exist_ok=True)
    before = sorted(short_dir.rglob("*"))
    with DataDirectory.open(path, "node-a") as directory:
        directory.registry.write_text("rows")
        (directory.vms / "vm-1").mkdir()
    assert sorted(short_dir.rglob("*")) == before


def test_open_when_kept_before_then_a_failed_start_changes_nothing(path: Path) -> None:
    """What a node has once served from is never removed, whatever happens to a later start."""
    with DataDirectory.open(path, "node-a") as directory:
        directory.registry.write_text("rows")
        directory.keep()
    before = sorted(path.rglob("*"))
    with pytest.raises(OSError, match="no start"), DataDirectory.open(path, "node-a"):
        raise OSError("no start")
    assert sorted(path.rglob("*")) == before
    assert directory.registry.read_text() == "rows"


def test_open_when_somebody_put_a_file_there_then_that_stays(path: Path) -> None:
    """A directory that was not empty is not the node's to empty."""
    path.mkdir(parents=True, mode=0o700)
    (path / "notes.txt").write_text("mine")
    with DataDirectory.open(path, "node-a"):
        pass
    assert (path / "notes.txt").read_text() == "mine"


def test_open_when_refused_because_it_is_held_then_the_holders_files_stay(path: Path) -> None:
    """A second start of a node that is just starting removes nothing of the first."""
    with DataDirectory.open(path, "node-a") as directory:
        before = sorted(path.rglob("*"))
        with pytest.raises(WrongState), DataDirectory.open(path, "node-a"):
            pass
        assert sorted(path.rglob("*")) == before
        assert directory.lock.is_file()


def test_swap_level_when_called_again_then_it_returns_the_level_before(path: Path) -> None:
    """The next start learns what this one was."""
    with DataDirectory.open(path, "node-a") as directory:
        assert directory.swap_level("qemu") == ""
        assert directory.swap_level("process") == "qemu"


def test_open_when_a_pipe_is_in_the_place_of_a_file_then_nobody_waits_for_its_other_end(
    path: Path,
) -> None:
    """The level is not known then; whose directory it is has to be."""
    with DataDirectory.open(path, "node-a") as directory:
        os.mkfifo(directory.isolation_file)
        assert directory.swap_level("qemu") == ""
        directory.keep()
    directory.node_id_file.unlink()
    os.mkfifo(directory.node_id_file)
    with (
        pytest.raises(InvalidArgument, match="node-id"),
        DataDirectory.open(path, "node-a"),
    ):
        pass


def test_swap_level_when_the_disk_refuses_then_nothing_is_known_and_nothing_fails(
    path: Path,
) -> None:
    """A warning that cannot be given is no reason for a node not to start."""
    with DataDirectory.open(path, "node-a") as directory:
        directory.isolation_file.mkdir()
        assert directory.swap_level("qemu") == ""
        assert directory.isolation_file.is_dir()
