"""Which driver a node takes, of those there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.fake_driver import FakeDriver

from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.errors import InvalidArgument, NotFound, Unsupported
from plexspaces_node.isolation import choose_driver, make_drivers, open_image
from plexspaces_node.vm.driver import Driver, Health


class Level(FakeDriver):
    """A driver under any name."""

    def __init__(self, name: str, health: Health) -> None:
        super().__init__()
        self.name = name
        self.health = health


FINE = Health(True, "boots")
SLOW = Health(True, "boots by emulation", emulated=True)
ILL = Health(False, "there is no /dev/kvm", "modprobe kvm")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without an image."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in ("KERNEL", "ROOTFS"):
        monkeypatch.setenv(f"PLEXSPACES_FIRECRACKER_{name}", str(tmp_path / name.lower()))
    return tmp_path


def configured(isolation: str = "auto") -> Config:
    return ConfigBootstrap.load(None, {"node.isolation": isolation})


class Offer:
    """The drivers to choose from; remembers whether emulation was allowed, each time."""

    def __init__(self, *drivers: Driver) -> None:
        self.drivers = drivers
        self.asked: list[bool] = []

    def __call__(self, config: Config, *, emulation: bool) -> Sequence[Driver]:
        self.asked.append(emulation)
        return self.drivers


async def test_auto_takes_the_strongest_that_works() -> None:
    """The first in the list whose probe succeeds; emulation is not even tried."""
    offer = Offer(Level("firecracker", ILL), Level("qemu", FINE), Level("process", FINE))
    driver, note = await choose_driver(configured(), make=offer)
    assert driver.name == "qemu"
    assert note.endswith("(boots)")
    assert offer.asked == [False]


async def test_auto_when_no_machine_works_says_so_and_takes_the_process() -> None:
    """The fallback is told clearly in the node's note."""
    offer = Offer(Level("qemu", ILL), Level("process", FINE))
    driver, note = await choose_driver(configured(), make=offer)
    assert driver.name == "process"
    assert note.startswith("no microVM on this machine; ")


async def test_auto_when_nothing_works_names_every_reason() -> None:
    """A node without any level does not start, and why is told for each."""
    offer = Offer(Level("qemu", ILL), Level("process", Health(False, "no setpriv")))
    with pytest.raises(Unsupported, match=r"qemu: there is no /dev/kvm; process: no setpriv"):
        await choose_driver(configured(), make=offer)


async def test_level_asked_for_is_taken_though_emulated() -> None:
    """Who asks for QEMU gets it, slow as it may be."""
    offer = Offer(Level("qemu", SLOW), Level("process", FINE))
    driver, note = await choose_driver(configured("qemu"), make=offer)
    assert driver.name == "qemu"
    assert "emulation" in note
    assert offer.asked == [True]


async def test_level_asked_for_that_does_not_work_is_an_error_and_no_fallback() -> None:
    """Isolation is never weakened silently; the hint is the probe's."""
    offer = Offer(Level("qemu", ILL), Level("process", FINE))
    with pytest.raises(Unsupported, match="there is no /dev/kvm") as caught:
        await choose_driver(configured("qemu"), make=offer)
    assert caught.value.hint == "modprobe kvm"


async def test_level_without_a_driver_is_not_in_this_version() -> None:
    """A level is offered only when there is a driver for it."""
    offer = Offer(Level("process", FINE))
    with pytest.raises(Unsupported, match="not available in this version"):
        await choose_driver(configured("qemu"), make=offer)


def test_drivers_are_made_strongest_first_without_looking_at_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even a user without a home directory can have the process level."""
    for name in ("XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    names = [driver.name for driver in make_drivers(configured())]
    assert names[-2:] == ["qemu", "process"]


def test_image_when_there_is_none_says_how_to_make_it(home: Path) -> None:
    """The user's own directory is where it is looked for at last."""
    with pytest.raises(NotFound, match=str(home)) as caught:
        open_image(configured())
    assert "plexspaces image build" in (caught.value.hint or "")


def test_image_is_looked_for_where_the_environment_given_says(tmp_path: Path) -> None:
    """A program with a node inside need not change its own environment."""
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(NotFound, match=str(elsewhere)):
        open_image(configured(), {"XDG_DATA_HOME": str(elsewhere)})


def test_image_when_the_files_named_are_not_one_is_refused(home: Path) -> None:
    """Kernel and root of two images do not belong together."""
    for name in ("kernel", "rootfs"):
        (home / name).touch()
    with pytest.raises(InvalidArgument, match="one image"):
        open_image(configured())
