"""The dashboard: the files of the package's directory `ui`, as a browser gets them.

They are read once and served from memory under the paths found then, so that no request names a
file. There is no data in them, so everybody may have them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from plexspaces_node.node.http.message import Headers, Request, Response
from plexspaces_node.node.http.problem import HttpFault

UI = Path(__file__).with_name("ui")
"""The files of the dashboard."""

KINDS: Mapping[str, bytes] = MappingProxyType(
    {
        ".css": b"text/css; charset=utf-8",
        ".html": b"text/html; charset=utf-8",
        ".js": b"text/javascript; charset=utf-8",
        ".png": b"image/png",
        ".svg": b"image/svg+xml",
        ".txt": b"text/plain; charset=utf-8",
        ".woff2": b"font/woff2",
    }
)
"""The content type of each kind of file; one of another kind is not served."""

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"font-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    b"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What a browser lets the page do: load its own files and ask its own node; no text is code."""

PROTECTION: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", POLICY),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # No page that opened this one, or that it opens, has a hold on it.
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""The headers of every file: a token that the page was given must not get out."""

_INDEX = b"/ui/index.html"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: bytes
    tag: bytes


class Pages:
    """The files of the dashboard, by their paths."""

    def __init__(self, directory: Path = UI) -> None:
        """Read every file below `directory` of a kind that is served; raises `OSError`.

        Its `index.html`, which must be there, is the page at `/`.
        """
        self._files = dict(_read(directory))
        self._files[b"/"] = self._files.pop(_INDEX)

    def __repr__(self) -> str:
        return f"<Pages {len(self._files)} files>"

    def answer(self, request: Request) -> Response | None:
        """Return the file at a request's path, or that the client has it; None if there is none.

        Raises `HttpFault` for a method other than GET and HEAD.
        """
        found = self._files.get(request.path)
        if found is None:
            return None
        if request.method not in (b"GET", b"HEAD"):
            method, path = request.method.decode("latin-1"), request.path.decode("latin-1")
            raise HttpFault(
                405, f"{method} is not allowed at {path}", headers=[(b"allow", b"GET, HEAD")]
            )
        # A browser asks each time whether it is still this one: a node may be upgraded.
        headers: Headers = [(b"etag", found.tag), (b"cache-control", b"no-cache"), *PROTECTION]
        if _has(request.header(b"if-none-match"), found.tag):
            return Response(304, headers)
        return Response(200, [(b"content-type", found.kind), *headers], found.content)


def _read(directory: Path) -> Iterator[tuple[bytes, _File]]:
    for path in sorted(directory.rglob("*")):
        if (kind := KINDS.get(path.suffix)) is not None and path.is_file():
            content = path.read_bytes()
            tag = b'"%b"' % hashlib.sha256(content).hexdigest()[:32].encode()
            served = f"/ui/{path.relative_to(directory).as_posix()}"
            yield served.encode(), _File(content, kind, tag)


def _has(asked: bytes | None, tag: bytes) -> bool:
    """Return whether a client has what has this tag, by its `If-None-Match`."""
    if asked is None:
        return False
    return any(each.strip().removeprefix(b"W/") in (tag, b"*") for each in asked.split(b","))
