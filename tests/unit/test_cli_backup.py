"""`backup`, `restore` and `verify`: what they print, and how they end."""

from __future__ import annotations

import hashlib
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from support.command import Command
from support.records import record_of

from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.secrets.key import KeyFile, KeySource
from plexspaces_node.node.secrets.secrets import Secrets, of_passphrase

ARTIFACT = b"\0asm"
DIGEST = hashlib.sha256(ARTIFACT).hexdigest()


@pytest.fixture
async def data_dir(tmp_path: Path) -> Path:
    with DataDirectory.open(tmp_path / "data", "node-a") as directory:
        directory.keep()
        async with Registry.open(directory.registry) as registry:
            await registry.insert_application(record_of("one", digest=DIGEST))
        (directory.artifacts / f"{DIGEST}.wasm").write_bytes(ARTIFACT)
    return tmp_path / "data"


def test_backup_when_written_then_it_can_be_verified_and_restored(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    """The three commands, one after the other, and the one that comes next."""
    file, target = tmp_path / "b.tar", tmp_path / "new data"
    written = command("backup", file, "--data-dir", data_dir)
    assert (written.status, written.text.splitlines()[0]) == (0, f"✓ Backup written: {file}")
    assert f"SHA-256:      {hashlib.sha256(file.read_bytes()).hexdigest()}" in written.text
    assert written.stderr == f"writing {file}\n" or written.stderr == ""
    verified = command("verify", file)
    assert (verified.status, verified.text.splitlines()[0]) == (0, f"✓ {file} is intact")
    restored = command("restore", file, "--data-dir", target)
    assert restored.status == 0
    assert restored.text.splitlines()[-1] == (
        f"Start it:  plexspaces start-node --node-id node-a --data-dir '{target}'"
    )
    assert command("verify", target).status == 0


def test_backup_when_for_programs_then_one_record(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    """The same words in all three."""
    file = tmp_path / "b.tar"
    written = command("backup", file, "--data-dir", data_dir, "--json").json
    assert written["applications"] == ["one"]
    assert (written["artifacts"], written["missing_artifacts"]) == (True, [])
    verified = command("verify", file, "--json").json
    assert verified.pop("whole")
    assert verified == {key: value for key, value in written.items() if key != "file"}
    target = tmp_path / "b"
    restored = command("restore", file, "--data-dir", target, "--node-id", "node-b", "--json").json
    assert (restored["node_id"], restored["data_dir"]) == ("node-b", str(target))
    assert command("verify", target, "--json").json["whole"]


@pytest.mark.parametrize("is_passphrase", [False, True])
async def test_backup_when_there_are_secrets_then_their_key_is_named_and_not_in_it(
    command: Command, data_dir: Path, tmp_path: Path, is_passphrase: bool
) -> None:
    """Neither value nor key; the three commands say what has to be kept and brought back."""
    file, key_file = tmp_path / "b.tar", tmp_path / "k" / "node.key"
    async with Registry.open(data_dir / "registry.db") as registry:
        source: KeySource = (
            await of_passphrase(registry.secrets, "many words")
            if is_passphrase
            else KeyFile(key_file, data_dir)
        )
        await Secrets(registry.secrets, source).set("shop", "db", b"s3cret-value")
    key = source.read()
    assert key is not None
    what = (
        "the passphrase of the secrets" if is_passphrase else f"the key of the secrets ({key.id})"
    )
    written = command("backup", file, "--data-dir", data_dir)
    assert "Secrets:      encrypted, without their key" in written.text
    assert f"keep a copy of {what} elsewhere" in written.stderr
    content = file.read_bytes()
    assert b"s3cret-value" not in content
    assert b"many words" not in content
    assert is_passphrase or key_file.read_bytes().strip() not in content
    assert command("verify", file, "--json").json["secret_keys"] == [key.id]
    restored = command("restore", file, "--data-dir", tmp_path / "c")
    where = "" if is_passphrase else f", for example in {tmp_path}/.config/plexspaces/node-a.key"
    assert f"applications that use secrets need {what}{where}\n" in restored.stderr


def test_backup_when_it_goes_to_stdout_then_nothing_else_does(
    command: Command, data_dir: Path
) -> None:
    """It can be piped to another machine."""
    ran = command("backup", "-", "--data-dir", data_dir)
    with tarfile.open(fileobj=BytesIO(ran.stdout)) as archive:
        assert archive.getnames()[-1] == "SHA256SUMS"
    assert f"SHA-256 {hashlib.sha256(ran.stdout).hexdigest()}" in ran.stderr
    assert not list(data_dir.glob(".plexspaces*"))


def test_backup_when_without_artifacts_then_the_restore_says_what_is_to_be_sent(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    """What was left out on purpose is told when it is wanted."""
    file = tmp_path / "b.tar"
    written = command("backup", file, "--data-dir", data_dir, "--without-artifacts")
    assert "artifact" not in written.stderr
    assert command("verify", file).status == 0
    restored = command("restore", file, "--data-dir", tmp_path / "b")
    assert "deploy their applications again: one" in restored.stderr
    checked = command("verify", tmp_path / "b")
    assert (checked.status, checked.text.splitlines()[0]) == (
        1,
        f"✗ {tmp_path / 'b'} is incomplete",
    )


def test_backup_when_the_node_is_named_then_its_directory_is_found(
    command: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `start-node` finds it; what is not there is said with both ways to name it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "plexspaces").mkdir()
    data_dir.rename(tmp_path / "plexspaces" / "node-a")
    assert command("backup", tmp_path / "b.tar", "--node-id", "node-a").status == 0
    missing = command("backup", tmp_path / "c.tar", "--node-id", "node-z")
    assert missing.status == 1
    assert "contains no node data" in missing.stderr
    assert (
        "hint: choose the directory with --data-dir, or the node with --node-id" in missing.stderr
    )


@pytest.mark.parametrize("name", ["verify", "restore"])
def test_restore_when_it_is_damaged_then_refused_with_the_file_named(
    command: Command, data_dir: Path, tmp_path: Path, name: str
) -> None:
    """Nothing of it is left in the directory."""
    file, target = tmp_path / "b.tar", tmp_path / "b"
    command("backup", file, "--data-dir", data_dir)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    rest = ("--data-dir", target) if name == "restore" else ()
    ran = command(name, file, *rest)
    assert ran.status != 0
    assert f"error: {file} cannot be used: " in ran.stderr
    assert not target.exists()
