"""Live reload: notices that files changed, loads the whole configuration anew, and swaps it in or keeps what is good.

Folders are watched, not files: editors replace files, Kubernetes swaps symlinks. Bind mounts hide such events, so the
files are also looked at twice a second. A file that still changes is not read: a prefix may be valid and wrong.

Prices that change with time change here, too, on the moment and whatever state the files are in then.
"""

import asyncio
import contextlib
import fnmatch
import glob
import logging
import os
from collections.abc import Awaitable, Callable

import msgspec
import watchfiles

from routerx.clock import Clock
from routerx.config.problems import ConfigRefused, Sources
from routerx.config.repricing import repriced
from routerx.config.snapshot import RESTART_ONLY, ServerConfig, Snapshot, SnapshotHolder
from routerx.errors import ConfigError, RouterXError
from routerx.tasks import TaskSet

log = logging.getLogger("routerx.config")

POLL_S = 0.5
EVENTS_STEP_MS = 100
"""Events that follow one another more closely than this are one."""
EVENTS_DEBOUNCE_MS = 500
"""A folder in which something is always written is heard of so often."""
SETTLE_S = 0.2
"""A file whose size and time stay the same for so long is taken for complete."""
SETTLES_MAX = 50
PRICES_TOLD_MAX = 10
RELOADS_MAX = 5
"""Loads in a row, while each names other files than the one before it."""

Load = Callable[[int, str], Snapshot]
"""Given the generation to be, and the host that the process listens on."""
Prepare = Callable[[Snapshot], Awaitable[None]]
OnApplied = Callable[[Snapshot, Snapshot], Awaitable[None]]

_Stat = tuple[str, int, int, int, int]
_Print = tuple[_Stat, ...]


class ReloadStatus(msgspec.Struct, frozen=True):
    """What the last look at the files came to."""

    generation: int
    """Of the snapshot that serves."""
    ok: bool = True
    """False: the files as they are now are refused, and an older snapshot serves."""
    error: str | None = None
    """Every problem, a line each, with file and line."""
    applied_at_ns: int = 0
    """When the snapshot that serves was put in place."""
    restart_needed: tuple[str, ...] = ()
    """Fields of ServerConfig that differ from those the process was started with."""
    refused: int = 0
    """Configurations refused since the start."""
    price_changes: int = 0
    """Of the generations, those that the clock made: no file was read for them."""


