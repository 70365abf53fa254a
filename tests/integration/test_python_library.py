"""What a Python actor imports in the middle of a message, by the real compiler and agent."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.actors import compiled
from support.peer import Peer

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB
from plexspaces_node.toolchains import build

APP = """
import traceback

import eager

from plexspaces_actor import Actor, handler


class Runner(Actor):
    @handler("run")
    def run(self, code: str) -> str:
        names = {}
        exec(code, names)
        return str(names["answer"])

    @handler("failing")
    def failing(self, code: str) -> str:
        try:
            exec(code, {})
        except Exception as exc:
            return "".join(traceback.format_exception(exc))
        return ""

    @handler("import")
    def import_(self, names: list[str]) -> dict[str, str]:
        import importlib

        failed = {}
        for name in names:
            try:
                importlib.import_module(name)
            except Exception as exc:
                failed[name] = f"{type(exc).__name__}: {exc}"
        return failed
"""

FILES = {
    "app.py": APP,
    "mine.py": "def broken():\n    raise ValueError('here')  # in mine\n\n\nNAME = 'mine'\n",
    "parts/deep/one.py": "NAME = __name__\n",
    "vendor/eager/__init__.py": "",
    "vendor/eager/words.txt": "eager words\n",
    "vendor/lazy/__init__.py": "from lazy.inner import NAME\n",
    "vendor/lazy/inner.py": "NAME = __name__\n",
    "vendor/lazy/data/words.txt": "lazy words\n",
    "vendor/lazy-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: lazy\nVersion: 1.5\n",
    "vendor/fast/__init__.py": "from fast import _speed\n",
    "vendor/fast/_speed.cpython-314-x86_64-linux-gnu.so": "\x7fELF",
}

SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "lib-dynload"}
"""Directories of a Python's library that hold no part of the standard library."""

ABSENT = {
    "programs": "__main__ antigravity this idlelib turtledemo unittest.__main__",
    "asks who else runs on the machine": "asyncio.__main__",
    "of other systems, or other builds": """
        _aix _scproxy _winapi _msi _overlapped asyncio.windows_events asyncio.windows_utils
        _sysconfigdata encodings.mbcs encodings.oem msilib msvcrt nt winreg winsound""",
    "the libraries bzip2, xz and zstd are not in it": """
        _bz2 bz2 encodings.bz2_codec _lzma lzma _zstd compression.zstd""",
    "no OpenSSL, and no network to use it on": "_hashlib _ssl ssl",
    "machine code cannot be loaded": "_ctypes ctypes",
    "no processes, and no memory to share with them": """
        _multiprocessing _posixshmem _posixsubprocess mmap multiprocessing.forkserver
        multiprocessing.heap multiprocessing.popen_fork multiprocessing.popen_forkserver
        multiprocessing.popen_spawn_posix multiprocessing.popen_spawn_win32
        multiprocessing.resource_tracker multiprocessing.shared_memory multiprocessing.sharedctypes
        multiprocessing.synchronize""",
    "no terminal, no screen": """
        _curses _curses_panel curses pty readline termios tkinter _tkinter tty turtle""",
    "no users, no system": "fcntl grp pwd resource syslog _uuid",
    "databases in files, of libraries that are not there": "_dbm _gdbm dbm.gnu dbm.ndbm",
    "install into a directory, or are pages to read": "ensurepip venv pydoc_data",
    "insides of older versions": """
        _bootsubprocess _compression _crypt _sha256 _sha512 importlib.resources._legacy""",
    "removed from Python since": """
        aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap
        nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib""",
}
"""What is not there, with all that lies below it, and why."""


