"""Building an image with the distribution's tools replaced: what fails, fails clean."""

from __future__ import annotations

import asyncio
import platform
import tempfile
from pathlib import Path

import pytest

from plexspaces_node.build import BuildEnvironment
from plexspaces_node.build.image import build_image, builder
from plexspaces_node.build.image.builder import _install
from plexspaces_node.build.image.packages import BUSYBOX_PACKAGE, KERNEL_PACKAGE, Tools, fetch
from plexspaces_node.build.image.root import ENTRY_MODULE, INTERPRETER, Interpreter, make_root
from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported
from plexspaces_node.vm.image import INITRD, KERNEL, RECORD, ROOTFS

KERNEL_PART = "linux-image-6.1.0-1-cloud-amd64"
APT_CACHE = f"""#!/bin/sh
echo "$@" >>"$0.asked"
case "$1 $3" in
"depends {KERNEL_PACKAGE}") printf '{KERNEL_PACKAGE}\\n  Depends: {KERNEL_PART}\\n' ;;
"depends {KERNEL_PART}") printf '{KERNEL_PART}\\n  Depends: kmod\\n |Depends: initramfs\\n' ;;
"show {KERNEL_PART}") printf 'Version: 6.1.9-1\\nArchitecture: amd64\\nDescription: a kernel\\n' ;;
"show {BUSYBOX_PACKAGE}") printf 'Version: 1:1.35-4+b1\\nArchitecture: amd64\\n' ;;
*) echo 'E: No packages found'; exit 100 ;;
esac
"""
APT_GET = """#!/bin/sh
echo "$@" >>"$0.asked"
touch linux-image-6.1.0-1-cloud-amd64_6.1.9-1_amd64.deb busybox-static_1%3a1.35-4+b1_amd64.deb
"""


def script(directory: Path, name: str, text: str) -> Path:
    """Write an executable."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def around(tmp_path: Path) -> BuildEnvironment:
    """Surroundings in which apt is ours, and answers as it would."""
    script(tmp_path / "bin", "apt-cache", APT_CACHE)
    script(tmp_path / "bin", "apt-get", APT_GET)
    return BuildEnvironment(tmp_path / "cache" / "build", (tmp_path / "bin",), {})


async def test_fetch_when_apt_answers_then_the_kernel_it_depends_on_and_busybox(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """The kernel's name changes with every update, and an epoch is escaped in a file's name."""
    tools = Tools(around.search, timeout_s=30)
    packages = await fetch(tools, tmp_path / "cache")
    assert [(package.name, package.version, package.file.name) for package in packages] == [
        (KERNEL_PART, "6.1.9-1", f"{KERNEL_PART}_6.1.9-1_amd64.deb"),
        (BUSYBOX_PACKAGE, "1:1.35-4+b1", "busybox-static_1%3a1.35-4+b1_amd64.deb"),
    ]
    asked = (tmp_path / "bin" / "apt-get.asked").read_text()
    assert f"download {KERNEL_PART}=6.1.9-1 {BUSYBOX_PACKAGE}=1:1.35-4+b1" in asked


async def test_fetch_when_the_distribution_has_no_such_kernel_then_its_words_and_a_hint(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """Another distribution, or lists that were never fetched."""
    script(tmp_path / "bin", "apt-cache", "#!/bin/sh\necho 'N: Unable to locate'; exit 100\n")
    with pytest.raises(Unavailable, match="Unable to locate") as caught:
        await fetch(Tools(around.search, timeout_s=30), tmp_path / "cache")
    assert caught.value.hint is not None
    assert "apt-get update" in caught.value.hint


def test_find_when_a_program_is_missing_then_the_package_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hint can be typed as it stands."""
    monkeypatch.setattr("plexspaces_node.build.image.packages._SYSTEM_DIRECTORIES", ())
    with pytest.raises(Unsupported, match="mke2fs is not on this machine") as caught:
        Tools((), timeout_s=1).find("mke2fs")
    assert caught.value.hint == "apt-get install e2fsprogs"
    with pytest.raises(Unsupported, match="Debian"):
        Tools((), timeout_s=1).find("apt-get")


