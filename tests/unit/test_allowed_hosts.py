"""Which hosts an application may call: what can be named, and what it covers."""

from __future__ import annotations

import ipaddress

import pytest

from plexspaces_node.allowed_hosts import (
    MOST_HOSTS,
    AllowedHost,
    AllowedHosts,
    NotAHost,
    split_host,
)
from plexspaces_node.errors import InvalidArgument


def hosts(*texts: str) -> AllowedHosts:
    return AllowedHosts.parse(texts)


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("api.example.com", "api.example.com"),
        ("api.example.com:443", "api.example.com:443"),
        ("API.Example.COM.:0443", "api.example.com:443"),
        ("*.example.com:8443", "*.example.com:8443"),
        ("localhost:8080", "localhost:8080"),
        ("my_service", "my_service"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example:1", "xn--bcher-kva.example:1"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("example。com", "example.com"),
        ("10.0.0.5:80", "10.0.0.5:80"),
        ("[::1]:8080", "[::1]:8080"),
        ("[0:0::0001]", "[::1]"),
        ("[FE80::1]:65535", "[fe80::1]:65535"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
    ],
)
def test_entry_when_read_then_it_has_one_form(text: str, usual: str) -> None:
    """One host is written in many ways, and shown in one."""
    assert str(AllowedHost.parse(text)) == usual
    assert AllowedHost.parse(usual) == AllowedHost.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name"),
        (".", "no name"),
        (":443", "no name"),
        ("*", "beginning"),
        ("*.", "no name"),
        ("a.*.example.com", "beginning"),
        ("*.*.example.com", "beginning"),
        ("*example.com", "beginning"),
        ("https://example.com", "scheme"),
        ("example.com/path", "path"),
        ("example.com?x", "path"),
        ("user@example.com", "user name"),
        ("user:secret@example.com", "user name"),
        ("example.com:0", "port"),
        ("example.com:65536", "port"),
        ("example.com:", "port"),
        ("example.com:https", "port"),
        ("example.com:-1", "port"),
        ("example.com:٤٤٣", "port"),
        ("example.com:1:2", "brackets"),
        ("::1", "brackets"),
        ("[::1", "bracket"),
        ("[::1]8080", "bracket"),
        ("[fe80::1%eth0]:80", "zone"),
        ("[1.2.3.4]", "IPv6 address"),
        ("[example.com]", "IPv6 address"),
        ("127.1", "IPv4 address"),
        ("0x7f.0.0.1", "IPv4 address"),
        ("0x7f000001", "IPv4 address"),
        ("2130706433", "IPv4 address"),
        ("0177.0.0.1", "IPv4 address"),
        ("127.0.0.1.5", "IPv4 address"),
        ("example.0x", "IPv4 address"),
        ("*.127.0.0.1", "no subdomains"),
        ("*.[::1]", "no subdomains"),
        ("exa mple.com", "not valid"),
        ("example..com", "not valid"),
        ("example.com..", "not valid"),
        (".example.com", "not valid"),
        ("-a.example.com", "not valid"),
        ("a\0b", "not valid"),
        ("a\nb", "not valid"),
        ("a" * 64 + ".com", "not valid"),
        ("a." * 127 + "com", "not valid"),
        ("ü" * 80 + ".com", "not valid"),
        ("straße.de", "xn--"),
        ("exa\u200dmple.com", "xn--"),
    ],
)
def test_entry_when_it_is_no_host_then_the_error_shows_it_and_how(text: str, why: str) -> None:
    """A user sees what is wrong with which value."""
    with pytest.raises(InvalidArgument, match="is not a host to allow") as raised:
        AllowedHost.parse(text)
    assert why in raised.value.message
    assert repr(text[:60])[:-1] in raised.value.message
    assert "api.example.com:443" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("allowed", "yes", "no"),
    [
        (
            "api.example.com",
            ["api.example.com:443", "api.example.com:80", "API.example.com.:443"],
            ["api.example.com:8080", "example.com:443", "x.api.example.com:443"],
        ),
        ("api.example.com:8443", ["api.example.com:8443"], ["api.example.com:443"]),
        (
            "*.example.com:443",
            ["a.example.com:443", "a.b.example.com:443"],
            ["example.com:443", "badexample.com:443", "a.example.com.evil.org:443"],
        ),
        ("127.0.0.1:80", ["127.0.0.1:80", "[::ffff:7f00:1]:80"], ["localhost:80", "127.0.0.2:80"]),
        ("[::1]:80", ["[0::1]:80"], ["127.0.0.1:80"]),
        ("bücher.example", ["xn--bcher-kva.example:443"], ["bucher.example:443"]),
    ],
)
def test_request_when_its_host_is_named_then_it_is_covered(
    allowed: str, yes: list[str], no: list[str]
) -> None:
    """What is named is open, and nothing beside it."""
    for text, covered in [(each, True) for each in yes] + [(each, False) for each in no]:
        host, port = split_host(text)
        assert port is not None
        assert hosts(allowed).cover(host, port) is covered, text


def test_hosts_when_none_is_named_then_nothing_is_covered() -> None:
    """Nothing is open by default."""
    assert not hosts()
    assert not hosts().cover(split_host("example.com")[0], 443)


def test_hosts_when_an_address_is_named_then_only_as_an_address() -> None:
    """A name says nothing about where it leads."""
    named = hosts("10.0.0.5:80", "example.com")
    assert named.name(ipaddress.ip_address("10.0.0.5"), 80)
    assert named.name(ipaddress.ip_address("::ffff:10.0.0.5"), 80)
    assert not named.name(ipaddress.ip_address("10.0.0.5"), 443)
    assert not named.name(ipaddress.ip_address("10.0.0.6"), 80)


def test_hosts_when_named_twice_then_kept_once_in_order() -> None:
    """What is shown is short."""
    assert hosts("b.com", "A.com", "a.com").texts == ("b.com", "a.com")


def test_hosts_when_none_then_that_is_the_only_one() -> None:
    """What takes all away does not stand beside others."""
    assert hosts("none") == hosts()
    with pytest.raises(InvalidArgument, match="'none' and others"):
        hosts("none", "example.com")


def test_hosts_when_too_many_then_refused() -> None:
    """A list has a limit."""
    names = [f"h{n}.example.com" for n in range(MOST_HOSTS)]
    assert len(hosts(*names).entries) == MOST_HOSTS
    with pytest.raises(InvalidArgument, match="more than 256"):
        hosts(*names, "one.more")


def test_split_when_text_is_no_host_then_it_says_why() -> None:
    """A request's authority has the same rules."""
    with pytest.raises(NotAHost, match="user name"):
        split_host("example.com@127.0.0.1")
