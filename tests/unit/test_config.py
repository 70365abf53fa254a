"""Configuration: precedence, provenance, the search for the file, and every kind of bad input."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.settings import (
    FORMER_KEYS,
    OTHER_VARIABLES,
    Setting,
    settings,
    variable_of,
)

ROOT = Path(__file__).parents[2]
HOME = {"HOME": "/home/u"}
VARIABLES = [
    *(setting.variable for setting in settings().values()),
    *map(variable_of, FORMER_KEYS),
    *OTHER_VARIABLES,
]


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in a directory of its own, so that no release.toml is found by accident."""
    place = tmp_path / "cwd"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def load(
    text: str | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Load with `text` as the named file, in an environment that has only a home by default."""
    file = None
    if text is not None:
        file = Path("given.toml")
        file.write_text(text)
    variables = HOME if environ is None else environ
    return ConfigBootstrap.load(file, flags, environ=variables, system_file=Path("etc.toml"))


def refused(
    text: str | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> InvalidArgument:
    """Return the error with which loading is refused."""
    with pytest.raises(InvalidArgument) as caught:
        load(text, flags, environ)
    return caught.value


class TestPrecedence:
    @given(
        file=st.none() | st.integers(1, 1000),
        environment=st.none() | st.integers(1, 1000),
        flag=st.none() | st.integers(1, 1000),
    )
    def test_load_when_any_subset_of_the_sources_speaks_then_the_strongest_wins(
        self, file: int | None, environment: int | None, flag: int | None
    ) -> None:
        """The value and its origin are those of the strongest source that gives one."""
        config = load(
            "" if file is None else f"[limits]\nmailbox = {file}",
            {"limits.mailbox": flag},
            {} if environment is None else {"PLEXSPACES_LIMITS_MAILBOX": str(environment)},
        )
        path = Path("given.toml").absolute()
        expected = next(
            (value, origin)
            for value, origin in (
                (flag, "flag --mailbox"),
                (environment, "environment PLEXSPACES_LIMITS_MAILBOX"),
                (file, f"release.toml ({path})"),
                (1024, "default"),
            )
            if value is not None
        )
        assert (config.limits.mailbox, config.origin("limits.mailbox")) == expected

    def test_load_when_sources_speak_of_different_keys_then_all_are_heard(self) -> None:
        """A stronger source replaces single values, not whole sections."""
        config = load(
            '[node]\nid = "a"\naddress = "127.0.0.1:1"\n[default_vm]\nvcpus = 2',
            {"node.isolation": "process"},
            {**HOME, "PLEXSPACES_NODE_ADDRESS": "127.0.0.1:2"},
        )
        assert (config.node.id, config.node.address) == ("a", "127.0.0.1:2")
        assert config.node.isolation == "process"
        assert config.default_vm.vcpus == 2
        assert config.default_vm.memory_mib == 256

    def test_load_when_a_weaker_value_is_bad_but_overridden_then_it_does_no_harm(self) -> None:
        """Only the value in force is checked, whatever source the bad one came from."""
        config = load(
            "[limits]\nmailbox = -1",
            {"limits.mailbox": 5},
            {"PLEXSPACES_LIMITS_MAILBOX": "many"},
        )
        assert config.limits.mailbox == 5


class TestResult:
    def test_config_when_loaded_then_it_is_immutable(self) -> None:
        """Neither a section nor a setting can be replaced."""
        config = load()
        with pytest.raises(ValidationError):
            config.node.address = "127.0.0.1:1"
        with pytest.raises(ValidationError):
            config.limits = config.limits

    def test_items_when_iterated_then_every_setting_appears_once_with_its_origin(self) -> None:
        """`config show` has key, value and origin of all settings, in a fixed order."""
        items = list(load(flags={"node.id": "n7"}).items())
        assert [key for key, _, _ in items] == list(settings())
        assert ("node.id", "n7", "flag --node-id") in items
        assert ("node.grace_s", 10.0, "default") in items

    def test_origin_when_the_key_does_not_exist_then_the_nearest_is_named(self) -> None:
        """A typing error in a key is answered, not hidden behind a default."""
        with pytest.raises(InvalidArgument) as caught:
            load().origin("node.adress")
        assert "node.address" in str(caught.value.hint)

    def test_load_when_the_environment_is_not_given_then_the_process_environment_is_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without `environ` the variables of the process count."""
        monkeypatch.setenv("PLEXSPACES_NODE_ID", "from-process")
        assert ConfigBootstrap.load().node.id == "from-process"


class TestEnvironment:
    VALUES = (
        ("installation.name", "shop"),
        ("installation.version", "2.0-rc.1"),
        ("node.id", "n2"),
        ("node.address", "[::1]:9"),
        ("node.isolation", "qemu"),
        ("node.data_dir", "/d"),
        ("node.allow_remote", "yes"),
        ("node.grace_s", "2.5"),
        ("node.log_level", "debug"),
        ("node.log_format", "json"),
        ("node.cgroups", "False"),
        ("node.metrics_address", "localhost:9100"),
        ("http.address", "localhost:8081"),
        ("http.hosts", "node.example, other"),
        ("http.cors_origins", "https://shop.example,*"),
        ("http.access_log", "yes"),
        ("tls.certificate", "/c"),
        ("tls.key", "/ck"),
        ("tls.client_ca", "/ca"),
        ("limits.artifact_bytes", "10"),
        ("limits.unused_artifact_bytes", "11"),
        ("limits.message_bytes", "11"),
        ("limits.message_timeout_s", "12"),
        ("limits.deploy_timeout_s", "13"),
        ("limits.compile_timeout_s", "14"),
        ("limits.compile_memory_mib", "1500"),
        ("limits.mailbox", "16"),
        ("limits.log_bytes", "5000"),
        ("limits.audit_bytes", "2000000"),
        ("limits.keyvalue_bytes", "0"),
        ("limits.registry_bytes", "2097152"),
        ("limits.snapshot_interval_s", "0.5"),
        ("limits.applications", "20"),
        ("limits.empty_vms", "22"),
        ("limits.memory_mib", "23"),
        ("limits.in_flight_bytes", "24"),
        ("limits.calls", "21"),
        ("secrets.key_file", "/k"),
        ("secrets.passphrase", "yes"),
        ("default_vm.vcpus", "3"),
        ("default_vm.memory_mib", "512"),
        ("guest.kernel_path", "/k"),
        ("guest.rootfs_path", "/r"),
        ("qemu.templates", "no"),
        ("firecracker.binary_path", "/b"),
        ("firecracker.no_seccomp", "true"),
        ("otel.endpoint", "https://otel.example:4318"),
        ("otel.sample", "0.5"),
        ("cluster.name", "shop"),
        ("cluster.join", "10.0.0.1:9400,b.example:9400"),
        ("cluster.token_file", "/t"),
        ("cluster.address", "10.0.0.2:9400"),
        ("cluster.labels", "zone=a,disk=ssd"),
        ("nats.url", "tls://nats.example:4222"),
        ("nats.user", "plexspaces"),
        ("nats.password_file", "/p"),
        ("nats.credentials_file", "/c"),
        ("nats.ca_file", "/ca"),
    )

    def test_values_when_compared_with_the_settings_then_none_is_missing(self) -> None:
        """The table above covers every setting there is."""
        assert [key for key, _ in self.VALUES] == list(settings())

    @pytest.mark.parametrize(("key", "text"), VALUES)
    def test_load_when_a_variable_is_set_then_its_setting_takes_the_value(
        self, key: str, text: str
    ) -> None:
        """Every setting has the variable PLEXSPACES_<SECTION>_<KEY>, read as the right type."""
        variable = "PLEXSPACES_" + key.upper().replace(".", "_")
        config = load(environ={**HOME, variable: text})
        value = {one: value for one, value, _ in config.items()}[key]
        written = {"yes": "True", "true": "True", "no": "False"}.get(text, text)
        assert value == type(value)(text) if isinstance(value, float) else str(value) == written
        assert config.origin(key) == f"environment {variable}"

    @pytest.mark.parametrize("key", ["http.address", "node.metrics_address", "otel.endpoint"])
    def test_load_when_an_address_is_off_then_nothing_listens(self, key: str) -> None:
        """By a variable too, of which an empty one counts as not set."""
        variable = "PLEXSPACES_" + key.upper().replace(".", "_")
        config = load(environ={**HOME, variable: "off"})
        assert {one: value for one, value, _ in config.items()}[key] == ""

    @pytest.mark.parametrize(
        ("variable", "key", "text", "value"),
        [
            ("PLEXSPACES_FIRECRACKER_BIN", "firecracker.binary_path", "/fc", Path("/fc")),
            ("PLEXSPACES_FIRECRACKER_KERNEL", "guest.kernel_path", "/k", Path("/k")),
            ("PLEXSPACES_FIRECRACKER_ROOTFS", "guest.rootfs_path", "/r", Path("/r")),
            ("FIRECRACKER_NO_SECCOMP", "firecracker.no_seccomp", "1", True),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel.endpoint", "http://c:4318", "http://c:4318"),
        ],
    )
    def test_load_when_a_second_name_is_set_then_it_means_the_same_setting(
        self, variable: str, key: str, text: str, value: object
    ) -> None:
        """Variables that users of Firecracker and of OpenTelemetry know are accepted too."""
        assert (key, value, f"environment {variable}") in load(environ={variable: text}).items()

    @pytest.mark.parametrize(
        "endpoint",
        [
            "otel:4318",
            "grpc://otel:4317",
            "http://",
            "http://otel:x",
            "http://otel:0",
            "https://user:secret@otel",
            "https://otel/?token=x",
        ],
    )
    def test_load_when_a_collector_is_no_url_then_it_is_refused(self, endpoint: str) -> None:
        """Nor may it contain what nobody should read in `config show`."""
        error = refused(environ={**HOME, "PLEXSPACES_OTEL_ENDPOINT": endpoint})
        assert "otel.endpoint" in error.message
        assert "PLEXSPACES_OTEL_ENDPOINT" in error.message

    def test_load_when_both_names_agree_then_the_value_is_taken(self) -> None:
        """Two variables of one setting may be set to the same value."""
        both = {"FIRECRACKER_NO_SECCOMP": "1", "PLEXSPACES_FIRECRACKER_NO_SECCOMP": "true"}
        assert load(environ=both).firecracker.no_seccomp is True

    def test_load_when_both_names_disagree_then_it_is_refused_with_both_named(self) -> None:
        """No silent order decides between two variables of one setting."""
        error = refused(
            environ={
                "PLEXSPACES_FIRECRACKER_BIN": "/a",
                "PLEXSPACES_FIRECRACKER_BINARY_PATH": "/b",
            }
        )
        assert "PLEXSPACES_FIRECRACKER_BIN " in error.message
        assert "PLEXSPACES_FIRECRACKER_BINARY_PATH" in error.message

    def test_load_when_a_variable_is_empty_then_it_counts_as_not_set(self) -> None:
        """`VAR=` leaves the weaker source in force, as compose files need it."""
        config = load("[limits]\nmailbox = 9", environ={"PLEXSPACES_LIMITS_MAILBOX": ""})
        assert config.limits.mailbox == 9

    def test_load_when_a_variable_is_unknown_then_the_nearest_is_named(self) -> None:
        """A mistyped PLEXSPACES_ variable is an error; variables of others are not."""
        error = refused(environ={"PLEXSPACES_NODE_ADRESS": "x", "OTHER": "y"})
        assert "PLEXSPACES_NODE_ADRESS" in error.message
        assert "PLEXSPACES_NODE_ADDRESS" in str(error.hint)

    def test_variables_when_listed_then_no_two_settings_share_one(self) -> None:
        """A variable decides exactly one setting."""
        assert len(VARIABLES) == len(set(VARIABLES))


class TestFormerNames:
    VALUES = (
        ("application.name", '"shop"'),
        ("application.version", '"2.0"'),
        ("node.templates", "false"),
        ("firecracker.kernel_path", '"/k"'),
        ("firecracker.rootfs_path", '"/r"'),
        ("firecracker.default_vm.vcpus", "3"),
        ("firecracker.default_vm.memory_mib", "512"),
    )
    TWICE = "[node]\ntemplates = false\n[qemu]\ntemplates = false"

    def test_values_when_compared_with_the_former_keys_then_none_is_missing(self) -> None:
        """The table above covers every former key, and each means a setting."""
        assert [key for key, _ in self.VALUES] == list(FORMER_KEYS)
        assert set(FORMER_KEYS.values()) | set(OTHER_VARIABLES.values()) <= set(settings())

    @pytest.mark.parametrize(("former", "written"), VALUES)
    def test_load_when_a_former_name_is_used_then_it_means_the_same_as_the_current_one(
        self, former: str, written: str
    ) -> None:
        """In the file, in the environment and as a flag; the origin is what was written."""
        key = FORMER_KEYS[former]
        value = tomllib.loads(f"value = {written}")["value"]

        def same(one: Config, other: Config, origin: str) -> None:
            assert [item[:2] for item in one.items()] == [item[:2] for item in other.items()]
            assert [item[:2] for item in one.items()] != [item[:2] for item in load().items()]
            assert one.origin(key) == one.origin(former) == origin

        same(
            load(f"{former} = {written}"),
            load(f"{key} = {written}"),
            f"release.toml ({Path('given.toml').absolute()}) as {former}",
        )
        variable = variable_of(former)
        same(
            load(environ={**HOME, variable: str(value)}),
            load(environ={**HOME, variable_of(key): str(value)}),
            f"environment {variable}",
        )
        flag = key.rpartition(".")[2].replace("_", "-")
        same(load(flags={former: value}), load(flags={key: value}), f"flag --{flag}")

    def test_load_when_a_file_has_both_names_then_it_is_refused_with_both_named(self) -> None:
        """Even if they agree: one of them would be forgotten at the next change."""
        error = refused(self.TWICE)
        assert error.message == (
            f"node.templates and qemu.templates in {Path('given.toml').absolute()} are the same "
            "setting"
        )
        assert error.hint == "keep only qemu.templates"

    def test_load_when_flags_have_both_names_then_it_is_refused_with_both_named(self) -> None:
        """A program that sets a setting under both names learns it."""
        error = refused(flags={"qemu.templates": True, "node.templates": False})
        assert error.message == "qemu.templates and node.templates are the same setting"
        both = {"qemu.templates": True, "node.templates": None}
        assert load(flags=both).qemu.templates is True

    def test_load_when_variables_of_both_names_disagree_then_it_is_refused_with_both_named(
        self,
    ) -> None:
        """The rule for all variables of one setting."""
        error = refused(
            environ={"PLEXSPACES_NODE_TEMPLATES": "1", "PLEXSPACES_QEMU_TEMPLATES": "0"}
        )
        assert "PLEXSPACES_NODE_TEMPLATES " in error.message
        assert "PLEXSPACES_QEMU_TEMPLATES " in error.message

    @pytest.mark.parametrize("weak", ["node.templates", "qemu.templates"])
    @pytest.mark.parametrize("strong", ["node.templates", "qemu.templates"])
    def test_load_when_sources_use_different_names_then_the_stronger_source_wins(
        self, weak: str, strong: str
    ) -> None:
        """A name does not change the order of the sources."""
        by_variable = load(f"{weak} = true", environ={variable_of(strong): "false"})
        assert by_variable.qemu.templates is False
        by_flag = load(flags={strong: False}, environ={variable_of(weak): "true"})
        assert by_flag.qemu.templates is False

    def test_load_when_a_former_key_has_a_bad_value_then_what_was_written_is_named(self) -> None:
        """The setting has its current name, the source names the key in the file."""
        error = refused("[node]\ntemplates = 1")
        assert error.message.startswith("qemu.templates = 1, from release.toml (")
        assert ") as node.templates, is not allowed" in error.message
        assert error.hint == "qemu.templates takes true or false"


class TestFile:
    def test_load_when_no_file_is_anywhere_then_the_defaults_hold(self) -> None:
        """A node needs no file."""
        assert {origin for _, _, origin in load().items()} == {"default"}

    def test_load_when_release_toml_is_here_then_it_is_read(self, empty_directory: Path) -> None:
        """./release.toml is taken without being named."""
        Path("release.toml").write_text('[node]\nid = "here"')
        config = load()
        assert config.node.id == "here"
        assert config.origin("node.id") == f"release.toml ({empty_directory / 'release.toml'})"

    def test_load_when_only_the_config_home_has_a_file_then_it_is_read(
        self, tmp_path: Path
    ) -> None:
        """$XDG_CONFIG_HOME, and ~/.config stands for it."""
        for name, environ in (
            ("xdg", {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}),
            ("home/.config", {"HOME": str(tmp_path / "home")}),
        ):
            place = tmp_path / name / "plexspaces"
            place.mkdir(parents=True)
            (place / "release.toml").write_text(f'[node]\nid = "in-{name[:3]}"')
            assert load(environ=environ).node.id == f"in-{name[:3]}"

    def test_load_when_several_files_exist_then_the_order_is_flag_variable_here_home_host(
        self, tmp_path: Path
    ) -> None:
        """Exactly one file is read, the first in the documented order."""
        Path("etc.toml").write_text('[node]\nid = "host"')
        assert load().node.id == "host"
        home = tmp_path / "xdg" / "plexspaces"
        home.mkdir(parents=True)
        (home / "release.toml").write_text('[node]\nid = "home"')
        environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
        assert load(environ=environ).node.id == "home"
        Path("release.toml").write_text('[node]\nid = "here"')
        assert load(environ=environ).node.id == "here"
        Path("variable.toml").write_text('[node]\nid = "variable"')
        environ["PLEXSPACES_CONFIG"] = "variable.toml"
        assert load(environ=environ).node.id == "variable"
        assert load('[node]\nid = "flag"', environ=environ).node.id == "flag"

    @pytest.mark.parametrize("named", ["missing.toml", ".", "~nobody/x.toml", ""])
    def test_load_when_the_named_file_is_not_there_then_it_is_refused(self, named: str) -> None:
        """A file that was asked for by name must exist and be a file."""
        with pytest.raises(InvalidArgument) as caught:
            ConfigBootstrap.load(named, environ=HOME)
        assert repr(named) in caught.value.message
        assert "--config" in str(caught.value.hint)

    def test_load_when_the_file_of_the_variable_is_not_there_then_it_is_refused(self) -> None:
        """$PLEXSPACES_CONFIG is a name like --config."""
        assert "'/no/x.toml'" in refused(environ={"PLEXSPACES_CONFIG": "/no/x.toml"}).message

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("[node]\nid = \n", "line 2, column 6"),
            ("[node]\nid 3", "line 2, column 4"),
            ("[node", "line 1, column 6"),
            ('[node]\nid = "a"\nid = "b"', "line 3, column 9"),
        ],
    )
    def test_load_when_the_toml_is_broken_then_line_and_column_are_named(
        self, text: str, place: str
    ) -> None:
        """Also when the parser only says that the text ended."""
        error = refused(text)
        assert "given.toml" in error.message
        assert place in error.message

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"[limits]\nmailbox = " + b"9" * 5000])
    def test_load_when_the_file_cannot_be_decoded_then_it_is_refused(self, content: bytes) -> None:
        """Bytes that are no text, and numbers no computer wants, are errors of the file."""
        Path("given.toml").write_bytes(content)
        with pytest.raises(InvalidArgument, match=r"given\.toml"):
            ConfigBootstrap.load("given.toml", environ=HOME)

    @pytest.mark.parametrize(
        ("text", "unknown", "nearest"),
        [
            ('[node]\nadress = "x"', "node.adress", "node.address"),
            ('adress = "x"', "adress", "node.address"),
            ("[node]\nmessage_bytes = 1", "node.message_bytes", "limits.message_bytes"),
            ("[limit]\nmailbox = 1", "limit", "limits"),
            ("[default_wm]\nvcpus = 1", "default_wm", "default_vm"),
            ("[default_vm]\ncpus = 1", "default_vm.cpus", "default_vm.vcpus"),
            ("[firecracker.default_wm]\nvcpus = 1", "default_wm", "name is default_vm.vcpus"),
            ("[firecracker.default_vm]\ncpus = 1", "default_vm.cpus", "name is default_vm.vcpus"),
            ("[node]\ntemplate = true", "node.template", "name is qemu.templates"),
        ],
    )
    def test_load_when_a_key_is_unknown_then_file_key_and_nearest_are_named(
        self, text: str, unknown: str, nearest: str
    ) -> None:
        """A mistyped key or section is an error that says what was probably meant."""
        error = refused(text)
        assert unknown in error.message
        assert "given.toml" in error.message
        assert f"{nearest};" in str(error.hint)

    @pytest.mark.parametrize("text", ["node = 3", "[[node]]\nid = 'a'"])
    def test_load_when_a_section_is_no_table_then_the_hint_shows_how_to_write_it(
        self, text: str
    ) -> None:
        """A section written as a value or an array is refused."""
        assert refused(text).hint == "write it as [node]"


