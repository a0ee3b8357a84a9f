"""One folder with all that a proof needs: provider, gateway, journals; and the verdict on them at the end."""

import contextlib
import json
import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from tests.torture import world
from tests.torture.checker import Evidence, check, read_books, read_evidence
from tests.torture.client import fetch
from tests.torture.driver import Journal, Load
from tests.torture.processes import Gateway, provider, routerx

STOP_S_MAX = 20.0


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

    async def status(self) -> Any:
        """The admin API's status."""
        _, body = await fetch(self.gateway.port, "GET", "/admin/v1/status", world.ADMIN_KEY)
        return json.loads(body)

    async def balance_nano(self, tenant: str) -> int:
        """As the running gateway tells it."""
        _, body = await fetch(self.gateway.port, "GET", f"/admin/v1/tenants/{tenant}", world.ADMIN_KEY)
        return int(json.loads(body)["funds"]["balance_nano"])

    async def unclean_start(self) -> list[str]:
        """What is wrong with the start that has just been: nothing may be held, nothing be complained of."""
        held = (await self.status())["ledger"]["held_nano"]
        found = [f"start {self.gateway.starts}: {line}" for line in self.gateway.complaints()]
        return found + ([f"start {self.gateway.starts}: {held} nano-USD are held"] if held else [])

    def evidence(self) -> Evidence:
        return read_evidence(
            self.seed, world.opening(), self.folder / "driver.journal", self.folder / "provider.journal"
        )

    def verdict(self, *, unkilled: bool = False) -> list[str]:
        """Checker and `routerx ledger verify` on the ledger of a gateway that has ended."""
        found = check(self.evidence(), read_books(self.ledger), unkilled=unkilled)
        verified = routerx("ledger", "verify", "--file", str(self.ledger), "--json", cwd=self.folder)
        if verified.returncode != 0:
            found.append(f"ledger verify: exit {verified.returncode}: {verified.stdout}{verified.stderr}")
        return found

    async def stop(self) -> list[str]:
        """End the gateway as an operator does; what was wrong with it."""
        code, took_s = await self.gateway.terminate(STOP_S_MAX)
        return [] if code == 0 else [f"SIGTERM: exit code {code} after {took_s:.2f} s: {self.gateway.log_text()}"]


@contextlib.asynccontextmanager
async def arena(folder: Path, seed: int) -> AsyncIterator[Arena]:
    """A fresh folder, with the provider running and the gateway not yet started; all ends with it."""
    _make_folder(folder)
    with provider(seed, folder / "provider.journal") as port:
        made = Arena(folder, seed, port)
        world.write(made.config, world.config(port))
        try:
            yield made
        finally:
            made.gateway.kill()
            made.journal.close()


@contextlib.asynccontextmanager
async def load(made: Arena, *, aborts: float) -> AsyncIterator[Load]:
    """The lanes, their gate still closed."""
    lanes = Load(made.seed, made.journal, aborts=aborts)
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
