"""Of which cluster a node is: its settings, and what it remembers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.config import CLUSTER_TOKEN_VARIABLE
from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.node.cluster.identity import ClusterIdentity
from plexspaces_node.node.nats import routes
from plexspaces_node.settings import ClusterSection

TOKEN = ClusterToken(b"\7" * 32, "shop")
ALONE = ClusterSection()


class TestAlone:
    def test_node_when_nothing_names_a_cluster_then_alone(self, tmp_path: Path) -> None:
        """A token in the environment alone makes no cluster of it."""
        environ = {CLUSTER_TOKEN_VARIABLE: TOKEN.text}
        assert ClusterIdentity.of(tmp_path, ALONE, environ) is None
        assert not list(tmp_path.iterdir())

    def test_node_when_it_is_in_no_cluster_then_what_clusters_need_is_not_loaded(self) -> None:
        """Each start would take longer for it."""
        code = "import sys, plexspaces_node.node.builder; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        loaded = set(done.stdout.split())
        assert "plexspaces_node.node.http.server" in loaded
        assert not loaded & {
            "nats",
            "plexspaces_node.node.clustering",
            "plexspaces_node.node.http.peering",
            "plexspaces_node.node.nats.engine",
        }


class TestFounds:
    def test_node_when_it_founds_a_cluster_then_has_its_token_at_the_next_start(
        self, tmp_path: Path
    ) -> None:
        """Without flags, and until that is done it founds it still; the file is its owner's."""
        founded = ClusterIdentity.of(tmp_path, ClusterSection(name="shop"), {})
        assert founded is not None
        assert (founded.name, founded.is_new, founded.founds) == ("shop", True, True)
        founded.keep()
        again = ClusterIdentity.of(tmp_path, ALONE, {})
        assert again is not None
        assert (again.token, again.is_new, again.founds) == (founded.token, False, True)
        again.founded()
        again.founded()
        founded_before = ClusterIdentity.of(tmp_path, ALONE, {})
        assert founded_before is not None
        assert not founded_before.founds
        assert (tmp_path / "cluster" / "token").stat().st_mode & 0o777 == 0o600

    def test_node_when_it_is_of_another_cluster_then_refused(self, tmp_path: Path) -> None:
        """It would leave its applications behind."""
        founded = ClusterIdentity.of(tmp_path, ClusterSection(name="shop"), {})
        assert founded is not None
        founded.keep()
        with pytest.raises(WrongState, match=r"'shop'.*'other'"):
            ClusterIdentity.of(tmp_path, ClusterSection(name="other"), {})


class TestJoins:
    def test_node_when_it_joins_then_the_token_says_which_cluster(self, tmp_path: Path) -> None:
        """By the environment, or by a file."""
        section = ClusterSection(join="10.0.0.1:9400, 10.0.0.2:9400")
        by_variable = ClusterIdentity.of(
            tmp_path, section, {CLUSTER_TOKEN_VARIABLE: f"{TOKEN.text}\n"}
        )
        file = tmp_path / "given"
        file.write_text(TOKEN.text)
        file.chmod(0o600)
        section = section.model_copy(update={"token_file": file})
        for joined in (by_variable, ClusterIdentity.of(tmp_path, section, {})):
            assert joined is not None
            assert (joined.name, joined.founds) == ("shop", False)
            assert joined.join == ("10.0.0.1:9400", "10.0.0.2:9400")

    def test_node_when_it_ends_before_it_has_joined_then_it_remembers_where(
        self, tmp_path: Path
    ) -> None:
        """Or its next start, without flags, would found a second cluster of the same token."""
        (tmp_path / "cluster").mkdir(mode=0o700)
        (tmp_path / "cluster" / "founding").touch()
        section = ClusterSection(join="10.0.0.1:9400")
        joins = ClusterIdentity.of(tmp_path, section, {CLUSTER_TOKEN_VARIABLE: TOKEN.text})
        assert joins is not None
        joins.keep()
        again = ClusterIdentity.of(tmp_path, ALONE, {})
        assert again is not None
        assert not again.founds
        assert routes.read(again.routes_file) == ("10.0.0.1:9400",)

    def test_node_when_it_has_no_token_then_told_how_to_get_it(self, tmp_path: Path) -> None:
        """The hint names the command and the variable."""
        with pytest.raises(InvalidArgument) as refused:
            ClusterIdentity.of(tmp_path, ClusterSection(join="10.0.0.1:9400"), {})
        assert "plexspaces nodes token" in (refused.value.hint or "")
        assert CLUSTER_TOKEN_VARIABLE in (refused.value.hint or "")

    def test_node_when_the_token_is_of_another_cluster_then_refused(self, tmp_path: Path) -> None:
        """Before anything is written."""
        section = ClusterSection(join="10.0.0.1:9400", name="other")
        with pytest.raises(InvalidArgument, match=r"'shop'.*'other'"):
            ClusterIdentity.of(tmp_path, section, {CLUSTER_TOKEN_VARIABLE: TOKEN.text})
        assert not list(tmp_path.iterdir())


class TestOwn:
    def test_node_when_started_without_flags_then_has_its_address_and_labels(
        self, tmp_path: Path
    ) -> None:
        """Those that were given last; a port of the default would reach nobody."""
        identity = ClusterIdentity.of(tmp_path, ClusterSection(name="shop"), {})
        assert identity is not None
        identity.keep()
        given = ClusterSection(address="10.0.0.2:9400", labels="zone=a")
        assert identity.own(given, lambda _: True) == given
        assert identity.own(ClusterSection(), lambda _: False) == given
        moved = ClusterSection(address="10.0.0.3:9400")
        expected = ClusterSection(address="10.0.0.3:9400", labels="zone=a")
        assert identity.own(moved, lambda key: key == "cluster.address") == expected
        assert identity.own(ClusterSection(), lambda _: False) == expected
