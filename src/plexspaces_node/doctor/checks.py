"""The checks of `plexspaces doctor`: what works on this host, and how to fix the rest.

A check tries the thing instead of looking for a file: packages are imported, the native programs
are run, toolchains look for their compilers as in a build, and the port is bound. Anything that
could crash or hang runs in a child process or with a timeout, and nothing is left behind. The
caller knows which drivers exist; the node is asked over its API and never imported.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from plexspaces_node.config import Config
from plexspaces_node.doctor.clusters import check_cluster
from plexspaces_node.doctor.finding import Finding, clean, one_line
from plexspaces_node.doctor.ports import (
    check_address,
    check_descriptors,
    check_http_address,
    check_tls,
)
from plexspaces_node.doctor.shares import check_shares
from plexspaces_node.errors import DeadlineExceeded, PlexSpacesError, quoted
from plexspaces_node.model import ENGINE, LEVELS, MIB
from plexspaces_node.programs import INIT, PROGRAMS, checkout_of, find_program
from plexspaces_node.toolchains import BuildEnvironment
from plexspaces_node.toolchains.build import TOOLCHAINS
from plexspaces_node.toolchains.toolchain import Toolchain
from plexspaces_node.vm.bundle import SOCKET_PATH_LIMIT_BYTES, Bundle
from plexspaces_node.vm.driver import Driver, Health

DEPENDENCIES: Mapping[str, str] = {
    "cryptography": "cryptography.hazmat.primitives.ciphers.aead",
    "googleapis-common-protos": "google.rpc.status_pb2",
    "grpcio": "grpc.aio",
    "grpcio-health-checking": "grpc_health.v1.health",
    "grpcio-reflection": "grpc_reflection.v1alpha.reflection",
    "h11": "h11",
    "httptools": "httptools",
    "msgspec": "msgspec",
    "prometheus-client": "prometheus_client",
    "protobuf": "google.protobuf",
    "pydantic-settings": "pydantic_settings",
    "rich": "rich",
    "structlog": "structlog",
    "typer": "typer",
}
"""The import that proves each dependency of the package; a test compares them with
pyproject.toml."""

MIN_FREE_DISK_BYTES = 512 * MIB
CHECK_TIMEOUT_S = 60.0
_OUTPUT_LIMIT_BYTES = 64 * 1024
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_REINSTALL = f"{sys.executable} -m pip install --force-reinstall plexspaces-node"

# This catches everything, because a broken package may raise anything while it is imported. It is
# the text of a child process that does nothing else.
_IMPORT_EACH = """
import importlib, importlib.metadata, json, sys
for argument in sys.argv[1:]:
    distribution, module = argument.split("=")
    try:
        importlib.import_module(module)
        answer = [distribution, True, importlib.metadata.version(distribution)]
    except BaseException as error:
        answer = [distribution, False, f"{type(error).__name__}: {error}"]
    print("\\n" + json.dumps(answer), flush=True)