def write(project: Path, files: dict[str, str]) -> Path:
    """Write a project's files."""
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return project


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The actor, compiled as a node does."""
    directory = tmp_path_factory.mktemp("late")
    project = write(directory / "project", FILES)
    made = asyncio.run(build(project, directory / "late.wasm", progress=lambda _line: None))
    return compiled(made.path.read_bytes(), directory)


@pytest.fixture
def actor(tmp_path: Path, native: Path) -> Iterator[Peer]:
    with Peer(tmp_path) as peer:
        assert isinstance(peer.load(native, memory_bytes=256 * MIB), link.Loaded)
        yield peer


def answer(actor: Peer, code: str) -> str:
    """Run code in a handler, and return its variable `answer`."""
    reply = actor.invoke("run", code.encode(), timeout_s=actor.seconds(20))
    assert reply.failure is None, reply.failure
    return reply.payload.decode()


def standard_library() -> list[str]:
    """Return the names of all modules of this Python's standard library."""
    names = set(sys.stdlib_module_names)
    top = Path(os.__file__).parent
    for here, directories, files in os.walk(top):
        directories[:] = [one for one in directories if one not in SKIPPED and one.isidentifier()]
        for file in files:
            path = (Path(here) / file).relative_to(top)
            if path.suffix == ".py":
                names.add(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    return sorted(names)


def is_absent(name: str) -> bool:
    """Return whether a module is in the list of those that are not there."""
    absent = {one for names in ABSENT.values() for one in names.split()}
    parts = name.split(".")
    above = {".".join(parts[: count + 1]) for count in range(len(parts))}
    return bool(absent & above) or name.startswith("_sysconfigdata")


def test_whole_standard_library_is_imported_late(actor: Peer) -> None:
    """Every module that this Python has can be imported in a handler, but for those of the list."""
    wanted = [name for name in standard_library() if not is_absent(name)]
    assert len(wanted) > 450

    reply = actor.invoke("import", json.dumps(wanted).encode(), timeout_s=actor.seconds(60))

    assert (reply.failure, json.loads(reply.payload)) == (None, {})


def test_list_of_what_is_not_there_is_true(actor: Peer) -> None:
    """No module is left out that could have been imported, but for programs."""
    listed = [one for why, names in ABSENT.items() if why != "programs" for one in names.split()]

    reply = actor.invoke("import", json.dumps(listed).encode(), timeout_s=actor.seconds(20))

    assert set(json.loads(reply.payload)) == set(listed)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "import datetime as d; "
            "answer = d.datetime.strptime('28 November 2026', '%d %B %Y').date()",
            "2026-11-28",
        ),
        ("answer = b'\\xef\\xbb\\xbfa'.decode('utf-8-sig')", "a"),
        ("answer = '\u20ac'.encode('iso-8859-15') + '\u20ac'.encode('cp1252')", "b'\\xa4\\x80'"),
        ("answer = 'b\u00fccher.example'.encode('idna').decode()", "xn--bcher-kva.example"),
        (
            "import datetime as d, zoneinfo; "
            "answer = d.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))",
            "2026-07-01 00:00:00+02:00",
        ),
        ("import zoneinfo; answer = 'Asia/Tokyo' in zoneinfo.available_timezones()", "True"),
        (
            # RFC 7914, 11.
            "import hashlib; "
            "answer = hashlib.pbkdf2_hmac('sha256', b'passwd', b'salt', 1, 64).hex()[:32]",
            "55ac046e56e3089fec1691c22544b605",
        ),
        (
            "import sqlite3; answer = sqlite3.connect(':memory:').execute('select 7').fetchone()",
            "(7,)",
        ),
        ("import mine; answer = mine.NAME", "mine"),
        ("from parts.deep import one; answer = one.NAME", "parts.deep.one"),
        ("import lazy; answer = lazy.NAME", "lazy.inner"),
        (
            "import importlib.resources as r; "
            "answer = r.files('lazy').joinpath('data', 'words.txt').read_text()",
            "lazy words\n",
        ),
        (
            "import pkgutil; answer = pkgutil.get_data('eager', 'words.txt').decode()",
            "eager words\n",
        ),
        (
            "import importlib.resources as r; "
            "answer = [each.name for each in r.files('eager').iterdir()]",
            "['__init__.py', 'words.txt']",
        ),
        ("import importlib.metadata as m; answer = m.version('Lazy')", "1.5"),
    ],
    ids=[
        "strptime",
        "utf-8-sig",
        "8-bit codecs",
        "idna",
        "zone",
        "zones",
        "key derivation",
        "sqlite",
        "own module",
        "package without a file",
        "vendored package",
        "data of a package",
        "data of a package imported before",
        "listing of a package",
        "metadata",
    ],
)
def test_what_is_loaded_late_is_there(actor: Peer, code: str, expected: str) -> None:
    """What the standard library, the project or a package loads in the middle of a message."""
    assert answer(actor, code) == expected


