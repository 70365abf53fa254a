"""`doctor --security`: each check on a sound and on an open host, by trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.doctor.finding import Finding
from plexspaces_node.doctor.host_walls import Host, check_host
from plexspaces_node.doctor.private_files import changed_by_its_owner, check_files
from plexspaces_node.doctor.security import examine_security
from plexspaces_node.doctor.versions import check_versions, holes_of

CPU = "sys/devices/system/cpu"
SOUND = {
    f"{CPU}/smt/control": "off",
    f"{CPU}/smt/active": "0",
    f"{CPU}/vulnerabilities/meltdown": "Not affected",
    f"{CPU}/vulnerabilities/itlb_multihit": "KVM: Mitigation: Split huge pages",
    f"{CPU}/vulnerabilities/spectre_v2": "Mitigation: Enhanced IBRS",
    "sys/kernel/mm/ksm/run": "0",
    "sys/kernel/security/lsm": "lockdown,capability,landlock,yama",
    "sys/module/kvm/parameters/nx_huge_pages": "Y",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority",
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz ro quiet",
    "proc/cpuinfo": "vendor_id\t: GenuineIntel",
    "proc/sys/kernel/osrelease": "6.1.0-57-amd64",
    "proc/sys/kernel/core_pattern": "core",
    "proc/sys/kernel/unprivileged_bpf_disabled": "2",
    "dev/kvm": "",
}


def host(tmp_path: Path, changed: dict[str, str | None] | None = None, *, kvm: int = 0o660) -> Host:
    """A host of these files; None is a file that is not there."""
    root = tmp_path / "host"
    for name, text in {**SOUND, **(changed or {})}.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{text}\n")
    if (root / "dev/kvm").exists():
        (root / "dev/kvm").chmod(kvm)
    return Host(root)


def config(tmp_path: Path, **flags: object) -> Config:
    """A configuration whose files are in a directory of the test."""
    given = {key.replace("__", "."): value for key, value in flags.items()}
    paths = {
        "node.data_dir": str(tmp_path / "data"),
        "guest.kernel_path": str(tmp_path / "vmlinux"),
        "guest.rootfs_path": str(tmp_path / "rootfs"),
    }
    nowhere = tmp_path / "none.toml"
    return ConfigBootstrap.load(flags={**paths, **given}, environ={}, system_file=nowhere)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """The findings by their names."""
    return {finding.name: finding for finding in findings}


def test_host_when_it_is_sound_then_nothing_is_said_against_it(tmp_path: Path) -> None:
    """All that the makers of Firecracker ask for."""
    assert [one for one in check_host(host(tmp_path)) if one.ok is not True] == []


@pytest.mark.parametrize(
    ("changed", "name", "ok", "hint"),
    [
        ({f"{CPU}/smt/active": "1", f"{CPU}/smt/control": "on"}, "SMT", None, "nosmt"),
        ({f"{CPU}/smt/active": None}, "SMT", None, "lscpu"),
        ({f"{CPU}/vulnerabilities/mds": "Vulnerable: no microcode"}, "mds", False, "intel-micro"),
        (
            {
                f"{CPU}/vulnerabilities/mds": "Vulnerable",
                "proc/cpuinfo": "vendor_id : AuthenticAMD",
            },
            "mds",
            False,
            "amd64-microcode",
        ),
        (
            {f"{CPU}/vulnerabilities/mds": "Mitigation: Clear CPU buffers; SMT vulnerable"},
            "mds",
            None,
            "nosmt",
        ),
        (
            {f"{CPU}/vulnerabilities/srbds": "Unknown: Dependent on hypervisor status"},
            "srbds",
            None,
            "the host of this VM",
        ),
        ({"proc/cmdline": "quiet mitigations=off"}, "mitigations", False, "update-grub"),
        ({"sys/kernel/mm/ksm/run": "1"}, "KSM", False, "echo 2 >"),
        (
            {"proc/swaps": "Filename Type Size\n/dev/sda2 partition 1"},
            "swap",
            None,
            "swapoff -a",
        ),
        ({"dev/kvm": None}, "/dev/kvm", None, "lsmod"),
        (
            {
                "sys/module/kvm/parameters/nx_huge_pages": "N",
                f"{CPU}/vulnerabilities/itlb_multihit": "KVM: Vulnerable",
            },
            "nx_huge_pages",
            False,
            "kvm.nx_huge_pages=force",
        ),
        ({"proc/sys/kernel/osrelease": "4.19.0"}, "release", None, "distribution"),
        (
            {"proc/sys/kernel/core_pattern": "|/usr/lib/systemd/systemd-coredump %P"},
            "core files",
            None,
            "Storage=none",
        ),
        ({"proc/sys/kernel/unprivileged_bpf_disabled": "0"}, "BPF", None, "sysctl -w"),
        ({"sys/kernel/security/lsm": "capability,yama"}, "Landlock", None, "landlock"),
        ({"sys/kernel/security/lsm": None}, "Landlock", None, "securityfs"),
        ({"sys/fs/cgroup/cgroup.controllers": None}, "cgroup", None, "unified"),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu pids"}, "cgroup", None, "docs/docker.md"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_host_when_something_is_open_then_it_is_named_with_its_mend(
    tmp_path: Path, changed: dict[str, str | None], name: str, ok: bool | None, hint: str
) -> None:
    """A fault for what anybody can use, a warning for what matters between tenants."""
    finding = by_name(check_host(host(tmp_path, changed)))[name]
    assert finding.ok is ok
    assert hint in str(finding.hint)


def test_host_when_anybody_may_use_kvm_then_a_fault(tmp_path: Path) -> None:
    """Mode 0666, as some guides advise."""
    finding = by_name(check_host(host(tmp_path, kvm=0o666)))["/dev/kvm"]
    assert finding.ok is False
    assert "mode 0666" in finding.detail
    assert str(finding.hint).startswith("chmod 660 /dev/kvm")


def test_host_when_huge_pages_harm_nobody_then_no_mend_is_asked_for(tmp_path: Path) -> None:
    """Most CPUs do not have the fault."""
    changed = {
        "sys/module/kvm/parameters/nx_huge_pages": "N",
        f"{CPU}/vulnerabilities/itlb_multihit": "Not affected",
    }
    assert by_name(check_host(host(tmp_path, dict(changed))))["nx_huge_pages"].ok is True


def test_host_when_nothing_can_be_read_then_every_check_answers(tmp_path: Path) -> None:
    """As in a container that hides its kernel."""
    assert all(one.detail for one in check_host(Host(tmp_path / "nothing")))


@pytest.mark.parametrize(
    ("version", "holes"),
    [
        ("1.13.1", ["CVE-2026-1386", "CVE-2026-5747"]),
        ("1.14.0", ["CVE-2026-1386", "CVE-2026-5747"]),
        ("1.14.3", ["CVE-2026-5747"]),
        ("1.15.0", ["CVE-2026-5747"]),
        ("1.12.0", ["CVE-2026-1386"]),
        ("1.14.4", []),
        ("1.15.1", []),
        ("1.16.1", []),
    ],
)
def test_holes_when_a_version_is_looked_up_then_as_its_makers_told(
    version: str, holes: list[str]
) -> None:
    """The bounds of each advisory."""
    assert [one.split()[0] for one in holes_of(version)] == holes


@pytest.mark.parametrize(
    ("version", "mode", "faults"),
    [
        ("1.16.1", 0o755, set()),
        ("1.15.0", 0o755, {"firecracker", "jailer"}),
        ("1.9.0", 0o755, {"firecracker", "jailer"}),
        ("1.16.1", 0o777, {"its file"}),
    ],
)
def test_versions_when_firecracker_is_installed_then_release_and_files_are_checked(
    tmp_path: Path, version: str, mode: int, faults: set[str]
) -> None:
    """An old release, or a program that others can change, is a fault."""
    for name in ("firecracker", "jailer"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{name.title()} v{version}'\n")
        program.chmod(mode)
    found = check_versions(config(tmp_path, firecracker__binary_path=str(tmp_path / "firecracker")))
    assert {one.name for one in found if one.ok is False} == faults


@pytest.mark.parametrize(("isolation", "ok"), [("firecracker", False), ("auto", None)])
def test_versions_when_firecracker_is_missing_then_a_fault_only_if_it_is_asked_for(
    tmp_path: Path, isolation: str, ok: bool | None
) -> None:
    """Other levels do not need it."""
    told = config(
        tmp_path,
        firecracker__binary_path=str(tmp_path / "nothing"),
        node__isolation=isolation,
    )
    assert by_name(check_versions(told))["firecracker"].ok is ok


def test_files_when_all_are_private_then_nothing_is_said_against_them(tmp_path: Path) -> None:
    """As a node makes them."""
    told = config(tmp_path, tls__certificate=str(tmp_path / "c"), tls__key=str(tmp_path / "key"))
    told.node.data_dir.mkdir(mode=0o700)
    for name in ("data/registry.db", "data/node.sock", "data/http.sock", "key"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600)
    assert [one for one in check_files(told, Host(tmp_path)) if one.ok is not True] == []


@pytest.mark.parametrize("opened", ["data", "data/registry.db", "data/node.sock", "key"])
def test_files_when_others_may_read_one_then_a_fault_with_its_mend(
    tmp_path: Path, opened: str
) -> None:
    """Data, sockets and keys are for the node alone."""
    told = config(tmp_path, tls__certificate=str(tmp_path / "c"), tls__key=str(tmp_path / "key"))
    told.node.data_dir.mkdir(mode=0o700)
    for name in ("data/registry.db", "data/node.sock", "key"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600)
    (tmp_path / opened).chmod(0o755)
    (fault,) = (one for one in check_files(told, Host(tmp_path)) if one.ok is False)
    assert "mode 0755" in fault.detail
    assert str(fault.hint).startswith("chmod ")
    assert str(tmp_path / opened) in str(fault.hint)


def test_files_when_the_secrets_key_is_in_the_data_directory_then_a_fault(tmp_path: Path) -> None:
    """A backup would have both, the lock and its key."""
    inside = config(tmp_path, secrets__key_file=str(tmp_path / "data" / "key"))
    outside = config(tmp_path, secrets__key_file=str(tmp_path / "key"))
    (tmp_path / "key").write_text("k")
    (tmp_path / "key").chmod(0o600)
    assert by_name(check_files(inside, Host(tmp_path)))["secrets key"].ok is False
    assert by_name(check_files(outside, Host(tmp_path)))["secrets key"].ok is True
    (tmp_path / "key").chmod(0o604)
    assert by_name(check_files(outside, Host(tmp_path)))["secrets key"].ok is False


def test_files_when_the_credential_is_open_then_a_fault(tmp_path: Path) -> None:
    """The service manager reads it as root; nobody else needs to."""
    store = tmp_path / "etc" / "credstore"
    store.mkdir(parents=True)
    (store / "plexspaces-secrets-key").write_text("")
    (store / "plexspaces-secrets-key").chmod(0o644)
    found = by_name(check_files(config(tmp_path), Host(tmp_path)))
    assert found["credential"].ok is False


def test_files_when_the_configuration_can_be_changed_then_a_fault(tmp_path: Path) -> None:
    """It names programs that the node runs."""
    file = tmp_path / "own" / "release.toml"
    file.parent.mkdir()
    file.write_text("[limits]\nmailbox = 7\n")
    file.chmod(0o666)
    told = ConfigBootstrap.load(file, {"node.data_dir": str(tmp_path / "data")}, environ={})
    assert by_name(check_files(told, Host(tmp_path)))["configuration"].ok is False
    file.chmod(0o644)
    file.parent.chmod(0o777)
    assert by_name(check_files(told, Host(tmp_path)))["configuration"].ok is False


def test_image_when_it_is_the_users_own_then_its_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is booted where the configured files do not exist."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    own = tmp_path / "plexspaces" / "image"
    own.mkdir(parents=True)
    for name in ("vmlinux", "initrd", "rootfs.erofs"):
        (own / name).write_text("")
        (own / name).chmod(0o644)
    (own / "initrd").chmod(0o666)
    found = by_name(check_files(config(tmp_path), Host(tmp_path)))
    assert found["guest kernel"].ok is True
    assert found["guest root"].detail.startswith(str(own))
    assert found["guest initrd"].ok is False


def test_program_when_it_is_a_link_then_where_it_leads_counts(tmp_path: Path) -> None:
    """Who may change the target changes what is run."""
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "firecracker"
    target.write_text("")
    link = tmp_path / "firecracker"
    link.symlink_to(target)
    target.chmod(0o755)
    assert changed_by_its_owner("Programs", "it", link).ok is True
    target.chmod(0o775)
    assert changed_by_its_owner("Programs", "it", link).ok is False


@pytest.mark.parametrize(
    ("flags", "name", "ok"),
    [
        ({}, "address", True),
        ({"node__address": "0.0.0.0:9000"}, "address", False),
        ({"node__address": "0.0.0.0:9000", "node__allow_remote": True}, "address", None),
        ({"http__address": "[::]:8080"}, "HTTP", False),
        ({"http__address": "0.0.0.0:8080", "tls__certificate": "/c"}, "HTTP", True),
        ({"node__metrics_address": "0.0.0.0:9100"}, "metrics", None),
        ({"http__cors_origins": "*"}, "origins", None),
        ({"node__isolation": "process"}, "level", None),
        ({"firecracker__no_seccomp": True}, "seccomp", False),
    ],
)
async def test_security_when_the_configuration_opens_something_then_it_is_named(
    tmp_path: Path, flags: dict[str, object], name: str, ok: bool | None
) -> None:
    """Addresses, TLS, levels: each with its mend."""
    found = by_name(await examine_security(config(tmp_path, **flags), host(tmp_path)))[name]
    assert found.ok is ok
    assert (found.hint is None) is (ok is True)


async def test_security_when_there_is_no_token_then_a_warning(tmp_path: Path) -> None:
    """From the first one on everybody needs one; the node keeps its key as long as that is so."""
    told, where = config(tmp_path), host(tmp_path)
    none = by_name(await examine_security(told, where))["tokens"]
    assert none.ok is None
    assert str(none.hint).startswith("plexspaces token create")
    told.node.data_dir.mkdir(mode=0o700)
    key = told.node.data_dir / "tokens.key"
    key.write_text("k")
    key.chmod(0o600)
    assert by_name(await examine_security(told, where))["tokens"].ok is True
    key.chmod(0o644)
    assert by_name(await examine_security(told, where))["tokens' key"].ok is False


async def test_security_when_the_unit_lacks_a_wall_then_a_warning(tmp_path: Path) -> None:
    """An edited or an older unit."""
    unit = "etc/systemd/system/plexspaces.service"
    whole = "Delegate=yes\nNoNewPrivileges=yes\nProtectSystem=strict\nUMask=0077"
    for text, ok in ((whole, True), (whole.replace("Delegate=yes", ""), None)):
        found = await examine_security(config(tmp_path), host(tmp_path, {unit: text}))
        assert by_name(found)["service"].ok is ok
