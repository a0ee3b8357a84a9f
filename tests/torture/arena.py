"""One folder with all that a proof needs: provider, gateway, journals; and the verdict on them at the end."""

import asyncio
import contextlib
import json
import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from routerx.ledger.proof.verify import verify_file
from tests.torture import world
from tests.torture.checker import Evidence, check, read_books, read_evidence
from tests.torture.client import fetch
from tests.torture.driver import RETRY_S, Journal, Load
from tests.torture.processes import Gateway, Zygote, provider, routerx

STOP_S_MAX = 20.0
RESTLESS_TRIES = 20
RESTLESS_S = 0.02


class Report(msgspec.Struct):
    """What a proof found: figures for people, violations for the exit code."""

    name: str
    figures: dict[str, str] = {}
    violations: list[str] = []

    def __str__(self) -> str:
        width = max((len(name) for name in self.figures), default=0)
        lines = [f"{self.name}: {'FAILED' if self.violations else 'passed'}"]
        lines += [f"  {name:<{width}}  {value}" for name, value in self.figures.items()]
        lines += [f"  VIOLATION  {violation}" for violation in self.violations]
        return "\n".join(lines)


class Arena:
    """See the module's docstring. Made by `arena()`."""

    def __init__(self, folder: Path, seed: int, provider_port: int) -> None:
        self.folder = folder
        self.seed = seed
        self.provider_port = provider_port
        self.config = folder / "routerx.yaml"
        self.gateway = Gateway(self.config)
        self.journal = Journal(folder / "driver.journal")
        self.ledger = folder / "data" / "ledger.db"
        self.opening: dict[str, int] = {}
        """Of tenants beside the world's, in nano-USD."""

    async def status(self) -> Any:
        """The admin API's status."""
        _, body = await fetch(self.gateway.port, "GET", "/admin/v1/status", world.ADMIN_KEY)
        return json.loads(body)

    async def balance_nano(self, tenant: str) -> int:
        """As the running gateway tells it."""
        _, body = await fetch(self.gateway.port, "GET", f"/admin/v1/tenants/{tenant}", world.ADMIN_KEY)
        return int(json.loads(body)["funds"]["balance_nano"])

    async def restless(self) -> list[str]:
        """What is wrong with a gateway that has nothing to do: nothing may be held (I3)."""
        for _ in range(RESTLESS_TRIES):  # Callers who left may be noticed a moment later.
            held = (await self.status())["ledger"]["held_nano"]
            if held == 0:
                return []
            await asyncio.sleep(RESTLESS_S)
        return [f"held: {held} nano-USD are held although nothing is under way"]

    async def unclean_start(self) -> list[str]:
        """What is wrong with the start that has just been: nothing may be held, nothing be complained of."""
        held = (await self.status())["ledger"]["held_nano"]
        found = [f"start {self.gateway.starts}: {line}" for line in self.gateway.complaints()]
        return found + ([f"start {self.gateway.starts}: {held} nano-USD are held"] if held else [])

    def evidence(self) -> Evidence:
        return read_evidence(
            self.seed, world.opening() | self.opening, self.folder / "driver.journal", self.folder / "provider.journal"
        )

    def verdict(self, *, unkilled: bool = False) -> list[str]:
        """The judgement, and the exit code of `routerx ledger verify`, on the ledger of a gateway that has ended."""
        found = judge(self.ledger, self.evidence(), unkilled=unkilled)
        verified = routerx("ledger", "verify", "--file", str(self.ledger), "--json", cwd=self.folder)
        if verified.returncode != 0:
            found.append(f"ledger verify: exit {verified.returncode}: {verified.stdout}{verified.stderr}")
        return found

    async def stop(self) -> list[str]:
        """End the gateway as an operator does; what was wrong with it."""
        code, took_s = await self.gateway.terminate(STOP_S_MAX)
        return [] if code == 0 else [f"SIGTERM: exit code {code} after {took_s:.2f} s: {self.gateway.log_text()}"]


def judge(ledger: Path, evidence: Evidence, *, unkilled: bool = False) -> list[str]:
    """All that is wrong with a ledger: by the journals of those outside, and by its own invariants."""
    found = check(evidence, read_books(ledger), unkilled=unkilled)
    return found + list(verify_file(str(ledger)).violations)


@contextlib.asynccontextmanager
async def arena(folder: Path, seed: int, zygote: Zygote | None = None) -> AsyncIterator[Arena]:
    """A fresh folder, with the provider running and the gateway not yet started; all ends with it. Without a zygote the
    gateway is the installed program."""
    _make_folder(folder)
    with provider(seed, folder / "provider.journal") as port:
        made = Arena(folder, seed, port)
        made.gateway.zygote = zygote
        world.write(made.config, world.config(port))
        try:
            yield made
        finally:
            made.gateway.kill()
            made.journal.close()


@contextlib.asynccontextmanager
async def load(made: Arena, *, aborts: float, retry_s: float = RETRY_S) -> AsyncIterator[Load]:
    """The lanes, their gate still closed."""
    lanes = Load(made.seed, made.journal, aborts=aborts, retry_s=retry_s)
    try:
        yield lanes
    finally:
        await lanes.stop()


def _make_folder(folder: Path) -> None:
    (folder / "tenants.d").mkdir(parents=True)
    (folder / "upstream.key").write_text("upstream-key\n")


def spread_ms(seconds: list[float]) -> str:
    """Median and 99th percentile, for the table."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {statistics.median(ordered) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, max {ordered[-1] * 1000:.0f} ms"
