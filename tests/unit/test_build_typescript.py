"""The TypeScript toolchain with scripts for Node.js and npm: what they are asked, what fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.typescript_component import typescript_component

from plexspaces_node.errors import Internal, InvalidArgument, Unavailable, Unsupported
from plexspaces_node.model import ArtifactKind, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build, new_project
from plexspaces_node.toolchains.shipped import shipped
from plexspaces_node.toolchains.typescript.toolchain import INSTALL, install, tools_directory

COMPONENT = 'cat "$(dirname "$0")/component.wasm"'
ROOT = Path(__file__).parent.parent.parent
LOCKS = (
    "src/plexspaces_node/toolchains/locked/typescript",
    "src/plexspaces_node/toolchains/templates/typescript",
    "examples/ts-greeter",
)


class Bench:
    """A directory with a scripted Node.js and npm, and a project."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "programs"
        self.project = directory / "thing"
        self.programs.mkdir()
        (self.project / "src").mkdir(parents=True)
        (self.project / "package.json").write_text("{}")
        (self.project / "src" / "main.ts").write_text("export default 1;\n")
        self.progress: list[str] = []
        self.environment = BuildEnvironment(
            cache=directory / "cache",
            search=(self.programs,),
            variables={
                "PATH": os.defpath,
                "HOME": str(directory),
                "XDG_DATA_HOME": str(directory / "data"),
                "NODE_OPTIONS": "--max-old-space-size=1",
            },
            timeout_s=20,
        )

    def program(self, name: str, script: str) -> None:
        """Install a program."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def node(self, script: str = f'{COMPONENT} >"$out"', version: str = "v20.1.0") -> None:
        """Install a Node.js that runs a script for each build; ``$out`` is the file to write."""
        (self.programs / "component.wasm").write_bytes(typescript_component())
        self.program(
            "node",
            f'[ "$1" = --version ] && echo {version} && exit\n'
            f'cp "$2" {self.directory}/request.json\n'
            """out=$(sed 's/.*"output": "\\([^"]*\\)".*/\\1/' "$2")\n"""
            f"{script}",
        )

    def tools(self) -> Path:
        """Have the npm packages installed already."""
        tools = tools_directory(self.environment)
        tools.mkdir(parents=True)
        return tools

    @property
    def request(self) -> dict[str, str]:
        """What the driver was asked for last."""
        asked: dict[str, str] = json.loads((self.directory / "request.json").read_text())
        return asked

    async def build(self) -> BuildResult:
        """Build the project."""
        return await build(
            self.project, progress=self.progress.append, environment=self.environment
        )

    async def install(self) -> Path:
        """Install the npm packages."""
        return await install(self.environment, progress=self.progress.append)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# ---- build ----------------------------------------------------------------------------------


async def test_build_with_a_typescript_project_makes_an_actor_that_says_so(bench: Bench) -> None:
    """The artifact names its language; the project gets the artifact and nothing else."""
    bench.node()
    bench.tools()

    result = await bench.build()

    assert (result.language, result.kind) == (Language.TYPESCRIPT, ArtifactKind.ACTOR)
    assert b"\x08language\x01\x0aTypeScript" in result.path.read_bytes()
    assert bench.progress == ["thing: compiling with node 20.1.0"]
    assert sorted(path.name for path in bench.project.iterdir()) == ["dist", "package.json", "src"]
    assert [path.suffix for path in bench.environment.cache.iterdir()] == [".wasm"]


async def test_build_asks_the_driver_for_everything_by_absolute_path(bench: Bench) -> None:
    """The driver is told where project, SDK, contract, tools and output are, and no user's flag."""
    bench.node(f'env >{bench.directory}/env; ls "${{2%/*}}/wit" >{bench.directory}/wit; exit 1')
    tools = bench.tools()

    with pytest.raises(InvalidArgument):
        await bench.build()

    asked = bench.request
    assert (asked["entry"], asked["project"]) == ("src/main.ts", str(bench.project))
    assert asked["tools"] == str(tools)
    assert (Path(asked["sdk"]) / "index.ts").is_file()
    assert asked["output"].startswith(str(bench.environment.cache))
    assert (bench.directory / "wit").read_text().split() == [
        "application.wit",
        "deps",
        "typescript.wit",
    ]
    assert "NODE_OPTIONS" not in (bench.directory / "env").read_text()