class TestValues:
    @pytest.mark.parametrize(
        ("line", "key"),
        [
            ('id = "Node"', "node.id"),
            ('id = "a/../b"', "node.id"),
            ("id = 3", "node.id"),
            ('address = "127.0.0.1"', "node.address"),
            ('address = "127.0.0.1:70000"', "node.address"),
            ('address = "::1:9000"', "node.address"),
            ('address = "[1.2.3.4]:9000"', "node.address"),
            ('address = ""', "node.address"),
            ('isolation = "docker"', "node.isolation"),
            ('data_dir = ""', "node.data_dir"),
            ("data_dir = 1", "node.data_dir"),
            ('data_dir = "~other/x"', "node.data_dir"),
            ('data_dir = "a\\u0000b"', "node.data_dir"),
            ("data_dir = { a = 1 }", "node.data_dir"),
            ("allow_remote = 1", "node.allow_remote"),
            ("grace_s = true", "node.grace_s"),
            ("grace_s = inf", "node.grace_s"),
            ("grace_s = nan", "node.grace_s"),
            ("grace_s = -0.1", "node.grace_s"),
            ('log_level = "INFO"', "node.log_level"),
            ("log_format = []", "node.log_format"),
            ('metrics_address = "9100"', "node.metrics_address"),
        ],
    )
    def test_load_when_a_value_of_the_file_is_bad_then_key_value_file_and_allowed_are_named(
        self, line: str, key: str
    ) -> None:
        """No value is bent into shape: a number is a number and a truth is a truth."""
        error = refused(f"[node]\n{line}")
        assert error.message.startswith(f"{key} = ")
        assert str(Path("given.toml").absolute()) in error.message
        assert error.hint == f"{key} takes {settings()[key].allowed}"

    @pytest.mark.parametrize("value", ["0", "1000001", "2.0", "true", '"7"', "1979-05-27"])
    def test_load_when_a_whole_number_is_bad_then_its_bounds_are_named(self, value: str) -> None:
        """Bounds and type of a whole number are in the hint."""
        error = refused(f"[limits]\nmailbox = {value}")
        assert error.hint == "limits.mailbox takes a whole number from 1 to 1000000"

    def test_load_when_messages_would_be_too_large_then_it_is_refused(
        self,
    ) -> None:
        """The message limit cannot be set above what both ends of the link are made for."""
        assert "268435456" in str(refused("[limits]\nmessage_bytes = 268435457").hint)

    def test_load_when_a_variable_is_bad_then_it_is_named(self) -> None:
        """The message says which variable to mend."""
        error = refused(environ={"FIRECRACKER_NO_SECCOMP": "perhaps"})
        assert error.message == (
            "firecracker.no_seccomp = 'perhaps', from environment FIRECRACKER_NO_SECCOMP, "
            "is not allowed"
        )
        assert error.hint == "firecracker.no_seccomp takes true or false"

    def test_load_when_the_passphrase_itself_is_set_then_it_is_not_repeated(self) -> None:
        """The setting only says that there is one."""
        error = refused(environ={"PLEXSPACES_SECRETS_PASSPHRASE": "many words"})
        assert "secrets.passphrase" in error.message
        assert "many words" not in f"{error.message} {error.hint}"

    def test_load_when_a_url_has_a_password_then_it_is_not_repeated(self) -> None:
        """A collector gets it by `OTEL_EXPORTER_OTLP_HEADERS`."""
        url = "https://me:many-words@collector.example:4318"
        error = refused(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        assert "'https://…@collector.example:4318'" in error.message
        assert "many-words" not in f"{error.message} {error.hint}"

    def test_load_when_a_flag_is_bad_then_it_is_named(self) -> None:
        """The message says which flag to mend."""
        error = refused(flags={"node.address": "nowhere"})
        assert error.message == "node.address = 'nowhere', from flag --address, is not allowed"

    def test_load_when_a_flag_has_an_unknown_key_then_it_is_refused(self) -> None:
        """A command cannot pass a setting that does not exist."""
        assert "node.isolation" in str(refused(flags={"node.isolatoin": "auto"}).hint)

    def test_load_when_a_long_value_is_bad_then_the_message_stays_short(self) -> None:
        """A value of any length leaves a message that a person can read."""
        assert len(refused(flags={"node.id": "x" * 10_000}).message) < 250

    def test_load_when_a_flag_is_an_enumeration_then_its_text_counts(self) -> None:
        """A command line's enumeration of levels can be passed as it is."""

        class Level(StrEnum):
            PROCESS = "process"

        assert load(flags={"node.isolation": Level.PROCESS}).node.isolation == "process"

    @given(st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=8), max_size=4))
    def test_load_when_values_are_arbitrary_then_only_invalid_argument_is_raised(
        self, environ: dict[str, str]
    ) -> None:
        """Whatever the environment holds, the answer is a configuration or a clear error."""
        with suppress(InvalidArgument):
            load(environ=environ)


