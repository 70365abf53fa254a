"""Rust's standard library for WebAssembly, compiled where no compiled one is to be had.

Once for a compiler, from the sources that come with it. The result is laid out as rustup does it,
so that projects are compiled in the same way with either.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from plexspaces_node.errors import Internal
from plexspaces_node.toolchains.process import run
from plexspaces_node.toolchains.rust.compiler import (
    LIBC_FILES,
    MODULE_TARGET,
    RUSTUP_INSTALL,
    THREADS,
    LibraryParts,
    RustCompiler,
    threads_source,
)
from plexspaces_node.toolchains.threads import in_thread

_SEED = "seed"
"""The crate that is compiled to get at what it depends on."""
_LIFE_S = 30 * 24 * 3600.0


async def make_standard_library(
    compiler: RustCompiler,
    variables: Mapping[str, str],
    *,
    timeout_s: float,
    progress: Callable[[str], None],
) -> None:
    """Compile the standard library where that has not been done: about a minute.

    Does nothing for a compiler that has one. Cancelled, it leaves nothing that would be used.
    Raises `Internal` with the compiler's words when it fails, and what `process.run` raises.
    """
    if compiler.parts is None or compiler.sysroot is None or compiler.sysroot.is_dir():
        return
    async with compiler.alone(timeout_s):
        if compiler.sysroot.is_dir():
            return
        progress(f"rust: compiling the standard library for {compiler.target}, once")
        scratch = Path(await in_thread(tempfile.mkdtemp, dir=compiler.home))
        try:
            await _compile_seed(compiler, scratch, variables, timeout_s=timeout_s)
            await in_thread(_assemble, scratch, compiler.parts)
            await _compile_threads(compiler, scratch, variables, timeout_s=timeout_s)
            (scratch / "sysroot").rename(compiler.sysroot)
        finally:
            await in_thread(shutil.rmtree, scratch, ignore_errors=True)
        await in_thread(_forget_unused, compiler.home.parent)


async def _compile_seed(
    compiler: RustCompiler, scratch: Path, variables: Mapping[str, str], *, timeout_s: float
) -> None:
    (scratch / "Cargo.toml").write_text(
        f'[package]\nname = "{_SEED}"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n'
    )
    (scratch / "src").mkdir()
    (scratch / "src" / "lib.rs").write_text("")
    finished = await run(
        [
            *(str(compiler.program), *_vendored(compiler)),
            *("build", "--quiet", "--release", "--target", compiler.target),
            *("-Zbuild-std=std,panic_abort", "-Zbuild-std-features="),
        ],
        cwd=scratch,
        variables={
            **variables,
            "RUSTC": str(compiler.rustc),
            # What allows the two options above outside of a nightly compiler; nothing of a user's
            # is compiled here.
            "RUSTC_BOOTSTRAP": "1",
            "CARGO_TARGET_DIR": str(scratch / "target"),
            # For projects that optimise across crates.
            "CARGO_ENCODED_RUSTFLAGS": "-Cembed-bitcode=yes",
            "TMPDIR": str(scratch),
        },
        timeout_s=timeout_s,
    )
    if finished.status:
        raise Internal(
            f"Rust's standard library does not compile:\n{finished.output.strip()}",
            hint=f"install the target that comes compiled: {RUSTUP_INSTALL}",
        )


async def _compile_threads(
    compiler: RustCompiler, scratch: Path, variables: Mapping[str, str], *, timeout_s: float
) -> None:
    sysroot = scratch / "sysroot"
    finished = await run(
        [
            *(str(compiler.rustc), f"--sysroot={sysroot}", f"--target={compiler.target}"),
            *("--edition=2024", "--crate-type=lib", "--emit=obj", "-Copt-level=s", "-Cpanic=abort"),
            *("-o", str(sysroot / THREADS), str(threads_source())),
        ],
        cwd=scratch,
        variables={**variables, "RUSTC_BOOTSTRAP": "1", "TMPDIR": str(scratch)},
        timeout_s=timeout_s,
    )
    if finished.status:
        raise Internal(
            f"the thread functions of Rust's standard library do not compile:\n"
            f"{finished.output.strip()}",
            hint=f"install the target that comes compiled: {RUSTUP_INSTALL}",
        )


def _vendored(compiler: RustCompiler) -> list[str]:
    """Return the options that take the crates beside the sources instead of fetching them."""
    crates = compiler.parts.sources / "vendor" if compiler.parts else None
    if crates is None or not crates.is_dir():
        return []
    return [
        *("--config", 'source.crates-io.replace-with="beside"'),
        *("--config", f"source.beside.directory={json.dumps(str(crates))}"),
    ]


def _assemble(scratch: Path, parts: LibraryParts) -> None:
    libraries = scratch / "sysroot" / "lib" / "rustlib" / MODULE_TARGET / "lib"
    (libraries / "self-contained").mkdir(parents=True)
    for path in (scratch / "target" / MODULE_TARGET).rglob("*.rlib"):
        if not path.name.startswith(f"lib{_SEED}"):
            shutil.copyfile(path, libraries / path.name)
    for name in LIBC_FILES:
        shutil.copyfile(parts.libc / name, libraries / "self-contained" / name)


def _forget_unused(directory: Path) -> None:
    # Of compilers that were upgraded since.
    for lock in directory.glob("*/lock"):
        if lock.stat().st_mtime < time.time() - _LIFE_S:
            shutil.rmtree(lock.parent, ignore_errors=True)
