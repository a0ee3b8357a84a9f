"""T3b: kill -9 at named places of a gateway, again and again on one ledger; and errors at places that may have one.

Each kill is followed by a start and by the ledger's own proof, and each place by the judgement of all that callers saw.
A place that the gateway never came by is a violation: it would prove nothing.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from routerx.ledger.proof.verify import verify_file
from tests.torture import world
from tests.torture.arena import Arena, Report, arena
from tests.torture.checker import charged_numbers, read_books
from tests.torture.client import FAILURES, Saw, fetch
from tests.torture.driver import Load
from tests.torture.failpoints import STRIKES, Failpoint
from tests.torture.keyed import KeyedLoad
from tests.torture.oracle import FAILED_ONCE, script
from tests.torture.processes import GatewayFailed, Zygote
from tests.torture.trials import FREQUENT, MISHAPS, PAST, TRIALS, Mishap, Trial

KILLS = 20
"""At each place."""

AT_ONCE = 2
ABORTS = 0.1
RETRY_S = 0.002
POLL_S = 0.002
ANEW = ("first start", "first own key")
"""Each of these kills comes in a data folder of its own."""

OWN_KEYS = [(tenant, provider) for tenant in (world.TEN, world.TOKENS) for provider in ("stub", "spare")]
STRUCK_S_MAX = 15.0
LOADED_S = 0.15
INTERRUPTED = 10
OLD_REQUESTS = 500
"""That there are to prune."""


async def prove_failpoints(
    folder: Path,
    seed: int,
    zygote: Zygote,
    *,
    kills: int = KILLS,
    trials: tuple[Trial, ...] = TRIALS,
    mishaps: tuple[Mishap, ...] = MISHAPS,
) -> Report:
    """All places, two at once."""
    report = Report(f"failpoints ({len(trials)} places of {kills} kills, {len(mishaps)} errors, seed {seed})")
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, what: Trial | Mishap) -> None:
        async with gate:
            place = folder / f"{number}-{what.place}"
            if isinstance(what, Trial):
                await _tried(place, seed + number, zygote, what, kills, report)
            else:
                await _erred(place, seed + number, zygote, what, report)

    both: list[Trial | Mishap] = [*trials, *mishaps]
    await asyncio.gather(*(one(number, what) for number, what in enumerate(both)))
    return report


class Scene:
    """One arena with its load, for one trial or mishap."""

    def __init__(self, made: Arena, lanes: Load, rng: random.Random) -> None:
        self.made = made
        self.lanes = lanes
        self.rng = rng
        self.found: list[str] = []
        self.orders = 0
        self.acknowledged: set[str] = set()
        """Labels of keys that were made; of own keys, tenant and provider; paths of backups."""

    def strikes(self) -> int:
        path = self.made.folder / STRIKES
        return len(path.read_text().splitlines()) if path.exists() else 0

    def dispatched(self) -> int:
        """Calls that have reached the provider."""
        return (self.made.folder / "provider.journal").read_bytes().count(b"\n")

    async def order(self, method: str, path: str, body: dict[str, str]) -> int:
        """The status of an order to the admin API; 0 where the gateway has gone."""
        try:
            status, _ = await fetch(self.made.gateway.port, method, path, world.ADMIN_KEY, json.dumps(body).encode())
        except FAILURES:
            return 0
        return status

    async def asked(self, path: str) -> list[dict[str, str]]:
        """What the admin API lists."""
        _, body = await fetch(self.made.gateway.port, "GET", path, world.ADMIN_KEY)
        data: list[dict[str, str]] = json.loads(body)["data"]
        return data

    async def up(self, faults: tuple[str, ...] = ()) -> bool:
        """A start that has to be clean; False where the gateway was killed before it could be told."""
        self.made.gateway.faults = faults
        try:
            await self.made.gateway.start()
            self.found += await self.made.unclean_start()
        except (*FAILURES, GatewayFailed) as error:
            if not faults:
                self.found.append(f"start {self.made.gateway.starts}: {error!r}")
            return False
        return True

    async def until(self, is_so: Callable[[], bool]) -> bool:
        """False when it does not come about."""
        until_s = time.monotonic() + STRUCK_S_MAX
        while not is_so():
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def down(self) -> None:
        """Killed, and everybody has noticed."""
        self.lanes.close_gate()
        self.made.gateway.kill()
        await self.lanes.quiet()

    async def prove(self) -> None:
        if self.made.ledger.exists():
            report = await asyncio.to_thread(verify_file, str(self.made.ledger))
            self.found += [f"start {self.made.gateway.starts}: {violation}" for violation in report.violations]


# --- what makes a gateway come by, until it is killed


async def _nothing(scene: Scene) -> None:
    scene.lanes.open(scene.made.gateway.port)


async def _reload(scene: Scene) -> None:
    """One more tenant, with money that it has to be given once."""
    scene.lanes.open(scene.made.gateway.port)
    scene.orders += 1
    name = f"late-{scene.orders}"
    scene.made.opening[name] = 10**9 + scene.orders
    lines = [
        f'  {name}: {{plan: ten, policy: steady, opening_balance: "{world.money(nano)}"}}\n'
        for name, nano in scene.made.opening.items()
    ]
    world.write(scene.made.folder / "tenants.d" / "late.yaml", "tenants:\n" + "".join(lines))
    with suppress(ProcessLookupError):
        os.kill(scene.made.gateway.pid, signal.SIGHUP)


async def _issue_keys(scene: Scene) -> None:
    scene.lanes.open(scene.made.gateway.port)
    while True:
        scene.orders += 1
        label = f"key-{scene.orders}"
        status = await scene.order("POST", "/admin/v1/keys", {"tenant": "north", "label": label})
        if status == 0:
            return
        scene.acknowledged.add(label)
        if status // 100 != 2:
            scene.found.append(f"key: making {label} was answered with {status}")


async def _store_own_keys(scene: Scene) -> None:
    """Of tenants that send no requests."""
    status = 200
    while status:
        scene.orders += 1
        tenant, provider = OWN_KEYS[scene.orders % len(OWN_KEYS)]
        path = f"/admin/v1/tenants/{tenant}/byok/{provider}"
        status = await scene.order("PUT", path, {"key": f"own-key-{scene.orders}"})
        if status == 200:
            scene.acknowledged.add(f"{tenant} {provider}")
        elif status:
            scene.found.append(f"own key: storing one was answered with {status}")


async def _prune(scene: Scene) -> None:
    while await scene.order("POST", "/admin/v1/ledger/prune", {"before": _today()}):
        pass


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


async def _back_up(scene: Scene) -> None:
    scene.lanes.open(scene.made.gateway.port)
    status = 200
    while status:
        scene.orders += 1
        path = str(scene.made.folder.absolute() / f"backup-{scene.orders}.db")
        status = await scene.order("POST", "/admin/v1/ledger/backup", {"path": path})
        if status == 200:
            scene.acknowledged.add(path)


DRIVES: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "load": _nothing,
    "keyed": _nothing,
    "start": _nothing,
    "first start": _nothing,
    "reload": _reload,
    "keys": _issue_keys,
    "own keys": _store_own_keys,
    "first own key": _store_own_keys,
    "prune": _prune,
    "backup": _back_up,
}


# --- trials


async def _tried(folder: Path, seed: int, zygote: Zygote, trial: Trial, kills: int, report: Report) -> None:
    async with arena(folder, seed, zygote) as made:
        lanes = _lanes(made, trial.by)
        scene = Scene(made, lanes, random.Random(seed))
        try:
            await _prepare(scene, trial)
            struck = 0
            for _ in range(kills):
                struck += await _struck(scene, trial)
                await scene.prove()
            if trial.by not in ANEW:
                await _conclude(scene, trial)
        finally:
            await lanes.stop()
    report.figures[f"{trial.name}, by {trial.by}"] = f"{struck} of {kills} kills, {len(made.journal.saw)} requests"
    report.violations += [f"{trial.name}, by {trial.by}: {line}" for line in scene.found]


def _lanes(made: Arena, by: str) -> Load:
    kind = KeyedLoad if by == "keyed" else Load
    return kind(made.seed, made.journal, aborts=0.0 if by in ("keyed", "prune") else ABORTS, retry_s=RETRY_S)


async def _prepare(scene: Scene, trial: Trial) -> None:
    """What the first kill needs to find."""
    if trial.by in ANEW:
        return
    if trial.by != "prune":
        await _interrupted(scene)
    else:
        await scene.up((PAST,))
        scene.lanes.open(scene.made.gateway.port)
        await scene.until(lambda: len(scene.made.journal.saw) >= OLD_REQUESTS)
        scene.lanes.close_gate()
        await scene.lanes.quiet()
        scene.found += await scene.made.stop()
        scene.found += scene.made.verdict(unkilled=True)


async def _interrupted(scene: Scene) -> None:
    """A kill at no place in particular, with some requests at the provider."""
    before = scene.dispatched()
    await scene.up()
    scene.lanes.open(scene.made.gateway.port)
    await scene.until(lambda: scene.dispatched() >= before + INTERRUPTED)
    await scene.down()


async def _struck(scene: Scene, trial: Trial) -> bool:
    """One kill: a start with the failpoint, and whatever it takes."""
    made = scene.made
    if trial.interrupted:
        await _interrupted(scene)
    before = scene.strikes()
    hit = scene.rng.randint(1, trial.hits_max)
    if trial.by in ANEW:
        scene.acknowledged.clear()
        shutil.rmtree(made.folder / "data", ignore_errors=True)
    point = str(Failpoint(trial.place, hit, trial.action))
    if await scene.up((*trial.faults, point)):
        drive = asyncio.ensure_future(DRIVES[trial.by](scene))
        died = await scene.until(made.gateway.has_ended)
        drive.cancel()
        await asyncio.gather(drive, return_exceptions=True)
        if not died:
            scene.found.append(f"the gateway was not killed at hit {hit}: {made.gateway.complaints()[:3]}")
    await scene.down()
    struck = scene.strikes() > before
    if not struck:
        scene.found.append(f"the gateway never came by for the {hit}. time: {made.gateway.log_text()[-300:]}")
    if trial.by == "start" or trial.by in ANEW:  # Else the next start, which is as clean until it comes by.
        if await scene.up() and trial.by == "first own key":
            drive = asyncio.ensure_future(_store_own_keys(scene))
            await scene.until(lambda: len(scene.acknowledged) == len(OWN_KEYS))
            scene.found += await _own_keys_missing(scene)
            made.gateway.kill()
            await drive
        await scene.down()
    return struck


async def _conclude(scene: Scene, trial: Trial) -> None:
    """A last start without failpoints, and the judgement."""
    made, lanes = scene.made, scene.lanes
    if not await scene.up():
        return
    if trial.by == "prune":
        await _pruned(scene)
        return
    lanes.open(made.gateway.port)
    await asyncio.sleep(LOADED_S)
    lanes.close_gate()
    await lanes.quiet()
    if trial.by == "keys":
        scene.found += await _keys_missing(scene)
    if trial.by == "own keys":
        scene.found += await _own_keys_missing(scene)
    scene.found += await made.restless()
    scene.found += await made.stop()
    scene.found += made.verdict()
    scene.found += [f"answer: {saw}" for saw in lanes.unexpected if not _is_to_be_expected(made.seed, saw)]
    scene.found += _served_for_nothing(scene)
    if trial.by == "backup":
        scene.found += _wrong_backups(scene)


def _served_for_nothing(scene: Scene) -> list[str]:
    """Idempotency keys of which it is said that they were charged, and they were not."""
    if not isinstance(scene.lanes, KeyedLoad):
        return []
    charged = charged_numbers(scene.made.evidence(), read_books(scene.made.ledger))
    return [f"lost: request {number} was served and not charged" for number in scene.lanes.served - charged]


def _is_to_be_expected(seed: int, saw: Saw) -> bool:
    """Of a caller with no whole answer. The provider fails some requests once: after a start there may be no budget yet
    to ask again."""
    asked = script(seed, saw.number)
    return saw.end == "cut" or (saw.code in FAILED_ONCE and (asked.fails_first or asked.falls_back))


async def _pruned(scene: Scene) -> None:
    """Pruned to the end: the rows are gone, and nobody has a nano-USD more or less."""
    made = scene.made
    before = read_books(made.ledger).balances
    status = await scene.order("POST", "/admin/v1/ledger/prune", {"before": _today()})
    if status != 200:
        scene.found.append(f"pruning was answered with {status}")
    scene.found += await made.stop()
    await scene.prove()
    books = read_books(made.ledger)
    if books.rows or books.balances != before:
        scene.found.append(f"pruning: {len(books.rows)} rows are left, balances {before} became {books.balances}")


def _wrong_backups(scene: Scene) -> list[str]:
    """What bears a backup's name is one, and all that were acknowledged are there."""
    there = {str(path) for path in scene.made.folder.absolute().glob("backup-*.db")}
    found = [f"{path} was made and is not there" for path in scene.acknowledged - there]
    return found + [f"{path}: {violation}" for path in there for violation in verify_file(path).violations]


