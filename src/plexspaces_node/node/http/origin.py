"""Whose requests are taken: by the name they call the node, and by the page that sends them.

A browser lets every page on the internet send requests to 127.0.0.1. So a request must call the
node by a name that is its own, or a page could reach it by a name it made point here (DNS
rebinding), and one sent by a page of another origin is refused unless a setting allows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address

from plexspaces_node.node.http.message import Headers, Request, Response
from plexspaces_node.node.http.problem import HttpFault

_LABEL = rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMED = rb"(?:(" + _LABEL + rb")\.(?:(" + _LABEL + rb")\.)?)?"
"""What is before the node's own name: NAME, or NAME.TENANT."""

_HOST = re.compile(_NAMED + rb"localhost\.?(?::\d+)?\Z", re.IGNORECASE)
_PORT = re.compile(r":\d+\Z")
_REMEMBERED = 1024
"""Hosts of which the answer is kept; an attacker may send any number."""

_HOST_BYTES = 300
"""A longer host is not kept; a name has at most 253 characters."""

_OTHERS = (b"cross-site", b"same-site")
"""Another port of this host, or another name below the same domain, is a site but not an origin."""

_CODE = frozenset(
    {b"audioworklet", b"paintworklet", b"script", b"serviceworker", b"sharedworker", b"style"}
    | {b"worker", b"xslt"}
)
"""What a page loads that then does things in its name, as `sec-fetch-dest` calls it."""

_PAGES = (b"/", b"/api")
"""The pages of the node. No other page can do anything with them but open them."""

_ALLOWED_METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"


class Origins:
    """Which hosts and which origins of pages a node accepts."""

    def __init__(
        self,
        *,
        hosts: str = "",
        origins: str = "",
        any_address: bool = False,
        certified: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """`hosts` and `origins` are separated by commas; an origin of ``*`` is any.

        Accepts `localhost`, NAME.localhost, NAME.TENANT.localhost, loopback addresses, and any
        address if `any_address`; and the hosts that `certified` returns, which may be others later.
        Of hosts below each other the longest is meant.
        """
        self._listed = {each.strip().lower() for each in hosts.split(",") if each.strip()}
        self._certified = certified
        self._origins = {each.strip().encode() for each in origins.split(",") if each.strip()}
        self._any_address = any_address
        self._known: dict[bytes, str | None] = {}
        self._take(certified())

    def __repr__(self) -> str:
        known = len(self._known)
        return f"<Origins {sorted(self._hosts)} {sorted(self._origins)}, {known} hosts remembered>"

    def application_of(self, request: Request) -> str:
        """Return the application that the host names, "" for the node itself.

        As it is written, with its tenant or without.

        Raises `HttpFault` for a host that is not this node's, and for a page of another origin.
        """
        host = request.header(b"host") or b""
        application = self._known.get(host)
        if application is None:
            application = self._application_of(host)
            if len(self._known) < _REMEMBERED and len(host) <= _HOST_BYTES:
                self._known[host] = application
        origin = request.header(b"origin")
        if origin is not None:
            self._check_origin(origin, host)
        elif request.header(b"sec-fetch-site") in _OTHERS and not _is_link(request, application):
            raise _other_origin(b"pages of other origins")
        return application

    @staticmethod
    def check_part(request: Request) -> None:
        """Raise `HttpFault` if a page of the node loads code from below an application's path.

        No page of the node does, so this one was made to.
        """
        if (
            request.header(b"sec-fetch-site") == b"same-origin"
            and request.header(b"sec-fetch-dest") in _CODE
        ):
            raise HttpFault(403, "Pages of the node load no code from applications")

    def allow(self, request: Request, headers: Headers) -> None:
        """Add what lets a page of an accepted origin read the response.

        A component may have said it: browsers refuse to hear it twice.
        """
        origin = request.header(b"origin")
        if origin is None or any(name == b"access-control-allow-origin" for name, _ in headers):
            return
        if self._is_accepted(origin):
            headers += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", b"server-timing, retry-after"),
                (b"timing-allow-origin", origin),
                (b"vary", b"Origin"),
            ]

    def preflight(self, request: Request) -> Response:
        """Answer a browser that asks whether a page may send a request."""
        headers: Headers = [
            (b"access-control-allow-methods", _ALLOWED_METHODS),
            (b"access-control-max-age", b"600"),
        ]
        asked = request.header(b"access-control-request-headers")
        if asked is not None:
            headers.append((b"access-control-allow-headers", asked))
        self.allow(request, headers)
        return Response(204, headers)

    def _take(self, certified: tuple[str, ...]) -> None:
        self._taken = certified
        hosts = self._listed.union(each.lower() for each in certified)
        self._hosts = sorted(hosts, key=len, reverse=True)
        self._below = [
            re.compile(_NAMED + re.escape(each.encode()) + rb"\Z") for each in self._hosts
        ]
        self._known.clear()

    def _below_ours(self, name: bytes) -> re.Match[bytes] | None:
        return next((match for each in self._below if (match := each.match(name))), None)

    def _application_of(self, host: bytes) -> str:
        if match := _HOST.match(host):
            return _name_in(match)
        text = host.decode("latin-1").lower()
        name = _PORT.sub("", text)
        match = self._below_ours(name.encode("latin-1"))
        if match is None and (certified := self._certified()) != self._taken:
            self._take(certified)
            match = self._below_ours(name.encode("latin-1"))
        if match is not None:
            return _name_in(match)
        try:
            address = ip_address(name.strip("[]"))
        except ValueError:
            pass
        else:
            if address.is_loopback or self._any_address:
                return ""
        raise HttpFault(
            421,
            f"{text!r} is not a host name of this node",
            hint="use 127.0.0.1, localhost or NAME.localhost, or add the name to [http] hosts",
        )

    def _check_origin(self, origin: bytes, host: bytes) -> None:
        own = (b"http://" + host, b"https://" + host)
        if origin not in own and not self._is_accepted(origin):
            raise _other_origin(origin)

    def _is_accepted(self, origin: bytes) -> bool:
        return origin in self._origins or b"*" in self._origins


def _name_in(match: re.Match[bytes]) -> str:
    """Return the application's name in a host that has the form of `_NAMED`."""
    name, tenant = ((label or b"").decode().lower() for label in match.groups())
    return f"{tenant}/{name}" if tenant else name


def _other_origin(origin: bytes) -> HttpFault:
    return HttpFault(
        403,
        f"Requests from {origin.decode('latin-1')} are not allowed",
        hint="allow its origin with [http] cors_origins",
    )


def _is_link(request: Request, application: str) -> bool:
    """Return whether a user followed a link to a page of the node, or of an application."""
    mode = request.header(b"sec-fetch-mode")
    if request.method != b"GET" or mode != b"navigate":
        return False
    return bool(application) or request.path in _PAGES or request.path.startswith(b"/apps/")
