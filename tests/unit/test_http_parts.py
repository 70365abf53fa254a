"""The parts of the HTTP door: what is read, whose requests are taken, which routes there are."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated import (
    audit_pb2,
    cluster_pb2,
    quota_pb2,
    secret_pb2,
    telemetry_pb2,
    token_pb2,
)
from plexspaces_node.errors import (
    PLATFORM_ERRORS,
    ActorFailed,
    ActorTrapped,
    InvalidArgument,
    PlexSpacesError,
    Unauthenticated,
)
from plexspaces_node.node.artifacts.upload import LEAST_BYTES_PER_S
from plexspaces_node.node.http import problem
from plexspaces_node.node.http.hints import for_http
from plexspaces_node.node.http.message import BUFFER_BYTES, Request, Response
from plexspaces_node.node.http.openapi import document
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.reader import (
    BODY_S,
    COUNTED_BYTES,
    HEAD_BYTES,
    HEAD_S,
    HEADERS,
    SLICE_BYTES,
    RequestReader,
)
from plexspaces_node.node.http.routes import ROUTES, SERVICE
from plexspaces_node.node.http.share import Share
from plexspaces_node.node.http.transcode import from_json, line, to_json
from plexspaces_node.node.machines.in_flight import InFlight

HEAD = b"POST /x HTTP/1.1\r\nhost: localhost\r\n"


class Reading:
    """A reader with a clock that moves when told, and what it has read."""

    def __init__(self, *, limit: int = 1 << 20, in_flight_bytes: int = 1 << 20) -> None:
        self.now_s = 100.0
        self.requests: list[Request] = []
        self.told: list[str] = []
        self.refusal: PlexSpacesError | None = None
        self.in_flight = InFlight(in_flight_bytes)
        transport: Any = SimpleNamespace(
            pause_reading=lambda: self.told.append("pause"),
            resume_reading=lambda: self.told.append("resume"),
        )
        self.reader = RequestReader(
            transport,
            body_limit=partial(self._limit_of, limit),
            on_request=self.requests.append,
            proceed=lambda: self.told.append("continue"),
            share=Share(self.in_flight),
            clock=lambda: self.now_s,
        )

    def _limit_of(self, limit: int, request: Request) -> int:
        request.refusal = self.refusal
        return limit


class TestReader:
    def test_head_has_its_time_from_its_first_byte_on(self) -> None:
        """One that comes byte by byte gets no more time for it."""
        reading = Reading()
        assert reading.reader.due_s == inf
        reading.reader.feed(HEAD[:1])
        reading.now_s += 5
        reading.reader.feed(HEAD[1:9])
        assert reading.reader.due_s == 100 + HEAD_S
        reading.reader.expire()
        fault = reading.reader.fault
        assert fault is not None
        assert (fault.status, "head" in fault.detail) == (408, True)

    def test_body_gets_time_with_what_comes(self) -> None:
        """A long body on a slow line is taken; one that stops, or trickles, is not waited for."""
        reading = Reading()
        reading.reader.feed(HEAD + b"content-length: 4\r\n\r\n")
        assert reading.reader.due_s == 100 + BODY_S
        reading.now_s += 20
        reading.reader.feed(b"ab")
        assert reading.reader.due_s == 100 + BODY_S + 2 / LEAST_BYTES_PER_S
        reading.reader.feed(b"cd")
        assert (reading.reader.due_s, reading.requests[0].body) == (inf, b"abcd")

    def test_long_body_counts_while_it_comes(self) -> None:
        """Many slow senders of long bodies do not take the node's memory: the next is refused."""
        reading = Reading(in_flight_bytes=4 * COUNTED_BYTES)
        reading.in_flight.add(1)
        reading.reader.feed(HEAD + b"content-length: 1000000\r\n\r\n")
        for _ in range(5):
            reading.reader.feed(b"x" * COUNTED_BYTES)
        fault = reading.reader.fault
        assert fault is not None
        assert (fault.status, "in flight on this node" in fault.detail) == (429, True)
        assert reading.in_flight.bytes == 1

    @pytest.mark.parametrize(("size", "counted"), [(3, 0), (2 * COUNTED_BYTES, 2 * COUNTED_BYTES)])
    def test_long_body_counts_until_it_is_released(self, size: int, counted: int) -> None:
        """Also while it waits for its turn; then whoever takes it counts it."""
        reading = Reading()
        reading.reader.feed(HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * size)
        assert (len(reading.requests[0].body), reading.in_flight.bytes) == (size, counted)
        reading.requests[0].release()
        reading.requests[0].release()
        assert reading.in_flight.bytes == 0

    def test_body_of_a_request_that_is_not_let_in_is_not_kept(self) -> None:
        """Strangers would fill the memory while they wait to be refused; what follows is read."""
        reading = Reading()
        reading.refusal = Unauthenticated("who?")
        for _ in range(3):
            reading.reader.feed(HEAD + b"content-length: 60000\r\n\r\n" + b"x" * 60000)
        reading.refusal = None
        reading.reader.feed(HEAD + b"content-length: 2\r\n\r\nab")
        assert [bytes(request.body) for request in reading.requests] == [b"", b"", b"", b"ab"]

    def test_bodies_that_wait_take_half_of_the_nodes_limit(self) -> None:
        """One connection does not keep the others from sending."""
        reading = Reading(in_flight_bytes=8 * COUNTED_BYTES)
        size = 3 * COUNTED_BYTES
        for _ in range(2):
            reading.reader.feed(HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * size)
        fault = reading.reader.fault
        assert fault is not None
        assert (fault.status, "this connection" in fault.detail) == (429, True)
        assert reading.in_flight.bytes == size

    def test_bytes_behind_a_pause_are_not_parsed(self) -> None:
        """One read may hold thousands of requests: few more than may wait are made of it."""
        reading = Reading()
        request = HEAD + b"content-length: 0\r\n\r\n"
        asked = 4 * SLICE_BYTES // len(request)
        reading.reader.feed(request)
        reading.reader.pause()
        reading.reader.feed(request * (asked - 1))
        assert len(reading.requests) == 1
        reading.reader.resume()
        assert len(reading.requests) == asked
        assert reading.told == ["pause", "resume"]

    def test_headers_cost_more_than_their_text(self) -> None:
        """Empty ones by the thousand are refused, and so are many of any kind."""
        reading = Reading()
        reading.reader.feed(HEAD + b"a:\r\n" * (HEADERS + 1) + b"\r\n")
        fault = reading.reader.fault
        assert fault is not None
        assert (fault.status, reading.requests) == (431, [])

    def test_trailers_are_dropped_and_bounded(self) -> None:
        """They are no headers of the request, which has begun; without an end they end it."""
        chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n"
        reading = Reading()
        reading.reader.feed(chunked + b"host: other\r\n\r\n")
        assert reading.requests[0].header(b"host") == b"localhost"
        assert len(reading.requests[0].headers) == 2
        reading.reader.feed(chunked + b"a: ")
        reading.reader.feed(b"x" * 2 * HEAD_BYTES)
        assert reading.reader.fault is not None
        assert len(reading.requests) == 1

    def test_what_follows_the_last_request_is_dropped(self) -> None:
        """A client that says close and sends on gets its reply, and no complaint behind it."""
        reading = Reading()
        reading.reader.feed(HEAD + b"connection: close\r\ncontent-length: 0\r\n\r\nmore")
        assert (len(reading.requests), reading.reader.fault) == (1, None)

    def test_empty_lines_begin_no_request(self) -> None:
        """Whoever sends them is still between requests."""
        reading = Reading()
        reading.reader.feed(b"\r\n")
        assert (reading.reader.is_between, reading.reader.due_s) == (True, inf)

    @pytest.mark.parametrize("hosts", [b"", b"host: a\r\nhost: b\r\n"])
    def test_request_has_one_host(self, hosts: bytes) -> None:
        """None, or two, could be taken for another by whoever is in between."""
        reading = Reading()
        reading.reader.feed(b"GET /x HTTP/1.1\r\n" + hosts + b"\r\n")
        assert reading.reader.fault is not None
        assert reading.reader.fault.status == 400

    def test_absolute_target_names_the_host(self) -> None:
        """As it is sent to proxies; the header counts no more."""
        reading = Reading()
        reading.reader.feed(b"GET http://b:80/x?y HTTP/1.1\r\nhost: a\r\n\r\n")
        (request,) = reading.requests
        assert (request.path, request.query, request.header(b"host")) == (b"/x", b"y", b"b:80")

    @pytest.mark.parametrize("limit", [1 << 20, -1])
    @pytest.mark.parametrize("size", [1, 1000])
    async def test_body_of_a_request_for_another_protocol_is_read(
        self, limit: int, size: int
    ) -> None:
        """As Java's client sends it; it gets no other protocol, and is the last one."""
        upgrade = HEAD + b"connection: upgrade\r\nupgrade: h2c\r\n"
        framings = (
            b"content-length: 3\r\n\r\nabc",
            b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        for framing in framings:
            reading = Reading(limit=limit)
            sent = upgrade + framing + HEAD + b"\r\n"
            for at in range(0, len(sent), size):
                reading.reader.feed(sent[at : at + size])
            (request,) = reading.requests
            body = request.body
            if request.stream is not None:
                body = b"".join([piece async for piece in request.stream])
            assert (body, reading.reader.is_last, reading.reader.fault) == (b"abc", True, None)

    def test_refused_request_is_known(self) -> None:
        """So that its method and its origin decide how it is told."""
        reading = Reading()
        reading.reader.feed(b"HEAD /x HTTP/1.1\r\norigin: o\r\nhost: a\r\nhost: b\r\n\r\n")
        refused = reading.reader.refused
        assert (refused.method, refused.header(b"origin")) == (b"HEAD", b"o")

    def test_half_a_request_is_forgotten_when_its_client_leaves(self) -> None:
        """And its bytes with it."""
        reading = Reading()
        size = 2 * COUNTED_BYTES
        reading.reader.feed(HEAD + b"content-length: 999999\r\n\r\n" + b"x" * size)
        assert reading.in_flight.bytes == size
        reading.reader.close()
        assert (reading.in_flight.bytes, reading.requests) == (0, [])

    @pytest.mark.parametrize(("limit", "told"), [(10, []), (100, ["continue"])])
    def test_client_that_waits_is_told_to_go_on(self, limit: int, told: list[str]) -> None:
        """Unless what it would send is refused by its length."""
        reading = Reading(limit=limit)
        reading.reader.feed(HEAD + b"content-length: 50\r\nexpect: 100-Continue\r\n\r\n")
        assert reading.told == told
        assert (reading.reader.fault is None) == bool(told)

    async def test_streamed_body_is_read_no_faster_than_it_is_taken(self) -> None:
        """Past its buffer reading stops, and the client's time too; what is taken resumes both."""
        reading = Reading(limit=-1)
        reading.reader.feed(HEAD + b"content-length: 1000000\r\n\r\n")
        for _ in range(5):
            reading.reader.feed(b"x" * COUNTED_BYTES)
        assert (reading.told, reading.reader.due_s) == (["pause"], inf)
        stream = reading.requests[0].stream
        assert stream is not None
        pieces = stream.__aiter__()
        taken = 0
        while taken < 5 * COUNTED_BYTES:
            taken += len(await anext(pieces))
        assert (reading.told[-1], reading.reader.due_s) == ("resume", 100 + BODY_S)

    async def test_what_follows_a_body_that_nobody_takes_is_read(self) -> None:
        """The last of it may be what fills the buffer: nobody would resume the connection."""
        reading = Reading(limit=-1)
        size = BUFFER_BYTES + 10
        reading.reader.feed(HEAD + b"content-length: %d\r\n\r\n" % size)
        reading.reader.feed(b"x" * size)
        assert reading.told == ["pause", "resume"]
        reading.reader.feed(HEAD + b"content-length: 0\r\n\r\n")
        assert len(reading.requests) == 2

    async def test_body_that_is_taken_does_not_resume_what_it_did_not_pause(self) -> None:
        """Too many requests wait behind it: those are read when there is room."""
        reading = Reading(limit=-1)
        reading.reader.feed(HEAD + b"content-length: 3\r\n\r\nabc")
        reading.reader.pause()
        stream = reading.requests[0].stream
        assert stream is not None
        assert [piece async for piece in stream] == [b"abc"]
        assert reading.told == ["pause"]

    async def test_bytes_of_a_streamed_body_that_come_one_by_one_wait_together(self) -> None:
        """Each as an object of its own would take fifty times its size."""
        reading = Reading(limit=-1)
        reading.reader.feed(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        reading.reader.feed(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        stream = reading.requests[0].stream
        assert stream is not None
        pieces = [piece async for piece in stream]
        assert sum(map(len, pieces)) == 20_000
        assert len(pieces) <= 20_000 // 4096 + 1

    async def test_consumer_of_a_slow_body_hears_that_it_is_slow(self) -> None:
        """It is the client's fault, and has a status."""
        reading = Reading(limit=-1)
        reading.reader.feed(HEAD + b"content-length: 100\r\n\r\nabc")
        reading.reader.expire()
        stream = reading.requests[0].stream
        assert stream is not None
        assert not stream.is_complete
        with pytest.raises(HttpFault) as caught:
            _ = [piece async for piece in stream]
        assert caught.value.status == 408


def asking(host: str, **headers: str) -> Request:
    pairs = [(b"host", host.encode())]
    pairs += [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return Request(b"POST", b"/x", pairs)


class TestOrigins:
    @pytest.mark.parametrize(
        ("host", "application"),
        [
            ("localhost", ""),
            ("localhost:8080", ""),
            ("127.0.0.1:8080", ""),
            ("127.1.2.3", ""),
            ("[::1]:8080", ""),
            ("shop.localhost:8080", "shop"),
            ("SHOP.LOCALHOST", "shop"),
            ("node.example", ""),
            ("shop.node.example:80", "shop"),
            ("cart.shop.localhost:8080", "shop/cart"),
            ("Cart.SHOP.node.example", "shop/cart"),
        ],
    )
    def test_host_of_the_node(self, host: str, application: str) -> None:
        """Its own names, those of settings, and an application's below them."""
        origins = Origins(hosts="node.example")
        assert origins.application_of(asking(host)) == application

    def test_host_of_a_renewed_certificate(self) -> None:
        """Taken without a restart, as the certificate itself; what was remembered is forgotten."""
        certified = ["old.example"]
        origins = Origins(hosts="node.example", certified=lambda: tuple(certified))
        assert origins.application_of(asking("cart.old.example")) == "cart"
        certified[:] = ["New.example", "old.example.new.example"]
        assert origins.application_of(asking("cart.new.example:8080")) == "cart"
        assert origins.application_of(asking("node.example")) == ""
        with pytest.raises(HttpFault, match="is not a host name"):
            origins.application_of(asking("cart.old.example"))

    @pytest.mark.parametrize(
        "host",
        ["", "example.com", "localhost.example.com", "xlocalhost", "8.8.8.8", "a.b.c.localhost"],
    )
    def test_host_of_somebody_else(self, host: str) -> None:
        """Misdirected, with what helps."""
        with pytest.raises(HttpFault, match="is not a host name") as caught:
            Origins(hosts="node.example").application_of(asking(host))
        assert (caught.value.status, "[http] hosts" in caught.value.hint) == (421, True)

    def test_address_of_a_node_that_may_be_reached(self) -> None:
        """Whoever let it be reached calls it by its address."""
        assert Origins(any_address=True).application_of(asking("10.0.0.7:8080")) == ""

    @pytest.mark.parametrize("path", [b"/", b"/api"])
    def test_link_to_a_page_of_the_node_may_be_followed(self, path: bytes) -> None:
        """From any site: it changes nothing, and the site does not see it."""
        request = asking("localhost", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
        request.method, request.path = b"GET", path
        assert Origins().application_of(request) == ""

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    def test_other_origin_is_refused_whatever_it_asks(self, method: bytes, site: str) -> None:
        """A picture that follows a log would take one of its few places.

        A page at another port of this host is of the same site.
        """
        request = asking("localhost", sec_fetch_site=site)
        request.method = method
        with pytest.raises(HttpFault, match="pages of other origins"):
            Origins().application_of(request)

    def test_page_that_is_allowed_may_read(self) -> None:
        """The answer says so, for its origin alone; another one's page may not even ask."""
        origins = Origins(origins="https://shop.example")
        request = asking("localhost", origin="https://shop.example")
        origins.application_of(request)
        headers: list[tuple[bytes, bytes]] = []
        origins.allow(request, headers)
        # Nor is it said twice, where a component has said it.
        said = list(headers)
        origins.allow(request, said)
        assert said == headers
        assert (b"access-control-allow-origin", b"https://shop.example") in headers
        with pytest.raises(HttpFault):
            origins.application_of(asking("localhost", origin="https://other.example"))
        assert origins.preflight(request).status == 204


class TestContract:
    def test_every_method_has_a_route(self) -> None:
        """Nothing of the gRPC API is missing, and nothing is there twice."""
        services = (
            SERVICE,
            *secret_pb2.DESCRIPTOR.services_by_name.values(),
            *audit_pb2.DESCRIPTOR.services_by_name.values(),
            *cluster_pb2.DESCRIPTOR.services_by_name.values(),
            *quota_pb2.DESCRIPTOR.services_by_name.values(),
            *telemetry_pb2.DESCRIPTOR.services_by_name.values(),
            *token_pb2.DESCRIPTOR.services_by_name.values(),
        )
        rpcs = [(route.service.full_name, route.rpc) for route in ROUTES]
        assert sorted(rpcs) == sorted(
            (service.full_name, method.name) for service in services for method in service.methods
        )

    def test_every_field_of_a_route_is_the_requests(self) -> None:
        """What is in the path and the query goes into a field of the contract."""
        for route in ROUTES:
            if route.rpc != "UploadArtifact":
                fields = route.descriptor.input_type.fields_by_name
                assert {*route.parameters.values(), *route.query} <= set(fields)

    def test_document_names_every_route_and_resolves(self) -> None:
        """Each reference in the OpenAPI document leads to a schema in it."""
        text = repr(document())
        for route in ROUTES:
            assert route.path in document()["paths"]
        schemas = document()["components"]["schemas"]
        for part in text.split("#/components/schemas/")[1:]:
            assert part.partition("'")[0] in schemas

    def test_document_says_what_each_operation_needs(self) -> None:
        """A bearer token, and with which scope."""
        paths = document()["paths"]
        assert document()["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        assert {"token": []} in document()["security"]
        assert "admin or invoke" in paths["/apps/{name}/{type}"]["post"]["description"]
        assert "any scope" in paths["/v1/node"]["get"]["description"]
        assert "admin, deploy or read" in paths["/v1/applications"]["get"]["description"]

    def test_no_two_paths_differ_in_a_name_alone(self) -> None:
        """They would be the same path, with two descriptions of it."""
        paths = [re.sub(r"\{\w+\}", "{}", path) for path in document()["paths"]]
        assert len(set(paths)) == len(paths)

    def test_message_goes_to_json_and_back(self) -> None:
        """Numbers of 64 bits, bytes, maps, lists and messages."""
        message = pb.DeployRequest(
            name="one",
            env={"A": "b"},
            args=["x", "y"],
            config=pb.VmConfig(vcpus=2),
            concurrency=3,
        )
        assert from_json(pb.DeployRequest, line(to_json(message))) == message
        invoke = pb.InvokeRequest(name="one", payload=b"\xff\x00")
        assert json.loads(line(to_json(invoke)))["payload"] == "/wA="
        assert line({"a": 1}) == b'{"a":1}\n'
        assert from_json(pb.InvokeRequest, line(to_json(invoke))) == invoke
        vm = pb.Vm(started_unix_ns=2**62)
        assert to_json(vm)["started_unix_ns"] == 2**62

    @pytest.mark.parametrize(
        ("kind", "body", "said"),
        [
            (pb.DeployRequest, b"[]", "Expected `object`, got `array`"),
            (pb.DeployRequest, b"{", "not JSON"),
            (pb.DeployRequest, b"\xff", "not JSON"),
            (pb.DeployRequest, b'{"name": "\\ud800"}', "not JSON"),
            (pb.DeployRequest, b'{"nme": 1}', "unknown field `nme`"),
            (pb.DeployRequest, b'{"config": {"vcpu": 1}}', "unknown field `vcpu` - at `$.config`"),
            (pb.DeployRequest, b'{"concurrency": "many"}', "at `$.concurrency`"),
            (pb.DeployRequest, b'{"concurrency": -1}', ">= 0"),
            (pb.DeployRequest, b'{"concurrency": 4294967296}', "<= 4294967295"),
            (pb.DeployRequest, b'{"upload_ns": 18446744073709551616}', "18446744073709551616"),
            (pb.DeployRequest, b'{"env": {"A": 1}}', "at `$.env"),
            (pb.InvokeRequest, b'{"payload": "eHl"}', "base64"),
            (pb.InvokeRequest, b'{"payload": "eH l6"}', "base64"),
            (pb.InvokeRequest, b'{"payload": "eHl6!"}', "base64"),
            (pb.StopRequest, b'{"name": "b"}', "'name' is in the body, and in the path"),
        ],
    )
    def test_json_that_is_no_message_is_refused(
        self, kind: type[Message], body: bytes, said: str
    ) -> None:
        """With what was wrong in it, where, and no word of a library's types."""
        with pytest.raises(InvalidArgument) as caught:
            from_json(kind, body, {"name": "a"} if kind is pb.StopRequest else {})
        assert said in caught.value.message
        assert "Request" not in caught.value.message

    def test_parameters_are_text(self) -> None:
        """Numbers are made of them where the contract has numbers."""
        parameters = {"name": "1", "tail": "5", "follow": True, "trace_id": "0a"}
        expected = pb.LogsRequest(name="1", tail=5, follow=True, trace_id="0a")
        assert from_json(pb.LogsRequest, parameters=parameters) == expected
        with pytest.raises(InvalidArgument, match="tail"):
            from_json(pb.LogsRequest, parameters={"name": "1", "tail": "all"})

    def test_body_is_read_no_further_than_it_can_be_a_message(self) -> None:
        """Millions of members, or of elements, would keep the node from everything else."""
        for begin in (b'{"nme": 1, ', b'{"payload": [', b'{"timeout_ms": {'):
            with pytest.raises(InvalidArgument, match="not valid"):
                from_json(pb.InvokeRequest, begin)

    def test_every_error_has_a_status(self) -> None:
        """Platform errors, and an actor's text that is no Unicode."""
        assert set(problem.STATUSES) == set(PLATFORM_ERRORS)
        trapped: Response = problem.of_error(ActorTrapped("\ud800", code="unreachable"))
        assert (trapped.status, b'"code":"unreachable"' in trapped.body) == (500, True)  # type: ignore[operator]

    def test_http_and_the_platform_tell_the_same_alike(self) -> None:
        """A code has one title, whoever found the fault; every code of HTTP has its type."""
        told: dict[str, str] = {}
        for cls, (_, title) in problem.STATUSES.items():
            told[cls.code] = title
        for status, (code, title, _) in problem.FAULTS.items():
            assert told.setdefault(code, title) == title
            members = json.loads(bytes(HttpFault(status, "why").response.body))  # type: ignore[arg-type]
            assert (members["code"], members["detail"]) == (code, "why")
            assert members["type"] == f"urn:plexspaces:problem:{code}"


class TestHints:
    @pytest.mark.parametrize(
        ("hint", "said"),
        [
            ("plexspaces list", "GET /v1/applications"),
            ("plexspaces start --name a-1", "POST /v1/applications/a-1/start"),
            ("plexspaces start --name shop/a", "POST /v1/applications/shop%2Fa/start"),
            ("plexspaces logs shop/a and more", "GET /v1/applications/shop%2Fa/logs and more"),
            ("x; plexspaces stop a --force", "x; POST /v1/applications/a/stop?force"),
            (
                "stop another `plexspaces logs -f`",
                "stop another GET /v1/applications/NAME/logs?follow",
            ),
            ("see plexspaces nodes", "see GET /v1/nodes"),
            ("plexspaces nodes drain b", "POST /v1/nodes/b/drain"),
            ("plexspaces nodes remove b", "DELETE /v1/nodes/b"),
            ("--timeout 30", "Prefer: wait=30"),
            (
                "deploy with --replace, which keeps its state, or under another --name",
                'deploy with "replace": true, which keeps its state, or under another "name"',
            ),
            ("deploy with --memory 256", 'deploy with "config": {"memory_mib": 256}'),
            (
                "deploy the file again, under any name",
                "upload it first: curl -T app.wasm http://HOST/v1/artifacts/",
            ),
            ("raise [limits] calls", "raise [limits] calls"),
        ],
    )
    def test_command_becomes_a_request(self, hint: str, said: str) -> None:
        """A client of HTTP has no command line, and what it cannot do stays as it is."""
        assert for_http(hint) == said

    def test_no_hint_for_clients_names_a_command_or_flag(self) -> None:
        """Of all hints in the sources of what serves requests, but for those to who runs a node."""
        rooms = ("node/applications", "node/artifacts", "node/machines", "node/registry", "vm/host")
        files = [ROOT / "model.py", ROOT / "errors.py", ROOT / "artifact_inspection.py"]
        files += [file for room in rooms for file in (ROOT / room).rglob("*.py")]
        found = [hint for file in files for hint in hints_of(ast.parse(file.read_text()))]
        assert len(found) > 40
        assert [hint for hint in found if COMMAND_LINE.search(for_http(hint))] == []

    def test_words_of_an_actor_stay(self) -> None:
        """It may speak of a program of its own."""
        error = ActorFailed("no", code="c", hint="use --replace")
        assert problem.members_of(error)["hint"] == "use --replace"


ROOT = Path(problem.__file__).parents[2]
COMMAND_LINE = re.compile(
    r"plexspaces (?!doctor|restore|start-node)[a-z]"
    r"|(?<!\w)--(?!data-dir|node-id|upgrade|device)[a-z]"
)


def hints_of(tree: ast.AST) -> Iterator[str]:
    """The texts that are given as hints; what is filled in is NAME."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield node.value.value
            elif isinstance(node.value, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "NAME"
                    for part in node.value.values
                )
