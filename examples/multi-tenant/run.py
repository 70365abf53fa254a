#!/usr/bin/env python3
"""Two tenants on one node: what the one feels of the other, with and without a quota.

    python run.py [--isolation auto|firecracker|qemu|process] [--seconds 6]

Starts a node of its own, gives the tenants `shop` and `noisy` a token each, deploys an application
of each into a VM of its own, and measures the round trips of messages to the shop's: alone, beside
a neighbour that sends as fast as it can, and beside the same at its quota. See README.md.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import PlexSpacesError

EXAMPLES = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "plexspaces_node.cli.main")

SENDERS = 8
"""How many messages the noisy tenant has on their way at once."""
WORK = b"200000"
"""What it asks for each time: the primes up to this number, some 10 ms of computing."""
QUOTA = {"applications": 1, "messages_per_s": 2, "in_flight": 1, "cpu_percent": 10}
"""What it is then held to."""
ROUNDS = 3
PAUSE_S = 0.01
"""Between two messages of the shop, which is not in a hurry."""


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each of the three cases")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as scratch:
        ledger = build("go-ledger", Path(scratch))
        primes = build("go-primes", Path(scratch))
        async with node(Path(scratch, "data"), given.isolation) as address:
            await show(address, ledger, primes, given.seconds)


async def show(address: str, ledger: Path, primes: Path, seconds: float) -> None:
    # The node's own user is admin, by a unix socket that the kernel guards.
    async with NodeClient(address, token="") as admin:
        print("\n1. A token for each tenant")
        tokens = {}
        for tenant in ("shop", "noisy"):
            scopes = ("deploy", "invoke")
            made = await admin.create_token(f"{tenant}-ci", tenant=tenant, scopes=scopes)
            tokens[tenant] = made.secret
            print(f"  {tenant}-ci: {' and '.join(scopes)}, within tenant {tenant}")
        async with (
            NodeClient(address, token=tokens["shop"]) as shop,
            NodeClient(address, token=tokens["noisy"]) as noisy,
        ):
            print("\n2. An application of each, in a VM of its own")
            size = DeployOptions(memory_mib=128)
            for client, name, wasm in ((shop, "ledger", ledger), (noisy, "primes", primes)):
                deployed = await client.deploy(name, wasm, options=size)
                print(f"  {deployed.name}: VM {deployed.vm.id}, {deployed.vm.isolation}")
                unbounded = deployed.vm.cpu_not_enforced
            if unbounded:
                print(f"  CPU shares are not enforced: {unbounded}")
            print("\n3. They do not see each other")
            await refused(shop, "noisy/primes")
            await refused(noisy, "shop/ledger")
            for tenant, client in (("shop", shop), ("noisy", noisy)):
                listing = await client.list()
                names = ", ".join(each.name for each in listing.applications)
                print(f"  {tenant} lists: {names}")
            print(f"\n4. The shop's messages, {seconds:g} s each")
            await measure(admin, shop, address, tokens["noisy"], seconds)


async def refused(client: NodeClient, name: str) -> None:
    try:
        await client.invoke(name, b"1000", type="primes")
    except PlexSpacesError as error:
        print(f"  invoke {name}: {error}")
    else:
        raise SystemExit(f"error: a message to {name} went through")


async def measure(
    admin: NodeClient, shop: NodeClient, address: str, token: str, seconds: float
) -> None:
    await round_trips(shop, min(1.0, seconds))  # so that all caches are warm
    alone, free, bounded = (
        Case("alone"),
        Case("beside noisy, no quota"),
        Case("beside, at its quota"),
    )
    for _ in range(ROUNDS):
        # In turns, so that what else the host does is in all three.
        alone.times_s += await round_trips(shop, seconds / ROUNDS)
        for case, quota in ((free, dict.fromkeys(QUOTA, 0)), (bounded, QUOTA)):
            await admin.set_quota(quota, tenant="noisy")
            async with noise(address, token, case):
                case.times_s += await round_trips(shop, seconds / ROUNDS)
    print(f"  {'':24} {'p50':>9} {'p99':>10}   {'the neighbour, a second':>36}")
    for case in (alone, free, bounded):
        print(case)
    print(f"\n  The quota: {', '.join(f'{key}={value}' for key, value in QUOTA.items())}")
    ratio = bounded.p99_s / alone.p99_s
    print(f"  At its quota the neighbour makes the shop's p99 {ratio:.2f} times what it is alone.")


@dataclass
class Case:
    """What was measured beside one kind of neighbour."""

    name: str
    times_s: list[float] = field(default_factory=list)
    answers: int = 0
    refusals: int = 0
    noise_s: float = 0.0

    @property
    def p99_s(self) -> float:
        return statistics.quantiles(self.times_s, n=100)[98]

    def __str__(self) -> str:
        p50_ms, p99_ms = statistics.median(self.times_s) * 1e3, self.p99_s * 1e3
        beside = "is idle"
        if self.noise_s:
            answers, refusals = self.answers / self.noise_s, self.refusals / self.noise_s
            beside = f"gets {answers:.0f} answers, {refusals:.0f} refusals"
        return f"  {self.name:24} {p50_ms:6.2f} ms {p99_ms:7.2f} ms   {beside:>36}"


async def round_trips(shop: NodeClient, seconds: float) -> list[float]:
    times_s, end = [], perf_counter() + seconds
    while perf_counter() < end or len(times_s) < 2:
        begin = perf_counter()
        await shop.invoke("ledger", b'{"to": "ann", "cents": 1}', type="book")
        times_s.append(perf_counter() - begin)
        await asyncio.sleep(PAUSE_S)
    return times_s


# ---- the noisy neighbour, a program of its own ---------------------------------------------


@asynccontextmanager
async def noise(address: str, token: str, case: Case):
    """Let the neighbour send, and count what it gets."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--noise", address),
        # Not an argument: those are visible in ps.
        env={**os.environ, "PLEXSPACES_TOKEN": token},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        await program.stdout.readline()  # it has begun
        yield
        program.stdin.close()
        answers, refusals, noise_s = (await program.stdout.readline()).split()
        case.answers += int(answers)
        case.refusals += int(refusals)
        case.noise_s += float(noise_s)
    finally:
        program.stdin.close()  # which ends it
        await program.wait()


