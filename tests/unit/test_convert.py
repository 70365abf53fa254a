"""Nothing is lost between the records and the messages of the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plexspaces_node.api import convert
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.errors import InvalidArgument, Unsupported
from plexspaces_node.info import (
    ApplicationInfo,
    Counters,
    Listing,
    LogLine,
    MessageTimings,
    NodeInfo,
    VmInfo,
)
from plexspaces_node.link.frames import cut
from plexspaces_node.model import (
    ApplicationSpec,
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    VmState,
)

UINT32 = st.integers(1, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

SIZES = st.builds(VmConfig, UINT32, UINT32)
PHASES = st.builds(PhaseTimings, UINT64, UINT64, st.booleans(), UINT64, UINT64, UINT64, UINT64)
VMS = st.builds(
    VmInfo,
    *(TEXT, st.sampled_from(VmState), TEXT, TEXT, SIZES, INT64, UINT64, UINT64),
    missing_walls=st.lists(TEXT, max_size=3).map(tuple),
)
COUNTERS = st.builds(Counters, UINT64, UINT64, UINT64, UINT64, UINT32)
APPLICATIONS = st.builds(
    ApplicationInfo,
    id=TEXT,
    name=TEXT,
    version=TEXT,
    state=st.sampled_from(ApplicationState),
    language=st.sampled_from(Language),
    kind=st.sampled_from(ArtifactKind),
    digest=TEXT,
    vm_config=SIZES,
    vm=st.none() | VMS,
    timings=PHASES,
    created_unix_ns=INT64,
    restarts=UINT32,
    last_error=TEXT,
    counters=COUNTERS,
    args=st.lists(TEXT, max_size=3).map(tuple),
    concurrency=UINT32,
    tenant=TEXT.filter(bool),
    public=st.booleans(),
    allow_hosts=st.lists(TEXT, max_size=3).map(tuple),
)
SPEC = ApplicationSpec(
    name="calc",
    digest="a" * 64,
    version="1.2.3",
    language=Language.GO,
    vm_config=VmConfig(2, 512),
    env={"KEY": "värde"},
    args=("-l", "", "två ord"),
    concurrency=4,
    allow_hosts=("api.example.com:443", "*.example.com"),
)


@settings(max_examples=50)
@given(st.builds(Listing, st.tuples(APPLICATIONS), st.tuples(VMS), UINT64))
def test_listing_when_sent_then_every_field_survives(listing: Listing) -> None:
    """Applications, machines, sizes, timings and counters arrive as they were; what is long not."""
    wire = convert.listing_to_proto(listing).SerializeToString()
    listed = tuple(
        replace(
            each,
            args=(),
            allow_hosts=(),
            last_error=cut(each.last_error, convert.LISTED_ERROR_BYTES),
        )
        for each in listing.applications
    )
    found = convert.listing_from_proto(pb.ListResponse.FromString(wire))
    assert found == replace(listing, applications=listed)


def test_listing_when_texts_are_long_then_it_is_short() -> None:
    """A few applications with much to say do not make a list that cannot be sent."""
    long = ApplicationInfo(
        *("id", "name", "1", ApplicationState.FAILED, Language.GO, ArtifactKind.COMMAND, "a" * 64),
        args=("a" * 100_000,),
        last_error="é" * 10_000,
    )
    assert len(convert.listing_to_proto(Listing((long,), (), 0)).SerializeToString()) < 2000


def test_node_info_when_sent_then_every_field_survives() -> None:
    """What a node is arrives as it was."""
    node = NodeInfo("n", "1", "qemu", "a VM", 1, 2, 3, 4, 5, VmConfig(6, 7), 8)
    assert convert.node_from_proto(convert.node_to_proto(node)) == node


def test_log_line_and_message_timings_when_sent_then_every_field_survives() -> None:
    """A line and a message's times arrive as they were."""
    line = LogLine(1, "stdout", "warn", "hello\n", "0af7651916cd43dd8448eb211c80319c")
    timings = MessageTimings(1, 2, 3, 4)
    assert convert.log_line_from_proto(convert.log_line_to_proto(line)) == line
    assert convert.message_timings_from_proto(convert.message_timings_to_proto(timings)) == timings


def test_deploy_when_sent_then_the_spec_survives() -> None:
    """The node reads the very spec the client wrote."""
    request = convert.deploy_to_proto(SPEC, request_id="r", vm_id="vm-1")
    assert convert.spec_from_proto(request, default_vm=VmConfig()) == SPEC
    assert (request.request_id, request.vm_id) == ("r", "vm-1")


def test_deploy_when_it_leaves_things_open_then_the_node_decides() -> None:
    """No size, version or language on the wire means the node's defaults."""
    size = convert.size_to_proto(None, None)
    request = convert.deploy_to_proto(SPEC, request_id="r", size=size)
    assert (request.config.vcpus, request.config.memory_mib) == (0, 0)
    bare = pb.DeployRequest(name="calc", digest="a" * 64, config=pb.VmConfig(vcpus=3))
    spec = convert.spec_from_proto(bare, default_vm=VmConfig(8, 999))
    assert (spec.version, spec.language, spec.vm_config) == ("0.1.0", None, VmConfig(3, 999))


@pytest.mark.parametrize(
    "request_",
    [
        pb.DeployRequest(name="Bad_Name", digest="a" * 64),
        pb.DeployRequest(name="calc", digest="zz"),
        pb.DeployRequest(name="calc", digest="a" * 64, language="cobol"),
        pb.DeployRequest(name="calc", digest="a" * 64, language="unknown"),
        pb.DeployRequest(name="calc", digest="a" * 64, version="no spaces"),
        pb.DeployRequest(name="calc", digest="a" * 64, env={"A=B": "x"}),
        pb.DeployRequest(name="calc", digest="a" * 64, env={"A": "a\0b"}),
        pb.DeployRequest(name="calc", digest="a" * 64, env={"PLEXSPACES_SENDER": "x"}),
        pb.DeployRequest(name="calc", digest="a" * 64, args=["a\0b"]),
        pb.DeployRequest(name="calc", digest="a" * 64, concurrency=1025),
    ],
)
def test_deploy_when_something_in_it_is_wrong_then_invalid_argument(
    request_: pb.DeployRequest,
) -> None:
    """Every part of a client's wish is checked on arrival."""
    with pytest.raises(InvalidArgument):
        convert.spec_from_proto(request_, default_vm=VmConfig())


def test_vm_config_when_no_machine_is_so_large_then_invalid_argument() -> None:
    """A number that does not fit the contract is an error of the user's, not of ours."""
    with pytest.raises(InvalidArgument, match="vcpus 99999999999"):
        convert.vm_config_to_proto(VmConfig(vcpus=99_999_999_999))


def test_application_when_from_a_newer_node_then_unsupported_says_upgrade() -> None:
    """A state this client does not know is not guessed at; an unknown language is unknown."""
    message = pb.Application(state="Hibernating", language="zig", kind="actor")
    with pytest.raises(Unsupported, match="'Hibernating'") as caught:
        convert.application_from_proto(message)
    assert caught.value.hint is not None
    assert "upgrade" in caught.value.hint
    message.state = "Running"
    assert convert.application_from_proto(message).language is Language.UNKNOWN