async def _keys_missing(scene: Scene) -> list[str]:
    labels = Counter(key["label"] for key in await scene.asked("/admin/v1/keys?tenant=north"))
    missing = [f"key {label} was made and is not there" for label in scene.acknowledged - labels.keys()]
    return missing + [f"key {label} is there {count} times" for label, count in labels.items() if label and count > 1]


async def _own_keys_missing(scene: Scene) -> list[str]:
    """All that were acknowledged, and none that cannot be read."""
    rows = [
        row for tenant in (world.TEN, world.TOKENS) for row in await scene.asked(f"/admin/v1/tenants/{tenant}/byok")
    ]
    missing = scene.acknowledged - {f"{row['tenant']} {row['provider']}" for row in rows}
    found = [f"the own key of {name} was stored and is not there" for name in missing]
    return found + [f"an own key is {row['state']}: {row}" for row in rows if row["state"] != "active"]


# --- mishaps


async def _erred(folder: Path, seed: int, zygote: Zygote, mishap: Mishap, report: Report) -> None:
    name = f"{mishap.place}, {mishap.action}, {mishap.times} times, by {mishap.by}"
    async with arena(folder, seed, zygote) as made:
        lanes = _lanes(made, mishap.by)
        scene = Scene(made, lanes, random.Random(seed))
        try:
            await scene.up()
            await scene.down()
            point = str(Failpoint(mishap.place, scene.rng.randint(5, 9), mishap.action, mishap.times))
            if not await scene.up((FREQUENT, point)):
                raise GatewayFailed(made.gateway.log_text())
            lanes.open(made.gateway.port)
            if not await scene.until(lambda: scene.strikes() >= mishap.times):
                scene.found.append(f"only {scene.strikes()} of {mishap.times} errors came about")
            ends = await _afterwards(scene)
            scene.found += await made.restless()
            scene.found += await made.stop()
            scene.found += made.verdict() + _served_for_nothing(scene)
        finally:
            await lanes.stop()
    scene.found += [f"callers heard {count} times: {end}" for end, count in ends.items() if end not in mishap.felt]
    if mishap.felt and not ends:
        scene.found.append("nobody felt it")
    heard = ", ".join(f"{count} {end}" for end, count in ends.items())
    report.figures[name] = f"{heard if heard else 'nobody felt it'}; {len(made.journal.saw)} requests"
    report.violations += [f"{name}: {line}" for line in scene.found]


async def _afterwards(scene: Scene) -> Counter[str]:
    """How callers heard of it, once it is over and requests are answered again."""
    lanes, journal = scene.lanes, scene.made.journal
    first = len(journal.sent)
    if isinstance(lanes, KeyedLoad):
        served = len(lanes.served)
        well = await scene.until(lambda: len(lanes.served) > served + 20)
    else:
        well = await scene.until(
            lambda: any(saw.end == "complete" for number, saw in journal.saw.items() if number > first)
        )
    if not well:
        scene.found.append(f"it does not serve again: {scene.made.gateway.complaints()[-3:]}")
    await asyncio.sleep(LOADED_S)
    lanes.close_gate()
    await lanes.quiet()
    seed = scene.made.seed
    unexpected = [saw for saw in lanes.unexpected if saw.end == "cut" or not _is_to_be_expected(seed, saw)]
    return Counter(f"{saw.end} {saw.code}".rstrip() for saw in unexpected)