async def test_build_with_javascript_takes_its_entry(bench: Bench) -> None:
    """A project in plain JavaScript begins in src/main.js."""
    bench.node()
    bench.tools()
    (bench.project / "src" / "main.ts").rename(bench.project / "src" / "main.js")

    await bench.build()

    assert bench.request["entry"] == "src/main.js"


async def test_build_without_an_entry_says_what_to_write(bench: Bench) -> None:
    """A project without src/main.ts is refused with what belongs there."""
    bench.node()
    bench.tools()
    (bench.project / "src" / "main.ts").unlink()

    with pytest.raises(InvalidArgument, match=r"has no src/main\.ts") as error:
        await bench.build()

    assert "export default actor" in str(error.value.hint)


async def test_build_without_node_names_the_one_command(bench: Bench) -> None:
    """Without Node.js the hint is what installs it."""
    with pytest.raises(Unsupported, match="needs node, which is not installed") as error:
        await bench.build()

    assert error.value.hint == "pip install 'plexspaces-node[build-typescript]'"


async def test_build_without_the_packages_names_the_one_command(bench: Bench) -> None:
    """Without the npm packages the hint is what installs them."""
    bench.node()

    with pytest.raises(Unsupported, match="needs esbuild, tsc and componentize-qjs") as error:
        await bench.build()

    assert error.value.hint == INSTALL
    assert not bench.environment.cache.exists()


@pytest.mark.parametrize("version", ["v16.20.2", "unknown"])
async def test_build_with_too_old_a_node_refuses(bench: Bench, version: str) -> None:
    """A Node.js that the packages do not run on is refused with the oldest that will do."""
    bench.node(version=version)
    bench.tools()

    with pytest.raises(Unsupported, match="must be 18 or newer"):
        await bench.build()


async def test_build_that_does_not_compile_carries_the_compilers_words(bench: Bench) -> None:
    """The error is what the tools said, and nothing is left."""
    bench.node("echo 'src/main.ts:1:7 - error TS2322: no' >&2; exit 1")
    bench.tools()

    with pytest.raises(InvalidArgument, match=r"does not build:\nsrc/main\.ts:1:7 - error TS2322"):
        await bench.build()

    assert list(bench.environment.cache.iterdir()) == []
    assert not (bench.project / "dist").exists()


async def test_build_with_a_driver_that_breaks_is_no_fault_of_the_project(bench: Bench) -> None:
    """A toolchain that crashes is told apart from a project that does not compile."""
    bench.node("echo 'Segmentation fault'; exit 139")
    bench.tools()

    with pytest.raises(Internal, match="Segmentation fault"):
        await bench.build()


def test_data_directory_follows_the_base_directory_specification(bench: Bench) -> None:
    """XDG_DATA_HOME when it is absolute, else the home directory's own, else an error."""
    assert bench.environment.toolchains == bench.directory / "data/plexspaces/toolchains"
    variables = {"HOME": "/home/someone", "XDG_DATA_HOME": "data"}
    at_home = replace(bench.environment, variables=variables)
    assert at_home.toolchains == Path("/home/someone/.local/share/plexspaces/toolchains")
    with pytest.raises(InvalidArgument, match="no home directory"):
        _ = replace(bench.environment, variables={}).toolchains


# ---- install --------------------------------------------------------------------------------


