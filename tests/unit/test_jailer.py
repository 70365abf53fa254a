"""Command lines and places of a Firecracker process, jailed and not: pure, and on a directory."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import MIB, VmConfig
from plexspaces_node.vm.bundle import SOCKET_PATH_LIMIT_BYTES, Bundle
from plexspaces_node.vm.firecracker import jailer
from plexspaces_node.vm.firecracker.jailer import (
    CONSOLE_LIMIT_BYTES,
    Cgroups,
    Places,
    Programs,
    cgroup_settings,
    find_cgroups,
    jailed_command,
    plain_command,
    remove_cgroup,
)
from plexspaces_node.vm.host.users import FIRST_UID, LAST_UID, uid_of
from plexspaces_node.vm.host.vmm import marks_of

CONFIG = VmConfig(vcpus=2, memory_mib=256)
PLAIN = Programs(Path("/opt/firecracker"), None, "/bin/setpriv", "/bin/prlimit")
JAILED = Programs(Path("/opt/firecracker"), Path("/opt/jailer"))
BUNDLE = Bundle(Path("/data/vms/vm-1"))


@pytest.fixture
def bundle(short_dir: Path) -> Bundle:
    """A bundle on disk."""
    return Bundle.create(short_dir, "vm-1", CONFIG)


class TestPlainCommand:
    def test_command_is_this_and_nothing_else(self) -> None:
        """The chain of programs, their limits, and Firecracker's arguments."""
        command = plain_command(PLAIN, Places(BUNDLE, None), drop_capabilities=False)
        assert " ".join(command) == (
            "/bin/setpriv --pdeathsig KILL --no-new-privs -- "
            f"/bin/prlimit --nofile=256 --core=0 --fsize={CONSOLE_LIMIT_BYTES} -- "
            "/opt/firecracker --id vm-1 --api-sock /data/vms/vm-1/api.sock --level Off "
            "-- /data/vms/vm-1/link.sock"
        )

    def test_command_of_root_drops_every_capability(self) -> None:
        """Firecracker needs none: /dev/kvm is opened by permission."""
        command = plain_command(PLAIN, Places(BUNDLE, None), drop_capabilities=True)
        assert command[4:8] == ["--bounding-set", "-all", "--inh-caps", "-all"]

    @pytest.mark.parametrize("seccomp", [True, False])
    def test_filters_are_off_only_when_asked(self, seccomp: bool) -> None:
        """The flag exists in one case, and PCI in none."""
        programs = Programs(Path("/f"), None, seccomp=seccomp)
        command = plain_command(programs, Places(BUNDLE, None), drop_capabilities=False)
        assert ("--no-seccomp" in command) is not seccomp
        assert "--enable-pci" not in command


class TestJailedCommand:
    def test_command_is_this_and_nothing_else(self) -> None:
        """User, jail, namespace, limits, group, and behind the dashes Firecracker's own."""
        cgroups = Cgroups(Path("/sys/fs/cgroup"), frozenset({"memory", "pids"}))
        command = jailed_command(JAILED, Places.of(BUNDLE, JAILED), CONFIG, cgroups=cgroups)
        uid = uid_of(BUNDLE)
        assert " ".join(command) == (
            "/opt/jailer --id vm-1 --exec-file /opt/firecracker "
            f"--uid {uid} --gid {uid} --chroot-base-dir /data/vms/vm-1/jail --new-pid-ns "
            f"--resource-limit fsize={CONSOLE_LIMIT_BYTES} --resource-limit no-file=256 "
            "--cgroup-version 2 --parent-cgroup plexspaces "
            f"--cgroup memory.max={320 * MIB} --cgroup pids.max=18 "
            "-- --api-sock /api.sock --level Off -- /data/vms/vm-1/link.sock"
        )

    def test_command_without_cgroups_names_none(self) -> None:
        """The jailer's own default would be version 1, which modern hosts do not have."""
        command = jailed_command(JAILED, Places.of(BUNDLE, JAILED), CONFIG, cgroups=None)
        assert not [word for word in command if "cgroup" in word]

    def test_marks_of_the_bundle_are_among_the_arguments(self) -> None:
        """A process is found again without a handle, jailed or not."""
        places = Places.of(BUNDLE, JAILED)
        own = ["--id", "vm-1", *jailer.firecracker_arguments(places, seccomp=True)]
        assert set(marks_of(BUNDLE)) <= set(own)

    def test_settings_are_those_of_the_controllers_there_are(self) -> None:
        """A controller the host does not pass on would make the jailer fail."""
        assert cgroup_settings(CONFIG, ["cpu", "io"]) == ["cpu.max=200000 100000"]
        assert cgroup_settings(CONFIG, []) == []


class TestUid:
    def test_user_is_nobodys_and_the_machines_own(self) -> None:
        """In the range that belongs to nobody, the same each time, and another's is another."""
        uids = [uid_of(Bundle(Path(f"/data/vms/vm-{number}"))) for number in range(1000)]
        assert all(FIRST_UID <= uid <= LAST_UID for uid in uids)
        assert len(set(uids)) == len(uids)
        assert uid_of(BUNDLE) == uid_of(Bundle(BUNDLE.path))


