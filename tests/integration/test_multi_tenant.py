"""The example of two tenants on one node, as its reader runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from support.patience import patient
from support.traces import agents_of

PROGRAM = Path(__file__).parents[2] / "examples" / "multi-tenant" / "run.py"
CASES = ("alone", "beside noisy, no quota", "beside, at its quota")


def test_example_when_run_then_tenants_are_apart_and_the_noisy_one_is_held() -> None:
    """Nothing is asserted of speed: what is measured, and that the quota refuses, is."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_")}
    with tempfile.TemporaryDirectory(prefix="px-") as scratch:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--isolation", "process", "--seconds", "1.5"],
            env={**variables, "TMPDIR": scratch, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=patient(240),
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert agents_of(Path(scratch)) == []
        assert list(Path(scratch).iterdir()) == []
    said = done.stdout
    assert "invoke noisy/primes: token 'shop-ci' may not Invoke noisy/primes" in said
    assert "invoke shop/ledger: token 'noisy-ci' may not Invoke shop/ledger" in said
    assert "shop lists: shop/ledger\n" in said
    assert "noisy lists: noisy/primes\n" in said
    rows = {
        case: re.search(rf"^  {case} +([\d.]+) ms +([\d.]+) ms +(.*)$", said, re.M)
        for case in CASES
    }
    assert all(rows.values()), said
    got = {case: tuple(map(int, re.findall(r"\d+", row[3]))) for case, row in rows.items() if row}
    assert got[CASES[0]] == ()
    (free, none_refused), (held, refused) = got[CASES[1]], got[CASES[2]]
    assert none_refused == 0
    # 2 a second, and a second's worth at once at the beginning of each of the three turns.
    assert held <= 2 + 3 * 2 / 1.5 + 1
    assert refused > 0
    assert free > 0


def test_example_when_used_wrongly_then_it_says_so() -> None:
    """As every command."""
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), "--isolation", "magic", "--seconds", "1"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=patient(240),
        check=False,
    )
    assert ran.returncode == 1
    assert "error: node.isolation = 'magic'" in ran.stderr
