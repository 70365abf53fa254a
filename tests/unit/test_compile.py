"""What the compiler program makes of a file, and what it refuses before a machine is asked.

The words of each refusal are tests of the program itself, in agent/compile/tests; here is what
node and client make of its answers.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.actors import (
    command,
    command_async,
    command_component,
    http_async,
    http_component,
    probe,
)

from plexspaces_node import artifact_inspection as inspection
from plexspaces_node.artifact_inspection import check_memory, inspect, read_answer
from plexspaces_node.errors import Internal, InvalidArgument, NotFound
from plexspaces_node.model import ENGINE, MIB, ArtifactKind
from plexspaces_node.node.artifacts.compiler import CompileLimits, compile_to
from plexspaces_node.programs import compiler_program
from plexspaces_node.toolchains.wasm.assembly import assemble

AGENT = Path(__file__).parents[2] / "agent"
LIMITS = CompileLimits(timeout_s=60, memory_mib=2048)
IMPORTS = '(module (import "env" "f" (func)) (func (export "_start")))'


async def compiled(wasm: bytes, tmp_path: Path) -> inspection.Inspection:
    """Compile as the node does; the native code is `a.cwasm`."""
    source, target = tmp_path / "a.wasm", tmp_path / "a.cwasm"
    source.write_bytes(wasm)
    program = [str(compiler_program())]
    return await compile_to(program, source, target, limits=LIMITS, output_limit_bytes=10 * MIB)


@pytest.mark.parametrize(
    ("wasm", "kind", "memory_bytes"),
    [
        (probe, ArtifactKind.ACTOR, 4 * 65536),
        (command, ArtifactKind.COMMAND, 40 * 65536),
        (command_component, ArtifactKind.COMMAND_COMPONENT, 2 * 65536),
        (command_async, ArtifactKind.COMMAND_COMPONENT, 65536),
        (http_component, ArtifactKind.HTTP_COMPONENT, 65536),
        (http_async, ArtifactKind.HTTP_COMPONENT, 65536),
    ],
)
async def test_compile_of_what_runs_here_writes_native_code(
    tmp_path: Path, wasm: Callable[[], bytes], kind: ArtifactKind, memory_bytes: int
) -> None:
    """Each kind is told apart, by inspecting and by compiling alike."""
    found = await compiled(wasm(), tmp_path)
    assert (found.kind, found.memory_bytes) == (kind, memory_bytes)
    assert (tmp_path / "a.cwasm").stat().st_size > 0
    assert await inspect(wasm()) == found


async def test_refusal_is_in_the_same_words_before_and_after_an_upload(tmp_path: Path) -> None:
    """The client asks the same program, and nothing is written for what is refused."""
    wasm = assemble(IMPORTS)
    with pytest.raises(InvalidArgument, match="it imports 'env'") as of_node:
        await compiled(wasm, tmp_path)
    with pytest.raises(InvalidArgument) as of_client:
        await inspect(wasm)
    assert (of_client.value.message, of_client.value.hint) == (
        of_node.value.message,
        of_node.value.hint,
    )
    assert not (tmp_path / "a.cwasm").exists()


async def test_inspect_without_the_program_leaves_it_to_the_node() -> None:
    """A client where it was not built deploys all the same."""

    def missing() -> Path:
        raise NotFound("not built")

    assert await inspect(b"whatever", find_program=missing) is None


async def test_inspect_when_the_program_breaks_leaves_it_to_the_node() -> None:
    """How it ended is the node's to explain, which has limits of its own."""
    assert await inspect(b"whatever", find_program=lambda: Path("/bin/false")) is None


@pytest.mark.parametrize("answer", [b"", b"hello", b'{"ok": true}', b'{"ok": false}'])
def test_answer_that_makes_no_sense_is_the_compilers_fault(answer: bytes) -> None:
    """A user's file is not blamed for it."""
    with pytest.raises(Internal, match="cannot be read"):
        read_answer(answer)


@pytest.mark.parametrize(("memory_bytes", "fits"), [(208 * MIB, True), (208 * MIB + 1, False)])
def test_memory_from_the_start_is_compared_with_what_an_application_gets(
    memory_bytes: int, *, fits: bool
) -> None:
    """The machine's own share is not the application's; the hint's number is enough."""
    if fits:
        check_memory(memory_bytes, memory_mib=256, overhead_mib=48)
        return
    with pytest.raises(InvalidArgument, match=r"209 MiB .* application gets 208") as caught:
        check_memory(memory_bytes, memory_mib=256, overhead_mib=48)
    wanted = re.search(r"--memory (\d+)", caught.value.hint or "")
    assert wanted
    check_memory(memory_bytes, memory_mib=int(wanted[1]), overhead_mib=48)


def test_engine_is_that_of_both_programs() -> None:
    """The name under which artifacts are cached is that of what compiles and loads them."""
    locked = (AGENT / "Cargo.lock").read_text()
    [version] = re.findall(r'name = "wasmtime"\nversion = "(.+)"', locked)
    assert f"wasmtime {version}" == ENGINE
    for manifest in (AGENT / "Cargo.toml", AGENT / "compile" / "Cargo.toml"):
        assert f'wasmtime = {{ version = "={version}"' in manifest.read_text()
    program = [str(compiler_program()), "--version"]
    said = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert f"({ENGINE})" in said


def test_report_names_its_engine(tmp_path: Path) -> None:
    """Whoever asks the program by hand learns what it compiles for."""
    source = tmp_path / "a.wasm"
    source.write_bytes(command())
    program = [str(compiler_program()), "inspect", str(source)]
    said = subprocess.run(program, capture_output=True, check=True).stdout
    assert json.loads(said)["engine"] == ENGINE