class ConfigWatcher:
    """Owns reloading. `run` is a task for the life of the server; `reload_now` serves SIGHUP and the admin API."""

    def __init__(
        self, holder: SnapshotHolder, load: Load, clock: Clock, on_applied: OnApplied, prepare: Prepare | None = None
    ) -> None:
        """`prepare` is called with a snapshot before it goes live, `on_applied` after that, again until it works."""
        self._prepare = prepare
        self._holder = holder
        self._load = load
        self._clock = clock
        self._on_applied = on_applied
        self._started_with: ServerConfig = holder.current.server
        self._followed = holder.current
        """The last snapshot that all of the process has followed: where it is not the current one, that is owed."""
        self._behind: str | None = None
        """Why the current snapshot is not followed, where trying again may help."""
        self._has_new_prices = False
        """Prices have changed since something was followed."""
        self._sources = _sources_of(holder.current)
        self._names = _Names(self._sources)
        self._watched: tuple[str, ...] = ()
        self._moved = asyncio.Event()
        """Set when other folders than those are to be watched."""
        self._seen: _Print | None = None
        """The state of the files that the last load read; None: not loaded since the start."""
        self._lock = asyncio.Lock()
        self._stirred = asyncio.Event()
        self.status = ReloadStatus(generation=holder.current.generation, applied_at_ns=clock.now_ns())

    async def run(self) -> None:
        """Watch until cancelled. Each look is a task of its own: a fault in it is logged and does not end the watch."""
        # It tells of every event; where the log lies in a watched folder, each such line would be the next event.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        tasks = TaskSet()
        tasks.spawn("config.events", self._follow_events())
        tasks.spawn("config.poll", self._poll())
        try:
            while True:
                await asyncio.wait((tasks.spawn("config.look", self._look()),))
                if _folders(self._sources) != self._watched:
                    self._moved.set()
                await self._stirred.wait()
                self._stirred.clear()
        finally:
            await tasks.close()

    async def reload_now(self) -> ReloadStatus:
        """Load what the files say now, changed or not, and tell what came of it."""
        async with self._lock:
            try:
                await self._reload(await self._settled())
            except ConfigError as error:
                self._refuse(error)
        return self.status

    async def _look(self) -> None:
        """Load if the files are not as the last load left them; else try again what could not be followed."""
        if await asyncio.to_thread(_print_of, self._sources) == self._seen:
            if self._behind is not None or self._has_new_prices:
                async with self._lock:
                    await self._follow()
            return
        async with self._lock:
            try:
                now = await self._settled()
                if now != self._seen:
                    await self._reload(now)
            except ConfigError as error:
                self._refuse(error)

    async def _settled(self) -> _Print:
        """The state of the files once it has stopped changing. Raises ConfigError when it does not stop."""
        before = await asyncio.to_thread(_print_of, self._sources)
        for _ in range(SETTLES_MAX):
            await self._clock.sleep(SETTLE_S)
            after = await asyncio.to_thread(_print_of, self._sources)
            if after == before:
                return after
            before = after
        raise ConfigError((f"the files have kept changing for {SETTLES_MAX * SETTLE_S:g} s and are not read",))

    async def _reload(self, now: _Print) -> None:
        """Load until what was read is what the files still are, then apply it. Raises ConfigError."""
        for _ in range(RELOADS_MAX):
            self._seen = now
            outcome = await asyncio.to_thread(self._try_load)
            if isinstance(outcome, Snapshot):
                self._sources = _sources_of(outcome)
            elif isinstance(outcome, ConfigRefused):
                self._sources = _joined(outcome.sources, _sources_of(self._holder.current))
            now = await asyncio.to_thread(_print_of, self._sources)
            if now == self._seen:
                break
            # A file was named for the first time, or changed under the reader: what was read may be half of it.
            now = await self._settled()
        else:
            raise ConfigError((f"the files have changed during each of {RELOADS_MAX} attempts to read them",))
        if isinstance(outcome, ConfigError):
            raise outcome
        await self._apply(outcome)

    def _try_load(self) -> Snapshot | ConfigError:
        try:
            return self._load(self._holder.current.generation + 1, self._started_with.host)
        except ConfigError as error:
            return error

    async def _apply(self, snapshot: Snapshot) -> None:
        old = self._holder.current
        if msgspec.structs.replace(snapshot, generation=old.generation) == old:
            old.places.by_path = snapshot.places.by_path
            self.status = msgspec.structs.replace(self.status, ok=True, error=None)
            await self._follow()
            return
        if self._prepare is not None:
            with contextlib.suppress(
                RouterXError
            ):  # What fails here fails again in _follow(), which tells and repeats.
                await self._prepare(snapshot)
        snapshot = self._up_to_date(snapshot)
        snapshot = msgspec.structs.replace(snapshot, generation=self._holder.current.generation + 1)
        self._holder.current = snapshot
        self.status = ReloadStatus(
            generation=snapshot.generation,
            applied_at_ns=self._clock.now_ns(),
            restart_needed=_changed(self._started_with, snapshot.server),
            refused=self.status.refused,
            price_changes=self.status.price_changes,
        )
        log.info("configuration %d is live", snapshot.generation)
        if self.status.restart_needed:
            log.warning("takes effect after a restart: %s", ", ".join(self.status.restart_needed))
        for notice in snapshot.notices:
            if notice not in old.notices:
                log.warning("%s", notice)
        await self._follow()

    async def _follow(self) -> None:
        """Let the rest of the process follow what is live, unless it has; what fails is owed, and told until it works.

        A refused file keeps its place in the status: it is the news of the two.
        """
        snapshot, before = self._holder.current, self._behind
        self._has_new_prices = False
        if self._followed is snapshot:
            return
        telling = self.status.ok or self.status.error == before
        failure: str | None = "a fault of RouterX, which the log has"
        self._behind = None
        try:
            await self._on_applied(self._followed, snapshot)
            self._followed, failure = snapshot, None
        except RouterXError as error:
            self._behind = failure = error.message
            if failure != before:
                log.error("configuration %d is live, but not all of it: %s", snapshot.generation, failure)
        finally:
            if telling:
                self.status = msgspec.structs.replace(self.status, ok=failure is None, error=failure)
        if before is not None and failure is None:
            log.info("configuration %d is live as a whole", snapshot.generation)

    def _refuse(self, error: ConfigError) -> None:
        text = "\n".join(error.problems)
        if text != self.status.error:
            log.error("the configuration is refused, generation %d stays:\n%s", self.status.generation, text)
            self.status = msgspec.structs.replace(self.status, refused=self.status.refused + 1)
        self.status = msgspec.structs.replace(self.status, ok=False, error=text)

    async def _poll(self) -> None:
        """A look is due now and then, whether there are events or not; prices are changed on the moment.

        That moment is looked for as often: the wall clock may be set, and a machine that slept has passed it.
        """
        while True:
            await self._clock.sleep(self._rest_s())
            if _prices_are_due(self._holder.current, self._clock):
                self._change_prices()
            self._stirred.set()

    def _up_to_date(self, snapshot: Snapshot) -> Snapshot:
        """What was read, with the prices that may have come into force since."""
        return repriced(snapshot, self._clock.now_ns())[0] if _prices_are_due(snapshot, self._clock) else snapshot

    def _rest_s(self) -> float:
        until_ns = self._holder.current.prices_until_ns
        return POLL_S if until_ns is None else max(0.0, min(POLL_S, (until_ns - self._clock.now_ns()) / 1e9))

    def _change_prices(self) -> None:
        """The snapshot that serves, with the prices in force now, goes live. It waits for nothing: not for files that
        are being read, nor for the rest of the process, to which no price matters and which follows at the next look.
        """
        now_ns = self._clock.now_ns()
        snapshot, changed = repriced(self._holder.current, now_ns)
        self._holder.current = snapshot
        self._has_new_prices = True
        self.status = msgspec.structs.replace(
            self.status,
            generation=snapshot.generation,
            applied_at_ns=now_ns,
            price_changes=self.status.price_changes + 1,
        )
        told = ", ".join(changed[:PRICES_TOLD_MAX])
        more = "" if len(changed) <= PRICES_TOLD_MAX else f" and {len(changed) - PRICES_TOLD_MAX} more"
        log.info("configuration %d is live: prices have changed, of %s%s", snapshot.generation, told, more)

    async def _follow_events(self) -> None:
        """Turn file events into looks. Where the system has no more watches to give, polling has to do."""
        while True:
            self._watched, self._moved = _folders(self._sources), asyncio.Event()
            if not self._watched:
                return
            try:
                async for _ in watchfiles.awatch(
                    *self._watched,
                    watch_filter=self._concerns,
                    debounce=EVENTS_DEBOUNCE_MS,
                    step=EVENTS_STEP_MS,
                    stop_event=self._moved,
                    recursive=False,
                ):
                    self._stirred.set()
            except OSError as error:
                log.warning(
                    "file events are not to be had (%s); files are looked at every %s s", error.strerror, POLL_S
                )
                return

    def _concerns(self, _: watchfiles.Change, path: str) -> bool:
        """Whether an event may be about the configuration: ledger and logs may live, and be written, in its folder."""
        if self._names.sources is not self._sources:
            self._names = _Names(self._sources)
        return self._names.concern(path)