class TestPaths:
    @pytest.mark.parametrize(
        ("environ", "directory"),
        [
            ({"HOME": "/home/u"}, "/home/u/.local/share/plexspaces/node-1"),
            ({"HOME": "/home/u", "XDG_DATA_HOME": "/data"}, "/data/plexspaces/node-1"),
            ({"HOME": "/home/u", "XDG_DATA_HOME": "rel"}, "/home/u/.local/share/plexspaces/node-1"),
            ({}, "/var/lib/plexspaces/node-1"),
            ({"HOME": "/home/u", "PLEXSPACES_NODE_ID": "b"}, "/home/u/.local/share/plexspaces/b"),
        ],
    )
    def test_data_dir_when_not_given_then_it_follows_home_and_node_id(
        self, environ: dict[str, str], directory: str
    ) -> None:
        """Two nodes of one user do not share a directory, and a service without a home has one."""
        config = load(environ=environ)
        assert config.node.data_dir == Path(directory)
        assert config.origin("node.data_dir") == "default"

    def test_paths_when_relative_then_the_place_they_are_written_in_counts(
        self, tmp_path: Path, empty_directory: Path
    ) -> None:
        """A file can be moved with its neighbours; a flag means the directory one stands in."""
        place = tmp_path / "etc"
        place.mkdir()
        file = place / "r.toml"
        file.write_text('[node]\ndata_dir = "../data"\n[guest]\nkernel_path = "~/vmlinux"')
        config = ConfigBootstrap.load(file, {"guest.rootfs_path": Path("r")}, environ=HOME)
        assert config.node.data_dir == tmp_path / "data"
        assert config.guest.kernel_path == Path("/home/u/vmlinux")
        assert config.guest.rootfs_path == empty_directory / "r"

    def test_paths_when_home_is_not_known_then_a_tilde_is_refused(self) -> None:
        """A directory named ~ is never made by accident."""
        assert "'~/x'" in refused(environ={"PLEXSPACES_NODE_DATA_DIR": "~/x"}).message


