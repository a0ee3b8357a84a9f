"""The power fails: `python -m tests.torture.power SEED CUTS FOLDER SYNCHRONOUS`, a process of its own.

What is real: one run of the ledger, its writer thread and its checkpoints, whose every write, truncation and flush of
the database and its WAL is recorded as SQLite asks the system for it (tests/torture/shim.py), in one order with the
moments at which a charge was acknowledged.

What is simulated: the disk. At a random point of that record the power goes. What was flushed before is there. Of what
was written to a file since its last flush, each write or truncation is there or not, by chance and regardless of order,
and one write is torn: of its 512-byte sectors a random part is there. Both files are then opened as a gateway opens
them and verified whole.

What is not: disks that lose what they said was flushed, sectors torn within, bits that rot, a file's name lost with its
directory (the WAL may be empty, but is there), and the request log, which holds no money.
"""

import asyncio
import os
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import uvloop

from routerx.clock import SystemClock
from routerx.ledger.database import connect
from routerx.ledger.opening import LedgerOptions, open_file
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.sqlite import open_ledger
from tests.torture.arena import Report
from tests.torture.commits import ACKNOWLEDGED, charge, options, tenants
from tests.torture.processes import ROOT, clean_environment, die_with_parent
from tests.torture.shim import NoSharedLibrary, Shim

CHARGES = 640
BATCHES = (1, 3, 16)
PAUSE_EVERY = 320
PAUSE_S = 0.3
"""Long enough for a checkpoint."""

SECTOR = 512
KEPT_SHARES = (0.0, 0.3, 0.7, 1.0)
"""Of what was not flushed; one of them for each image."""

FILES = ("ledger.db", "ledger.db-wal")
PRESENT = "SELECT r.id FROM requests AS r JOIN transfers AS t ON t.request = r.n AND t.kind = 'charge'"


class Event(msgspec.Struct, frozen=True):
    """Something that happened, in the order of its happening."""

    kind: str
    """write | truncate | sync | acknowledged | submitted"""
    file: str = ""
    at: int = 0
    """Offset, new size, or the number of a charge."""
    data: bytes = b""


class Disk:
    """One file: what is flushed, and what was written since."""

    def __init__(self) -> None:
        self.flushed = bytearray()
        self.since: list[Event] = []

    def take(self, event: Event) -> None:
        if event.kind == "sync":
            for earlier in self.since:
                apply(self.flushed, earlier)
            self.since.clear()
        else:
            self.since.append(event)


class Image(msgspec.Struct):
    """The files after a power failure."""

    files: dict[str, bytearray]
    dropped: int = 0
    torn: int = 0


def apply(content: bytearray, event: Event) -> None:
    """A write or truncation, as a file system does it."""
    if event.kind == "truncate":
        del content[event.at :]
        content.extend(bytes(event.at - len(content)))
        return
    if len(content) < event.at:
        content.extend(bytes(event.at - len(content)))
    content[event.at : event.at + len(event.data)] = event.data


def fail(disks: dict[str, Disk], rng: random.Random) -> Image:
    """What a power failure leaves."""
    image = Image({})
    share = rng.choice(KEPT_SHARES)
    writes = [event for disk in disks.values() for event in disk.since if event.kind == "write"]
    victim = rng.choice(writes) if writes else None
    for name, disk in disks.items():
        content = bytearray(disk.flushed)
        for event in disk.since:
            if event is victim:
                image.torn += 1
                for sector in _sectors(event):
                    if rng.random() < 0.5:
                        apply(content, sector)
            elif rng.random() < share:
                apply(content, event)
            else:
                image.dropped += 1
        image.files[name] = content
    return image