class TestPlaces:
    def test_names_without_a_jail_are_the_hosts(self, bundle: Bundle, tmp_path: Path) -> None:
        """Nothing is linked or copied."""
        places = Places(bundle, None)
        places.prepare()
        assert places.show(tmp_path / "vmlinux", "kernel") == str(tmp_path / "vmlinux")
        assert places.api_name == str(places.api_socket) == str(bundle.path / "api.sock")

    def test_no_socket_has_a_longer_path_than_the_link(self) -> None:
        """What a bundle checks when it is made holds for every socket of its machine."""
        longest = len(str(BUNDLE.link_socket))
        assert len(str(Places(BUNDLE, None).api_socket)) <= longest
        assert len(f"{Places(BUNDLE, None).vsock_name}_{jailer.VSOCK_PORT}") <= longest
        assert SOCKET_PATH_LIMIT_BYTES == 107

    def test_guest_reaches_the_node_through_a_link(self, bundle: Bundle) -> None:
        """Who connects to v.sock_52 is at the bundle's link socket, re-made or not."""
        places = Places(bundle, None)
        places.show_link()
        places.show_link()
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as node, socket.socket(socket.AF_UNIX) as guest:
                node.bind(str(bundle.link_socket))
                node.listen()
                guest.connect(f"{places.vsock_name}_52")
            bundle.link_socket.unlink()

    def test_jail_shares_files_by_hard_links(self, bundle: Bundle, short_dir: Path) -> None:
        """The image is one file for all machines, known inside by a name of the jail."""
        places = Places.of(bundle, JAILED)
        places.prepare()
        kernel = short_dir / "vmlinux"
        kernel.write_bytes(b"kernel")
        assert places.show(kernel, "kernel") == "/kernel"
        assert places.root == bundle.path / "jail/firecracker/vm-1/root"
        assert (places.root / "kernel").samefile(kernel)
        assert places.api_socket.readlink() == places.root / "api.sock"
        assert places.pid_file == places.root / "firecracker.pid"
        kernel.unlink()

    def test_jail_copies_what_cannot_be_linked(
        self, bundle: Bundle, short_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An image on another file system is no fault."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", refuse)
        places = Places.of(bundle, JAILED)
        places.prepare()
        assert places.root is not None
        kernel = short_dir / "vmlinux"
        kernel.write_bytes(b"kernel")
        places.show(kernel, "kernel")
        assert (places.root / "kernel").read_bytes() == b"kernel"
        assert not (places.root / "kernel").samefile(kernel)
        kernel.unlink()

    def test_file_that_only_its_owner_may_read_is_refused(
        self, bundle: Bundle, short_dir: Path
    ) -> None:
        """The jailed user could not open it; the hint says what to do."""
        places = Places.of(bundle, JAILED)
        places.prepare()
        kernel = short_dir / "vmlinux"
        kernel.touch(mode=0o600)
        with pytest.raises(Unavailable, match="cannot be read") as refused:
            places.show(kernel, "kernel")
        assert refused.value.hint == f"chmod a+r {kernel}"
        kernel.unlink()

    def test_name_already_taken_in_the_jail_is_not_written_over(
        self, bundle: Bundle, short_dir: Path
    ) -> None:
        """A jailed process that puts a link in the way of a file gets nothing written through."""
        places = Places.of(bundle, JAILED)
        places.prepare()
        assert places.root is not None
        victim, drive = short_dir / "victim", short_dir / "drive"
        victim.write_bytes(b"precious")
        drive.write_bytes(b"drive")
        (places.root / "drive").symlink_to(victim)
        with pytest.raises(FileExistsError):
            places.show(drive, "drive")
        assert victim.read_bytes() == b"precious"
        victim.unlink()
        drive.unlink()


class TestCgroups:
    def test_outermost_group_gives_what_the_host_has(self, tmp_path: Path) -> None:
        """Of the controllers only the wanted ones count."""
        (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        found = find_cgroups(f"proc /proc proc rw 0 0\ncgroup2 {tmp_path} cgroup2 rw,nosuid 0 0\n")
        assert found == Cgroups(tmp_path, frozenset({"cpu", "memory", "pids"}))
        assert found.group("vm-1") == tmp_path / "plexspaces/vm-1"

    def test_group_of_a_container_gives_only_what_is_passed_on(self, tmp_path: Path) -> None:
        """There no controller can be switched on, for processes are in the group."""
        (tmp_path / "cgroup.type").write_text("domain\n")
        (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
        (tmp_path / "cgroup.subtree_control").write_text("pids\n")
        mounts = f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
        assert find_cgroups(mounts) == Cgroups(tmp_path, frozenset({"pids"}))

    @pytest.mark.parametrize(
        "mounts",
        [
            "",
            "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n",
            "cgroup2 /nowhere cgroup2 rw 0 0\n",
            "cgroup2 /sys/fs/cgroup cgroup2 ro 0 0\n",
        ],
    )
    def test_host_without_usable_groups_has_none(self, mounts: str) -> None:
        """Version 1, a mount that cannot be written and none at all are the same to us."""
        assert find_cgroups(mounts) is None

    def test_remove_is_silent_when_there_is_none(self, tmp_path: Path) -> None:
        """As often as one likes."""
        group = tmp_path / "vm-1"
        group.mkdir()
        remove_cgroup(group)
        remove_cgroup(group)
        assert not group.exists()
