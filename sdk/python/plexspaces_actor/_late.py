"""Late imports: modules and data files that nothing needed while an instance was built.

An instance has no files. Besides the modules that were imported during the build, `plexspaces
build` stores all others in the component, compressed: the standard library as byte code, the
project and its ``vendor`` as source, and the data files of packages. They are outside the
instance's memory and use none of it until one of them is imported.

The stored data begins with eight bytes, the length of the JSON that follows, from path to `Kept`.
The contents of the files come after that.
"""

from __future__ import annotations

import io
import json
import marshal
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import IO, Any, NamedTuple

BYTE_CODE, SOURCE, DIRECTORY, DATA, COMPILED = "code", "source", "directory", "data", "compiled"
HEAD = 8
STANDARD_LIBRARY = "/python/"
OURS = frozenset({"app", "plexspaces_actor", "plexspaces_entry"})


ReadPart = Callable[[int, int], bytes]
"""Returns part of the stored data: from this byte on, and this many bytes."""


class Kept(NamedTuple):
    """One stored file, or a directory that is a package without a file.

    Attributes:
        kind: what it contains.
        module: the module's name, empty for data.
        begin, end: where it is, compressed.
    """

    kind: str
    module: str
    begin: int
    end: int


class Library:
    """The stored files, and the finder and loader of their modules."""

    def __init__(self, read_part: ReadPart) -> None:
        self.read_part = read_part
        self._begin = 0
        self._files: dict[str, Kept] | None = None
        self._modules: dict[str, str] = {}

    @property
    def files(self) -> dict[str, Kept]:
        """The stored files by path; read when first needed, which most instances never do."""
        if self._files is None:
            self._begin = HEAD + int.from_bytes(self.read_part(0, HEAD), "big")
            index = json.loads(self.read_part(HEAD, self._begin - HEAD))
            self._files = {path: Kept(*kept) for path, kept in index.items()}
            for path, kept in self._files.items():
                if kept.module and kept.kind != COMPILED:
                    self._modules.setdefault(kept.module, path)
        return self._files

    def path_of(self, module: str) -> str | None:
        """Return the path of a stored module."""
        return self._modules.get(module) if self.files else None

    def compiled(self, package: str) -> str | None:
        """Return a file of machine code in a package, or None if it has none."""
        for path, kept in self.files.items():
            if kept.kind == COMPILED and kept.module == package:
                return path
        return None

    def read(self, path: str) -> bytes:
        """Return the content of a file; raises FileNotFoundError."""
        kept = self.files.get(path)
        if kept is None or kept.kind not in (SOURCE, BYTE_CODE, DATA):
            raise FileNotFoundError(2, "no such file in the component", path)
        return zlib.decompress(self.read_part(self._begin + kept.begin, kept.end - kept.begin))

    # ---- the import system's own names ------------------------------------------------------

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module comes from; None if it is not stored."""
        found = self.path_of(name)
        if found is None:
            return None
        if self.files[found].kind == DIRECTORY:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [found]
            return spec
        spec = ModuleSpec(name, self, origin=found, is_package=self.is_package(name))  # type: ignore[arg-type]
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(found.rpartition("/")[0])
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: an ordinary module is enough."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code in it."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        """Return a module's code."""
        path = self.get_filename(name)
        if self.files[path].kind == SOURCE:
            return compile(self.read(path), path, "exec", dont_inherit=True)
        code: CodeType = marshal.loads(self.read(path))
        return code

    def get_source(self, name: str) -> str | None:
        """Return a module's source; None if only its byte code is stored."""
        path = self.path_of(name)
        if path is None or self.files[path].kind != SOURCE:
            return None
        return self.read(path).decode("utf-8", "replace")

    def get_filename(self, name: str) -> str:
        """Return a module's path; raises ImportError."""
        path = self.path_of(name)
        if path is None:
            raise ImportError(f"{name} is not kept in the component", name=name)
        return path

    def is_package(self, name: str) -> bool:
        """Return whether a module is a package."""
        return self.get_filename(name).endswith("/__init__.py")

    def get_data(self, path: str) -> bytes:
        """Return the content of a file, for `pkgutil.get_data`; raises OSError."""
        return self.read(path)

    def get_resource_reader(self, name: str) -> Resources | None:
        """Return the data files of a package, for `importlib.resources`."""
        package = sys.modules.get(name)
        places = list(getattr(package, "__path__", ()))
        return Resources(self, places[0]) if places else None

    def find_distributions(self, context: Any) -> Iterator[Any]:
        """Yield pip's metadata of the packages, for `importlib.metadata`."""
        # Not at the top: the caller has imported it, and all other instances are smaller without
        # it.
        from importlib.metadata import Distribution  # noqa: PLC0415

        library = self

        class Written(Distribution):
            def __init__(self, directory: str) -> None:
                self._directory = directory

            def read_text(self, filename: str) -> str | None:
                try:
                    return library.read(f"{self._directory}/{filename}").decode()
                except FileNotFoundError:
                    return None

            def locate_file(self, path: Any) -> Any:
                return Resource(library, f"{self._directory.rpartition('/')[0]}/{path}")

        sought = _normalized(context.name) if context.name else None
        for path in self.files:
            directory, _, name = path.rpartition("/")
            if name == "METADATA" and directory.endswith(".dist-info"):
                named = directory.rpartition("/")[2].partition("-")[0]
                if sought in (None, _normalized(named)):
                    yield Written(directory)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class Resources:
    """The data files of one package."""

    def __init__(self, library: Library, directory: str) -> None:
        self._top = Resource(library, directory)

    def files(self) -> Resource:
        """Return the package's directory."""
        return self._top


