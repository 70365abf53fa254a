"""Building an image with the distribution's tools replaced: what fails, fails clean."""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path

import pytest
from support.erofs import read_erofs

import plexspaces_node
from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported
from plexspaces_node.guest_image import agent_digest, build_image
from plexspaces_node.guest_image.build import GuestPrograms, _install
from plexspaces_node.guest_image.packages import KERNEL_PACKAGES, Tools, fetch
from plexspaces_node.toolchains import BuildEnvironment
from plexspaces_node.vm.image import INITRD, KERNEL, RECORD, ROOTFS

KERNEL_PACKAGE = KERNEL_PACKAGES[0]
KERNEL_PART = "linux-image-6.1.0-1-cloud-amd64"
KERNEL_FILE = f"{KERNEL_PART}_6.1.9-1_amd64.deb"
APT_CACHE = f"""#!/bin/sh
echo "$@" >>"$0.asked"
case "$1 $3" in
"depends {KERNEL_PACKAGE}") printf '{KERNEL_PACKAGE}\\n  Depends: {KERNEL_PART}\\n' ;;
"depends {KERNEL_PART}") printf '{KERNEL_PART}\\n  Depends: kmod\\n |Depends: initramfs\\n' ;;
"show {KERNEL_PART}") printf 'Version: 6.1.9-1\\nArchitecture: amd64\\nDescription: a kernel\\n' ;;
*) echo 'E: No packages found'; exit 100 ;;
esac
"""
APT_GET = f"""#!/bin/sh
echo "$@" >>"$0.asked"
touch {KERNEL_FILE}
"""


def script(directory: Path, name: str, text: str) -> Path:
    """Write an executable."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path: Path) -> GuestPrograms:
    """Two files in place of a guest's programs."""
    made = GuestPrograms(tmp_path / "agent", tmp_path / "init")
    for path in made:
        path.write_text(path.name)
    return made


@pytest.fixture
def around(tmp_path: Path) -> BuildEnvironment:
    """Surroundings in which apt is ours, and answers as it would."""
    script(tmp_path / "bin", "apt-cache", APT_CACHE)
    script(tmp_path / "bin", "apt-get", APT_GET)
    return BuildEnvironment(tmp_path / "cache" / "build", (tmp_path / "bin",), {})