async def test_install_has_npm_unpack_the_locked_packages(bench: Bench) -> None:
    """The lock file decides, no package's scripts are run, and a second time npm is not run."""
    bench.node()
    bench.program("npm", f'echo "$@" >>{bench.directory}/npm; node --version; mkdir node_modules')

    tools = await bench.install()
    again = await bench.install()

    assert again == tools == tools_directory(bench.environment)
    assert sorted(path.name for path in tools.iterdir()) == [
        "node_modules",
        "package-lock.json",
        "package.json",
    ]
    [call] = (bench.directory / "npm").read_text().splitlines()
    assert call.startswith("ci --ignore-scripts ")
    assert "already installed" in bench.progress[-1]


async def test_install_twice_at_once_leaves_one(bench: Bench) -> None:
    """Two processes that install at the same time both succeed."""
    bench.node()
    bench.program("npm", "mkdir node_modules")

    one, other = await asyncio.gather(bench.install(), bench.install())

    assert one == other
    assert list(bench.environment.toolchains.iterdir()) == [one]


async def test_install_that_fails_carries_npms_words_and_leaves_nothing(bench: Bench) -> None:
    """What npm said is in the error, and the next attempt begins anew."""
    bench.node()
    bench.program("npm", "mkdir node_modules; echo 'npm error network' >&2; exit 1")

    with pytest.raises(Unavailable, match="npm error network"):
        await bench.install()

    assert list(bench.environment.toolchains.iterdir()) == []


@pytest.mark.parametrize("missing", ["node", "npm"])
async def test_install_without_a_program_names_the_one_command(bench: Bench, missing: str) -> None:
    """Node.js and npm come from one package."""
    bench.node()
    bench.program("npm", "exit 0")
    (bench.programs / missing).unlink()

    with pytest.raises(Unsupported, match=f"needs {missing}, which is not installed") as error:
        await bench.install()

    assert error.value.hint == "pip install 'plexspaces-node[build-typescript]'"


async def test_install_without_a_writable_place_says_which_variable_helps(bench: Bench) -> None:
    """A directory that cannot be made is an error with the setting that moves it."""
    bench.node()
    bench.program("npm", "exit 0")
    (bench.directory / "data").touch()

    with pytest.raises(InvalidArgument, match="cannot be written") as error:
        await bench.install()

    assert "XDG_DATA_HOME" in str(error.value.hint)


# ---- what is pinned -------------------------------------------------------------------------


@pytest.mark.parametrize("directory", LOCKS)
def test_lock_file_pins_everything_and_names_no_host(directory: str) -> None:
    """Each package has a version, those for this product's machines a digest, none an address."""
    text = (ROOT / directory / "package-lock.json").read_text()
    assert "resolved" not in text
    assert "://" not in text
    for name, entry in json.loads(text)["packages"].items():
        if name:
            assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"]), name
        if name.endswith(("linux-x64", "linux-x64-gnu", "linux-arm64", "linux-arm64-gnu")):
            assert entry["integrity"].startswith("sha512-"), name


def test_projects_use_the_versions_the_toolchain_has() -> None:
    """What a project's own tests run with is what its build runs with."""
    packages = [json.loads((ROOT / directory / "package.json").read_text()) for directory in LOCKS]
    pinned = packages[0]["dependencies"]
    for package in packages[1:]:
        for name in ("esbuild", "typescript"):
            assert package["devDependencies"][name] == pinned[name]


def test_template_and_example_run_their_tests_alike() -> None:
    """The commands of a new project are those of the example, which are tested."""
    one, other = (json.loads((ROOT / part / "package.json").read_text()) for part in LOCKS[1:])
    assert one["scripts"] == other["scripts"]
    assert shipped("sdk/typescript").is_dir()


def test_new_project_has_the_sdk_for_its_editor(tmp_path: Path) -> None:
    """A copy of the SDK lies where the project's tsconfig.json looks for it."""
    made = new_project(Language.TYPESCRIPT, "hello", tmp_path / "hello")

    paths = json.loads((made / "tsconfig.json").read_text())["compilerOptions"]["paths"]
    for name, [place] in paths.items():
        module = name.partition("/")[2] or "index"
        assert (made / place).read_bytes() == (
            shipped("sdk/typescript") / f"{module}.ts"
        ).read_bytes()