def test_every_codec_encodes(actor: Peer) -> None:
    """All codecs that Python has names for are found late, but for two of Windows and bzip2's."""
    found = answer(
        actor,
        "import codecs\n"
        "from encodings.aliases import aliases\n"
        "answer = []\n"
        "for name in sorted(set(aliases.values())):\n"
        "    try:\n"
        "        codecs.lookup(name)\n"
        "    except (LookupError, ImportError):\n"
        "        answer.append(name)\n",
    )
    assert found == "['bz2_codec', 'mbcs']"


DEEP = """
deep = []
for _ in range(100_000):
    deep = [deep]
"""


@pytest.mark.parametrize(
    "code",
    [
        "def f(n):\n    return f(n + 1)\nf(0)\n",
        "def f(n):\n    return sorted([n], key=f)\nf(0)\n",
        "class A:\n    def __eq__(self, other):\n        return [self] == [A()]\nA() == A()\n",
        f"{DEEP}repr(deep)\n",
        f"{DEEP}import json\njson.dumps(deep)\n",
        f"{DEEP}import pickle\npickle.dumps(deep)\n",
        f"{DEEP}import copy\ncopy.deepcopy(deep)\n",
        "import re\nre.compile('(?:' * 5000 + ')' * 5000)\n",
    ],
    ids=["call", "key", "comparison", "repr", "json", "pickle", "copy", "regular expression"],
)
def test_recursion_that_is_too_deep_is_an_error(actor: Peer, code: str) -> None:
    """Through Python's own functions or those of the interpreter: none of it ends the instance."""
    reply = actor.invoke("failing", code.encode(), timeout_s=actor.seconds(20))
    assert reply.failure is None, reply.failure
    assert b"RecursionError: " in reply.payload


def test_traceback_shows_the_lines_of_a_module_imported_late(actor: Peer) -> None:
    """As those of modules that were imported while it was built."""
    reply = actor.invoke("failing", b"import mine\nmine.broken()")
    assert "raise ValueError('here')  # in mine" in reply.payload.decode()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "neither the project nor its vendor/ has a module 'nowhere'"),
        ("fast", "fast is a compiled package: _speed.cpython-314-x86_64-linux-gnu.so"),
        ("ssl", "_ssl of the standard library needs what applications do not have"),
    ],
)
def test_late_import_that_fails_says_why_in_the_log(actor: Peer, name: str, said: str) -> None:
    """Below the traceback stands the reason, and what helps."""
    failure = actor.invoke("run", f"import {name}".encode()).failure
    assert failure is not None
    assert failure.code == "exception"
    assert said in actor.lines()[-1].message


COMPILED = {
    "vendor/secure/__init__.py": "import ssl\n",
    "vendor/wrapper/__init__.py": "import fast\n",
    "vendor/fast/__init__.py": FILES["vendor/fast/__init__.py"],
    "vendor/fast/_speed.cpython-314-x86_64-linux-gnu.so": "\x7fELF",
}


@pytest.mark.parametrize(
    ("source", "said", "hint"),
    [
        (
            "import json\nimport nowhere.at_all\n",
            "app.py does not build:\napp.py:2: neither the project nor its vendor/ has a module "
            "'nowhere'",
            "for a package in pure Python, in the project: pip install --target vendor nowhere",
        ),
        (
            "from plexspaces import Actor\n",
            "app.py does not build:\napp.py:1: the SDK is imported under another name",
            "from plexspaces_actor import Actor, handler",
        ),
        (
            "import wrapper\n",
            "app.py does not build:\napp.py:1: fast is a compiled package: "
            "_speed.cpython-314-x86_64-linux-gnu.so holds machine code, which does not run in "
            "WebAssembly",
            "use a package in pure Python instead: pip install --target vendor NAME",
        ),
        (
            "import secure\n",
            "app.py does not build:\napp.py:1: _ssl of the standard library needs what "
            "applications do not have, and secure imports it",
            "docs/sdk-python.md lists what of the standard library is not there",
        ),
    ],
    ids=["missing", "renamed", "compiled", "standard library in a package"],
)
def test_build_with_an_import_that_fails_says_why(
    tmp_path: Path, source: str, said: str, hint: str
) -> None:
    """The place, the reason and what helps, without a stack."""
    project = write(tmp_path / "wrong", {"app.py": source, **COMPILED})
    with pytest.raises(InvalidArgument) as error:
        asyncio.run(build(project, progress=lambda _line: None))
    assert (error.value.message, error.value.hint) == (said, hint)
