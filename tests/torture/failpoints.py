"""Places in a gateway where it is killed, or made to fail, when it comes by: planted into a process of the torture.

Nothing in the program knows of them: a function is put in another's place before the program starts, and the books'
connection is one that looks at its statements. PLACES says which. Every strike is written to a file in the gateway's
folder before it strikes: a failpoint that was never come by proves nothing.
"""

import functools
import inspect
import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from types import ModuleType
from typing import Any, NamedTuple

from routerx import keyring, runtime
from routerx.gateway.settle import Settler
from routerx.http.answer import CallerStream, WholeAnswer
from routerx.ledger import backup
from routerx.ledger.beside.sidefile import SideFile
from routerx.ledger.beside.uses import UseIndex
from routerx.ledger.books import Books
from routerx.ledger.own_keys import SqliteKeySafe
from routerx.ledger.proof.pruning import DeletePruned, WriteWatermark
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from routerx.runtime import Runtime
from routerx.upstream.direct import DirectTransport

STRIKES = "strikes"
"""The file, in the folder of the configuration."""

MEANWHILE_S_MAX = 0.0008


class Action(StrEnum):
    """What happens at a place."""

    KILL = "kill"
    MEANWHILE = "meanwhile"
    """kill -9 within the next 0.8 ms, while the statement that follows is at work."""
    RAISE = "raise"
    """An exception that nobody expects."""
    FULL = "full"
    IO = "io"
    """SQLite's own errors."""


CODES = {Action.FULL: sqlite3.SQLITE_FULL, Action.IO: sqlite3.SQLITE_IOERR}


class Failpoint(NamedTuple):
    """`times` strikes in a row, from the `hit`-th time on, from 1, that the gateway comes by."""

    place: str
    hit: int
    action: Action = Action.KILL
    times: int = 1

    def __str__(self) -> str:
        return f"{self.place}:{self.hit}:{self.action}:{self.times}"

    @classmethod
    def read(cls, text: str) -> "Failpoint":
        """From what str() gives. Raises ValueError."""
        place, hit, action, times = text.split(":")
        return cls(place, int(hit), Action(action), int(times))


class Call(NamedTuple):
    """Before or after a function, whatever it does."""

    owner: type | ModuleType
    name: str
    before: bool = False


class Statement(NamedTuple):
    """Before or after a statement of the books' own connection that begins with `sql`."""

    sql: str
    before: bool = False


PLACES: dict[str, Call | Statement] = {
    "before_hold": Call(SqliteLedger, "hold", before=True),
    "after_hold": Call(SqliteLedger, "hold"),
    "before_dispatch": Call(DirectTransport, "open", before=True),
    "after_headers": Call(DirectTransport, "open"),
    "after_first_delta": Call(CallerStream, "write"),
    "before_settle": Call(Settler, "settle", before=True),
    "at_settle": Call(SqliteLedger, "settle", before=True),
    "after_settle": Call(SqliteLedger, "settle"),
    "inside_batch": Statement("INSERT INTO transfers"),
    "before_commit": Statement("COMMIT", before=True),
    "after_commit": Statement("COMMIT"),
    "before_acknowledge": Call(Books, "_acknowledge", before=True),
    "before_terminal_event": Call(CallerStream, "finish", before=True),
    "after_terminal_event": Call(CallerStream, "finish"),
    "before_whole_answer": Call(WholeAnswer, "prepare", before=True),
    "after_top_up": Call(SqliteLedger, "top_up"),
    "start": Statement("", before=True),
    "before_checkpoint": Statement("PRAGMA wal_checkpoint", before=True),
    "after_checkpoint": Statement("PRAGMA wal_checkpoint"),
    "before_swap": Call(Runtime, "_prepare"),
    "after_swap": Call(Runtime, "_applied", before=True),
    "before_side_file": Call(SideFile, "_transact", before=True),
    "after_side_file": Call(SideFile, "_transact"),
    "after_claim": Call(UseIndex, "claim"),
    "after_retake": Call(UseIndex, "retake"),
    "before_drop": Call(UseIndex, "drop", before=True),
    "after_key": Call(SqliteLedger, "issue_key"),
    "after_own_key": Call(SqliteKeySafe, "put"),
    "inside_vault_key": Call(keyring, "_sync_folder", before=True),
    "inside_watermark": Call(WriteWatermark, "apply"),
    "inside_pruning": Call(DeletePruned, "apply"),
    "inside_backup": Call(backup, "_copy"),
    "after_backup": Call(backup, "_put"),
}


def arm(point: Failpoint) -> None:
    """Plant it, to be called once in a process. Raises KeyError where there is no such place."""
    place, strike = PLACES[point.place], _striker(point)
    if isinstance(place, Statement):
        _watch_statements(place, strike)
    else:
        assert place.name in vars(place.owner), f"{place.owner} has no {place.name}"
        setattr(place.owner, place.name, _around(place, getattr(place.owner, place.name), strike))


def _striker(point: Failpoint) -> Callable[[], None]:
    """What is called each time that the gateway comes by, in whichever thread."""
    times = itertools.count(1)
    strikes = os.open(STRIKES, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def strike() -> None:
        if point.hit <= next(times) < point.hit + point.times:
            os.write(strikes, f"{point.place}\n".encode())
            _act(point.action)

    return strike


def _act(action: Action) -> None:
    match action:
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Action.MEANWHILE:
            threading.Thread(target=_kill_soon, daemon=True).start()
        case Action.RAISE:
            raise RuntimeError("planted")
        case Action.FULL | Action.IO:
            error = sqlite3.OperationalError("planted")
            error.sqlite_errorcode = CODES[action]
            raise error


def _kill_soon() -> None:
    time.sleep(random.SystemRandom().uniform(0, MEANWHILE_S_MAX))
    os.kill(os.getpid(), signal.SIGKILL)


def _around(place: Call, proper: Callable[..., Any], strike: Callable[[], None]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(proper):

        @functools.wraps(proper)
        async def awaited(*args: Any, **named: Any) -> Any:
            if place.before:
                strike()
            result = await proper(*args, **named)
            if not place.before:
                strike()
            return result

        return awaited

    @functools.wraps(proper)
    def called(*args: Any, **named: Any) -> Any:
        if place.before:
            strike()
        result = proper(*args, **named)
        if not place.before:
            strike()
        return result

    return called


def _watch_statements(place: Statement, strike: Callable[[], None]) -> None:
    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            is_here = sql.startswith(place.sql)
            if is_here and place.before:
                strike()
            cursor = super().execute(sql, *parameters)
            if is_here and not place.before:
                strike()
            return cursor

    def connect(path: str, busy_timeout_s: float) -> sqlite3.Connection:
        return sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, factory=Watched
        )

    runtime.open_ledger = functools.partial(open_ledger, connect=connect)  # type: ignore[attr-defined]
