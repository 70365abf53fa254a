"""The compiler program: `python -m plexspaces_node.agent.compile IN.wasm OUT.cwasm`.

Runs in a bounded child process of the node, because compiling is where a hostile file can cost
time and memory. Prints one JSON object: what the file is, or why it is refused. Exits 0 in both
cases; any other end is the parent's to explain. Here and not in `node`, so that an artifact is
compiled by the very settings it is loaded with.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

from wasmtime import Engine, Module, WasmtimeError
from wasmtime.component import Component, ComponentInstanceType, FuncType

from plexspaces_node.agent import binary, contract
from plexspaces_node.agent.engine import make_engine
from plexspaces_node.agent.signature import spelled
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import ENGINE, ArtifactKind

BUILD_HINT = "export the world in wit/application.wit, or build a WASI command with a main function"
CONTRACT_HINT = (
    f"build it from the wit/application.wit of version {contract.VERSION}, "
    "or with the SDK that came with this version"
)


def main(argv: list[str]) -> int:
    """Compile `argv[0]` to `argv[1]`; print the report; return the exit status."""
    source, target = Path(argv[0]), Path(argv[1])
    try:
        report = compile_file(source, target)
    except InvalidArgument as error:
        report = {"ok": False, "code": error.code, "message": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(report))
    return 0


def compile_file(source: Path, target: Path) -> dict[str, object]:
    """Compile a file and return its report; raises `InvalidArgument` when it cannot be run here."""
    data = source.read_bytes()
    component = binary.is_component(data)
    languages = binary.languages(data)
    engine = make_engine(parallel=True)
    try:
        kind, imports, exports, compiled = (
            _component(engine, data) if component else _module(engine, data)
        )
    except WasmtimeError as error:
        raise InvalidArgument(
            f"not valid WebAssembly: {_first_line(error)}", hint="build it again, or copy it whole"
        ) from error
    target.write_bytes(compiled)
    return {
        "ok": True,
        "kind": kind,
        "languages": languages,
        "processed_by": binary.processed_by(data),
        "imports": imports,
        "exports": exports,
        "engine": ENGINE,
    }


def _component(engine: Engine, data: bytes) -> tuple[ArtifactKind, list[str], list[str], bytearray]:
    component = Component(engine, data)
    imports = list(component.type.imports(engine))
    exported = component.type.exports(engine)
    exports = list(exported)
    kind = ArtifactKind.ACTOR
    if contract.ACTOR in exports:
        _check_actor(engine, exported[contract.ACTOR].ty)
    elif any(name.startswith(contract.CLI_RUN) for name in exports):
        kind = ArtifactKind.COMMAND_COMPONENT
    else:
        _refuse_foreign(exports)
        _refuse_entry(f"{contract.ACTOR} or {contract.CLI_RUN}x", exports)
    _refuse_foreign(imports)
    for name in imports:
        if name not in contract.HOST_INTERFACES and not _is_wasi(name):
            _refuse_import(name)
    return kind, imports, exports, component.serialize()


def _check_actor(engine: Engine, actor: object) -> None:
    exports = actor.exports(engine) if isinstance(actor, ComponentInstanceType) else {}
    functions = {name: one.ty for name, one in exports.items() if isinstance(one.ty, FuncType)}
    missing = set(contract.ACTOR_FUNCTIONS) - set(functions)
    if missing:
        raise InvalidArgument(
            f"the component's {contract.ACTOR} lacks {', '.join(sorted(missing))}", hint=BUILD_HINT
        )
    for name, wanted in contract.ACTOR_FUNCTIONS.items():
        found = spelled(functions[name])
        if found != wanted:
            raise InvalidArgument(
                f"the component's {name} of {contract.ACTOR} has the wrong type: it is {found} "
                f"and must be {wanted}",
                hint=CONTRACT_HINT,
            )


def _module(engine: Engine, data: bytes) -> tuple[ArtifactKind, list[str], list[str], bytearray]:
    module = Module(engine, data)
    imports = sorted({entry.module for entry in module.imports})
    exports = [entry.name for entry in module.exports]
    if "_start" not in exports:
        _refuse_entry("a function _start (a WASI command)", exports)
    for name in imports:
        if name != contract.WASI_PREVIEW1:
            _refuse_import(name)
    return ArtifactKind.COMMAND, imports, exports, module.serialize()


def _is_wasi(name: str) -> bool:
    return name.startswith(contract.WASI_OFFERED) and contract.WASI_VERSION in name


def _refuse_foreign(names: list[str]) -> None:
    """Refuse another version of the contract: of the one spoken here every name is known."""
    for name in names:
        package, _, version = name.partition("@")
        if package.startswith(f"{contract.PACKAGE}/") and version != contract.VERSION:
            raise InvalidArgument(
                f"it speaks {contract.PACKAGE}@{version}, this node {contract.VERSION}",
                hint=CONTRACT_HINT,
            )


def _refuse_entry(wanted: str, exports: list[str]) -> NoReturn:
    said = ", ".join(exports[:20]) or "nothing"
    raise InvalidArgument(f"no known entry: wanted {wanted}; it exports {said}", hint=BUILD_HINT)


def _refuse_import(name: str) -> NoReturn:
    raise InvalidArgument(
        f"it imports {name!r}, which this node does not offer",
        hint="offered are plexspaces:application@0.1.0, WASI 0.2 and WASI preview 1",
    )


def _first_line(error: WasmtimeError) -> str:
    # wasmtime puts the cause last: "failed to parse WebAssembly module\n\nCaused by:\n    0: ..."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(line for line in lines if line != "Caused by:")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
