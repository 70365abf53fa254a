"""Secrets: encrypted in the registry under a key elsewhere, and decrypted for a load only."""

from __future__ import annotations

import sqlite3
import stat
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from support.records import record_of

from plexspaces_node.errors import (
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    WrongState,
)
from plexspaces_node.model import ApplicationSpec
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.secrets import MOST_SECRETS, SecretRows
from plexspaces_node.node.secrets.cipher import Key, Place, SecretUnusable
from plexspaces_node.node.secrets.key import Credential, KeyFile, file_or_credential
from plexspaces_node.node.secrets.secrets import VALUE_LIMIT_BYTES, Secrets, of_passphrase

PLACE = Place("shop", "db", 1)
VALUE = b"correct horse battery staple"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with Registry.open(tmp_path / "registry.db") as opened:
        yield opened


@pytest.fixture
def rows(registry: Registry) -> SecretRows:
    return registry.secrets


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "config" / "node.key", tmp_path / "data")


@pytest.fixture
def secrets(rows: SecretRows, file: KeyFile) -> Secrets:
    return Secrets(rows, file, clock=lambda: 7)


class TestCipher:
    def test_unseal_when_the_place_is_the_same_then_the_value(self) -> None:
        """Sealed twice, the same value looks different."""
        key = Key(b"k" * 32)
        first, second = key.seal(PLACE, VALUE), key.seal(PLACE, VALUE)
        assert first != second
        assert VALUE not in first
        assert key.unseal(PLACE, first) == key.unseal(PLACE, second) == VALUE

    @pytest.mark.parametrize(
        "place", [Place("bank", "db", 1), Place("shop", "d", 1), Place("shop", "db", 2)]
    )
    def test_unseal_when_moved_to_another_place_then_refused(self, place: Place) -> None:
        """A row copied to another tenant, name or version is worth nothing there."""
        key = Key(b"k" * 32)
        with pytest.raises(SecretUnusable):
            key.unseal(place, key.seal(PLACE, VALUE))

    @pytest.mark.parametrize(
        "change",
        [
            lambda sealed: b"",
            lambda sealed: sealed[:-1],
            lambda sealed: bytes([sealed[0] ^ 1]) + sealed[1:],
            lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
        ],
    )
    def test_unseal_when_changed_then_refused_without_the_bytes(
        self, change: Callable[[bytes], bytes]
    ) -> None:
        """Neither an error of the library, nor part of a value."""
        key = Key(b"k" * 32)
        with pytest.raises(SecretUnusable, match="changed") as caught:
            key.unseal(PLACE, change(key.seal(PLACE, VALUE)))
        assert caught.value.__cause__ is None

    def test_key_when_shown_then_only_its_id(self) -> None:
        """The id is the same for the same key, another for another, and not part of it."""
        key = Key(b"k" * 32)
        assert repr(key) == f"<Key {key.id}>"
        assert key.id == Key(b"k" * 32).id != Key(b"l" * 32).id
        assert key.id not in (b"k" * 32).hex()