async def be_noisy(address: str) -> None:
    answered = refused = 0

    async def send(client: NodeClient) -> None:
        nonlocal answered, refused
        while True:
            try:
                await client.invoke("primes", WORK, type="primes")
                answered += 1
            except PlexSpacesError:
                refused += 1  # and again at once, whatever it was told

    async with NodeClient(address) as client:
        senders = [asyncio.ensure_future(send(client)) for _ in range(SENDERS)]
        begin = perf_counter()
        print("sending", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        seconds = perf_counter() - begin
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    print(answered, refused, seconds, flush=True)


# ---- the node --------------------------------------------------------------------------------


def build(project: str, scratch: Path) -> Path:
    wasm = scratch / f"{project}.wasm"
    subprocess.run(
        [*COMMAND, "build", str(EXAMPLES / project), "-o", str(wasm)], check=True, timeout=600
    )
    return wasm


@asynccontextmanager
async def node(data: Path, isolation: str):
    """A node of our own; yields its address."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PLEXSPACES_NODE_")}
    flags = ("--node-id", "multi-tenant", "--address", "127.0.0.1:0", "--isolation", isolation)
    log = data.with_suffix(".log")
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "start-node", *flags, "--data-dir", str(data)),
            env={**environment, "PLEXSPACES_HTTP_ADDRESS": "127.0.0.1:0"},
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    try:
        address = ""
        async with asyncio.timeout(300):
            # The isolation level is what it says last but one.
            while said := (await process.stdout.readline()).decode():
                print(said, end="")
                if found := re.match(r" *Address: *(\S+)", said):
                    address = found[1]
                if "Isolation:" in said:
                    break
        if not address:
            raise SystemExit(log.read_text().strip())
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--noise"]:
        asyncio.run(be_noisy(sys.argv[2]))
    else:
        asyncio.run(main())
