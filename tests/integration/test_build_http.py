"""HTTP components from the templates of `plexspaces new LANG NAME --http`, by the real compilers.

A language whose compiler is missing is skipped, unless `--languages` names it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plexspaces_node.artifact_inspection import inspect
from plexspaces_node.errors import Internal, InvalidArgument, Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build, new_project
from plexspaces_node.toolchains.typescript.toolchain import tools_directory
from plexspaces_node.toolchains.wasm.assembly import componentize

LANGUAGES = (Language.RUST, Language.TYPESCRIPT, Language.PYTHON)
HANDLERS = {
    Language.RUST: "wasi:http/incoming-handler@0.2.",
    Language.TYPESCRIPT: "wasi:http/handler@0.3.0",
    Language.PYTHON: "wasi:http/handler@0.3.0",
}


def built(project: Path, request: pytest.FixtureRequest, language: Language) -> BuildResult:
    """Build with the machine's own cache, or skip for what is missing."""
    try:
        return asyncio.run(build(project, progress=lambda _line: None))
    except Unsupported as missing:
        why = f"{missing.message} (hint: {missing.hint})"
        if language in request.config.getoption("--languages").split(","):
            pytest.fail(f"--languages names {language}, but: {why}")
        pytest.skip(why)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_template_becomes_an_http_component(
    tmp_path: Path, request: pytest.FixtureRequest, language: Language
) -> None:
    """The project is recognised by its files, and the compiler agrees on what it has become."""
    project = new_project(language, "hello", tmp_path / "hello", http=True)
    result = await asyncio.to_thread(built, project, request, language)

    assert (result.language, result.kind) == (language, ArtifactKind.HTTP_COMPONENT)
    found = await inspect(result.path.read_bytes())
    assert found is not None
    assert found.kind is ArtifactKind.HTTP_COMPONENT
    assert any(name.startswith(HANDLERS[language]) for name in found.exports)


@pytest.mark.parametrize(
    ("language", "file", "content", "said"),
    [
        (
            Language.TYPESCRIPT,
            "src/server.ts",
            "export default {};\n",
            "src/server.ts serves nothing",
        ),
        (Language.TYPESCRIPT, "src/server.ts", "new Response(1n);\n", "src/server.ts:1"),
        (Language.PYTHON, "server.py", "application = None\n", "server.py has no ASGI application"),
        (Language.PYTHON, "server.py", "import nothing_here\n", "nothing_here"),
        (Language.RUST, "src/lib.rs", "pub fn hello() {}\n", "src/lib.rs exports no HTTP handler"),
    ],
)
def test_project_that_serves_nothing_is_told_what_to_write(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    language: Language,
    file: str,
    content: str,
    said: str,
) -> None:
    """The message names the file, in the words of what is missing."""
    project = new_project(language, "hello", tmp_path / "hello", http=True)
    (project / file).write_text(content)

    with pytest.raises(InvalidArgument, match=said):
        built(project, request, language)


def test_template_in_typescript_passes_its_own_tests(tmp_path: Path) -> None:
    """As a user runs them, with the tools of the build in place of those of `npm ci`."""
    environment = BuildEnvironment.here()
    tools = tools_directory(environment)
    node = shutil.which("node", path=os.pathsep.join(map(str, environment.search)))
    if not tools.is_dir() or node is None:
        pytest.skip("the TypeScript toolchain is not installed")
    project = new_project(Language.TYPESCRIPT, "hello", tmp_path / "hello", http=True)
    esbuild = tools / "node_modules" / "esbuild" / "bin" / "esbuild"
    bundle = ["--bundle", "--platform=node", "--format=esm", "--outdir=dist/test"]
    for command in (
        [node, str(esbuild), "test/server.test.ts", *bundle, "--log-level=warning"],
        [node, "--test", "dist/test/server.test.js"],
    ):
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_template_in_python_passes_its_own_tests(tmp_path: Path) -> None:
    """As a user runs them."""
    project = new_project(Language.PYTHON, "hello", tmp_path / "hello", http=True)
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(program, cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_module_that_says_nothing_of_itself_is_no_component() -> None:
    """What the compiler program says is passed on."""
    with pytest.raises(Internal, match="it cannot be made a component"):
        componentize(b"junk")


FOREIGN_SHA256 = "01503285fa499ebeeae2e6c8ab5f5dd277b23eb341ea0b521b25502f72fe39d6"
FOREIGN_DEPENDENCIES = """\
anyhow = "=1.0.105"
futures-lite = "=1.13.0"
http-body-util = "=0.1.5"
wstd = "=0.6.8"
"""


async def test_server_that_nobody_here_wrote_becomes_an_http_component(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The example that the package of wstd carries, unchanged: streams, trailers, errors."""
    project = new_project(Language.RUST, "foreign", tmp_path / "foreign", http=True)
    manifest = project / "Cargo.toml"
    head, _, rest = manifest.read_text().partition("[dependencies]\n")
    manifest.write_text(f"{head}[dependencies]\n{FOREIGN_DEPENDENCIES}\n[{rest.partition('[')[2]}")
    await asyncio.to_thread(built, project, request, Language.RUST)
    cargo = shutil.which("cargo") or "cargo"
    command = [cargo, "metadata", "--format-version=1", "--offline"]
    told = await asyncio.to_thread(
        subprocess.run, command, cwd=project, capture_output=True, check=True, timeout=60
    )
    [package] = [one for one in json.loads(told.stdout)["packages"] if one["name"] == "wstd"]
    source = (Path(package["manifest_path"]).parent / "examples/http_server.rs").read_bytes()
    assert hashlib.sha256(source).hexdigest() == FOREIGN_SHA256

    (project / "src/lib.rs").write_bytes(source)
    result = await asyncio.to_thread(built, project, request, Language.RUST)
    found = await inspect(result.path.read_bytes())
    assert found is not None
    assert found.kind is ArtifactKind.HTTP_COMPONENT


@pytest.mark.parametrize(
    ("language", "kind", "sends"),
    [
        (Language.RUST, ArtifactKind.ACTOR, "wasi:http/outgoing-handler@0.2."),
        (Language.PYTHON, ArtifactKind.HTTP_COMPONENT, "wasi:http/client@0.3.0"),
    ],
)
async def test_project_that_sends_requests_imports_what_sends_them(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    language: Language,
    kind: ArtifactKind,
    sends: str,
) -> None:
    """An actor in Rust by its crate, an HTTP component in Python by the SDK."""
    http = kind is ArtifactKind.HTTP_COMPONENT
    project = new_project(language, "caller", tmp_path / "caller", http=http)
    if http:
        server = project / "server.py"
        imports = "from plexspaces_actor.fetch import fetch  # noqa: F401"
        server.write_text(f"{server.read_text()}\n\n{imports}\n")
    else:
        manifest, source = project / "Cargo.toml", project / "src" / "lib.rs"
        crate = '[dependencies]\nwstd = { version = "=0.6.8", default-features = false }'
        manifest.write_text(manifest.read_text().replace("[dependencies]", crate))
        call = (
            "#[unsafe(no_mangle)] pub extern fn call() { wstd::runtime::block_on(async { drop("
            'wstd::http::Client::new().send(wstd::http::Request::get("http://a/").body('
            "wstd::http::Body::empty()).unwrap()).await) }) }\n"
        )
        source.write_text(source.read_text() + call)
    result = await asyncio.to_thread(built, project, request, language)

    assert result.kind is kind
    found = await inspect(result.path.read_bytes())
    assert found is not None
    assert found.kind is kind
    assert any(name.startswith(sends) for name in found.imports)