class TestKeyFile:
    def test_make_when_nothing_is_there_then_private_and_the_same_again(
        self, file: KeyFile
    ) -> None:
        """The directory too; nothing else is left there."""
        assert file.read() is None
        made = file.make()
        read = file.read()
        assert read is not None
        assert read.id == made.id
        assert [path.name for path in file.path.parent.iterdir()] == ["node.key"]
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700

    def test_make_when_a_key_is_there_then_it_stays(self, file: KeyFile) -> None:
        """Two that make one at the same time have one key."""
        assert file.make().id == file.make().id

    def test_make_when_several_do_at_once_then_they_have_one_key(self, file: KeyFile) -> None:
        """As for the first secrets of a node, which several clients set."""
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: file.make().id, range(64)))
        assert len(set(made)) == 1
        assert [path.name for path in file.path.parent.iterdir()] == ["node.key"]

    @pytest.mark.parametrize("mode", [0o604, 0o660, 0o620])
    def test_read_when_others_may_read_it_then_refused(self, file: KeyFile, mode: int) -> None:
        """The hint is the command that mends it."""
        file.make()
        file.path.chmod(mode)
        with pytest.raises(SecretUnusable, match="by others") as caught:
            file.read()
        assert "chmod 600" in str(caught.value.hint)

    @pytest.mark.parametrize("content", [b"", b"abc", b"g" * 64, b"ab" * 31, b"ab" * 100])
    def test_read_when_it_is_no_key_then_refused_without_its_content(
        self, file: KeyFile, content: bytes
    ) -> None:
        """Whatever is in the file is not repeated anywhere in the error."""
        file.make()
        file.path.write_bytes(content)
        with pytest.raises(SecretUnusable, match="is not a key") as caught:
            file.read()
        assert caught.value.__context__ is None

    @pytest.mark.parametrize("content", [b"k" * 32, b"6b" * 32, b"6B" * 32 + b"\n"])
    def test_read_when_bytes_or_hex_then_the_same_key(self, file: KeyFile, content: bytes) -> None:
        """As `openssl rand` writes one, with or without -hex."""
        file.make()
        file.path.write_bytes(content)
        key = file.read()
        assert key is not None
        assert key.id == Key(b"k" * 32).id

    def test_make_when_in_the_data_directory_then_refused(self, tmp_path: Path) -> None:
        """Also by way of a link: a backup would have both."""
        data = tmp_path / "data"
        data.mkdir()
        (tmp_path / "elsewhere").symlink_to(data)
        for directory in (data, data / "x", tmp_path / "elsewhere"):
            with pytest.raises(SecretUnusable, match="data directory"):
                KeyFile(directory / "node.key", data).make()
        assert list(data.iterdir()) == []

    def test_make_when_the_place_cannot_be_written_then_said(self, tmp_path: Path) -> None:
        """A service without a home has to be told a path."""
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(SecretUnusable, match="cannot be kept"):
            KeyFile(tmp_path / "file" / "node.key", tmp_path / "data").make()


class TestSource:
    def test_source_when_systemd_gives_a_credential_then_it_is_used(self, tmp_path: Path) -> None:
        """Before the file; it is not one that the node makes."""
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
        file = tmp_path / "x.key"
        assert isinstance(file_or_credential(file, tmp_path / "data", environ), KeyFile)
        (tmp_path / "plexspaces-secrets-key").write_bytes(b"k" * 32)
        source = file_or_credential(file, tmp_path / "data", environ)
        assert isinstance(source, Credential)
        key = source.read()
        assert key is not None
        assert key.id == Key(b"k" * 32).id
        with pytest.raises(SecretUnusable):
            source.make()

    async def test_passphrase_when_right_then_the_same_key_and_else_refused(
        self, rows: SecretRows
    ) -> None:
        """The salt is in the registry, so a restored backup needs the passphrase alone."""
        first = await of_passphrase(rows, "many words")
        # Nothing is encrypted with it yet.
        changed = await of_passphrase(rows, "other words")
        assert first.key is not None
        assert changed.key is not None
        assert changed.key.id != first.key.id
        await Secrets(rows, changed).set("shop", "db", VALUE)
        again = await of_passphrase(rows, "other words")
        assert again.key is not None
        assert again.key.id == changed.key.id
        with pytest.raises(InvalidArgument, match="not the passphrase"):
            await of_passphrase(rows, "many words")
        with pytest.raises(InvalidArgument, match="empty"):
            await of_passphrase(rows, "")

    async def test_passphrase_when_none_is_given_then_set_says_so(self, rows: SecretRows) -> None:
        """The node runs, but keeps no secrets."""
        secrets = Secrets(rows, await of_passphrase(rows, None))
        with pytest.raises(SecretUnusable, match="no passphrase"):
            await secrets.set("shop", "db", VALUE)


