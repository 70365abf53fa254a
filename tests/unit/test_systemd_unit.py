"""The systemd unit: what is in it, what systemd says of it, and how it is written."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.errors import AlreadyExists, InvalidArgument, Unavailable
from plexspaces_node.systemd import install
from plexspaces_node.systemd.exposure import exposure_of, read_exposure
from plexspaces_node.systemd.unit import STATE, Service, unit

PROGRAM = ("/usr/bin/true",)
USER = Service((*PROGRAM, "start-node"), "games", STATE / "node-1")
ROOT = Service((*PROGRAM, "start-node"), "root", STATE / "node-1")
analyze = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(analyze is None, reason="this host has no systemd-analyze")


def lines(text: str) -> list[str]:
    """The settings of a unit."""
    return [line for line in text.splitlines() if "=" in line and not line.startswith("#")]


def planned(tmp_path: Path, *, user: str = "games", data_dir: Path | None = None) -> install.Plan:
    """The plan of an installation into a directory of the test."""
    return install.plan(
        user=user,
        configuration=tmp_path / "etc" / "release.toml",
        data_dir=data_dir,
        directory=tmp_path / "units",
        program=PROGRAM,
        interpreter=Path("/usr/bin/python3"),
    )


@pytest.mark.parametrize("service", [USER, ROOT], ids=["user", "root"])
def test_unit_when_read_as_a_file_then_each_section_is_there(service: Service) -> None:
    """Each setting is set once, except those that systemd adds up."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit(service))
    assert parser.sections() == ["Unit", "Service", "Install"]
    assert parser["Service"]["Type"] == "notify"
    assert parser["Service"]["Delegate"] == "yes"
    names = [line.partition("=")[0] for line in lines(unit(service))]
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"SystemCallFilter", "DeviceAllow"}