class TestListen:
    @pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:0"])
    def test_check_listen_when_the_address_is_loopback_then_it_is_allowed(
        self, address: str
    ) -> None:
        """Addresses only this machine reaches need no permission."""
        load(flags={"node.address": address, "node.metrics_address": address}).check_listen()

    @pytest.mark.parametrize(
        "address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "localhost.evil.org:1"]
    )
    @pytest.mark.parametrize("key", ["node.address", "node.metrics_address", "http.address"])
    def test_check_listen_when_others_could_reach_it_then_permission_is_needed(
        self, key: str, address: str
    ) -> None:
        """An open port is refused unless `allow_remote` was set; loading it is fine for clients."""
        config = load(flags={key: address})
        with pytest.raises(InvalidArgument, match="can be reached from other hosts") as caught:
            config.check_listen()
        assert key in caught.value.message
        assert "allow_remote" in str(caught.value.hint)
        allowed = load(flags={key: address, "node.allow_remote": True})
        allowed.check_listen()
        allowed.check_grants(exist=False)
        assert allowed.open_addresses() == [(key, address)]

    @pytest.mark.parametrize("key", ["node.address", "http.address"])
    def test_check_listen_when_there_is_a_certificate_then_tokens_are_needed(
        self, key: str
    ) -> None:
        """The two halves of the rule; metrics have neither."""
        tls = {"tls.certificate": "c.pem", "tls.key": "k.pem"}
        config = load(flags={key: "0.0.0.0:1", **tls})
        config.check_listen()
        config.check_grants(exist=True)
        assert config.open_addresses() == []
        with pytest.raises(InvalidArgument, match="and no token exists") as caught:
            config.check_grants(exist=False)
        assert str(caught.value.hint).startswith("plexspaces token create --name admin --scope ")
        named = load(flags={key: "0.0.0.0:1", "node.id": "n1", "node.data_dir": "/srv/d", **tls})
        with pytest.raises(InvalidArgument) as caught:
            named.check_grants(exist=False)
        assert "--scope admin --node-id n1 --data-dir /srv/d;" in str(caught.value.hint)
        metrics = load(flags={"node.metrics_address": "0.0.0.0:1", **tls})
        with pytest.raises(InvalidArgument, match="metrics have neither TLS nor tokens"):
            metrics.check_listen()
        load(flags=tls).check_grants(exist=False)

    @pytest.mark.parametrize(
        ("address", "host"),
        [
            ("0.0.0.0:1", "NAME"),
            ("[::]:1", "NAME"),
            ("10.0.0.1:1", "10.0.0.1"),
            ("n.org:1", "n.org"),
        ],
    )
    def test_check_listen_when_there_is_no_certificate_then_the_hint_makes_one(
        self, address: str, host: str
    ) -> None:
        """With the host, where the address has one that clients can use."""
        with pytest.raises(InvalidArgument) as caught:
            load(flags={"node.address": address}).check_listen()
        assert str(caught.value.hint).startswith(
            f"plexspaces tls init --host {host}, which prints the lines for release.toml, and then "
            "plexspaces token create --name admin --scope admin --node-id node-1; or use 127.0.0.1"
        )

    @pytest.mark.parametrize("names", [("certificate",), ("key",), ("client_ca",)])
    def test_check_listen_when_a_part_of_tls_is_missing_then_it_is_refused(
        self, names: tuple[str, ...]
    ) -> None:
        """A node must not be without TLS by a typing error, nor ask nobody."""
        config = load(flags={f"tls.{name}": "x.pem" for name in names})
        with pytest.raises(InvalidArgument, match=r"needs both tls\.certificate and tls\.key"):
            config.check_listen()

    def test_split_address_when_valid_then_host_and_port_come_back(self) -> None:
        """IPv6 loses its brackets."""
        assert split_address("[::1]:9000") == ("::1", 9000)
        assert split_address("node.example:1") == ("node.example", 1)
        assert is_loopback("::1")

    @given(st.text(max_size=20))
    def test_split_address_when_arbitrary_then_it_splits_or_raises_value_error(
        self, text: str
    ) -> None:
        """The parser never fails in another way, and its port is one."""
        try:
            host, port = split_address(text)
        except ValueError:
            return
        assert host
        assert 0 <= port <= 65535