class TestSet:
    async def test_set_when_repeated_then_versions_count_and_values_are_not_on_disk(
        self, secrets: Secrets, registry: Registry, tmp_path: Path
    ) -> None:
        """In no file of the registry, and the listing has everything but the value."""
        assert await secrets.set("shop", "db", b"earlier") == 1
        assert await secrets.set("shop", "db", VALUE) == 2
        assert await secrets.set("bank", "db", b"else") == 1
        [found] = await secrets.list("shop")
        assert (found.tenant, found.name, found.version, found.used_by) == ("shop", "db", 2, ())
        assert (found.created_unix_ns, found.changed_unix_ns) == (7, 7)
        assert len(await secrets.list(None)) == 2
        assert await secrets.values_of("shop/cart", {"DB": "db"}) == {"DB": VALUE.decode()}
        for path in tmp_path.glob("registry.db*"):
            assert VALUE not in path.read_bytes()

    @pytest.mark.parametrize(
        ("tenant", "name", "value"),
        [
            ("shop", "", VALUE),
            ("shop", "a/b", VALUE),
            ("shop", "../x", VALUE),
            ("shop", "x" * 64, VALUE),
            ("Shop", "db", VALUE),
            ("shop", "db", b"x" * (VALUE_LIMIT_BYTES + 1)),
            ("shop", "db", VALUE + b"\0"),
            ("shop", "db", VALUE + b"\xff"),
        ],
    )
    async def test_set_when_it_cannot_be_one_then_refused_without_the_value(
        self, secrets: Secrets, file: KeyFile, tenant: str, name: str, value: bytes
    ) -> None:
        """Neither message nor traceback nor the errors behind it have it; no key is made."""
        with pytest.raises(InvalidArgument) as caught:
            await secrets.set(tenant, name, value)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert VALUE.decode() not in shown
        assert caught.value.__context__ is None
        assert file.read() is None

    async def test_set_when_as_long_as_allowed_then_kept(self, secrets: Secrets) -> None:
        """64 KiB are a certificate chain with its key."""
        await secrets.set("shop", "db", b"x" * VALUE_LIMIT_BYTES)
        values = await secrets.values_of("shop/a", {"A": "db"})
        assert len(values["A"]) == VALUE_LIMIT_BYTES

    async def test_set_when_a_tenant_has_too_many_then_refused_and_others_are_not(
        self, secrets: Secrets, rows: SecretRows
    ) -> None:
        """The registry cannot be filled with them; those that exist can be changed."""
        for number in range(MOST_SECRETS):
            await rows.put("shop", str(number), 1, lambda version: ("key", b""))
        with pytest.raises(ResourceExhausted):
            await rows.put("shop", "more", 1, lambda version: ("key", b""))
        assert await rows.put("shop", "0", 1, lambda version: ("key", b"")) == 2
        assert await rows.put("bank", "more", 1, lambda version: ("key", b"")) == 1

    async def test_set_when_the_key_is_gone_then_no_new_one_is_made(
        self, secrets: Secrets, file: KeyFile
    ) -> None:
        """A new key would hide that the former one has to be brought back."""
        await secrets.set("shop", "db", VALUE)
        file.path.unlink()
        with pytest.raises(SecretUnusable, match="is not in") as caught:
            await secrets.set("shop", "db", VALUE)
        assert str(file.path) in caught.value.message
        assert file.read() is None


