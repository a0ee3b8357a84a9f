"""Reloads under load: good edits take effect, broken ones do not, and no request notices either."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from pathlib import Path

import msgspec

from tests.torture import world
from tests.torture.arena import Arena, Report, arena, load, spread_ms
from tests.torture.client import fetch

ABORTS = 0.05
EFFECT_S_MAX = 8.0
POLL_S = 0.02
SAMPLE_S = 0.25
WARM_UP_S_MAX = 60.0
FLAT_S = 8.0
FLAT_BYTES = 2**20
"""A gateway is warm, its pools and caches full, when its memory has grown by less in so long a time of load."""

SLOPE_EDITS_MIN = 50
"""With fewer edits it is not warmed up first, and a slope would tell nothing."""
WRITE_BYTES = 97
PAUSE_S = 0.004
"""A file that is written slowly is written in pieces of so many bytes, with such a pause between them."""

WRONG = "wrong.yaml"


class Probe(msgspec.Struct, frozen=True):
    """By what a gateway on some configuration can be told."""

    alias: str
    input_pico: int
    extra_tenant: bool = False


class Health(msgspec.Struct, frozen=True):
    """Of /health."""

    generation: int
    ok: bool


Edit = Callable[[], Awaitable[None]]


class Editor:
    """Changes the files of one arena. Each text of the main file has an alias and a price of its own, so that it can be
    asked which one serves; the alias of a broken one must never be seen."""

    def __init__(self, made: Arena, rng: random.Random) -> None:
        self._made = made
        self._rng = rng
        self._edits = 0
        self.probe = Probe("", 0)
        self.broken_alias = "broken-0"
        self._extra = made.folder / "tenants.d" / "extra.yaml"
        self._wrong = made.folder / "tenants.d" / WRONG

    def text(self, probe: Probe) -> str:
        price = f'{{input: "{world.usd(probe.input_pico)}", output: "1"}}'
        idle = f"  idle-model: {{endpoints: [{{provider: stub, price: {price}}}], aliases: [{probe.alias}]}}\n"
        return world.config(self._made.provider_port, idle)

    def next_probe(self, kind: str) -> Probe:
        self._edits += 1
        return Probe(f"{kind}-{self._edits}", self._rng.randint(1, 10**6), self.probe.extra_tenant)

    # --- good edits

    async def replaced(self) -> None:
        """As an editor saves: a new file in the old one's place."""
        self.probe = self.next_probe("good")
        world.write(self._made.config, self.text(self.probe))

    async def in_place(self) -> None:
        """The same file, written anew."""
        self.probe = self.next_probe("good")
        self._made.config.write_text(self.text(self.probe))

    async def slowly(self) -> None:
        """In many small writes; no part of it is a configuration."""
        self.probe = self.next_probe("good")
        data = self.text(self.probe).encode()
        with self._made.config.open("wb", buffering=0) as file:
            for at in range(0, len(data), WRITE_BYTES):
                file.write(data[at : at + WRITE_BYTES])
                await asyncio.sleep(PAUSE_S)

    async def tenant_file(self) -> None:
        """A tenant's file comes, or goes; the main file is as it last was when it was good."""
        world.write(self._made.config, self.text(self.probe))
        if self._extra.exists():
            self._extra.unlink()
        else:
            key = world.digest(world.tenant_key("extra"))
            world.write(self._extra, f'tenants: {{extra: {{plan: ten, policy: steady, keys: ["{key}"]}}}}\n')
        self.probe = msgspec.structs.replace(self.probe, extra_tenant=self._extra.exists())

    # --- broken edits

    def _broken_text(self) -> str:
        probe = self.next_probe("broken")
        self.broken_alias = probe.alias
        return self.text(probe)

    async def bad_yaml(self) -> None:
        world.write(self._made.config, self._broken_text() + "pricing: {unclosed: [\n")

    async def unknown_key(self) -> None:
        world.write(self._made.config, self._broken_text() + "modells: {}\n")

    async def half_written(self) -> None:
        data = self._broken_text().encode()
        self._made.config.write_bytes(data[: self._rng.randrange(len(world.FILE_BEGINS), len(data) - 1)])

    async def emptied(self) -> None:
        self._made.config.write_bytes(b"")

    async def deleted(self) -> None:
        self._made.config.unlink()

    async def broken_tenant_file(self) -> None:
        """Beside a good change of the main file: the whole is refused."""
        world.write(self._made.config, self._broken_text())
        world.write(self._wrong, "tenants: {wrong: {plan: nowhere}}\n")

    # --- back

    async def restored(self) -> None:
        """Every file as it last was when all were good."""
        self._wrong.unlink(missing_ok=True)
        world.write(self._made.config, self.text(self.probe))

    def edits(self, count: int) -> list[tuple[Edit, bool]]:
        """`count` edits and whether each is good: a good one, then a broken one and so on; all kinds equally often."""
        good = [self.replaced, self.in_place, self.slowly, self.tenant_file, self.restored]
        broken = [
            self.bad_yaml,
            self.unknown_key,
            self.half_written,
            self.emptied,
            self.deleted,
            self.broken_tenant_file,
        ]
        self._rng.shuffle(good)
        self._rng.shuffle(broken)
        return [
            (good[n // 2 % len(good)], True) if n % 2 == 0 else (broken[n // 2 % len(broken)], False)
            for n in range(count)
        ]


class Samples:
    """Memory and open files of the gateway, taken while it is loaded."""

    def __init__(self, made: Arena) -> None:
        self._made = made
        self._taken: list[tuple[float, int, int]] = []
        self._warm_at: int | None = None
        """Index of the first sample of a warm gateway."""

    async def run(self) -> None:
        while True:
            gateway = self._made.gateway
            self._taken.append((time.monotonic(), gateway.rss_bytes(), gateway.open_fds()))
            await asyncio.sleep(SAMPLE_S)

    async def warm_up(self) -> None:
        """Returns when the gateway is warm, or after WARM_UP_S_MAX."""
        back = round(FLAT_S / SAMPLE_S)
        for _ in range(round(WARM_UP_S_MAX / SAMPLE_S)):
            await asyncio.sleep(SAMPLE_S)
            if len(self._taken) > back and self._taken[-1][1] - self._taken[-1 - back][1] < FLAT_BYTES:
                break
        self.is_warm()

    def is_warm(self) -> None:
        """From now on."""
        self._warm_at = len(self._taken) - 1

    def growth_bytes(self) -> float:
        """Of the memory of a warm gateway, per minute."""
        warm = self._taken[self._warm_at :]
        return 60 * _slope([at for at, _, _ in warm], [float(memory) for _, memory, _ in warm])

    def risen_bytes(self) -> int:
        """From the lowest of the first third of a warm gateway's memory to the lowest of the last."""
        warm = [memory for _, memory, _ in self._taken[self._warm_at :]]
        third = max(1, len(warm) // 3)
        return min(warm[-third:]) - min(warm[:third])

    def figures(self) -> dict[str, str]:
        """First and last values, and where it was warmed up what they were then and their slopes from then on."""
        figures = {}
        for name, column, scale, unit in (("memory", 1, 2**20, " MiB"), ("open files", 2, 1, "")):
            values = [taken[column] / scale for taken in self._taken]
            if self._warm_at is None:
                figures[name] = f"{values[0]:.0f} to {values[-1]:.0f}{unit}"
                continue
            slope = _slope([taken[0] for taken in self._taken[self._warm_at :]], values[self._warm_at :])
            figures[name] = (
                f"{values[0]:.0f}{unit} at first, {values[self._warm_at]:.1f} when warm, {values[-1]:.1f} at the end: "
                f"{slope * 60:+.2f}{unit}/min"
            )
        return figures


def _slope(xs: list[float], ys: list[float]) -> float:
    """Of the least squares line, per second."""
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    products = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return products / sum((x - x_mean) ** 2 for x in xs)


async def prove_reloads(folder: Path, seed: int, reloads: int) -> Report:
    """`reloads` edits, good and broken ones in turn, beside a load of which no request may fail."""
    rng = random.Random(seed)
    report = Report(f"reloads under load ({reloads} edits, seed {seed})")
    async with arena(folder, seed) as made, load(made, aborts=ABORTS) as lanes:
        editor = Editor(made, rng)
        await editor.replaced()
        await made.gateway.start()
        lanes.open(made.gateway.port)
        samples = Samples(made)
        sampling = asyncio.ensure_future(samples.run())
        try:
            if reloads >= SLOPE_EDITS_MIN:
                await samples.warm_up()
            await edit_in_turn(made, editor, editor.edits(reloads), report)
        finally:
            sampling.cancel()
        lanes.close_gate()
        await lanes.quiet()
        report.violations += [f"dropped: {saw}" for saw in lanes.unexpected]
        report.violations += await made.stop()
        report.violations += made.verdict(unkilled=True)
        report.figures["requests"] = f"{len(made.journal.sent)}, {len(lanes.unexpected)} dropped or failed"
        report.figures |= samples.figures()
    return report


async def edit_in_turn(
    made: Arena, editor: Editor, edits: Iterable[tuple[Edit, bool]], report: Report, pause_s: float = 0.0
) -> None:
    """Each edit in turn, and what must be seen of it; not more than one in `pause_s`."""
    effects_s: list[float] = []
    kinds: Counter[str] = Counter()
    before = await _health(made)
    for edit, good in edits:
        name = edit.__name__
        began_s = time.monotonic()
        if good:
            (made.folder / "tenants.d" / WRONG).unlink(missing_ok=True)
        await edit()
        after = await _health(made)
        while after.ok is not good or (good and name != "restored" and after.generation == before.generation):
            if time.monotonic() - began_s > EFFECT_S_MAX:
                problems = (await made.status())["problems"]
                report.violations.append(f"reload: {name} is without effect, {before} to {after}: {problems}")
                break
            await asyncio.sleep(POLL_S)
            after = await _health(made)
        effects_s.append(time.monotonic() - began_s)
        if (name == "restored" or not good) and after.generation != before.generation:
            report.violations.append(f"reload: after {name} generation {after.generation} serves")
        report.violations += [f"reload: after {name} {found}" for found in await _misbehaviour(made, editor)]
        kinds["good" if good else "broken"] += 1
        before = after
        await asyncio.sleep(max(0.0, began_s + pause_s - time.monotonic()))
    report.figures["edits"] = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    report.figures["seen to be in force or refused"] = spread_ms(effects_s)


async def _health(made: Arena) -> Health:
    _, body = await fetch(made.gateway.port, "GET", "/health")
    return msgspec.convert(json.loads(body)["config"], Health)


async def _misbehaviour(made: Arena, editor: Editor) -> list[str]:
    """How the gateway's answers differ from those of the newest good configuration."""
    port, probe, found = made.gateway.port, editor.probe, []
    status, body = await fetch(port, "GET", f"/v1/models/{probe.alias}", world.lane_key(0))
    if status != 200:
        found.append(f"{probe.alias} is answered with {status}")
    elif Decimal(json.loads(body)["pricing"]["input_usd_per_million"]) != Decimal(world.usd(probe.input_pico)):
        found.append(f"{probe.alias} has another price than {world.usd(probe.input_pico)}")
    status, _ = await fetch(port, "GET", f"/v1/models/{editor.broken_alias}", world.lane_key(0))
    if status != 404:
        found.append(f"{editor.broken_alias} is answered with {status}")
    status, _ = await fetch(port, "GET", "/v1/models", world.tenant_key("extra"))
    if status != (200 if probe.extra_tenant else 401):
        found.append(f"the extra tenant is answered with {status}")
    return found
