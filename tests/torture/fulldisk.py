"""No room for the books under load, for a while: nothing is lost, and it goes on by itself once there is.

Twice: with the data on a small file system that is kept filled to its last byte, where mounting one is allowed, and
with a limit on the size of files, behind which every write fails with an I/O error.
"""

import asyncio
import contextlib
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture.arena import Arena, Report, arena, load
from tests.torture.driver import Load
from tests.torture.processes import Zygote

ABORTS = 0.05
DISK_BYTES = 112 * 2**20
"""More than the gateway wants to have free at a start, by little."""

BLOCK = bytes(2**16)
BEFORE_S, FULL_S, AFTER_S = 0.4, 1.0, 0.4
RECOVERY_S_MAX = 20.0
POLL_S = 0.02
FILLER = "filler"
LIMIT_BYTES = 16_384


async def prove_full_disk(folder: Path, seed: int, zygote: Zygote) -> Report:
    """Both ways of having no room."""
    report = Report(f"no room for the books (seed {seed})")
    async with arena(folder / "limit", seed, zygote) as made:
        await _round(made, report, "a limit on files", (lambda: _limit(made, LIMIT_BYTES), lambda: _limit(made, None)))
    async with arena(folder / "disk", seed, zygote) as made:
        data = made.folder / "data"
        data.mkdir(mode=0o700)
        with _small_disk(data) as is_mounted:
            if is_mounted:
                filler = data / FILLER
                await _round(made, report, "a full disk", (lambda: _fill(filler), filler.unlink))
            else:
                report.figures["a full disk"] = "not done: mounting is not allowed here"
    return report


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


def _limit(made: Arena, size_bytes: int | None) -> None:
    """Bound the size of the files that the gateway writes; None: as it was."""
    _, hard = resource.prlimit(made.gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(made.gateway.pid, resource.RLIMIT_FSIZE, (hard if size_bytes is None else size_bytes, hard))


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[bool]:
    """A file system of its own for this folder, if the system lets us."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(place)], capture_output=True
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


def _fill(path: Path) -> None:
    """To the last byte."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(BLOCK):
            pass
