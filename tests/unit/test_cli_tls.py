"""`tls init`, `client`, `renew` and `show`: the files, their modes, and that nothing is lost."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

import pytest
from support.command import Command

from plexspaces_node.certificates import make_authority, make_node_certificate
from plexspaces_node.cli.tls_directory import default_directory, read_info
from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.errors import InvalidArgument


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a directory, with its mode and its content."""
    return {
        str(path.relative_to(directory)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def made(command: Command, tmp_path: Path) -> Path:
    assert command("tls", "init", "--host", "node.example", "--dir", tmp_path / "tls").status == 0
    return tmp_path / "tls"


def test_init_when_run_then_keys_and_directories_are_the_owners_alone(made: Path) -> None:
    """Whatever the umask is; certificates are for everybody."""
    modes = {name: mode for name, (mode, _) in files(made).items()}
    assert modes == {
        "ca.pem": 0o644,
        "ca-key.pem": 0o600,
        "node.pem": 0o644,
        "node-key.pem": 0o600,
        "clients/admin/ca.pem": 0o644,
        "clients/admin/certificate.pem": 0o644,
        "clients/admin/key.pem": 0o600,
    }
    for directory in (made, made / "clients", made / "clients" / "admin"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert os.listdir(made.parent) == ["tls"]


def test_init_when_run_again_then_nothing_is_overwritten(
    command: Command, made: Path, tmp_path: Path
) -> None:
    """Not even a directory with something else in it; an empty one is taken."""
    before = files(made)
    again = command("tls", "init", "--host", "other.example", "--dir", made)
    assert (again.status, again.stdout) == (1, b"")
    assert f"error: '{made}' is there already, and stays as it is\n" in again.stderr
    assert files(made) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note").touch()
    assert command("tls", "init", "--host", "x", "--dir", tmp_path / "other").status == 1
    (tmp_path / "empty").mkdir()
    assert command("tls", "init", "--host", "x", "--dir", tmp_path / "empty").status == 0
    assert sorted(os.listdir(tmp_path)) == ["empty", "other", "tls"]


def test_init_when_its_lines_are_copied_then_the_configuration_has_the_files(
    command: Command, tmp_path: Path
) -> None:
    """Also below a directory with a quote in its name."""
    directory = tmp_path / 'my "tls" é'
    text = command("tls", "init", "--host", "192.0.2.7", "--host", "::2", "--dir", directory).text
    lines = text[text.index("[tls]") : text.index("\n\nThen")]
    (tmp_path / "release.toml").write_text(lines.replace("#client_ca", "client_ca"))
    tls = ConfigBootstrap.load(tmp_path / "release.toml", environ={"HOME": "/root"}).tls
    assert tls.certificate == directory / "node.pem"
    assert tls.key == directory / "node-key.pem"
    assert tls.client_ca == directory / "ca.pem"
    assert "For:         192.0.2.7, ::2, localhost, 127.0.0.1, ::1\n" in text
    assert "plexspaces start-node --address 192.0.2.7:9000\n" in text
    assert "plexspaces login --node-address https://192.0.2.7:9000 --ca ca.pem\n" in text


def test_init_when_a_host_is_none_then_nothing_is_made(command: Command, tmp_path: Path) -> None:
    """The error names it."""
    refused = command("tls", "init", "--host", "https://node:9000", "--dir", tmp_path / "tls")
    assert (refused.status, os.listdir(tmp_path)) == (2, [])
    assert "'https://node:9000' is not a host name or an address" in refused.stderr
    (tmp_path / "file").touch()
    assert command("tls", "init", "--host", "x", "--dir", tmp_path / "file" / "tls").status == 2
    assert os.listdir(tmp_path) == ["file"]


def test_renew_when_run_then_the_certificate_is_new_and_all_else_stays(
    command: Command, made: Path
) -> None:
    """The key too, so that a rename is the whole change; and the names, unless others are given."""
    before = files(made)
    renewed = command("tls", "renew", "--days", "10", "--dir", made)
    after = files(made)
    assert renewed.status == 0
    assert "For: node.example, localhost, 127.0.0.1, ::1" in renewed.text
    assert {name for name in before if before[name] != after[name]} == {"node.pem"}
    assert after["node.pem"][0] == 0o644
    text = command("tls", "renew", "--host", "new.example", "--dir", made).text
    assert "For: new.example, localhost, 127.0.0.1, ::1" in text


def test_renew_when_a_certificate_is_configured_then_it_is_that_one(
    command: Command, made: Path, tmp_path: Path
) -> None:
    """Without --dir; one that something else has made is left to it."""
    configured = tmp_path / "release.toml"
    configured.write_text('[tls]\ncertificate = "tls/node.pem"\nkey = "tls/node-key.pem"\n')
    before = files(made)
    assert command("tls", "renew").status == 0
    assert files(made)["node.pem"] != before["node.pem"]
    assert command("tls", "client", "ci").status == 0
    assert "clients/ci/key.pem" in files(made)
    (tmp_path / "other.pem").write_bytes(before["node.pem"][1])
    configured.write_text('[tls]\ncertificate = "other.pem"\nkey = "tls/node-key.pem"\n')
    refused = command("tls", "renew")
    assert (refused.status, refused.stdout) == (1, b"")
    assert "was not made by plexspaces tls init\nhint: renew it with what made it" in refused.stderr


def test_init_when_a_group_is_named_then_it_reads_the_nodes_key_alone(
    command: Command, tmp_path: Path
) -> None:
    """A service has its own user; the CA's key stays root's."""
    group = grp.getgrgid(os.getgid()).gr_name
    ran = command("tls", "init", "--host", "x", "--dir", tmp_path / "tls", "--group", group)
    if os.geteuid() != 0:
        assert (ran.status, os.listdir(tmp_path)) == (2, [])
        return
    modes = {name: mode for name, (mode, _) in files(tmp_path / "tls").items()}
    assert (modes["node-key.pem"], modes["ca-key.pem"]) == (0o640, 0o600)
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "tls" / "clients").stat().st_mode) == 0o700
    assert (tmp_path / "tls" / "node-key.pem").stat().st_gid == os.getgid()
    unknown = command("tls", "init", "--host", "x", "--dir", tmp_path / "b", "--group", "no-such")
    assert (unknown.status, os.listdir(tmp_path)) == (2, ["tls"])


def test_client_when_made_then_it_has_its_own_bundle(command: Command, made: Path) -> None:
    """Once; later its certificate is renewed for its key."""
    assert command("tls", "client", "ci", "--dir", made).status == 0
    before = files(made)
    assert command("tls", "client", "ci", "--dir", made).status == 1
    assert files(made) == before
    renewed = command("tls", "renew", "--client", "ci", "--json", "--dir", made).json
    assert (renewed["what"], renewed["name"], renewed["hosts"]) == ("client ci", "ci", [])
    after = files(made)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"clients/ci/certificate.pem"}
    unknown = command("tls", "renew", "--client", "bo", "--dir", made)
    assert (unknown.status, unknown.stderr.splitlines()[1]) == (
        1,
        f"hint: plexspaces tls client bo --dir {made}",
    )
    for name in ("../x", "A", ""):
        assert command("tls", "client", name, "--dir", made).status == 2