class TestUse:
    async def test_values_when_the_tenant_has_none_of_that_name_then_refused(
        self, secrets: Secrets
    ) -> None:
        """A secret of another tenant is as one that does not exist, word for word."""
        await secrets.set("bank", "db", VALUE)
        said = []
        for name in ("db", "nothing"):
            with pytest.raises(NotFound) as missing:
                await secrets.check("shop/cart", {"DB": name})
            with pytest.raises(SecretUnusable) as unusable:
                await secrets.values_of("shop/cart", {"DB": name})
            assert missing.value.message == unusable.value.message
            said.append(missing.value.message.replace(name, "X"))
        assert said[0] == said[1]
        await secrets.check("shop/cart", {})
        assert await secrets.values_of("bank/till", {"DB": "db"}) == {"DB": VALUE.decode()}

    async def test_values_when_the_key_is_another_then_both_are_named(
        self, secrets: Secrets, file: KeyFile
    ) -> None:
        """By their ids, which say which file to look for."""
        await secrets.set("shop", "db", VALUE)
        right = file.read()
        assert right is not None
        assert await secrets.fault() == ""
        file.path.write_bytes(b"x" * 32)
        for call in (secrets.check, secrets.check_usable, secrets.values_of):
            with pytest.raises(SecretUnusable) as caught:
                await call("shop/cart", {"DB": "db"})
            assert right.id in caught.value.message
            assert Key(b"x" * 32).id in caught.value.message
        assert right.id in await secrets.fault()

    async def test_values_when_the_key_is_missing_then_its_place_is_named(
        self, secrets: Secrets, file: KeyFile
    ) -> None:
        """And works again when the key is back, without a new start of the node."""
        await secrets.set("shop", "db", VALUE)
        moved = file.path.rename(file.path.with_name("away"))
        assert str(file.path) in await secrets.fault()
        for call in (secrets.check, secrets.check_usable, secrets.values_of):
            with pytest.raises(SecretUnusable, match="is not in") as caught:
                await call("shop/cart", {"DB": "db"})
            assert "plexspaces start shop/cart" in str(caught.value.hint)
        moved.rename(file.path)
        assert await secrets.values_of("shop/cart", {"DB": "db"}) == {"DB": VALUE.decode()}

    async def test_values_when_the_row_was_changed_then_refused(
        self, secrets: Secrets, rows: SecretRows
    ) -> None:
        """Somebody who can write the registry cannot choose what an application gets."""
        await secrets.set("shop", "db", VALUE)
        kept = (await rows.get("shop", ["db"]))["db"]
        await rows.put("shop", "other", 1, lambda version: (kept.key_id, kept.sealed))
        with pytest.raises(SecretUnusable, match="changed"):
            await secrets.values_of("shop/cart", {"DB": "other"})


class TestDelete:
    async def test_delete_when_an_application_uses_it_then_only_with_force(
        self, secrets: Secrets, registry: Registry, tmp_path: Path
    ) -> None:
        """The users are named, those of the tenant only."""
        await secrets.set("shop", "db", VALUE)
        await secrets.set("bank", "db", VALUE)
        for number, name in enumerate(("shop/cart", "shop/till", "bank/till", "till")):
            record = record_of(name, id=f"app-{number}", secrets={"A": "db", "B": "db"})
            await registry.insert_application(record)
        with closing(sqlite3.connect(tmp_path / "registry.db")) as connection, connection:
            # As a newer version may write it.
            connection.execute("UPDATE applications SET secrets = '[1]' WHERE name = 'till'")
        [found] = await secrets.list("shop")
        assert found.used_by == ("shop/cart", "shop/till")
        with pytest.raises(WrongState, match="used by shop/cart, shop/till"):
            await secrets.delete("shop", "db")
        assert await secrets.delete("shop", "db", force=True) == ("shop/cart", "shop/till")
        assert await secrets.list("shop") == []
        assert len(await secrets.list("bank")) == 1
        with pytest.raises(NotFound):
            await secrets.delete("shop", "db", force=True)

    async def test_delete_when_set_again_then_it_begins_anew(self, secrets: Secrets) -> None:
        """What was sealed before is not what is read after."""
        await secrets.set("shop", "db", b"before")
        assert await secrets.delete("shop", "db") == ()
        assert await secrets.set("shop", "db", VALUE) == 1
        assert await secrets.values_of("shop/a", {"A": "db"}) == {"A": VALUE.decode()}


class TestSpec:
    def spec(self, **values: object) -> ApplicationSpec:
        return ApplicationSpec("cart", "ab" * 32, **values)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("env", "secrets"),
        [
            ({"DB": "x"}, {"DB": "db"}),
            ({}, {"": "db"}),
            ({}, {"A=B": "db"}),
            ({}, {"DB": ""}),
            ({}, {"DB": "../db"}),
            ({}, {"PLEXSPACES_SENDER": "db"}),
            ({}, {f"V{number}": "db" for number in range(65)}),
        ],
    )
    def test_spec_when_its_secrets_are_wrong_then_refused(
        self, env: dict[str, str], secrets: dict[str, str]
    ) -> None:
        """A variable has a value or a secret; names are names."""
        with pytest.raises(InvalidArgument):
            self.spec(env=env, secrets=secrets)

    def test_spec_when_two_variables_have_one_secret_then_fine(self) -> None:
        """And another one a value."""
        self.spec(env={"A": "b"}, secrets={"DB": "db.url", "DB_2": "db.url"})
