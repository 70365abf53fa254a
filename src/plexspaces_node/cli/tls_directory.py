"""The directory of `plexspaces tls`: a CA, the node's certificate and a bundle for each client."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node import xdg
from plexspaces_node.certificates import (
    CertificateInfo,
    Pair,
    describe,
    make_authority,
    make_client_certificate,
    make_node_certificate,
    read_file,
    read_pair,
)
from plexspaces_node.errors import AlreadyExists, InvalidArgument, NotFound, quoted
from plexspaces_node.model import check_full_name, file_name
from plexspaces_node.private_file import make_private_directory, replace, write_new

FIRST_CLIENT = "admin"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""In every certificate of a node, for clients on its own host."""

_CERTIFICATE_MODE = 0o644
_CA_NAME = "plexspaces CA of {}"
_LONGEST_NAME = 64


def default_directory(variables: Mapping[str, str] = os.environ) -> Path:
    """Return where certificates are unless a flag says otherwise.

    Raises `InvalidArgument` if there is no home directory.
    """
    place = xdg.directory(xdg.CONFIG, variables)
    if place is None:
        raise InvalidArgument(
            "there is no home directory for certificates", hint="name one with --dir DIR"
        )
    return place / "plexspaces" / "tls"


@dataclass(frozen=True, slots=True)
class Bundle:
    """The directory of one client, to be copied to its host."""

    path: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate, by which the client knows the node."""
        return self.path / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The client's certificate."""
        return self.path / "certificate.pem"

    @property
    def key(self) -> Path:
        """Its private key."""
        return self.path / "key.pem"