class _Names:
    """The names of what a configuration is made of, and of the folders above: events of no others matter."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._exact: set[str] = set()
        self._patterns = [os.path.abspath(pattern).split(os.sep) for pattern in sources.globs]
        for file in sources.files:
            name = os.path.abspath(file)
            while name not in self._exact:
                self._exact.add(name)
                name = os.path.dirname(name)

    def concern(self, path: str) -> bool:
        path = os.path.abspath(path)
        if path in self._exact or os.path.basename(path).startswith(".."):  # Kubernetes swaps `..data`.
            return True
        parts = path.split(os.sep)
        return any(
            len(parts) <= len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern)) for pattern in self._patterns
        )


def _prices_are_due(snapshot: Snapshot, clock: Clock) -> bool:
    return snapshot.prices_until_ns is not None and snapshot.prices_until_ns <= clock.now_ns()


def _sources_of(snapshot: Snapshot) -> Sources:
    return Sources(files=snapshot.files, globs=snapshot.include_globs)


def _joined(left: Sources, right: Sources) -> Sources:
    return Sources(
        files=tuple(dict.fromkeys((*left.files, *right.files))), globs=tuple(dict.fromkeys((*left.globs, *right.globs)))
    )


def _print_of(sources: Sources) -> _Print:
    """What files there are and what state they are in; follows symlinks, so a swapped one shows."""
    names = dict.fromkeys(sources.files)
    for pattern in sources.globs:
        names.update(dict.fromkeys(sorted(glob.glob(pattern))))
    return tuple(_stat(name) for name in names)


def _stat(name: str) -> _Stat:
    try:
        status = os.stat(name)
    except OSError:
        return name, -1, -1, -1, -1
    return name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _folders(sources: Sources) -> tuple[str, ...]:
    """Folders to watch: those of all files and patterns, or the nearest one above that exists."""
    folders: dict[str, None] = {}
    for folder in dict.fromkeys(os.path.dirname(name) for name in (*sources.files, *sources.globs)):
        while folder and (glob.has_magic(folder) or not os.path.isdir(folder)):
            folder = os.path.dirname(folder)
        folders[folder if folder else "."] = None
    return tuple(folders)


def _changed(before: ServerConfig, after: ServerConfig) -> tuple[str, ...]:
    return tuple(field for field in sorted(RESTART_ONLY) if getattr(before, field) != getattr(after, field))