def _sectors(event: Event) -> list[Event]:
    """One write as writes that each stay within a sector of the disk."""
    parts, at, end = [], event.at, event.at + len(event.data)
    while at < end:
        to = min(end, (at // SECTOR + 1) * SECTOR)
        parts.append(Event("write", event.file, at, event.data[at - event.at : to - event.at]))
        at = to
    return parts


async def _charge_and_record(kept: LedgerOptions, record: list[Event], rng: random.Random) -> int:
    """The run. Returns the index of the first event at which charges are taken."""
    ledger = await open_ledger(kept, SystemClock())
    await ledger.sync_tenants(tenants())
    begin = len(record)

    def say(what: bytes, number: int) -> None:
        record.append(Event("acknowledged" if what == ACKNOWLEDGED else "submitted", at=number))

    number = 0
    while number < CHARGES:
        count = rng.choice(BATCHES)
        await charge(ledger, range(number, number + count), say)
        if (number + count) // PAUSE_EVERY > number // PAUSE_EVERY:
            await asyncio.sleep(PAUSE_S)
        number += count
    await ledger.close()
    return begin


class Tally(msgspec.Struct):
    """What the images came to."""

    dropped: int = 0
    torn: int = 0
    acknowledged: int = 0
    wrong: list[str] = []
    lost: Counter[str] = msgspec.field(default_factory=Counter)
    """Acknowledged charges that are gone, and images in which some are."""


def cut_power(seed: int, cuts: int, folder: Path, synchronous: str) -> Report:
    """All of it, in this process."""
    rng = random.Random(seed)
    report = Report(f"power loss ({cuts} images, synchronous={synchronous}, seed {seed})")
    record: list[Event] = []
    is_recording = True

    def tell(kind: str, path: str, at: int, data: bytes) -> None:
        if is_recording and os.path.basename(path) in FILES:
            record.append(Event(kind, os.path.basename(path), at, data))

    try:
        shim = Shim(tell)
    except NoSharedLibrary as error:
        report.figures["not done"] = str(error)
        return report
    kept = msgspec.structs.replace(options(folder / "run"), synchronous=synchronous)
    begin = uvloop.run(_charge_and_record(kept, record, rng))
    is_recording = False
    assert shim.files_told >= len(FILES)
    kinds = Counter(f"{event.kind} {event.file}".rstrip() for event in record)
    report.figures["recorded"] = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    points = sorted(rng.randrange(begin, len(record)) for _ in range(cuts))
    tally = _fail_at(points, record, folder / "image", kept, rng)
    report.violations += tally.wrong
    report.figures["images"] = (
        f"{cuts}, {tally.dropped} unflushed writes dropped, {tally.torn} torn; {tally.acknowledged / cuts:.0f} "
        "acknowledged charges each on average"
    )
    report.figures["acknowledged and lost"] = f"{tally.lost['charges']} charges in {tally.lost['images']} images"
    if synchronous != "normal" and tally.lost["charges"]:
        report.violations.append(f"lost: {report.figures['acknowledged and lost']}")
    return report


def _fail_at(points: list[int], record: list[Event], place: Path, kept: LedgerOptions, rng: random.Random) -> Tally:
    """An image for each point of the record, judged."""
    disks = {name: Disk() for name in FILES}
    acknowledged: set[str] = set()
    submitted: set[str] = set()
    tally, done = Tally(), 0
    for point in points:
        for event in record[done:point]:
            match event.kind:
                case "acknowledged":
                    acknowledged.add(f"req_{event.at}")
                case "submitted":
                    submitted.add(f"req_{event.at}")
                case _:
                    disks[event.file].take(event)
        done = point
        image = fail(disks, rng)
        tally.dropped += image.dropped
        tally.torn += image.torn
        tally.acknowledged += len(acknowledged)
        present, wrong = _opened(image, place, kept)
        tally.wrong += [f"image at {point}: {line}" for line in wrong]
        tally.wrong += [f"image at {point}: invented: {name}" for name in sorted(present - submitted)]
        if lost := acknowledged - present:
            tally.lost["charges"] += len(lost)
            tally.lost["images"] += 1
    return tally


def _opened(image: Image, place: Path, kept: LedgerOptions) -> tuple[set[str], list[str]]:
    """Open an image as a gateway does, and verify it: (ids that are charged, what is wrong)."""
    place.mkdir(parents=True)
    try:
        for name, content in image.files.items():
            (place / name).write_bytes(content)
        path = str(place / "ledger.db")
        opened = open_file(msgspec.structs.replace(kept, path=path), time.time_ns(), connect)
        try:
            present = {request_id for (request_id,) in opened.connection.execute(PRESENT)}
        finally:
            opened.connection.close()
            opened.lock.release()
        return present, list(verify_file(path).violations)
    except (sqlite3.Error, OSError, RuntimeError) as error:
        return set(), [f"unusable: {error}"]
    finally:
        shutil.rmtree(place)


async def prove_power_loss(folder: Path, seed: int, cuts: int, synchronous: str = "full") -> Report:
    """The same in a process of its own: the shim stays in a process as long as that lives."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.torture.power", str(seed), str(cuts), str(folder), synchronous,
        cwd=ROOT, env=clean_environment(), stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = await child.communicate()
        return msgspec.json.decode(output, type=Report)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


if __name__ == "__main__":
    die_with_parent()
    result = cut_power(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    sys.stdout.buffer.write(msgspec.json.encode(result))