class TestDocumentation:
    def test_example_when_loaded_then_every_value_is_the_default(self) -> None:
        """release.toml.example changes nothing when copied as it is."""
        config = ConfigBootstrap.load(ROOT / "release.toml.example", environ=HOME)
        assert [item[:2] for item in config.items()] == [item[:2] for item in load().items()]

    def test_example_when_its_commented_settings_count_then_none_is_missing(self) -> None:
        """Every setting can be found in the example."""
        text = (ROOT / "release.toml.example").read_text(encoding="utf-8")
        config = load(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text))
        assert [key for key, _, origin in config.items() if origin == "default"] == []

    def test_configuration_page_when_compared_with_the_code_then_its_table_is_the_same(
        self,
    ) -> None:
        """docs/configuration.md lists every setting as it is; on failure copy what is expected."""
        page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
        assert table() in page
        assert other_names() in page


def table() -> str:
    """Render the table of docs/configuration.md."""
    rows = ["| setting | default | variable | takes | meaning |", "|---|---|---|---|---|"]
    rows += [row(setting) for setting in settings().values()]
    return "\n".join(rows) + "\n"


def row(setting: Setting) -> str:
    """Render one setting; a default is written as in TOML, without quotes."""
    default = "not set" if setting.default is None else f"`{setting.default}`"
    default = {"``": '`""`', "`True`": "`true`", "`False`": "`false`"}.get(default, default)
    return (
        f"| `{setting.key}` | {default} | `{setting.variable}` | {setting.allowed} | "
        f"{setting.meaning} |"
    )


def other_names() -> str:
    """Render the table of other names of docs/configuration.md."""
    rows = ["| setting | key | variables |", "|---|---|---|"]
    former = {key: name for name, key in FORMER_KEYS.items()}
    for key in settings():
        name = former.get(key)
        variables = [variable_of(name)] if name else []
        variables += [one for one, its_key in OTHER_VARIABLES.items() if its_key == key]
        if variables:
            key_cell = f"`{name}`" if name else "–"
            rows.append(f"| `{key}` | {key_cell} | {', '.join(f'`{v}`' for v in variables)} |")
    return "\n".join(rows) + "\n"
