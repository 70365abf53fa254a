"""Tokens: what a secret looks like, what is kept of it, when one ends, and that nothing opens."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    WrongState,
)
from plexspaces_node.node.access.identity import ALL, LOCAL, UNGUARDED, Identity, Kind, Scope
from plexspaces_node.node.access.proof import Proof
from plexspaces_node.node.access.stopped import StoppedNode
from plexspaces_node.node.access.tokens import MOST_OF_A_TENANT, Tokens
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.tokens import TokenRecord, TokenRows
from plexspaces_node.token_text import LENGTH, check_secret, new_secret

S = 1_000_000_000
ADMIN = Identity(Kind.TOKEN, "boss", frozenset({Scope.ADMIN}), "shop")


class Clock:
    """A clock that only the test moves, in nanoseconds."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * S

    def __call__(self) -> int:
        return self.now


@asynccontextmanager
async def opened(directory: Path, clock: Clock | None = None) -> AsyncIterator[Tokens]:
    """The tokens in a directory."""
    async with (
        Registry.open(directory / "registry.db") as registry,
        Tokens.open(registry.tokens, directory / "tokens.key", clock=clock or Clock()) as tokens,
    ):
        yield tokens


async def secret_of(
    tokens: Tokens, name: str = "ci", *, lifetime_s: int = 0, tenant: str = "shop"
) -> bytes:
    """Create a token and return its secret."""
    made = await tokens.create(LOCAL, name, scopes=["deploy"], tenant=tenant, lifetime_s=lifetime_s)
    return made.secret.encode()


class _SlowRows(TokenRows):
    """Rows that are written long before their writer is told."""

    def __init__(self, rows: TokenRows) -> None:
        self.rows = rows
        self.written, self.go_on = asyncio.Event(), asyncio.Event()

    async def insert(self, record: TokenRecord) -> None:
        await self.rows.insert(record)
        await self._told()

    async def replace(self, record: TokenRecord) -> None:
        await self.rows.replace(record)
        await self._told()

    async def delete(self, tenant: str, name: str) -> None:
        await self.rows.delete(tenant, name)
        await self._told()

    async def write_used(self, used: Mapping[tuple[str, str], int]) -> None:
        await self.rows.write_used(used)

    async def _told(self) -> None:
        self.written.set()
        await self.go_on.wait()


class TestText:
    def test_secret_when_made_then_each_is_another_of_the_one_form(self) -> None:
        """Scanners for leaked secrets find it: plx_ and 57 letters and digits."""
        made = {new_secret() for _ in range(100)}
        assert len(made) == 100
        for text in made:
            assert len(text) == LENGTH
            assert text.startswith("plx_")
            assert text[4:].isalnum()
            check_secret(text, source="here")

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            (lambda text: "", "does not begin"),
            (lambda text: text[4:], "does not begin"),
            (lambda text: text[:-1], "has 60 characters"),
            (lambda text: text + "\n", "has 62 characters"),
            (lambda text: text[:-1] + ("a" if text[-1] != "a" else "b"), "checksum"),
            (lambda text: text[:20] + ("a" if text[20] != "a" else "b") + text[21:], "checksum"),
            (lambda text: text[:20] + "é" + text[21:], "checksum"),
            (lambda text: text[:20] + "\udcff" + text[21:], "checksum"),
        ],
    )
    def test_secret_when_mistyped_then_refused_without_repeating_it(
        self, change: object, fault: str
    ) -> None:
        """Before it is sent anywhere."""
        assert callable(change)
        wrong = change(new_secret())
        with pytest.raises(InvalidArgument, match=fault) as caught:
            check_secret(wrong, source="PLEXSPACES_TOKEN")
        assert not wrong[8:40] or wrong[8:40] not in str(caught.value)