async def test_build_when_fetching_fails_then_the_old_image_stays_and_nothing_else(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """A build touches what is there only when all of it is made."""
    script(tmp_path / "bin", "apt-get", "#!/bin/sh\necho 'E: no network'; exit 100\n")
    target = tmp_path / "images" / "image"
    target.mkdir(parents=True)
    (target / RECORD).write_text("old")
    said: list[str] = []
    with pytest.raises(Unavailable, match="E: no network"):
        await build_image(target, progress=said.append, environment=around)
    assert said == ["fetching the kernel and busybox"]
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["image"]
    assert (target / RECORD).read_text() == "old"


async def test_build_when_cancelled_then_nothing_is_left(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """Ctrl-C while a program runs kills it, and takes the scratch directory away."""
    script(tmp_path / "bin", "apt-get", "#!/bin/sh\nexec sleep 60\n")
    target = tmp_path / "images" / "image"
    started = asyncio.Event()
    task = asyncio.ensure_future(
        build_image(target, progress=lambda _: started.set(), environment=around)
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "images").iterdir()) == []


async def test_build_when_the_directory_cannot_be_written_then_invalid_argument(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """A file in the way is named."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="cannot be written") as caught:
        await build_image(tmp_path / "file" / "image", progress=lambda _: None, environment=around)
    assert caught.value.hint is not None
    assert "--dir" in caught.value.hint


async def test_build_when_the_disk_is_full_then_unavailable(
    around: BuildEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system refuses is said in its words, and nothing is left."""

    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builder, "fetch", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        await build_image(
            tmp_path / "images" / "image", progress=lambda _: None, environment=around
        )
    assert list((tmp_path / "images").iterdir()) == []


async def test_build_when_on_another_architecture_then_unsupported(
    around: BuildEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is fetched."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(Unsupported, match="riscv64"):
        await build_image(tmp_path / "image", progress=lambda _: None, environment=around)


def made(directory: Path, content: str) -> Path:
    """Four files as a build leaves them."""
    directory.mkdir(parents=True)
    for name in (KERNEL, INITRD, ROOTFS, RECORD):
        (directory / name).write_text(content)
    return directory


def test_install_when_an_image_is_there_then_replaced_and_what_is_not_ours_stays(
    tmp_path: Path,
) -> None:
    """The directory of Firecracker may hold more than the image."""
    target = made(tmp_path / "target", "old")
    (target / "firecracker").write_text("binary")
    with (target / ROOTFS).open() as booted_from:
        _install(made(tmp_path / "made", "new"), target)
        assert booted_from.read() == "old"
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        **dict.fromkeys((KERNEL, INITRD, ROOTFS, RECORD), "new"),
        "firecracker": "binary",
    }


async def test_root_when_made_then_its_own_python_runs_the_agent_without_this_machines_modules(
    tmp_path: Path,
) -> None:
    """Every module the agent needs is in it, compiled, and the same bytes each time."""
    tools = Tools((), timeout_s=120)
    interpreter = Interpreter.here()
    tree = tmp_path / "root"
    versions = await make_root(tools, interpreter, tree)
    assert {"agent", "python", "wasmtime", "plexspaces-node"} == set(versions)
    assert list(tree.rglob("*.py")) == []
    assert [path.name for path in (tree / "usr/bin").iterdir()] == ["python3"]
    code = (
        f"import sys, {ENTRY_MODULE}\n"
        "outside = [f for m in sys.modules.values() if (f := getattr(m, '__file__', None))"
        f" and not f.startswith({str(tree)!r})]\n"
        "print(outside)"
    )
    python = str(tree / INTERPRETER)
    assert await tools.run(python, "-I", "-S", "-B", "-c", code, cwd=tmp_path) == "[]\n"
    with tempfile.TemporaryDirectory(dir=tmp_path) as other:
        again = Path(other) / "root"
        await make_root(tools, interpreter, again)
        for file in (path for path in tree.rglob("*") if path.is_file()):
            assert file.read_bytes() == (again / file.relative_to(tree)).read_bytes(), file