class Resource:
    """A stored file or directory, in the form of `importlib.resources.abc.Traversable`."""

    def __init__(self, library: Library, path: str) -> None:
        self._library = library
        self._path = path

    def __repr__(self) -> str:
        return f"Resource({self._path!r})"

    def __str__(self) -> str:
        return self._path

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._path.rpartition("/")[2]

    def joinpath(self, *parts: str) -> Resource:
        """Return the path below it, whether that exists or not."""
        return Resource(self._library, "/".join([self._path, *parts]))

    __truediv__ = joinpath

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return self._path in self._library.files and not self.is_dir()

    def is_dir(self) -> bool:
        """Return whether anything lies below it."""
        return any(path.startswith(f"{self._path}/") for path in self._library.files)

    def iterdir(self) -> Iterator[Resource]:
        """Yield the entries directly in it."""
        below = len(self._path) + 1
        inside = [path[below:] for path in self._library.files if path.startswith(f"{self._path}/")]
        for name in dict.fromkeys(path.partition("/")[0] for path in inside):
            yield self.joinpath(name)

    def read_bytes(self) -> bytes:
        """Return its content; raises FileNotFoundError."""
        return self._library.read(self._path)

    def read_text(self, encoding: str | None = None, errors: str = "strict") -> str:
        """Return its text; raises FileNotFoundError."""
        return self.read_bytes().decode(encoding or "utf-8", errors)

    def open(self, mode: str = "r", *_args: Any, **options: Any) -> IO[Any]:
        """Open it for reading; raises FileNotFoundError."""
        whole = io.BytesIO(self.read_bytes())
        if "b" in mode:
            return whole
        return io.TextIOWrapper(whole, **{"encoding": "utf-8", **options})


_seat: list[Library] = []


def prepare(path: str) -> None:
    """List what `plexspaces build` will store, before the application is imported."""

    def read_part(begin: int, length: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(begin)
            return file.read(length)

    _seat[:] = [Library(read_part)]


def install(read_part: ReadPart) -> None:
    """Import from the stored data, after the application was imported and its files are gone."""
    [library] = _seat
    library.read_part = read_part
    sys.meta_path.append(library)
    for module in list(sys.modules.values()):
        # A package that was imported from a file, and would look for its data there.
        places, spec = list(getattr(module, "__path__", ())), getattr(module, "__spec__", None)
        if spec is not None and places and not places[0].startswith(STANDARD_LIBRARY):
            spec.loader = module.__loader__ = library  # type: ignore[assignment]


def explain(exc: ImportError) -> None:
    """Add to a failed import the reason and a hint, if they are known."""
    why, hint = advice(exc)
    if why:
        exc.add_note(f"why: {why}\nhint: {hint}")


def advice(exc: ImportError) -> tuple[str, str]:
    """Return why an import failed and a hint, both empty if nothing is known."""
    name = exc.name or ""
    top = name.partition(".")[0]
    for package in (top, *_packages(exc)):
        machine_code = _seat[0].compiled(package) if _seat else None
        if machine_code is not None:
            return (
                f"{package} is a compiled package: {machine_code.rpartition('/')[2]} holds machine "
                "code, which does not run in WebAssembly",
                "use a package in pure Python instead: pip install --target vendor NAME",
            )
    if top in sys.stdlib_module_names:
        others = [one for one in _packages(exc) if one not in sys.stdlib_module_names]
        through = f", and {others[-1]} imports it" if others and others[-1] not in OURS else ""
        return (
            f"{top} of the standard library needs what applications do not have{through}",
            "docs/sdk-python.md lists what of the standard library is not there",
        )
    if not isinstance(exc, ModuleNotFoundError) or not name:
        return "", ""
    if top == "plexspaces":
        return (
            "the SDK is imported under another name",
            "from plexspaces_actor import Actor, handler",
        )
    return (
        f"neither the project nor its vendor/ has a module {name!r}",
        f"for a package in pure Python, in the project: pip install --target vendor {top}",
    )


def _packages(exc: BaseException | None) -> Iterator[str]:
    """Yield the vendored packages whose code failed, including the causes."""
    while exc is not None:
        at = exc.__traceback__
        while at is not None:
            yield str(at.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
            at = at.tb_next
        exc = exc.__cause__ or exc.__context__
