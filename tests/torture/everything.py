"""T4 and T4b: everything at once that happens to a gateway in months, in one process within a minute; then a flood.

Under a steady load, of which a share is faulty upstream, leaves, is keyed, cached or on own provider keys, the
configuration is edited every second, tenants are suspended and keys revoked, dashboards read, the books are verified
and read by somebody who does not let go of them, and for some seconds there is no room for them. Callers must notice
none of it, but for the disk: in its window they are refused with 503 storage_unavailable and not charged. In the end
nothing is held, nothing runs, nothing is open that was not so before.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import cycle
from pathlib import Path

import msgspec

from tests.torture import oracle, world
from tests.torture.arena import Arena, Report, arena, spread_ms
from tests.torture.client import Caller
from tests.torture.faulty import TASKS, small_rooms, tell_tasks
from tests.torture.flood import IN_FLIGHT_MAX as FLOOD_IN_FLIGHT
from tests.torture.flood import flood
from tests.torture.fulldisk import FILLER, LIMIT_BYTES, fill, limit_files, small_disk
from tests.torture.processes import Zygote
from tests.torture.reloads import Edit, Editor, Probe, Samples, edit_in_turn
from tests.torture.switched import ROTATING, SUSPENDED, Operator, Switch, read
from tests.torture.traffic import Odd, Traffic, Who

SHARE = 0.7
"""Of the capacity that was measured."""

MEASURED_S_MAX = 3.0
EDIT_S = 1.0
OFTEN_S = 1.0
SELDOM_S = 5.0
FULL_S_MAX = 4.0
FLOOD_S_MAX = 6.0
IN_FLIGHT_MAX = 100
"""Of the gateway, and more than ever are, until the flood."""

IDLE_REQUESTS = 20
OWN_CALLERS = 2
OPENING_NANO = 10**14
DISK_BYTES, DISK_BYTES_PER_S = 160 * 2**20, 16 * 2**20
"""Room at a start, and what a loaded gateway may write while somebody reads."""

POLL_S = 0.02
RECOVERY_S_MAX = 20.0
ODD_TOLD = 20
REST_S_MAX = 15.0
"""Until everything that a load has opened is closed again."""

WARM_SHARE = 0.4
FULL_SHARE = 0.2
"""When, as a share of the run, memory is warm and there is no more room."""

SLOPE_S_MIN = 60.0
SLOPE_BYTES_MAX = 2**20
"""Per minute, judged in runs that are long enough."""

RISEN_BYTES_MAX = 8 * 2**20
"""Verifications, reports and reloads come and go, and what they have used comes back in pieces. Below it a slope tells
of them: the longer the run, the smaller the leak that it can show."""

TENANTS = f"""\
plans: {{own: {{billing: prepaid, byok_fee: "{oracle.OWN_FEE_BP / 100}%"}}}}
tenants:
"""
PAGES = (
    "/admin/v1/status",
    "/admin/v1/logs?limit=100",
    "/v1/stats/providers",
    "/v1/stats/providers/tokens?period=hour",
    "/metrics",
)
LOOK = "SELECT (SELECT count(*) FROM transfers), (SELECT sum(balance) FROM accounts)"


class Disk(msgspec.Struct, frozen=True):
    """That of the books: how it becomes full, what no room that a file still has helps against, and how it ends."""

    fill: Callable[[], None]
    limit: Callable[[], None]
    heal: Callable[[], None]


class Rest(msgspec.Struct, frozen=True):
    """What a gateway has that nobody asks anything of."""

    files: list[str]
    """Open ones, but for the connections to the provider, which it keeps."""
    tasks: list[str]
    held_nano: int


class SmallerEditor(Editor):
    """As Editor, of a gateway with less room."""

    in_flight_max = IN_FLIGHT_MAX

    def text(self, probe: Probe) -> str:
        rest = f"health_interval: 0s, concurrency_max: {self.in_flight_max}, cache: {{size_max: 256KiB}}"
        return super().text(probe).replace("health_interval: 0s", rest)

    def mostly_good(self) -> Iterator[tuple[Edit, bool]]:
        """Without end: one in four is broken."""
        edits = self.edits(60)
        good, broken = (cycle([edit for edit in edits if edit[1] is is_good]) for is_good in (True, False))
        while True:
            yield from (next(good), next(good), next(broken), next(good))


async def prove_everything(folder: Path, seed: int, zygote: Zygote, seconds: float) -> Report:
    """See the module's docstring."""
    report = Report(f"everything at once, for {seconds:g} s (seed {seed})")
    async with _prepared(folder, seed, zygote, report, seconds) as (made, disk):
        run = Run(made, disk, report, seconds)
        try:
            await run.all()
        finally:
            await run.lanes.stop()
        report.violations += await made.stop()
        report.violations += [line for line in made.verdict(unkilled=True) if not run.was_disk(line)]
    return report