@dataclass(frozen=True, slots=True)
class TlsDirectory:
    """The files of a directory, whether or not they are there. Every method blocks shortly."""

    path: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.path / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's private key."""
        return self.path / "ca-key.pem"

    @property
    def certificate(self) -> Path:
        """The node's certificate."""
        return self.path / "node.pem"

    @property
    def key(self) -> Path:
        """The node's private key."""
        return self.path / "node-key.pem"

    def client(self, name: str) -> Bundle:
        """Return the bundle of a client, by its name or TENANT/NAME.

        Raises `InvalidArgument` for a name that is none, or that no certificate can have.
        """
        check_full_name(name, what="client name")
        if len(name) > _LONGEST_NAME:
            raise InvalidArgument(
                f"client name {name!r} is longer than {_LONGEST_NAME} characters",
                hint="a certificate has no longer name: choose a shorter one",
            )
        return Bundle(self.path / "clients" / file_name(name))

    def clients(self) -> list[str]:
        """Return the names of the clients that have a bundle."""
        try:
            found = [each.name for each in (self.path / "clients").iterdir() if each.is_dir()]
        except OSError:
            return []
        return sorted(name.replace("~", "/") for name in found)

    @staticmethod
    def of(certificate: Path) -> TlsDirectory:
        """Return the directory in which the node's certificate was made.

        Raises `NotFound` for one that something else has made.
        """
        found = TlsDirectory(certificate.parent)
        if certificate != found.certificate or not found.ca.exists():
            raise NotFound(
                f"the certificate {str(certificate)!r} was not made by plexspaces tls init",
                hint="renew it with what made it, or name another directory with --dir DIR",
            )
        return found

    def create(self, hosts: Sequence[str], *, days: int, group: int | None = None) -> None:
        """Make a CA, the node's certificate for these hosts and a bundle for the client `admin`.

        All of it or nothing. The group with the number `group` may read the node's key. Raises
        `AlreadyExists` if there is something in the directory, and `InvalidArgument` for hosts or
        days that no certificate can have.
        """
        authority = make_authority(_CA_NAME.format(hosts[0])[:_LONGEST_NAME])
        node = make_node_certificate(authority, [*hosts, *LOOPBACK], days=days)
        other = "renew what is in it: plexspaces tls renew; or name another with --dir DIR"
        with _taking_the_place_of(self.path, hint=other) as directory:
            made = TlsDirectory(directory)
            write_new(made.ca, authority.certificate, mode=_CERTIFICATE_MODE)
            write_new(made.ca_key, authority.key)
            write_new(made.certificate, node.certificate, mode=_CERTIFICATE_MODE)
            write_new(made.key, node.key)
            made._add_client(authority, FIRST_CLIENT, days)
            if group is not None:
                for path, mode in ((made.key, 0o640), (made.path, 0o750)):
                    os.chown(path, -1, group)
                    path.chmod(mode)

    def add_client(self, name: str, *, days: int) -> Bundle:
        """Make a bundle for a client. Raises `AlreadyExists` for one that is there."""
        return self._add_client(self._authority(), name, days)

    def renew(self, hosts: Sequence[str], *, days: int) -> CertificateInfo:
        """Put a new certificate of the node in place, for the key that it has; return what it says.

        For these hosts, or without any for those of the certificate that is there. A node that runs
        takes it with its next connection. Raises `NotFound` if there is none.
        """
        authority = self._authority()
        before = read_pair(self.certificate, self.key)
        names = [*hosts, *LOOPBACK] if hosts else describe(before.certificate).hosts
        made = make_node_certificate(authority, names, days=days, key=before.key)
        replace(self.certificate, made.certificate, mode=_CERTIFICATE_MODE)
        return describe(made.certificate)

    def renew_client(self, name: str, *, days: int) -> CertificateInfo:
        """Put a new certificate of a client in place, for the key that it has.

        Raises `NotFound` if there is none.
        """
        authority, bundle = self._authority(), self.client(name)
        if not bundle.certificate.exists():
            raise NotFound(
                f"there is no client {name!r} in {str(self.path)!r}",
                hint=f"plexspaces tls client {name} --dir {quoted(self.path)}",
            )
        before = read_pair(bundle.certificate, bundle.key)
        made = make_client_certificate(authority, name, days=days, key=before.key)
        replace(bundle.certificate, made.certificate, mode=_CERTIFICATE_MODE)
        return describe(made.certificate)

    def certificates(self) -> list[tuple[str, Path]]:
        """Return what each certificate of the directory is for, and where it is."""
        found = [("CA", self.ca), ("node", self.certificate)]
        found += [(f"client {name}", self.client(name).certificate) for name in self.clients()]
        return [(what, path) for what, path in found if path.exists()]

    def _authority(self) -> Pair:
        if not self.ca.exists():
            raise NotFound(
                f"there is no CA in {str(self.path)!r}",
                hint=f"plexspaces tls init --host NAME --dir {quoted(self.path)}",
            )
        return read_pair(self.ca, self.ca_key)

    def _add_client(self, authority: Pair, name: str, days: int) -> Bundle:
        bundle = self.client(name)
        made = make_client_certificate(authority, name, days=days)
        make_private_directory(bundle.path.parent)
        renewal = f"plexspaces tls renew --client {name} --dir {quoted(self.path)}"
        with _taking_the_place_of(bundle.path, hint=renewal) as directory:
            new = Bundle(directory)
            write_new(new.ca, authority.certificate, mode=_CERTIFICATE_MODE)
            write_new(new.certificate, made.certificate, mode=_CERTIFICATE_MODE)
            write_new(new.key, made.key)
        return bundle


def read_info(path: Path) -> CertificateInfo:
    """Return what the certificate in a file says; raises `InvalidArgument` if it is none."""
    return describe(read_file(path), place=str(path))


@contextmanager
def _taking_the_place_of(path: Path, *, hint: str) -> Iterator[Path]:
    """Yield a new directory that becomes `path` at the end, or nothing of it stays.

    Raises `AlreadyExists`, with the hint, unless `path` is missing or empty.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # For its owner alone, whatever the umask.
        directory = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    except OSError as error:
        raise InvalidArgument(
            f"{str(path)!r} cannot be made: {error.strerror}",
            hint=f"ls -ld {quoted(path.parent)}",
        ) from error
    try:
        yield directory
        # Takes the place of an empty directory, and of no other.
        os.rename(directory, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InvalidArgument(
                f"{str(path)!r} cannot be made: {error.strerror}",
                hint=f"ls -ld {quoted(path.parent)}",
            ) from error
        raise AlreadyExists(
            f"{str(path)!r} is there already, and stays as it is", hint=hint
        ) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
