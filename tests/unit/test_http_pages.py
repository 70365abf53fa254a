"""The dashboard's files as a browser gets them, and how they are protected."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_node.node.http.message import Request
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.pages import KINDS, UI, Pages
from plexspaces_node.node.http.problem import HttpFault

MOST_BYTES = 1024 * 1024
"""What a browser loads before the page is there; a wheel carries it too."""


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    """A page with a script, and a file that is none of its own."""
    (tmp_path / "ui" / "parts").mkdir(parents=True)
    (tmp_path / "ui" / "index.html").write_text("<!doctype html>")
    (tmp_path / "ui" / "parts" / "app.js").write_text("'use strict'")
    (tmp_path / "ui" / "notes").write_text("no kind")
    (tmp_path / "secret.js").write_text("outside")
    return Pages(tmp_path / "ui")


def asking(path: str, method: str = "GET", **headers: str) -> Request:
    named = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return Request(method.encode(), path.encode(), [(b"host", b"localhost"), *named])


class TestPages:
    def test_file_when_asked_for_then_with_its_kind(self, pages: Pages) -> None:
        """The page at `/`, and what it consists of below `/ui/`."""
        for path, kind, content in (
            ("/", b"text/html; charset=utf-8", b"<!doctype html>"),
            ("/ui/parts/app.js", b"text/javascript; charset=utf-8", b"'use strict'"),
        ):
            response = pages.answer(asking(path))
            assert response is not None
            headers = dict(response.headers)
            assert (response.status, response.body) == (200, content)
            assert headers[b"content-type"] == kind
            assert headers[b"cache-control"] == b"no-cache"

    @pytest.mark.parametrize(
        "path",
        [
            *("/ui", "/ui/", "/ui/index.html", "/ui/notes", "/ui/parts", "/ui/parts/"),
            *(
                "/ui/../secret.js",
                "/ui/%2e%2e/secret.js",
                "/ui/parts/../../secret.js",
                "/secret.js",
            ),
            *(
                "/ui//parts/app.js",
                "/ui/parts/app.js/",
                "/ui/parts/app.js%00",
                "/ui/%70arts/app.js",
            ),
        ],
    )
    def test_path_when_it_is_no_file_of_the_page_then_nothing(
        self, pages: Pages, path: str
    ) -> None:
        """A path is looked up as it was sent; none is joined, decoded or opened."""
        assert pages.answer(asking(path)) is None

    def test_file_when_the_browser_has_it_then_it_is_not_sent_again(self, pages: Pages) -> None:
        """By its tag, which is another one for other content."""
        response = pages.answer(asking("/"))
        assert response is not None
        tag = dict(response.headers)[b"etag"].decode()
        for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = pages.answer(asking("/", if_none_match=asked))
            assert again is not None
            assert (again.status, again.body) == (304, b"")
            assert dict(again.headers)[b"etag"].decode() == tag
        other = pages.answer(asking("/ui/parts/app.js", if_none_match=tag))
        assert other is not None
        assert other.status == 200

    def test_method_when_it_would_change_something_then_refused(self, pages: Pages) -> None:
        """And what may be sent is said."""
        with pytest.raises(HttpFault) as refused:
            pages.answer(asking("/", "POST"))
        assert (b"allow", b"GET, HEAD") in refused.value.response.headers
        head = pages.answer(asking("/", "HEAD"))
        assert head is not None
        assert head.status == 200

    def test_response_when_it_is_any_then_it_is_protected(self, pages: Pages) -> None:
        """Whatever the file: each can be opened as a page."""
        for request in (asking("/"), asking("/ui/parts/app.js"), asking("/", if_none_match="*")):
            response = pages.answer(request)
            assert response is not None
            headers = dict(response.headers)
            policy = dict(
                part.strip().partition(b" ")[::2]
                for part in headers[b"content-security-policy"].split(b";")
            )
            assert policy[b"default-src"] == b"'none'"
            assert policy[b"script-src"] == policy[b"connect-src"] == b"'self'"
            assert policy[b"frame-ancestors"] == policy[b"form-action"] == b"'none'"
            assert headers[b"x-frame-options"] == b"DENY"
            assert headers[b"cross-origin-opener-policy"] == b"same-origin"


class TestFiles:
    def test_files_when_served_then_all_are_of_a_known_kind(self) -> None:
        """One that is not would be missing in the browser alone."""
        files = [path for path in UI.rglob("*") if path.is_file() and path.name != "LICENSE"]
        assert {path.suffix for path in files} <= set(KINDS)
        assert sum(path.stat().st_size for path in files) < MOST_BYTES

    def test_every_file_when_asked_for_then_it_is_there(self) -> None:
        """Those of the package."""
        pages = Pages()
        served = ["/", *(f"/ui/{path.relative_to(UI).as_posix()}" for path in UI.rglob("*.*"))]
        served.remove("/ui/index.html")
        for path in served:
            response = pages.answer(asking(path))
            assert response is not None, path
            assert response.body, path


class TestCodeOfApplications:
    @pytest.mark.parametrize("part", ["script", "style", "serviceworker", "worker", "xslt"])
    def test_code_when_a_page_of_the_node_loads_it_then_refused(self, part: str) -> None:
        """It would have the rights of that page, and the token that it was given."""
        request = asking("/apps/evil/x", sec_fetch_site="same-origin", sec_fetch_dest=part)
        with pytest.raises(HttpFault, match="load no code"):
            Origins().check_part(request)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"sec_fetch_site": "same-origin", "sec_fetch_dest": "empty"},
            {"sec_fetch_site": "none", "sec_fetch_dest": "document"},
            {"sec_fetch_site": "cross-site", "sec_fetch_dest": "script"},
        ],
    )
    def test_request_when_it_is_no_code_of_such_a_page_then_let_in(
        self, headers: dict[str, str]
    ) -> None:
        """Those of programs, of scripts of the page, and of pages of allowed origins."""
        Origins().check_part(asking("/apps/hello/x", **headers))