async def test_fetch_when_apt_answers_then_the_kernel_it_depends_on_and_once(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """The kernel's name changes with every update; what is in the cache is not fetched again."""
    tools = Tools(around.search, timeout_s=30)
    packages = await fetch(tools, tmp_path / "cache")
    assert [(package.name, package.version, package.file.name) for package in packages] == [
        (KERNEL_PART, "6.1.9-1", KERNEL_FILE)
    ]
    assert await fetch(tools, tmp_path / "cache") == packages
    asked = (tmp_path / "bin" / "apt-get.asked").read_text()
    assert asked.count(f"download {KERNEL_PART}=6.1.9-1") == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [KERNEL_FILE]


async def test_fetch_when_on_ubuntu_then_the_kernel_of_its_machines(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """It has another name there, and another package holds the modules."""
    ubuntu = """#!/bin/sh
case "$1 $3" in
"depends linux-image-virtual") echo '  Depends: linux-image-6.8.0-1-generic' ;;
"depends linux-image-6.8.0-1-generic") echo '  Depends: linux-modules-6.8.0-1-generic' ;;
"depends linux-modules-6.8.0-1-generic") ;;
"show "*) printf 'Version: 1:6.8-1\\nArchitecture: amd64\\n' ;;
*) echo 'E: No packages found'; exit 100 ;;
esac
"""
    names = [f"linux-{part}-6.8.0-1-generic" for part in ("image", "modules")]
    files = [f"{name}_1%3a6.8-1_amd64.deb" for name in names]
    script(tmp_path / "bin", "apt-cache", ubuntu)
    script(tmp_path / "bin", "apt-get", f"#!/bin/sh\ntouch {' '.join(files)}\n")
    packages = await fetch(Tools(around.search, timeout_s=30), tmp_path / "cache")
    assert [(package.name, package.file.name) for package in packages] == [
        *zip(names, files, strict=True)
    ]


async def test_fetch_when_the_distribution_has_no_such_kernel_then_its_words_and_a_hint(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """Another distribution, or lists that were never fetched."""
    script(tmp_path / "bin", "apt-cache", "#!/bin/sh\necho 'N: Unable to locate'; exit 100\n")
    with pytest.raises(Unavailable, match="Unable to locate") as caught:
        await fetch(Tools(around.search, timeout_s=30), tmp_path / "cache")
    assert caught.value.hint is not None
    assert "apt-get update" in caught.value.hint


def test_find_when_a_program_is_missing_then_the_package_that_has_it() -> None:
    """The hint can be typed as it stands."""
    tools = Tools((), timeout_s=1, system=())
    with pytest.raises(Unsupported, match="dpkg-deb is not installed") as caught:
        tools.find("dpkg-deb")
    assert caught.value.hint == "apt-get install dpkg"
    with pytest.raises(Unsupported, match="Debian"):
        tools.find("apt-get")


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
    assert said == ["fetching the kernel"]
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


@pytest.mark.parametrize(
    ("error", "told", "hint"),
    [
        (
            OSError(28, "No space left on device"),
            "No space left on device",
            "300 MiB of free space",
        ),
        (FileNotFoundError(2, "No such file", "/bin/it"), "/bin/it: No such file", None),
    ],
)
async def test_build_when_the_system_refuses_then_the_file_and_its_words(
    around: BuildEnvironment,
    packages: Path,
    programs: GuestPrograms,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    told: str,
    hint: str | None,
) -> None:
    """Nothing is left, and only a full disk is told of its room."""

    def refuse(_: int) -> None:
        raise error

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "fsync", refuse)
    script(tmp_path / "bin", "dpkg-deb", f'#!/bin/sh\nexec cp -r {packages}/. "$3"\n')
    with pytest.raises(Unavailable) as caught:
        await build_image(
            tmp_path / "images" / "image",
            progress=lambda _: None,
            environment=around,
            programs=programs,
        )
    assert told in caught.value.message
    assert (hint or "") in (caught.value.hint or "")
    assert (caught.value.hint is None) == (hint is None)
    assert list((tmp_path / "images").iterdir()) == []


async def test_build_when_a_package_is_damaged_then_it_is_fetched_anew_the_next_time(
    around: BuildEnvironment, tmp_path: Path
) -> None:
    """One that was cut short would fail every build to come."""
    script(tmp_path / "bin", "dpkg-deb", "#!/bin/sh\necho 'it is no archive'; exit 2\n")
    with pytest.raises(Unavailable, match="it is no archive"):
        await build_image(tmp_path / "image", progress=lambda _: None, environment=around)
    assert list((tmp_path / "cache" / "image-packages").iterdir()) == []


async def test_build_when_made_twice_then_the_same_image_with_its_agent(
    around: BuildEnvironment,
    tmp_path: Path,
    packages: Path,
    programs: GuestPrograms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the packages of each distribution; what changes the digest is another agent."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    script(tmp_path / "bin", "dpkg-deb", f'#!/bin/sh\nexec cp -r {packages}/. "$3"\n')
    digests = []
    for name in ("one", "two", "three"):
        image = await build_image(
            tmp_path / name, progress=lambda _: None, environment=around, programs=programs
        )
        digests.append(image.digest)
        if name == "two":
            programs.agent.write_text("another")
    assert digests[0] == digests[1] != digests[2]
    assert image.made_of == {
        "agent": agent_digest(programs),
        "plexspaces-node": plexspaces_node.__version__,
        KERNEL_PART: "6.1.9-1",
    }
    root = read_erofs(image.rootfs)
    assert sorted(root) == ["/", "/artifact", "/dev", "/plexspaces-agent", "/proc"]
    agent = root["/plexspaces-agent"]
    assert (agent.content, agent.mode & 0o777) == (b"another", 0o555)


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
