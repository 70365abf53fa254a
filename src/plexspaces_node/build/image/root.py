"""The root of the guest as a tree of files: this very Python, the agent, and what both load.

The interpreter is the one that runs this program, so that what the agent was tested with is what
runs in the guest. Only the modules that the agent imports are taken, compiled and without their
sources. There is no shell in it, and no program but the interpreter.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import plexspaces_node
from plexspaces_node.build.image.packages import Tools
from plexspaces_node.build.threads import in_thread
from plexspaces_node.errors import Internal, Unsupported

ENTRY_MODULE = "plexspaces_node.agent.guest"
LATE_MODULES = ("encodings.ascii", "linecache", "os", "socket", "traceback")
"""What is imported only when something is run or goes wrong."""
TAKEN = {"wasmtime": (".so",)}
"""What is taken of other packages: of wasmtime its library alone, to which the agent speaks."""

_SHELVES = (
    "__init__.py",
    "artifact.py",
    "errors.py",
    "wire/__init__.py",
    "wire/link.py",
    "wire/pack.py",
)
"""What the agent imports of this package beside its own room."""

MOUNT_POINTS = ("artifact", "dev", "proc", "run", "sys", "tmp")
INTERPRETER = Path("usr/bin/python3")

_LINKED = re.compile(r"^\s*(?:(?P<name>\S+) => )?(?P<path>/\S+|not found)(?: \(0x[0-9a-f]+\))?$")
_SYSTEM_PREFIXES = ("/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/")
_LIBC = "libc.so.6"

_Module = tuple[Path, Path]
"""Where a module goes, relative to the library, and the file it comes from."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that goes into the guest.

    Attributes:
        executable: outside any virtual environment.
        stdlib: its standard library.
        library: where that is in the guest, relative to the root.
    """

    executable: Path
    stdlib: Path
    library: Path

    @classmethod
    def here(cls) -> Interpreter:
        """Return the interpreter that runs this program; raises `Unsupported`."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        executable = Path(sys.base_prefix, "bin", version)
        if not executable.is_file():
            raise Unsupported(f"the interpreter that runs this program is not at {executable}")
        return cls(
            executable=executable.resolve(),
            stdlib=Path(sysconfig.get_path("stdlib")).resolve(),
            library=Path("usr") / sys.platlibdir / version,
        )


async def make_root(tools: Tools, interpreter: Interpreter, tree: Path) -> dict[str, str]:
    """Make the tree of the guest's root and return name and version of what is in it.

    `tree` is made. Raises `Unsupported` when the interpreter cannot be taken apart, `Internal`
    when what was made does not run.
    """
    library = tree / interpreter.library
    await in_thread(_make_directories, tree, library)
    sources = [*await _modules(tools, interpreter, tree.parent), *_whole()]
    executable = tree / INTERPRETER
    await in_thread(_copy, interpreter.executable, executable, mode=0o755)
    await in_thread(_copy_modules, sources, library)
    binaries = [interpreter.executable, *(file for _, file in sources if file.suffix != ".py")]
    await _copy_libraries(tools, binaries, tree)
    await _compile(tools, interpreter, tree)
    await _try(tools, executable, tree)
    return _versions()


def _make_directories(tree: Path, library: Path) -> None:
    for name in MOUNT_POINTS:
        (tree / name).mkdir(parents=True)
    # The interpreter knows its home by this directory, even when all in it is built in.
    (library / "lib-dynload").mkdir(parents=True)


async def _modules(tools: Tools, interpreter: Interpreter, scratch: Path) -> list[_Module]:
    # A directory with these packages alone: what is installed beside them could be imported too.
    site = scratch / "site"
    site.mkdir()
    for package in (plexspaces_node.__name__, *TAKEN):
        (site / package).symlink_to(_home(package) / package)
    listing = await run_python(
        tools,
        interpreter.executable,
        *(str(Path(__file__).with_name("closure.py")), str(site), *LATE_MODULES, ENTRY_MODULE),
        cwd=scratch,
    )
    found: list[_Module] = []
    for line in listing.splitlines():
        name, _, text = line.partition("\t")
        file = Path(text)
        if file.is_relative_to(site):
            if name.partition(".")[0] not in TAKEN:
                found.append((file.relative_to(site), file))
        elif file.resolve().is_relative_to(interpreter.stdlib):
            found.append((file.resolve().relative_to(interpreter.stdlib), file))
        else:
            found.append((Path("lib-dynload", file.name), file))
    return found


