"""The program of scripts/agent: builds, tests and checks the native programs of a checkout.

Needs only the standard library, before anything is installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from native_build import cargo as rust
from native_build.cache import Cache, toolchain_digest
from native_build.faults import Fault
from native_build.programs import package, programs, say
from plexspaces_node.programs import PROGRAMS, programs_cache

SUMMARY = "Build the native programs of this checkout, test and check their sources."
ROOT = Path(__file__).resolve().parent.parent.parent
WORKSPACES = ("Cargo.toml", "init/Cargo.toml")


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/agent", description=SUMMARY)
    acts = parser.add_subparsers(dest="act", metavar="ACT")
    acts.add_parser("build", help="build them, unless they are kept (the default)")
    acts.add_parser("test", help="run the tests of their sources")
    check = acts.add_parser("check", help="formatting and lints of their sources")
    check.add_argument("--strict", action="store_true", help="fail where one cannot be checked")
    acts.add_parser("fmt", help="format their sources")
    schema = acts.add_parser("schema", help="write the link's Rust code: what scripts/proto calls")
    schema.add_argument("descriptors", type=Path, help="as protoc writes them")
    schema.add_argument("directory", type=Path, help="where to")
    chosen = parser.parse_args()
    try:
        if chosen.act == "test":
            return _test()
        if chosen.act == "check":
            return _check(strict=chosen.strict)
        if chosen.act == "fmt":
            return _all("fmt", "--all")
        if chosen.act == "schema":
            return _schema(chosen.descriptors.resolve(), chosen.directory.resolve())
        programs(ROOT, may_install=True)
    except Fault as fault:
        say(str(fault))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _cargo() -> rust.Cargo:
    return rust.find_or_install(ROOT / "agent", say)


def _test() -> int:
    cargo = _cargo()
    for name in PROGRAMS:
        # Separately, as they are built: the tests run what is shipped, and nothing is compiled
        # twice.
        if status := _run(cargo.command("test", "--quiet", *package(name)), cargo):
            return status
    return 0


def _check(*, strict: bool) -> int:
    cargo = _cargo()
    # A newer clippy has lints that the sources were not written for: they are reported, but do not
    # fail.
    fatal = strict or cargo.is_oldest(ROOT / "agent")
    deny = ("--", "-D", "warnings") if fatal else ()
    lints = cargo.command("clippy", "--quiet", "--workspace", "--all-targets")[1:]
    checks = {"fmt": ["fmt", "--all", "--check"], "clippy": [*lints, *deny]}
    for name, arguments in checks.items():
        if not cargo.has(name):
            rust.install_command(name, say)
        if not cargo.has(name):
            said = Fault(f"cargo {name} is not installed", "rustup component add rustfmt clippy")
            if strict:
                raise said
            say(f"not checked: {said}".replace("error: ", ""))
        elif status := _all(*arguments):
            return status
    return 0


def _schema(descriptors: Path, directory: Path) -> int:
    cargo = _cargo()
    # Not optimised: it runs for a moment, and is built faster.
    run = [str(cargo.directory / "cargo"), "run", "--quiet", "--locked", "--target", rust.TARGET]
    generator = ["--package", "plexspaces-schema", "--", str(descriptors), str(directory)]
    return _run([*run, *generator], cargo)


def _all(name: str, *arguments: str) -> int:
    """Run a cargo command in every workspace."""
    cargo = _cargo()
    for manifest in WORKSPACES:
        command = [str(cargo.directory / "cargo"), name, "--manifest-path", manifest, *arguments]
        if status := _run(command, cargo):
            return status
    return 0


def _run(command: list[str], cargo: rust.Cargo | None = None) -> int:
    cargo = cargo or _cargo()
    cache = Cache(programs_cache())
    # Not interrupted: what a test of one checkout builds must not be cached as another's program.
    with cache.alone(say):
        target = cache.target(toolchain_digest(cargo.identity))
        return subprocess.run(
            command, cwd=ROOT / "agent", env=cargo.variables(target), check=False
        ).returncode


sys.exit(main())
