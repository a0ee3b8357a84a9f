"""No room for the books under load, for a while: nothing is lost, and it goes on by itself once there is.

With the data on a small file system that is kept filled to its last byte, where mounting one is allowed, and with a
limit on the size of files, behind which every write fails with an I/O error. And with a file system that is filled up
once while a crowd waits for its answers: what is kept in reserve has to be enough for all of them.
"""

import asyncio
import contextlib
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from routerx.ledger.storage import BALLAST_NAME
from tests.torture import world
from tests.torture.arena import Arena, Report, arena, load
from tests.torture.client import Caller, Saw
from tests.torture.driver import Load
from tests.torture.oracle import MARKUP_BP, PRICED_PER_REQUEST
from tests.torture.processes import Zygote

ABORTS = 0.05
DISK_BYTES = 112 * 2**20
"""More than the gateway wants to have free at a start, by little."""

CROWD = 150
BLOCK = bytes(2**16)
BEFORE_S, FULL_S, AFTER_S = 0.4, 1.0, 0.4
RECOVERY_S_MAX = 20.0
POLL_S = 0.02
FILLER = "filler"
LIMIT_BYTES = 16_384


async def prove_full_disk(folder: Path, seed: int, zygote: Zygote) -> Report:
    """Every way of having no room."""
    report = Report(f"no room for the books (seed {seed})")
    async with arena(folder / "limit", seed, zygote) as made:
        await _round(
            made, report, "a limit on files", (lambda: limit_files(made, LIMIT_BYTES), lambda: limit_files(made, None))
        )
    async with arena(folder / "disk", seed, zygote) as made:
        data = made.folder / "data"
        data.mkdir(mode=0o700)
        with small_disk(data) as is_mounted:
            if is_mounted:
                filler = data / FILLER
                await _round(made, report, "a full disk", (lambda: fill(filler), filler.unlink))
            else:
                report.figures["a full disk"] = "not done: mounting is not allowed here"
    async with arena(folder / "once", seed, zygote) as made:
        data = made.folder / "data"
        data.mkdir(mode=0o700)
        with small_disk(data) as is_mounted:
            if is_mounted:
                await _filled_once(made, report, data)
    return report


async def _filled_once(made: Arena, report: Report, data: Path) -> None:
    """All whose request has gone to the provider are answered and charged; nobody else is let in until there is room,
    and then there is a reserve again."""
    name, found = "a disk that is filled up once", []
    filler, ballast = data / FILLER, data / BALLAST_NAME
    async with load(made, aborts=0.0) as lanes:
        await made.gateway.start()
        lanes.port = made.gateway.port
        callers = [Caller() for _ in range(CROWD)]
        crowd = asyncio.gather(*(_one(lanes, caller, n) for n, caller in enumerate(callers)))
        while len(made.evidence().dispatched) < CROWD:  # noqa: ASYNC110 A journal has no event to wait for.
            await asyncio.sleep(POLL_S)
        fill(filler)
        saws = await crowd
        late = await _one(lanes, callers[0], 0)
        if any(saw.end != "complete" for saw in saws):
            found.append(f"those under way were not all served: {Counter(saw.code for saw in saws)}")
        if late.code != "storage_unavailable":
            found.append(f"a late request was not turned away: {late}")
        if ballast.exists():
            found.append("nothing has become of the ballast")
        filler.unlink()
        lanes.open(made.gateway.port)
        recovery_s = await _recovered(made, lanes)
        lanes.close_gate()
        await lanes.quiet()
        for caller in callers:
            caller.close()
        if not ballast.exists() or recovery_s >= RECOVERY_S_MAX:
            found.append(f"{recovery_s:.0f} s later it does not serve, or has no ballast: {await _trouble(made)}")
        found += await made.restless() + await made.stop() + made.verdict()
    report.figures[name] = f"{len(saws)} under way, all complete; serves again after {recovery_s:.2f} s"
    report.violations += [f"{name}: {line}" for line in found]


async def _one(lanes: Load, caller: Caller, lane: int) -> Saw:
    """A call that is slow to be answered, by a tenant whose price has no markup."""
    tenants = len(MARKUP_BP)
    lane = lane * tenants % (world.LANES - world.LANES % tenants)
    return await lanes.one(caller, world.lane_key(lane), world.tenant_of(lane), PRICED_PER_REQUEST)


async def _round(made: Arena, report: Report, name: str, how: tuple[Callable[[], None], Callable[[], None]]) -> None:
    """Load before, while and after; the judge has the last word."""
    strike, heal = how
    async with load(made, aborts=ABORTS) as lanes:
        await made.gateway.start()
        lanes.open(made.gateway.port)
        await asyncio.sleep(BEFORE_S)
        before = len(made.journal.saw)
        until_s = time.monotonic() + FULL_S
        while time.monotonic() < until_s:  # What the gateway frees is taken away again.
            strike()
            await asyncio.sleep(POLL_S)
        heal()
        recovery_s = await _recovered(made, lanes)
        await asyncio.sleep(AFTER_S)
        lanes.close_gate()
        await lanes.quiet()
        saws = list(made.journal.saw.values())[before:]
        ends = Counter(f"{saw.end} {saw.code}".rstrip() for saw in saws)
        report.figures[name] = ", ".join(f"{count} {end}" for end, count in ends.most_common())
        report.figures[f"{name}: serves again after"] = f"{recovery_s:.2f} s"
        found = await made.restless() + await made.stop() + made.verdict()
        if not any(saw.status == 503 or saw.end == "broke_off" for saw in saws):
            found.append("nobody felt it")
        if recovery_s >= RECOVERY_S_MAX:
            found.append(f"it does not serve again after {recovery_s:.0f} s: {await _trouble(made)}")
        report.violations += [f"{name}: {line}" for line in found]


async def _recovered(made: Arena, lanes: Load) -> float:
    """Seconds until a caller has a complete answer to a request that was sent from now on."""
    began_s, first = time.monotonic(), len(made.journal.sent) + 1
    while time.monotonic() - began_s < RECOVERY_S_MAX:
        saws = (made.journal.saw.get(number) for number in range(first, len(made.journal.sent) + 1))
        if any(saw is not None and saw.end == "complete" for saw in saws):
            break
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began_s


async def _trouble(made: Arena) -> str:
    return str(made.gateway.complaints()[-5:])


def limit_files(made: Arena, size_bytes: int | None) -> None:
    """Bound the size of the files that the gateway writes; None: as it was."""
    _, hard = resource.prlimit(made.gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(made.gateway.pid, resource.RLIMIT_FSIZE, (hard if size_bytes is None else size_bytes, hard))


@contextlib.contextmanager
def small_disk(place: Path, size_bytes: int = DISK_BYTES) -> Iterator[bool]:
    """A file system of its own for this folder, if the system lets us."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(place)], capture_output=True
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


def fill(path: Path) -> None:
    """To the last byte."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(BLOCK):
            pass