def _home(package: str) -> Path:
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        raise Unsupported(
            f"the package {package} is not installed",
            hint="pip install --force-reinstall plexspaces-node",
        )
    return Path(spec.origin).parent.parent


def _whole() -> Iterator[_Module]:
    for package, kinds in TAKEN.items():
        home = _home(package)
        for file in sorted((home / package).rglob("*")):
            if file.suffix in kinds:
                yield file.relative_to(home), file


def _copy_modules(sources: Iterable[_Module], library: Path) -> None:
    for place, file in sources:
        _copy(file, library / place)


def _copy(source: Path, target: Path, *, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.resolve(), target)
    target.chmod(mode)


async def _copy_libraries(tools: Tools, binaries: Iterable[Path], tree: Path) -> None:
    libraries: dict[str, Path] = {}
    for binary in binaries:
        listed = await tools.attempt("ldd", str(binary), cwd=tree)
        libraries |= linked(binary, listed.output)
    if _LIBC not in libraries:
        raise Unsupported(f"{binary} does not run on the GNU C library, which the guest needs")
    system = libraries[_LIBC].parent
    for name, file in libraries.items():
        # One from elsewhere goes to where the loader looks by itself.
        known = str(file).startswith(_SYSTEM_PREFIXES)
        place = file if known else system / name
        await in_thread(_copy, file, tree / place.relative_to("/"), mode=0o755)


def linked(binary: Path, listing: str) -> dict[str, Path]:
    """Return the shared libraries that `ldd` listed for a binary, by name.

    Raises `Unsupported` when one of them is not on this machine.
    """
    found: dict[str, Path] = {}
    for line in listing.splitlines():
        match = _LINKED.match(line)
        if match is None:
            continue
        if match["path"] == "not found":
            raise Unsupported(f"{binary} needs {match['name']}, which is not on this machine")
        path = Path(match["path"])
        found[match["name"] or path.name] = path
    return found


async def _compile(tools: Tools, interpreter: Interpreter, tree: Path) -> None:
    # Everything by one fresh process in one order: the bytes of a compiled file depend on what
    # its process has compiled before. Asserts stay, they guard the boundary to the runtime.
    await run_python(
        tools,
        interpreter.executable,
        *(
            "-X",
            "no_debug_ranges",
            "-m",
            "compileall",
            "-q",
            "-b",
            "--invalidation-mode",
            "unchecked-hash",
        ),
        *("-s", str(tree), "-p", "/", str(tree / interpreter.library)),
        cwd=tree,
    )
    await in_thread(_drop_sources, tree)


def _drop_sources(tree: Path) -> None:
    for file in list(tree.rglob("*.py")):
        file.unlink()


async def _try(tools: Tools, executable: Path, tree: Path) -> None:
    names = ", ".join([ENTRY_MODULE, *LATE_MODULES])
    ended = await tools.attempt(
        str(executable), "-I", "-S", "-B", "-c", f"import {names}", cwd=tree
    )
    if ended.status:
        last = ended.output.strip().splitlines()[-1:] or [f"status {ended.status}"]
        raise Internal(f"the Python made for the guest does not run the agent: {last[0]}")


async def run_python(tools: Tools, executable: Path, *arguments: str, cwd: Path) -> str:
    """Run the interpreter by itself: no environment, no site, hashes that are always the same."""
    return await tools.run(
        str(executable), "-s", "-S", "-P", "-B", *arguments, cwd=cwd, more={"PYTHONHASHSEED": "0"}
    )


def agent_digest() -> str:
    """Return 12 digits that change with the agent's code, whatever the version says."""
    package = Path(plexspaces_node.__file__).parent
    total = hashlib.sha256()
    for file in sorted([*package.glob("agent/*.py"), *(package / name for name in _SHELVES)]):
        total.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def _versions() -> dict[str, str]:
    return {
        "agent": agent_digest(),
        "python": platform.python_version(),
        "plexspaces-node": plexspaces_node.__version__,
        **{package: metadata.version(package) for package in TAKEN},
    }