class TestLife:
    async def test_token_when_created_then_it_is_its_grant_until_it_is_revoked(
        self, tmp_path: Path
    ) -> None:
        """Also after a restart, and what is kept in memory is what is kept on disk."""
        async with opened(tmp_path) as tokens:
            assert not tokens.exist()
            secret = await secret_of(tokens)
            assert tokens.exist()
            identity = tokens.known.by_token(secret)
            assert identity == Identity(Kind.TOKEN, "ci", frozenset({Scope.DEPLOY}), "shop")
        async with opened(tmp_path) as tokens:
            assert tokens.known.by_token(secret) == identity
            certified = tokens.known.by_certificate("shop/ci")
            assert certified is not None
            assert certified.kind is Kind.CERTIFICATE
            await tokens.revoke("ci")
            assert tokens.known.by_token(secret) is None
            assert tokens.known.by_certificate("shop/ci") is None
            with pytest.raises(NotFound):
                await tokens.revoke("ci")
        async with opened(tmp_path) as tokens:
            assert tokens.known.by_token(secret) is None
            assert tokens.list() == []
            assert tokens.exist(), "a node is never open again"

    async def test_token_when_its_time_is_over_then_it_is_not_valid(self, tmp_path: Path) -> None:
        """By the clock at each use; a rotation with a new lifetime makes it valid again."""
        clock = Clock()
        async with opened(tmp_path, clock) as tokens:
            secret = await secret_of(tokens, lifetime_s=60)
            clock.now += 60 * S - 1
            assert tokens.known.by_token(secret) is not None
            clock.now += 1
            assert tokens.known.by_token(secret) is None
            assert tokens.known.by_certificate("shop/ci") is None
            assert [each.state for each in tokens.list()] == ["expired"]
            with pytest.raises(WrongState, match="has expired"):
                await tokens.rotate("ci")
            renewed = (await tokens.rotate("ci", lifetime_s=60)).secret.encode()
            assert tokens.known.by_token(renewed) is not None
            assert tokens.known.by_token(secret) is None

    async def test_token_when_rotated_then_the_one_before_works_for_its_grace(
        self, tmp_path: Path
    ) -> None:
        """None by default; a restart does not lengthen it; the next rotation ends it."""
        clock = Clock()
        async with opened(tmp_path, clock) as tokens:
            first = await secret_of(tokens)
            second = (await tokens.rotate("ci")).secret.encode()
            assert tokens.known.by_token(first) is None
            third = (await tokens.rotate("ci", grace_s=600)).secret.encode()
            assert tokens.known.by_token(second) is not None
        async with opened(tmp_path, clock) as tokens:
            clock.now += 599 * S
            assert tokens.known.by_token(second) is not None
            assert tokens.known.by_token(third) is not None
            clock.now += 1 * S
            assert tokens.known.by_token(second) is None
            fourth = (await tokens.rotate("ci", grace_s=600)).secret.encode()
            await tokens.rotate("ci", grace_s=600)
            assert tokens.known.by_token(third) is None
            assert tokens.known.by_token(fourth) is not None

    async def test_token_when_it_expires_within_the_grace_then_the_one_before_does_too(
        self, tmp_path: Path
    ) -> None:
        """A rotation lengthens nothing."""
        clock = Clock()
        async with opened(tmp_path, clock) as tokens:
            first = await secret_of(tokens, lifetime_s=60)
            await tokens.rotate("ci", grace_s=600)
            clock.now += 60 * S
            assert tokens.known.by_token(first) is None

    @pytest.mark.parametrize(
        "wrong",
        [b"", b"plx_", b"\xff" * LENGTH, b"plx_" + b"0" * (LENGTH - 4), b"plx_" + bytes(1 << 20)],
    )
    async def test_token_when_it_is_none_then_nobody(self, tmp_path: Path, wrong: bytes) -> None:
        """Whatever is sent."""
        async with opened(tmp_path) as tokens:
            await secret_of(tokens)
            assert tokens.known.by_token(wrong) is None

    async def test_names_when_in_several_tenants_then_each_has_its_own(
        self, tmp_path: Path
    ) -> None:
        """A name alone is found if it is one; a tenant finds its own only."""
        async with opened(tmp_path) as tokens:
            shop, rival = await secret_of(tokens), await secret_of(tokens, tenant="rival")
            with pytest.raises(InvalidArgument, match="rival, shop"):
                await tokens.revoke("ci")
            with pytest.raises(NotFound):
                await tokens.revoke("ci", tenant="third")
            await tokens.revoke("ci", tenant="rival")
            assert tokens.known.by_token(rival) is None
            assert tokens.known.by_token(shop) is not None
            with pytest.raises(AlreadyExists):
                await secret_of(tokens)
            with pytest.raises(InvalidArgument, match="tenant 'x y' is not valid"):
                await secret_of(tokens, tenant="x y")

    async def test_token_of_all_when_a_tenant_has_its_name_then_it_is_found_all_the_same(
        self, tmp_path: Path
    ) -> None:
        """Otherwise a tenant's admin could keep it from being revoked."""
        async with opened(tmp_path) as tokens:
            ops = await secret_of(tokens, "ops", tenant=ALL)
            await tokens.create(ADMIN, "ops", scopes=["read"], tenant="shop")
            assert tokens.known.find(ALL, "ops").tenant == ALL
            with pytest.raises(InvalidArgument, match=r"\*, shop"):
                await tokens.revoke("ops")
            await tokens.revoke("ops", tenant=ALL)
            assert tokens.known.by_token(ops) is None
            assert [each.tenant for each in tokens.list()] == ["shop"]

    async def test_change_when_its_caller_leaves_then_what_is_known_is_what_is_written(
        self, tmp_path: Path
    ) -> None:
        """Of a token that is only on disk nobody would know until the next start."""
        async with opened(tmp_path) as tokens:
            rows = tokens._store._rows = _SlowRows(tokens._rows)  # type: ignore[attr-defined]

            async def leave(change: Coroutine[Any, Any, object]) -> None:
                task = asyncio.ensure_future(change)
                await rows.written.wait()
                task.cancel()
                rows.go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await task
                rows.written.clear()
                rows.go_on.clear()

            await leave(secret_of(tokens))
            assert [each.name for each in tokens.list()] == ["ci"]
            await leave(tokens.rotate("ci"))
            assert tokens.known.find("", "ci").hash == (await rows.rows.load())[0].hash
            await leave(tokens.revoke("ci"))
            assert tokens.list() == []

    async def test_certificate_when_it_names_a_token_then_it_is_its_grant(
        self, tmp_path: Path
    ) -> None:
        """A name alone is of all tenants first, then of the default one, never of another."""
        async with opened(tmp_path) as tokens:
            await secret_of(tokens, "a", tenant="shop")
            await secret_of(tokens, "b", tenant="default")
            await tokens.create(LOCAL, "c", scopes=["admin"])
            await secret_of(tokens, "c", tenant="default")
            found = {
                cn: tokens.known.by_certificate(cn) for cn in ("a", "shop/a", "b", "c", "", "/")
            }
            assert {cn: each and each.tenant for cn, each in found.items()} == {
                **{"a": None, "shop/a": "shop", "b": "default", "c": ALL, "": None, "/": None},
            }


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("ci", {"scopes": []}),
            ("ci", {"scopes": ["root"]}),
            ("ci", {"scopes": ["read"], "applications": ""}),
            ("ci", {"scopes": ["read"], "applications": "a/*"}),
            ("ci", {"scopes": ["read"], "applications": "*" * 256}),
            ("ci", {"scopes": ["read"], "lifetime_s": 1 << 62}),
            ("", {"scopes": ["read"]}),
            ("shop/ci", {"scopes": ["read"]}),
            ("../ci", {"scopes": ["read"]}),
        ],
    )
    async def test_token_when_asked_for_wrongly_then_refused(
        self, tmp_path: Path, name: str, wanted: dict[str, object]
    ) -> None:
        """And the node stays as open as it was."""
        async with opened(tmp_path) as tokens:
            with pytest.raises(InvalidArgument):
                await tokens.create(LOCAL, name, **wanted)  # type: ignore[arg-type]
            assert not tokens.exist()

    async def test_token_when_it_is_the_first_then_the_log_says_what_changes(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The node has told at its start that it is everybody's; the second changes nothing."""
        caplog.set_level(logging.INFO)
        async with opened(tmp_path) as tokens:
            for name in ("one", "two"):
                await tokens.create(LOCAL, name, scopes=["read"])
        said = [one.getMessage() for one in caplog.records if "first token" in one.getMessage()]
        assert len(said) == 1

    async def test_token_when_it_is_more_than_the_creators_then_refused(
        self, tmp_path: Path
    ) -> None:
        """An admin of a tenant makes none for another, nor for all."""
        async with opened(tmp_path) as tokens:
            for tenant in ("rival", ALL):
                with pytest.raises(PermissionDenied):
                    await tokens.create(ADMIN, "x", scopes=["read"], tenant=tenant)
            with pytest.raises(PermissionDenied):
                await tokens.create(ADMIN, "x", scopes=["admin"])
            await tokens.create(ADMIN, "x", scopes=["admin"], tenant="shop")

    async def test_tokens_when_a_tenant_has_too_many_then_no_more(self, tmp_path: Path) -> None:
        """Of its own: others are not kept from theirs."""
        async with opened(tmp_path) as tokens:
            for number in range(MOST_OF_A_TENANT):
                await secret_of(tokens, f"t{number}")
            with pytest.raises(ResourceExhausted, match="the limit"):
                await secret_of(tokens, "more")
            await secret_of(tokens, "other", tenant="rival")


class TestDisk:
    async def test_disk_when_searched_then_no_secret_and_every_file_is_the_owners(
        self, tmp_path: Path
    ) -> None:
        """Neither whole nor in a part that could be guessed from."""
        async with opened(tmp_path) as tokens:
            secrets = [await secret_of(tokens)]
            secrets.append((await tokens.rotate("ci", grace_s=60)).secret.encode())
            for path in tmp_path.rglob("*"):
                content = path.read_bytes()
                assert not any(secret[12:40] in content for secret in secrets), path
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert not any(secret.decode() in repr(tokens.known.records()) for secret in secrets)

    async def test_key_when_it_is_lost_then_no_secret_is_valid_and_nothing_is_open(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As after restoring a backup, which has the hashes and not the key: rotating mends it."""
        async with opened(tmp_path) as tokens:
            secret = await secret_of(tokens)
        (tmp_path / "tokens.key").unlink()
        async with opened(tmp_path) as tokens:
            assert tokens.exist()
            assert tokens.known.by_token(secret) is None
            assert tokens.known.by_certificate("shop/ci") is not None
            assert [each.state for each in tokens.list()] == ["without-secret"]
            assert "plexspaces token rotate" in caplog.text
            renewed = (await tokens.rotate("ci")).secret.encode()
            assert tokens.known.by_token(renewed) is not None
            assert [each.state for each in tokens.list()] == ["valid"]

    async def test_registry_when_it_is_lost_then_nothing_is_open(self, tmp_path: Path) -> None:
        """The key says that there were tokens."""
        async with opened(tmp_path) as tokens:
            secret = await secret_of(tokens)
        (tmp_path / "registry.db").unlink()
        async with opened(tmp_path) as tokens:
            assert tokens.exist()
            assert tokens.known.by_token(secret) is None

    @pytest.mark.parametrize("damage", ["mode", "length", "directory"])
    async def test_key_when_it_cannot_be_trusted_then_no_node_starts(
        self, tmp_path: Path, damage: str
    ) -> None:
        """Rather than one that lets in whom it should not."""
        async with opened(tmp_path) as tokens:
            await secret_of(tokens)
        key = tmp_path / "tokens.key"
        if damage == "mode":
            key.chmod(0o644)
        elif damage == "length":
            key.write_bytes(b"short")
        else:
            key.unlink()
            key.mkdir()
        with pytest.raises(InvalidArgument, match="the key of the tokens"):
            async with opened(tmp_path):
                pass

    async def test_row_when_a_newer_version_wrote_it_then_it_allows_nothing_new(
        self, tmp_path: Path
    ) -> None:
        """Nor does one that cannot be read."""
        async with opened(tmp_path) as tokens:
            one, other = await secret_of(tokens, "one"), await secret_of(tokens, "other")
        with closing(sqlite3.connect(tmp_path / "registry.db")) as connection, connection:
            connection.execute("UPDATE tokens SET scopes = '[\"fly\"]' WHERE name = 'one'")
            connection.execute("UPDATE tokens SET scopes = 'x' WHERE name = 'other'")
        async with opened(tmp_path) as tokens:
            for secret in (one, other):
                identity = tokens.known.by_token(secret)
                assert identity is not None
                assert identity.scopes == frozenset()

    async def test_use_when_the_node_ends_then_it_is_on_disk(self, tmp_path: Path) -> None:
        """Otherwise within a minute, and never on the way of a message."""
        clock = Clock()
        async with opened(tmp_path, clock) as tokens:
            secret = await secret_of(tokens)
            assert [each.last_used_unix_ns for each in tokens.list()] == [0]
            tokens.known.by_token(secret)
        async with opened(tmp_path, clock) as tokens:
            assert [each.last_used_unix_ns for each in tokens.list()] == [clock.now]


class TestEnds:
    async def test_stream_when_its_token_is_revoked_or_rotated_then_it_is_told(
        self, tmp_path: Path
    ) -> None:
        """That of the secret which ended, and nobody else's."""
        ended: list[str] = []
        async with opened(tmp_path) as tokens:
            known = tokens.known
            known.watch(UNGUARDED, lambda: ended.append("before"))
            first = known.by_token(await secret_of(tokens))
            assert ended == ["before"]
            assert first is not None
            known.watch(first, lambda: ended.append("first"))
            known.watch(LOCAL, lambda: ended.append("local"))
            renewed = await tokens.rotate("ci")
            assert ended == ["before", "first"]
            second = known.by_token(renewed.secret.encode())
            assert second == first
            assert second is not None
            known.watch(second, lambda: ended.append("second"))
            known.watch(second, lambda: ended.append("left"))()
            await tokens.revoke("ci")
            assert ended == ["before", "first", "second"]

    @pytest.mark.virtual_time
    async def test_proof_when_its_time_comes_then_who_watches_is_told(self) -> None:
        """Not before, and at another time once it is extended."""
        loop = asyncio.get_running_loop()
        base_s, ended = loop.time(), list[float]()

        def clock() -> int:
            return 1000 * S + round((loop.time() - base_s) * S)

        proof = Proof(ADMIN, 1010 * S, clock=clock)
        proof.watch(lambda: ended.append(loop.time() - base_s))
        proof.watch(lambda: ended.append(0))()
        await asyncio.sleep(9)
        proof.extend(1020 * S)
        await asyncio.sleep(9)
        assert ended == []
        assert proof.taken() is ADMIN
        await asyncio.sleep(3)
        assert ended == [pytest.approx(20)]
        assert proof.taken() is None


class TestStopped:
    async def test_node_when_it_does_not_run_then_its_owner_gives_it_a_token(
        self, tmp_path: Path
    ) -> None:
        """In a directory that need not be there; not while the node runs."""
        place = tmp_path / "data"
        async with StoppedNode.open(place, "n1") as node:
            made = await node.create_token("ops", scopes=["admin"])
            assert made.token.tenant == ALL
            with pytest.raises(WrongState, match="in use by node 'n1'"):
                async with StoppedNode.open(place, "n1"):
                    pass
        async with StoppedNode.open(place, "n1") as node:
            assert [each.name for each in await node.list_tokens()] == ["ops"]
            await node.rotate_token("ops")
            await node.revoke_token("ops")
            assert await node.list_tokens(tenant="shop") == ()

    async def test_node_when_nothing_was_made_then_nothing_is_left(self, tmp_path: Path) -> None:
        """A list of none makes no data directory."""
        async with StoppedNode.open(tmp_path / "data", "n1") as node:
            assert await node.list_tokens() == ()
        assert list(tmp_path.iterdir()) == []