@needs_systemd
@pytest.mark.parametrize("service", [USER, ROOT], ids=["user", "root"])
def test_unit_when_verified_by_systemd_then_it_has_nothing_to_say(
    service: Service, tmp_path: Path
) -> None:
    """No unknown setting, no bad value."""
    path = tmp_path / "plexspaces.service"
    path.write_text(unit(service))
    assert analyze is not None
    ran = subprocess.run(
        [analyze, "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_us = [line for line in ran.stderr.splitlines() if str(path) in line]
    assert about_us == []


@needs_systemd
@pytest.mark.parametrize(("service", "most"), [(USER, 2.6), (ROOT, 4.3)], ids=["user", "root"])
def test_unit_when_its_exposure_is_told_then_it_is_bounded(service: Service, most: float) -> None:
    """Whoever removes a wall finds out here; systemd's own services have 9.6 without any."""
    found = exposure_of(unit(service))
    if found is None:
        pytest.skip("this systemd knows no --offline")
    assert found[0] <= most
    assert found[1] == "OK"


def test_exposure_when_systemd_says_something_else_then_none() -> None:
    """An old systemd does not know the option."""
    assert read_exposure("Unknown option --offline") is None
    told = "→ Overall exposure level for plexspaces.service: 2.0 OK 🙂"
    assert read_exposure(told) == (2.0, "OK")


def test_unit_when_the_user_is_root_then_vms_can_have_users_and_the_jailer_its_jail() -> None:
    """A capability for each: chown, setuid, mknod, chroot, mount."""
    (bounds,) = (one for one in lines(unit(ROOT)) if one.startswith("CapabilityBoundingSet="))
    for needed in ("CHOWN", "SETUID", "SETGID", "MKNOD", "SYS_CHROOT", "SYS_ADMIN", "SETPCAP"):
        assert f"CAP_{needed}" in bounds
    assert "CapabilityBoundingSet=" in lines(unit(USER))
    assert "PrivateUsers=yes" in lines(unit(USER))


def test_unit_when_the_user_has_no_privilege_then_an_agent_may_still_give_up_capabilities() -> None:
    """It calls capset, which is among the privileged calls, also where it has none."""
    filters = [one for one in lines(unit(USER)) if one.startswith("SystemCallFilter=")]
    assert filters[1].startswith("SystemCallFilter=~@privileged")
    assert filters[2] == "SystemCallFilter=capset"


@pytest.mark.parametrize(("service", "kept"), [(USER, False), (ROOT, True)], ids=["user", "root"])
def test_unit_when_a_port_is_low_then_the_node_may_bind_it(service: Service, kept: bool) -> None:
    """Port 443 needs a capability of the host, which a user namespace of its own has not."""
    low = Service(service.command, service.user, service.data_dir, low_port=True)
    text = unit(low)
    assert "CAP_NET_BIND_SERVICE" in text
    assert "PrivateUsers=yes" not in text
    assert ("CAP_SYS_ADMIN" in text) is kept


@pytest.mark.parametrize("data_dir", ["/srv/node", "/var/lib/plexspaces/n", "/var/lib/plexspaces"])
def test_unit_when_the_data_directory_is_elsewhere_then_it_can_be_written(data_dir: str) -> None:
    """Below /var/lib systemd creates it; elsewhere it is opened for writing."""
    text = lines(unit(Service(PROGRAM, "games", Path(data_dir))))
    (states,) = (line for line in text if line.startswith("StateDirectory="))
    opened = [line for line in text if line.startswith("ReadWritePaths=")]
    if data_dir == "/srv/node":
        assert (states, opened) == ("StateDirectory=plexspaces", ["ReadWritePaths=/srv/node"])
    else:
        words = states.partition("=")[2].split()
        assert opened == []
        assert data_dir.removeprefix("/var/lib/") in words


@pytest.mark.parametrize(
    "service",
    [
        Service(("/opt/with space/plexspaces",), "games", STATE),
        Service(("/opt/100%/plexspaces",), "games", STATE),
        Service(PROGRAM, "games", Path('/srv/"quoted"')),
        Service(PROGRAM, "games", Path("/srv/a\nExecStartPre=/bin/sh")),
        Service(PROGRAM, "a user", STATE),
        Service(PROGRAM, "games", Path("/tmp/data")),
    ],
)
def test_unit_when_a_word_would_mean_something_else_then_it_is_refused(service: Service) -> None:
    """Nothing can add a line, and nothing is hidden from the service that it needs."""
    with pytest.raises(InvalidArgument):
        unit(service)


def test_plan_when_there_is_no_configuration_then_one_is_made_that_commands_find(
    tmp_path: Path,
) -> None:
    """It says where the data directory is, so that commands of the host reach the node."""
    plan = planned(tmp_path)
    assert install.write(plan) == [plan.configuration, plan.unit]
    config = ConfigBootstrap.load(environ={}, system_file=plan.configuration)
    assert config.node.data_dir == Path("/var/lib/plexspaces/node-1")
    assert f"ExecStart=/usr/bin/true start-node --config {plan.configuration}" in lines(plan.text)
    assert plan.unit.read_text() == plan.text
    # Again it is read, and means the same.
    again = planned(tmp_path)
    assert (again.content, again.text) == (None, plan.text)
    assert install.write(again) == []


def test_plan_when_the_configuration_exists_then_the_unit_follows_it(tmp_path: Path) -> None:
    """Its data directory, its grace time, its ports; the file stays as it is."""
    config = tmp_path / "etc" / "release.toml"
    config.parent.mkdir()
    config.write_text('[node]\ngrace_s = 61.5\nid = "n-7"\naddress = "127.0.0.1:443"\n')
    plan = planned(tmp_path)
    text = lines(plan.text)
    assert "TimeoutStopSec=82" in text
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in text
    assert text[7].endswith("--data-dir /var/lib/plexspaces/n-7")
    install.write(plan)
    assert 'id = "n-7"' in config.read_text()


def test_plan_when_the_configuration_is_wrong_then_nothing_is_written(tmp_path: Path) -> None:
    """A service that could not start is not installed."""
    config = tmp_path / "etc" / "release.toml"
    config.parent.mkdir()
    config.write_text("[node]\ngrace_s = -1\n")
    with pytest.raises(InvalidArgument):
        planned(tmp_path)
    assert not (tmp_path / "units").exists()


def test_write_when_the_unit_differs_then_it_is_kept_unless_forced(tmp_path: Path) -> None:
    """An administrator's own lines are not lost."""
    plan = planned(tmp_path)
    install.write(plan)
    plan.unit.write_text(plan.text + "Nice=5\n")
    assert "-Nice=5\n" in install.difference(plan)
    with pytest.raises(AlreadyExists) as caught:
        install.write(planned(tmp_path))
    assert "--force" in str(caught.value.hint)
    assert "Nice=5" in plan.unit.read_text()
    assert install.write(planned(tmp_path), force=True) == [plan.unit]
    assert plan.unit.read_text() == plan.text
    assert sorted(path.name for path in plan.unit.parent.iterdir()) == ["plexspaces.service"]


def test_write_when_the_directory_cannot_be_made_then_the_error_helps(tmp_path: Path) -> None:
    """As for a user who is not root."""
    (tmp_path / "units").write_text("a file")
    with pytest.raises(Unavailable) as caught:
        install.write(planned(tmp_path))
    assert "cannot be" in caught.value.message
    assert caught.value.hint


def test_warnings_when_the_user_cannot_reach_the_program_then_told(tmp_path: Path) -> None:
    """A virtual environment in a home directory works for its owner only."""
    private = tmp_path / "home"
    private.mkdir(mode=0o700)
    program = private / "plexspaces"
    program.write_text("")
    plan = install.plan(
        user="games",
        configuration=tmp_path / "release.toml",
        directory=tmp_path,
        program=[str(program)],
        interpreter=Path("/usr/bin/python3"),
    )
    (told, *_) = install.warnings(plan)
    assert "only its owner may enter" in told
    assert "/opt/plexspaces" in told
    as_root = install.plan(user="root", configuration=tmp_path / "x.toml", program=[str(program)])
    assert install.warnings(as_root) == []


def test_plan_when_the_interpreter_is_in_a_home_then_it_can_be_read(tmp_path: Path) -> None:
    """As one of pyenv's, to which a virtual environment elsewhere is linked."""
    link = tmp_path / "python"
    link.symlink_to("/root/.pyenv/bin/python3")
    plan = install.plan(user="games", directory=tmp_path, program=PROGRAM, interpreter=link)
    assert "ProtectHome=read-only" in lines(plan.text)
    assert "ProtectHome=yes" in lines(planned(tmp_path).text)


def test_plan_when_the_configuration_names_a_file_in_a_home_then_it_can_be_read(
    tmp_path: Path,
) -> None:
    """As the certificate that `tls init` makes without --dir."""
    config = tmp_path / "etc" / "release.toml"
    config.parent.mkdir()
    config.write_text('[tls]\ncertificate = "/root/tls/node.pem"\nkey = "/etc/ssl/node.key"\n')
    assert "ProtectHome=read-only" in lines(planned(tmp_path).text)


def test_create_user_when_run_then_it_cannot_log_in() -> None:
    """A system user without a password or a shell; the error says what useradd says."""
    ran: list[list[str]] = []

    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(list(command))
        return subprocess.CompletedProcess(command, len(ran) - 1, "", "no space left")

    install.create_user("plexspaces", run=run)
    assert ran[0][:3] == ["useradd", "--system", "--user-group"]
    assert ran[0][-3:] == ["--shell", "/usr/sbin/nologin", "plexspaces"]
    with pytest.raises(Unavailable, match="no space left"):
        install.create_user("plexspaces", run=run)


def test_user_exists_when_asked_then_as_the_host_says() -> None:
    """By its name."""
    assert install.user_exists("root")
    assert not install.user_exists(f"nobody-{os.getpid()}")