"""


async def examine(
    config: Config,
    drivers: Sequence[Driver],
    *,
    environment: BuildEnvironment | None = None,
    timeout_s: float = CHECK_TIMEOUT_S,
) -> list[Finding]:
    """Run every check concurrently and return the results in a fixed order of areas.

    `timeout_s` limits each child process and each probe. Never raises for a fault of the host, and
    leaves no process, file or open port.
    """
    groups = await _all(
        check_python(timeout_s),
        check_programs(timeout_s),
        check_isolation(config, drivers, timeout_s=timeout_s),
        check_compilers(environment, timeout_s=timeout_s),
        check_address(config),
        check_http_address(config),
        asyncio.to_thread(check_tls, config),
        asyncio.to_thread(check_data_directory, config),
        asyncio.to_thread(check_memory, config),
        asyncio.to_thread(check_descriptors, config),
        asyncio.to_thread(check_shares, config),
        asyncio.to_thread(check_cluster, config),
    )
    return [finding for group in groups for finding in group]


def required_ok(findings: Iterable[Finding]) -> bool:
    """Return whether a node can run here: nothing that it needs is broken."""
    return all(finding.ok is not False for finding in findings)


def to_json(findings: Sequence[Finding]) -> str:
    """Return the findings as a JSON object: `ok`, and `findings` with the fields of each."""
    report = {"ok": required_ok(findings), "findings": [asdict(one) for one in findings]}
    return json.dumps(report, ensure_ascii=False, indent=2)


def render(
    findings: Sequence[Finding], console: Console, *, fine: str = "a node can run here"
) -> None:
    """Print the results by area, each with its mark, and a closing line: `fine` if none failed."""
    for area, members in groupby(findings, key=lambda finding: finding.area):
        group = list(members)
        width = max(len(finding.name) for finding in group)
        console.print(Text(area, style="bold"))
        for finding in group:
            _print_finding(finding, width, console)
        console.print()
    broken = sum(finding.ok is False for finding in findings)
    if broken:
        checks = "check" if broken == 1 else "checks"
        console.print(Text(f"✗ {broken} required {checks} failed", style="red"), soft_wrap=True)
    else:
        console.print(Text(f"✓ {fine}", style="green"))


def _print_finding(finding: Finding, width: int, console: Console) -> None:
    mark, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "yellow")}[finding.ok]
    line = Text("  ").append(mark, style=style).append(f" {finding.name.ljust(width)}  ")
    console.print(line.append(finding.detail), soft_wrap=True)
    if finding.hint:
        hint = Text(f"    {' ' * width}  hint: ").append(finding.hint, style="cyan")
        console.print(hint, soft_wrap=True)


# ---- Python and its packages ---------------------------------------------------------------


async def check_python(timeout_s: float = CHECK_TIMEOUT_S) -> list[Finding]:
    """Check the interpreter and import every dependency."""
    new_enough = sys.version_info >= (3, 11)
    place = f"{platform.system()} {platform.release()} on {platform.machine()}"
    interpreter = Finding(
        "Python",
        "Python",
        new_enough,
        f"{platform.python_version()} at {sys.executable}, {place}",
        None if new_enough else "install Python 3.11 or newer",
    )
    return [interpreter, *await _dependencies(timeout_s)]


async def _dependencies(timeout_s: float) -> list[Finding]:
    pairs = [f"{name}={module}" for name, module in DEPENDENCIES.items()]
    ran = await _run([sys.executable, "-P", "-c", _IMPORT_EACH, *pairs], timeout_s)
    answers: dict[str, tuple[bool, str]] = {}
    for line in ran.text.splitlines():
        with suppress(ValueError, TypeError):
            name, ok, detail = json.loads(line)
            answers[name] = (bool(ok), str(detail))
    lost = (False, f"importing it failed: {ran.fault}")
    findings = []
    for name in DEPENDENCIES:
        ok, detail = answers.get(name, lost)
        hint = None if ok else _REINSTALL
        findings.append(Finding("Python", name, ok, one_line(detail), hint))
    return findings


# ---- the native programs -------------------------------------------------------------------


async def check_programs(
    timeout_s: float = CHECK_TIMEOUT_S, *, find: Callable[[str], Path] = find_program
) -> list[Finding]:
    """Run the agent and the compiler for their versions, and look for the other programs.

    In a checkout only programs built from the current sources count.
    """
    return await _all(*(_program(name, find, timeout_s) for name in PROGRAMS))


async def _program(name: str, find: Callable[[str], Path], timeout_s: float) -> Finding:
    try:
        path = await asyncio.to_thread(find, name)
        digest = await asyncio.to_thread(_sha256, path)
        if name == INIT:
            # It runs only in a guest.
            return Finding("Programs", name, True, f"sha256 {digest[:12]} at {path}")
        ran = await _run([str(path), "--version"], timeout_s)
    except PlexSpacesError as error:
        return Finding("Programs", name, False, error.message, error.hint)
    except OSError as error:
        return Finding("Programs", name, False, clean(str(error)), _REINSTALL)
    hint = _REINSTALL if checkout_of() is None else "scripts/agent"
    if ran.status != 0:
        return Finding("Programs", name, False, f"{path} does not work: {ran.fault}", hint)
    said = one_line(ran.text).removeprefix(name).strip()
    if ENGINE not in said:
        detail = f"{path} is {said or 'nothing'}, but this node needs {ENGINE}"
        return Finding("Programs", name, False, detail, hint)
    sources = "" if checkout_of() is None else " built from the current sources"
    return Finding("Programs", name, True, f"{said}{sources}, sha256 {digest[:12]} at {path}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- isolation levels ----------------------------------------------------------------------


async def check_isolation(
    config: Config, drivers: Sequence[Driver], *, timeout_s: float = CHECK_TIMEOUT_S
) -> list[Finding]:
    """Probe the drivers, and report for each level whether it works and what `auto` selects.

    Only the configured level can be a fault.
    """
    healths = await _all(*(_probe(driver, timeout_s) for driver in drivers))
    health = {driver.name: one for driver, one in zip(drivers, healths, strict=True)}
    wanted = config.node.isolation
    strong = (level for level in LEVELS if level in health and health[level].ok)
    auto = next((level for level in strong if not health[level].emulated), None)
    findings = [_level(level, health.get(level), needed=level == wanted) for level in LEVELS]
    detail = f"selects {auto}" if auto else "no level works"
    findings.append(Finding("Isolation", "auto", _needed(bool(auto), wanted == "auto"), detail))
    return findings


async def _probe(driver: Driver, timeout_s: float) -> Health:
    try:
        async with asyncio.timeout(timeout_s):
            return await driver.probe()
    except TimeoutError:
        return Health(False, f"the probe did not finish within {timeout_s:g} s")
    except PlexSpacesError as error:
        return Health(False, error.message, error.hint)
    except OSError as error:
        return Health(False, f"the probe failed: {error}")


def _level(level: str, health: Health | None, *, needed: bool) -> Finding:
    if health is None:
        hint = "choose another: plexspaces start-node --isolation auto" if needed else None
        return Finding(
            "Isolation", level, _needed(False, needed), "not available in this version", hint
        )
    return Finding("Isolation", level, _needed(health.ok, needed), health.reason, health.hint)


def _needed(ok: bool, needed: bool) -> bool | None:
    # A level that does not work is a fault only if it is configured.
    return True if ok else (False if needed else None)


# ---- languages -----------------------------------------------------------------------------


async def check_compilers(
    environment: BuildEnvironment | None = None,
    *,
    toolchains: Sequence[Toolchain] = TOOLCHAINS,
    timeout_s: float = CHECK_TIMEOUT_S,
) -> list[Finding]:
    """Ask each language's toolchain what a build by this process would use.

    Never a fault: a node runs without them.
    """
    try:
        environment = environment or BuildEnvironment.here()
    except PlexSpacesError as error:
        return [Finding("Languages", "build", None, error.message, error.hint)]
    return await _all(*(_language(one, environment, timeout_s) for one in toolchains))


async def _language(
    toolchain: Toolchain, environment: BuildEnvironment, timeout_s: float
) -> Finding:
    name = str(toolchain.language)
    try:
        async with asyncio.timeout(timeout_s):
            detail = await toolchain.describe(environment)
    except (TimeoutError, DeadlineExceeded):
        detail = "its compiler did not report its version in time"
        return Finding("Languages", name, None, detail, toolchain.install)
    except PlexSpacesError as error:
        detail = clean(error.message)
        return Finding("Languages", name, None, detail, error.hint or toolchain.install)
    except OSError as error:
        return Finding("Languages", name, None, clean(str(error)), toolchain.install)
    return Finding("Languages", name, True, clean(detail))


# ---- where the node will be ----------------------------------------------------------------


def check_data_directory(config: Config) -> list[Finding]:
    """Check that the node can write its data directory. Blocks; creates no directory."""
    directory = config.node.data_dir
    real = Path(os.path.realpath(directory))
    fault = _directory_fault(directory)
    detail, hint = fault or (_state_of(directory), None)
    return [
        Finding("Node", "data directory", fault is None, detail, hint),
        _path_finding(directory, real),
        _disk_finding(real),
        _socket_finding(real),
    ]


def _state_of(directory: Path) -> str:
    return f"{directory} {'is writable' if directory.is_dir() else 'will be created'}"


def _directory_fault(directory: Path) -> tuple[str, str] | None:
    other = "choose another: plexspaces start-node --data-dir DIR"
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        place = _nearest_existing(directory)
        if os.path.islink(directory):
            return f"{directory} is a broken symbolic link", other
        unwritable = _write_fault(place)
        return (f"{directory} cannot be created: {unwritable}", other) if unwritable else None
    except OSError as error:
        return f"{directory}: {error.strerror}", other
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory} is not a directory", other
    if status.st_uid != os.geteuid():
        return f"{directory} belongs to user {status.st_uid}, not to {os.geteuid()}", other
    if status.st_mode & _OTHERS_MAY_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        return (
            f"others may write to {directory} (mode {mode:04o})",
            f"chmod 700 {quoted(directory)}",
        )
    unwritable = _write_fault(directory)
    return (unwritable, other) if unwritable else None


def _write_fault(directory: Path) -> str | None:
    # By writing, because for root permissions say nothing about a read-only file system. The file
    # never has a name if the file system supports that.
    try:
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError as error:
        return f"{directory} cannot be written: {error.strerror}"


def _path_finding(directory: Path, real: Path) -> Finding:
    for parent in real.parents:
        with suppress(OSError):
            mode = os.stat(parent).st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                detail = f"everybody may write to {parent} and replace what is below it"
                return Finding("Node", "path", False, detail, f"chmod o-w {quoted(parent)}")
    link = next((one for one in (directory, *directory.parents) if os.path.islink(one)), None)
    if link is None:
        return Finding("Node", "path", True, "the data directory's path contains no symbolic link")
    detail = f"{link} is a symbolic link; the data lies in {real}"
    return Finding("Node", "path", None, detail, f"use the real path: --data-dir {real}")


def _disk_finding(real: Path) -> Finding:
    place = _nearest_existing(real)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("Node", "disk", None, f"{place}: {error.strerror}")
    ok = free >= MIN_FREE_DISK_BYTES
    hint = None if ok else f"free {MIN_FREE_DISK_BYTES // MIB} MiB there, or use --data-dir DIR"
    return Finding("Node", "disk", ok, f"{free // MIB} MiB free at {place}", hint)


def _socket_finding(real: Path) -> Finding:
    length = len(os.fsencode(Bundle(real / "vms" / "vm-00000000").link_socket))
    ok = length <= SOCKET_PATH_LIMIT_BYTES
    detail = f"{length} of {SOCKET_PATH_LIMIT_BYTES} bytes allowed for a Unix socket path"
    hint = None if ok else "use a shorter one: plexspaces start-node --data-dir DIR"
    return Finding("Node", "socket path", ok, detail, hint)


def _nearest_existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if os.path.exists(one) or one == one.parent)


def check_memory(config: Config) -> list[Finding]:
    """Check that an application of the default size fits into the available memory. Blocks."""
    processors = len(os.sched_getaffinity(0))
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError as error:
        return [Finding("Node", "memory", None, f"/proc/meminfo: {error.strerror}")]
    mib = {name: int(kib) // 1024 for name, kib in re.findall(r"(?m)^(\w+): +(\d+) kB$", text)}
    total, available = mib.get("MemTotal", 0), mib.get("MemAvailable", 0)
    enough = available >= config.default_vm.memory_mib
    detail = f"{available} of {total} MiB available, {processors} processors"
    hint = None if enough else "less than one application's default: deploy with --memory MIB"
    return [Finding("Node", "memory", True if enough else None, detail, hint)]


# ---- child processes -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ran:
    """How a child ended; `status` is None if it timed out, negative for a signal."""

    status: int | None
    text: str

    @property
    def fault(self) -> str:
        if self.status is None:
            return "it timed out"
        if self.status < 0:
            return f"it was ended by signal {-self.status} ({signal.strsignal(-self.status)})"
        last = one_line(self.text, last=True)
        return f"it exited with status {self.status}: {last or 'no output'}"


async def _run(command: Sequence[str], timeout_s: float) -> _Ran:
    # Output goes to memory and not through a pipe: a grandchild that keeps a pipe open cannot make
    # this wait. The root is the working directory, so that nothing in the current one is read.
    output = os.memfd_create("doctor")
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_s):
                status: int | None = await process.wait()
        except TimeoutError:
            status = None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return _Ran(status, os.pread(output, _OUTPUT_LIMIT_BYTES, 0).decode("utf-8", "replace"))
    except OSError as error:
        return _Ran(127, error.strerror or str(error))
    finally:
        os.close(output)


async def _all(*checks: Coroutine[Any, Any, Any]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(check) for check in checks]
    return [task.result() for task in tasks]