@contextlib.asynccontextmanager
async def _prepared(
    folder: Path, seed: int, zygote: Zygote, report: Report, seconds: float
) -> AsyncIterator[tuple[Arena, Disk]]:
    async with arena(folder, seed, zygote) as made:
        data = made.folder / "data"
        data.mkdir(mode=0o700)
        names = (oracle.OWN, SUSPENDED, ROTATING)
        lines = [
            f"  {name}: {{plan: {'own' if name == oracle.OWN else 'ten'}, policy: steady, "
            f'opening_balance: "{world.money(OPENING_NANO)}", keys: ["{world.digest(world.tenant_key(name))}"]}}\n'
            for name in names
        ]
        world.write(made.folder / "tenants.d" / "everything.yaml", TENANTS + "".join(lines))
        made.opening = dict.fromkeys(names, OPENING_NANO)
        made.gateway.faults = (tell_tasks.__name__, small_rooms.__name__)
        with small_disk(data, DISK_BYTES + round(seconds * DISK_BYTES_PER_S)) as is_mounted:
            report.figures["no room"] = (
                f"{'on a file system of its own, and ' if is_mounted else ''}by a limit on files"
            )
            yield made, _disk(made, data / FILLER if is_mounted else None)


def _disk(made: Arena, filler: Path | None) -> Disk:
    """Without a filler, there is the limit alone."""

    def heal() -> None:
        limit_files(made, None)
        if filler is not None:
            filler.unlink()

    return Disk(
        fill=lambda: None if filler is None else fill(filler),
        limit=lambda: limit_files(made, LIMIT_BYTES),
        heal=heal,
    )