def test_commands_when_there_is_no_ca_then_the_hint_makes_one(
    command: Command, tmp_path: Path
) -> None:
    """Nothing is made on the way."""
    for arguments in (("renew",), ("client", "ci")):
        missing = command("tls", *arguments, "--dir", tmp_path / "a b")
        assert (missing.status, os.listdir(tmp_path)) == (1, [])
        assert f"hint: plexspaces tls init --host NAME --dir '{tmp_path}/a b'" in missing.stderr


def test_renew_when_the_cas_key_is_open_to_others_then_it_is_refused(
    command: Command, made: Path
) -> None:
    """Who could read it can be any node and any client."""
    (made / "ca-key.pem").chmod(0o644)
    refused = command("tls", "renew", "--dir", made)
    assert (refused.status, refused.stderr.splitlines()[1]) == (
        2,
        f"hint: chmod 600 {made}/ca-key.pem",
    )


def test_show_when_certificates_are_configured_then_these(
    command: Command, made: Path, tmp_path: Path
) -> None:
    """Otherwise, or with --dir, all of the directory; what will soon expire is said."""
    shown = command("tls", "show", "--dir", made, "--json").json
    assert [each["what"] for each in shown] == ["CA", "node", "client admin"]
    assert [each["fault"] for each in shown] == ["", "", ""]
    short = make_node_certificate(make_authority("CA"), ["short.example"], days=1)
    (tmp_path / "short.pem").write_bytes(short.certificate)
    configured = tmp_path / "node.toml"
    configured.write_text(f'[tls]\ncertificate = "short.pem"\nclient_ca = "{made}/ca.pem"\n')
    [node, clients] = command("tls", "show", "--config", configured, "--json").json
    assert (node["name"], node["file"]) == ("short.example", str(tmp_path / "short.pem"))
    assert clients["what"] == "CA of clients"
    assert command("tls", "show", "--config", configured).text.startswith(
        f"node: {tmp_path}/short.pem\n  Name:        short.example\n  Signed by:   CA\n"
    )
    missing = command("tls", "show")
    assert (missing.status, missing.stdout) == (1, b"")
    assert "hint: plexspaces tls init --host NAME\n" in missing.stderr


def test_default_directory_when_asked_then_it_is_the_users() -> None:
    """As the XDG base directory specification says."""
    assert default_directory({"XDG_CONFIG_HOME": "/c"}) == Path("/c/plexspaces/tls")
    relative = {"XDG_CONFIG_HOME": "c", "HOME": "/h"}
    assert default_directory(relative) == Path("/h/.config/plexspaces/tls")
    with pytest.raises(InvalidArgument, match="no home directory"):
        default_directory({})


def test_client_when_of_a_tenant_then_its_certificate_has_the_full_name(
    command: Command, made: Path
) -> None:
    """By it the node finds the token; on disk it is one segment."""
    assert command("tls", "client", "shop/ci", "--dir", made).status == 0
    bundle = made / "clients" / "shop~ci"
    assert read_info(bundle / "certificate.pem").name == "shop/ci"
    assert "client shop/ci: " in command("tls", "show", "--dir", made).text
    assert command("tls", "renew", "--client", "shop/ci", "--dir", made).status == 0


@pytest.mark.parametrize("name", ["../ci", "shop/../ci", "a/b/c", f"{'t' * 40}/{'n' * 40}"])
def test_client_when_the_name_is_none_then_nothing_is_made(
    command: Command, made: Path, name: str
) -> None:
    """It would leave the directory, or no certificate could have it."""
    refused = command("tls", "client", name, "--dir", made)
    assert refused.status == 2
    assert "error: client name " in refused.stderr
    assert os.listdir(made / "clients") == ["admin"]
