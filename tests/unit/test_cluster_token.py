"""The token of a cluster, and what follows from it."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from plexspaces_node.certificates import make_peer_certificate
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import InvalidArgument


class TestText:
    def test_token_when_passed_on_then_is_the_same(self) -> None:
        """And it is never in what is shown of the object."""
        token = ClusterToken.new("my-shop")
        assert ClusterToken.parse(f" {token.text}\n", source="the file") == token
        assert token.text.startswith("pxc_my-shop_")
        assert token.text not in repr(token)

    @pytest.mark.parametrize("index", [0, 5, 9, 40, 57])
    def test_token_when_a_character_is_mistyped_then_refused_and_not_repeated(
        self, index: int
    ) -> None:
        """The error says where the text came from."""
        text = ClusterToken(b"\7" * 32, "shop").text
        wrong = text[:index] + ("x" if text[index] != "x" else "y") + text[index + 1 :]
        with pytest.raises(InvalidArgument, match="what the file has") as refused:
            ClusterToken.parse(wrong, source="the file")
        assert wrong not in str(refused.value)
        assert "plexspaces nodes token" in (refused.value.hint or "")

    @pytest.mark.parametrize(
        "text", ["", "pxc_", "pxc_shop_", "plx_" + "0" * 49, "pxc_" + "z" * 49, "é" * 53]
    )
    def test_text_when_it_is_no_token_then_refused(self, text: str) -> None:
        """Also one that would be a number too large."""
        with pytest.raises(InvalidArgument):
            ClusterToken.parse(text, source="the file")


class TestDerived:
    def test_keys_when_derived_for_two_purposes_then_differ(self) -> None:
        """And each is the same on every node."""
        token = ClusterToken(b"\7" * 32)
        assert token.derive("secrets") == ClusterToken(b"\7" * 32).derive("secrets")
        assert token.derive("secrets") != token.derive("routes")

    def test_certificate_when_another_node_checks_it_then_valid_for_its_name_alone(self) -> None:
        """Each node makes the authority by itself; another cluster's does not count."""
        token = ClusterToken.new()
        pair = make_peer_certificate(token.authority("shop"), "node-b", ["127.0.0.1"])
        leaf = x509.load_pem_x509_certificate(pair.certificate)
        trusted = x509.load_pem_x509_certificate(token.authority("shop").certificate)
        policy = PolicyBuilder().store(Store([trusted]))
        policy.build_server_verifier(x509.DNSName("node-b")).verify(leaf, [])
        policy.build_client_verifier().verify(leaf, [])
        with pytest.raises(x509.verification.VerificationError):
            policy.build_server_verifier(x509.DNSName("node-a")).verify(leaf, [])
        other = x509.load_pem_x509_certificate(ClusterToken.new().authority("shop").certificate)
        with pytest.raises(x509.verification.VerificationError):
            PolicyBuilder().store(Store([other])).build_client_verifier().verify(leaf, [])