class Run:
    """One run, from the first request to the last."""

    def __init__(self, made: Arena, disk: Disk, report: Report, seconds: float) -> None:
        self._made = made
        self._disk = disk
        self._report = report
        self._seconds = seconds
        self.lanes = Traffic(made.seed, made.journal)
        self._editor = SmallerEditor(made, random.Random(made.seed))
        self._operator = Operator(self.lanes)
        pause_s = min(SELDOM_S, seconds / 6)
        self._seldom_s = pause_s
        self._switches = [Switch(self.lanes, self._operator, name, pause_s) for name in (SUSPENDED, ROTATING)]
        self._samples = Samples(made)
        self._window: tuple[float, float] = (0.0, 0.0)
        """Without room, by the monotonic clock."""
        self._dark: set[int] = set()
        """Numbers of requests that were under way then."""
        self._own_keys = 0
        self._verified = 0
        self._pages = 0
        self._wal_bytes = 0

    async def all(self) -> None:
        made, report, lanes = self._made, self._report, self.lanes
        await self._editor.replaced()
        await made.gateway.start()
        lanes.port = made.gateway.port
        for provider in ("stub", "spare"):
            await self._store_own_key(provider)
        capacity_per_s = await self._measure()
        sampling = asyncio.ensure_future(self._samples.run())
        if self._seconds >= SLOPE_S_MIN:
            await self._warm_up()
        before = await self._at_rest(None)
        idle_s = await self._idle()
        lanes.rate_per_s = SHARE * capacity_per_s
        lanes.added_s.clear()
        lanes.ends.clear()
        began_s = time.monotonic()
        await self._load()
        took_s = time.monotonic() - began_s
        sampling.cancel()
        if self._seconds >= SLOPE_S_MIN:
            self._judge_memory()
        self._tell(took_s, idle_s)
        self._editor.in_flight_max = FLOOD_IN_FLIGHT
        await edit_in_turn(made, self._editor, [(self._editor.replaced, True)], Report("the last edit"))
        await flood(made, lanes, report, min(FLOOD_S_MAX, self._seconds / 5))
        after = await self._at_rest(before)
        report.figures["at rest"] = (
            f"{len(after.files)} open files after {len(before.files)}, "
            f"{len(after.tasks)} tasks after {len(before.tasks)}, {after.held_nano} nano-USD held"
        )
        if not _is_back(after, before):
            new = Counter(after.files + after.tasks) - Counter(before.files + before.tasks)
            report.violations.append(f"rest: {report.figures['at rest']}; new: {sorted(new.elements())}")

    def was_disk(self, violation: str) -> bool:
        """Whether it says that for want of room there is no row of a request that is not charged."""
        rule, _, rest = violation.partition(": request ")
        if rule != "rowless":
            return False
        number = int(rest.split(" ")[0])
        return number in self._dark and self._made.journal.saw[number].end != "complete"

    # --- before

    async def _measure(self) -> float:
        """Requests per second that come to an end when the lanes send all they can; everything is used once."""
        lanes = self.lanes
        lanes.open(self._made.gateway.port)
        measured_s = min(MEASURED_S_MAX, self._seconds / 3)
        await asyncio.sleep(measured_s / 4)  # The first ones open connections.
        count, began_s = len(lanes.journal.saw), time.monotonic()
        await asyncio.sleep(measured_s)
        per_s = (len(lanes.journal.saw) - count) / (time.monotonic() - began_s)
        for page in PAGES:
            await read(lanes, page)
        await self._verify_once()
        await self._rest()
        self._report.figures["capacity"] = f"{per_s:.0f} requests per second from {world.LANES} callers at once"
        return per_s

    async def _idle(self) -> list[float]:
        """Added latencies of a caller alone."""
        self.lanes.added_s.clear()
        caller = Caller()
        for _ in range(IDLE_REQUESTS):
            began_s = time.monotonic()
            self.lanes.judge(await self.lanes.ask(caller, Who.of_lane(0)), began_s, "complete")
        caller.close()
        return self.lanes.added_s[:]

    # --- while

    async def _load(self) -> None:
        began_s = time.monotonic()
        async with self._everybody() as tasks:
            await asyncio.sleep(self._seconds * FULL_SHARE)
            await self._no_room()
            await asyncio.sleep(began_s + self._seconds * WARM_SHARE - time.monotonic())
            if self._seconds >= SLOPE_S_MIN:
                self._samples.is_warm()
            while time.monotonic() < began_s + self._seconds:
                _raise_faults(tasks)
                await asyncio.sleep(POLL_S)

    async def _warm_up(self) -> None:
        """The same, but as quickly as can be, until memory stays as it is."""
        self._seldom_s, seldom_s = OFTEN_S, self._seldom_s
        async with self._everybody():
            await self._samples.warm_up()
        self._seldom_s = seldom_s

    @contextlib.asynccontextmanager
    async def _everybody(self) -> AsyncIterator[list[asyncio.Task[None]]]:
        """The lanes and all others, until the block ends; all is at rest then."""
        self.lanes.open(self._made.gateway.port)
        actors = [
            self._verify(),
            self._dashboard(),
            self._read_long(),
            self._renew_own_keys(),
            *(self._own_caller() for _ in range(OWN_CALLERS)),
            *(call for switch in self._switches for call in (switch.call(), switch.operate())),
        ]
        tasks = [asyncio.ensure_future(actor) for actor in actors]
        edits, is_over = self._editor.mostly_good(), asyncio.Event()
        until = iter(lambda: None if is_over.is_set() else next(edits), None)
        editing = asyncio.ensure_future(edit_in_turn(self._made, self._editor, until, self._report, EDIT_S))
        try:
            yield tasks
            is_over.set()
            await editing
            await self._rest()
        finally:
            for task in (*tasks, editing):
                task.cancel()
            await asyncio.gather(*tasks, editing, return_exceptions=True)

    async def _no_room(self) -> None:
        """For some seconds there is none; what the gateway frees is taken away again."""
        made, disk, full_s = self._made, self._disk, min(FULL_S_MAX, self._seconds / 12)
        began_s = time.monotonic()
        self._dark.update(made.journal.sent.keys() - made.journal.saw.keys())
        first = len(made.journal.sent) + 1
        await asyncio.to_thread(disk.fill)
        until_s = time.monotonic() + full_s
        while time.monotonic() < until_s:
            await asyncio.to_thread(disk.fill)
            if time.monotonic() > until_s - full_s / 2:
                disk.limit()
            await asyncio.sleep(POLL_S)
        disk.heal()
        healed_s, late = time.monotonic(), len(made.journal.sent) + 1
        while not any(saw.end == "complete" for number, saw in made.journal.saw.items() if number >= late):
            if time.monotonic() > healed_s + RECOVERY_S_MAX:
                self._report.violations.append(f"disk: no room {RECOVERY_S_MAX:g} s after there is")
                break
            await asyncio.sleep(POLL_S)
        self._window = (began_s, time.monotonic())
        self._dark.update(range(first, len(made.journal.sent) + 1))
        self._report.figures["serves again"] = f"{time.monotonic() - healed_s:.2f} s after there was room"

    async def _own_caller(self) -> None:
        caller = Caller()
        try:
            while True:
                await self.lanes.opened()
                began_s = time.monotonic()
                self.lanes.judge(await self.lanes.ask(caller, Who.of_tenant(oracle.OWN)), began_s, "complete")
                await asyncio.sleep(POLL_S)
        finally:
            caller.close()

    async def _renew_own_keys(self) -> None:
        for provider in cycle(("stub", "spare")):
            await asyncio.sleep(self._seldom_s)
            await self._store_own_key(provider)

    async def _store_own_key(self, provider: str) -> None:
        self._own_keys += 1
        path = f"/admin/v1/tenants/{oracle.OWN}/byok/{provider}"
        await self._operator.order("PUT", path, {"key": f"own-key-{self._own_keys}"})

    async def _dashboard(self) -> None:
        while True:
            for page in PAGES:
                await read(self.lanes, page)
                self._pages += 1
            await asyncio.sleep(OFTEN_S)

    async def _verify(self) -> None:
        while True:
            await asyncio.sleep(self._seldom_s)
            await self._verify_once()

    async def _verify_once(self) -> None:
        found = json.loads(await read(self.lanes, "/admin/v1/ledger/verify"))
        self._verified += 1
        if found.get("ok") is not True:
            self._report.violations.append(f"ledger verify while it serves: {found}")

    async def _read_long(self) -> None:
        """A reader of the file that keeps its moment of the books for long: no checkpoint can pass it."""
        connection = sqlite3.connect(f"file:{self._made.ledger}?mode=ro", uri=True, isolation_level=None)
        wal = self._made.ledger.with_name("ledger.db-wal")
        try:
            while True:
                connection.execute("BEGIN")
                first = connection.execute(LOOK).fetchone()
                await asyncio.sleep(self._seldom_s)
                second = connection.execute(LOOK).fetchone()
                connection.execute("COMMIT")
                if first != second or first[1] != 0:
                    self._report.violations.append(f"books: one moment of the file is {first}, then {second}")
                self._wal_bytes = max(self._wal_bytes, wal.stat().st_size)
                await asyncio.sleep(self._seldom_s)
        finally:
            connection.close()

    # --- after

    async def _rest(self) -> None:
        """No request is under way, and no caller is connected."""
        self.lanes.close_gate()
        await self.lanes.quiet()
        self.lanes.hang_up()

    async def _at_rest(self, before: Rest | None) -> Rest:
        """What it has when it has come to rest; with `before`, when it is back there, if it ever is."""
        until_s = time.monotonic() + REST_S_MAX
        while True:
            await asyncio.sleep(10 * POLL_S)
            rest = await self._look()
            if (before is None and not rest.held_nano) or time.monotonic() > until_s:
                return rest
            if before is not None and _is_back(rest, before):
                return rest

    async def _look(self) -> Rest:
        made = self._made
        held_nano = (await made.status())["ledger"]["held_nano"]
        told = made.folder / TASKS
        told.unlink(missing_ok=True)
        os.kill(made.gateway.pid, signal.SIGUSR2)
        async with asyncio.timeout(REST_S_MAX):
            while not told.exists():  # noqa: ASYNC110 A file has no event to wait for.
                await asyncio.sleep(POLL_S)
        return Rest(_files(made.gateway.pid, made.provider_port), told.read_text().splitlines(), held_nano)

    def _judge_memory(self) -> None:
        """More than the slope that may be, and more than what an allocator's ups and downs make of none."""
        per_minute, risen = self._samples.growth_bytes(), self._samples.risen_bytes()
        self._report.figures["memory at its lowest"] = f"{risen / 2**20:+.1f} MiB from the first third to the last"
        if per_minute >= SLOPE_BYTES_MAX and risen >= RISEN_BYTES_MAX:
            self._report.violations.append(f"memory: {per_minute:+.0f} bytes per minute, {risen:+} at its lowest")

    def _tell(self, took_s: float, idle_s: list[float]) -> None:
        """The figures, and what was odd outside the window."""
        report, lanes = self._report, self.lanes
        began_s, ended_s = self._window
        odd_outside = [odd for odd in lanes.odd if not _is_excused(odd, began_s, ended_s)]
        report.violations += [f"odd: {odd.what}" for odd in odd_outside[:ODD_TOLD]]
        if not any(odd.is_storage for odd in lanes.odd):
            report.violations.append("disk: nobody felt that it was full")
        requests = sum(lanes.ends.values())
        figures = report.figures
        figures["requests"] = f"{requests}, {requests / took_s:.0f} per second: " + ", ".join(
            f"{count} {end}" for end, count in lanes.ends.most_common()
        )
        figures["failed"] = (
            f"{len(odd_outside)} outside the {ended_s - began_s:.1f} s of the full disk, "
            f"{len(lanes.odd) - len(odd_outside)} of them within it"
        )
        figures["told again by key"] = str(lanes.told_again)
        figures["not tried again"] = f"{lanes.not_retried} embeddings, for want of a retry budget"
        for switch in self._switches:
            figures[f"tenant {switch.tenant!r}"] = (
                f"{switch.served} served, {switch.refused} refused, {switch.switched} times switched"
            )
        figures["operators"] = (
            f"{self._operator.orders} orders, {self._pages} pages read, {self._verified} verifications, the log that "
            f"waits for a reader up to {self._wal_bytes / 2**20:.1f} MiB"
        )
        figures["added latency, idle"] = spread_ms(idle_s)
        figures["added latency, loaded"] = spread_ms(lanes.added_s)
        figures |= self._samples.figures()


def _is_excused(odd: Odd, began_s: float, ended_s: float) -> bool:
    return odd.is_storage and odd.began_s <= ended_s and odd.ended_s >= began_s


def _is_back(after: Rest, before: Rest) -> bool:
    return len(after.files) <= len(before.files) and len(after.tasks) <= len(before.tasks) and after.held_nano == 0


def _raise_faults(tasks: list[asyncio.Task[None]]) -> None:
    """An actor never ends by itself: one that did has found a fault of the driver."""
    for task in tasks:
        if task.done():
            task.result()


def _files(pid: int, port: int) -> list[str]:
    """What a process has open, but for TCP connections to this port of this machine. A database counts once: SQLite
    cannot close a descriptor while others of the process hold locks on the file, and keeps it for the next reader."""
    there = {
        f"socket:[{fields[9]}]"
        for fields in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[2] == f"0100007F:{port:04X}"
    }
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(fd))
    databases = {name for name in found if name.endswith(".db")}
    return sorted([*databases, *(name for name in found if name not in there and name not in databases)])
